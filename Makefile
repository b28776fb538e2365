# The few words that everything goes by. `make install` needs nothing but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

# Only files whose hash the lock names are installed, and only wheels: nothing of a package runs while it is installed.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED := $(PIP) --require-hashes --only-binary :all: --requirement
UV := uv==0.13.9

.PHONY: install demo up test test-all check audit sbom fuzz chaos format docs bench gpu-check constraints lock

.venv/installed: pyproject.toml locks/install.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(LOCKED) locks/install.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

install: .venv/installed

demo: install
	$(BIN)/python -m client.demo

up: install
	$(BIN)/potstill-server up --home potstill-home --host 127.0.0.1 --port 8000

test: install
	$(BIN)/python -m pytest

test-all: install
	$(BIN)/python -m pytest -m 'slow or not slow'

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m supply.audit

# Known vulnerabilities of what is installed; says so where no advisory service can be reached.
audit: install
	$(BIN)/python -m supply.audit

# What is installed, with versions, licences and who needs whom (CycloneDX).
sbom: install
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-format JSON --output-file dist/sbom.json $(BIN)/python

# Schemathesis over the whole API for long: `make fuzz CASES=10000`, on SQLite or with DATABASE=postgresql.
# CASES counts those that are drawn at random. The seed is printed; SEED= repeats one.
CASES ?= 10000
SEED ?=
DATABASE ?= sqlite
fuzz: install
	PYTHONHASHSEED=0 CASES=$(CASES) SEED=$(SEED) DATABASE=$(DATABASE) $(BIN)/python -m pytest -n0 -m slow tests/api/test_fuzz.py -k long_fuzzing

# A real stack whose processes are killed or stopped at random while jobs train: `make chaos N=100`, on SQLite or with
# DATABASE=postgresql, which is killed and stopped too. The seed is printed; SEED= repeats one.
N ?= 40
chaos: install
	$(BIN)/python -m tests.chaos --n $(N) --database $(DATABASE) $(if $(SEED),--seed $(SEED))

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Rewrites what the docs take from the code; a test holds them together.
docs: install
	$(BIN)/python -m server.docs_reference

# The packages to measure against are no part of the installation; without them, and a network, they are left out.
bench: install
	-$(LOCKED) locks/bench.txt
	$(BIN)/python -m benchmarks

# The paths that need a GPU, in less than ten minutes; skipped where there is none.
gpu-check: install
	$(BIN)/python -m benchmarks gpu_check

# Rewrites the pins from what is installed now; then the locks, with the hashes of every platform's files.
constraints:
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt
	$(MAKE) lock

COMPILE = build/lock/bin/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header \
	--python-version 3.11 --constraint constraints.txt --extra build
lock:
	test -x build/lock/bin/uv || ($(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet $(UV))
	$(COMPILE) --extra embedded --extra dev pyproject.toml --output-file locks/install.txt
	$(COMPILE) --extra embedded --extra dev --extra bench pyproject.toml --output-file locks/bench.txt
	$(COMPILE) --extra api pyproject.toml --output-file locks/api.txt
	$(COMPILE) --extra worker pyproject.toml --output-file locks/worker.txt
