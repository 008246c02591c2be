PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := zoo/libraries/lock.txt
OLDEST := zoo/libraries/oldest.txt
# What the tests of other versions run: all of them; `make test-newest TESTS="-m seam"` takes minutes.
TESTS ?=
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
	--custom-compile-command "make lock" --upgrade pyproject.toml

.PHONY: demo test test-slow test-oldest test-newest test-beyond lint lock clean

# Train the default model on the bundled data, and show it before and after.
demo: $(VENV)/.installed
	$(BIN)/zoo train --algo kto

# Everything that runs offline in minutes.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

# The checks on the real model.
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

# With the oldest versions that the requirements allow.
test-oldest:
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -c $(OLDEST) -e '.[dev]'
	.venv-oldest/bin/python -m pytest $(TESTS)

# With the newest versions that the requirements allow.
test-newest:
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[dev]'
	.venv-newest/bin/python -m pytest $(TESTS)

# With the newest versions that exist, allowed or not; torch stays within its range.
test-beyond:
	test -x .venv-beyond/bin/python || $(PYTHON) -m venv .venv-beyond
	.venv-beyond/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[dev]'
	.venv-beyond/bin/python -m pip install --quiet --upgrade transformers lightning peft datasets huggingface-hub
	.venv-beyond/bin/python -m pytest $(TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

# Renew the versions that everything above but the tests of other versions installs, and the oldest ones.
lock: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --extra dev --output-file $(LOCK)
	$(COMPILE) --resolution lowest-direct --constraint zoo/libraries/oldest.in --output-file $(OLDEST)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(LOCK) $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c $(LOCK) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(LOCK) $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c $(LOCK) -e '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest .venv-beyond build dist *.egg-info
