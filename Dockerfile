# zoo on the CPU, in the versions of the lock. Never run by its authors, who have no Docker: it is linted, and its
# commands were run by hand.
#
#     docker build -t zoo .
#     docker run --rm -v "$PWD:/work" zoo train --algo sft --data answers.jsonl
#
# Runs and models lie in /work, the folder that is mounted; downloaded models in the volume /cache.
FROM python:3.13-slim-bookworm AS build

COPY pyproject.toml README.md LICENSE /zoo/
COPY zoo /zoo/zoo
COPY plugins /zoo/plugins
COPY recipes /zoo/recipes
RUN python -m venv /opt/zoo \
    && /opt/zoo/bin/pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        -c /zoo/zoo/libraries/lock.txt /zoo

FROM python:3.13-slim-bookworm

COPY --from=build /opt/zoo /opt/zoo
RUN useradd --create-home --uid 1000 zoo \
    && mkdir /work /cache \
    && chown zoo:zoo /work /cache
ENV PATH=/opt/zoo/bin:$PATH HF_HOME=/cache/huggingface ZOO_CACHE=/cache/zoo
USER 1000
WORKDIR /work
VOLUME /cache
ENTRYPOINT ["zoo"]
CMD ["--help"]
