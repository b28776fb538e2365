# Development commands. `make install` requires only Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

# Install only files with a locked hash, and only wheels, so that no package code runs during installation.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED := $(PIP) --require-hashes --only-binary :all: --requirement
UV := uv==0.13.9

.PHONY: install demo up test test-all check audit sbom fuzz chaos format docs docs-site bench screenshots gpu-check constraints lock

.venv/installed: pyproject.toml client/pyproject.toml locks/install.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(LOCKED) locks/install.txt
	$(PIP) --no-deps --no-build-isolation --editable . --editable ./client
	touch $@

install: .venv/installed

demo: install
	$(BIN)/python -m server.demo $(if $(PORT),--port $(PORT))

# Run the full stack in `potstill-home`: `make up`, or with another port `make up PORT=9000`.
up: install
	$(BIN)/potstill-server up --home potstill-home --host 127.0.0.1 --port $(or $(PORT),8000)

test: install
	$(BIN)/python -m pytest

test-all: install
	$(BIN)/python -m pytest -m 'slow or not slow'

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy examples
	$(BIN)/lint-imports
	$(BIN)/python -m supply.audit

# Report known vulnerabilities of the locked packages; succeeds if no advisory service is reachable.
audit: install
	$(BIN)/python -m supply.audit

# Write an SBOM (CycloneDX) with versions, licenses and dependencies of the installed packages.
sbom: install
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-format JSON --output-file dist/sbom.json $(BIN)/python

# Run Schemathesis on the full API: `make fuzz CASES=10000`, on SQLite or with DATABASE=postgresql.
# CASES counts random cases. The seed is printed; SEED= repeats a run.
CASES ?= 10000
SEED ?=
DATABASE ?= sqlite
fuzz: install
	PYTHONHASHSEED=0 CASES=$(CASES) SEED=$(SEED) DATABASE=$(DATABASE) $(BIN)/python -m pytest -n0 -m slow tests/api/test_fuzz.py -k long_fuzzing

# Kill and stop processes of a real stack at random while jobs train: `make chaos N=100`, on SQLite or with
# DATABASE=postgresql, which is also killed and stopped. The seed is printed; SEED= repeats a run.
N ?= 40
chaos: install
	$(BIN)/python -m tests.chaos --n $(N) --database $(DATABASE) $(if $(SEED),--seed $(SEED))

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Regenerate the reference docs from the code; a test checks that they are up to date.
docs: install
	$(BIN)/python -m server.docs_reference

# Build the documentation site in build/site, with all links checked; the API serves it at /guide.
docs-site: install
	$(BIN)/zensical build --strict

# The packages for comparison are not part of `make install`; without network access they are skipped.
bench: install
	-$(LOCKED) locks/bench.txt
	$(BIN)/python -m benchmarks

# Write each page of the dashboard at three widths, light and dark, to build/screenshots. Needs Chromium.
screenshots: install
	$(BIN)/python -m benchmarks dashboard --screenshots build/screenshots

# Check the code paths that need a GPU, in less than ten minutes; skipped without a GPU.
gpu-check: install
	$(BIN)/python -m benchmarks gpu_check

# Update the pins from the installed packages, then the locks with the hashes for all platforms.
constraints:
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt
	$(MAKE) lock

COMPILE = build/lock/bin/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header \
	--python-version 3.11 --constraint constraints.txt --extra build
lock:
	test -x build/lock/bin/uv || ($(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet $(UV))
	$(COMPILE) --extra embedded --extra dev pyproject.toml client/pyproject.toml --output-file locks/install.txt
	$(COMPILE) --extra embedded --extra dev --extra bench pyproject.toml client/pyproject.toml --output-file locks/bench.txt
	$(COMPILE) --extra api --extra otel pyproject.toml --output-file locks/api.txt
	$(COMPILE) --extra worker --extra otel pyproject.toml --output-file locks/worker.txt
