# Two commands on a fresh machine do all: make demo, make test. Both install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin
# Processes that run the tests, each with one thread.
JOBS ?= 2

.PHONY: setup demo test lint types contracts clean

setup: .venv/.installed

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/tokenize-kit demo --out demo_out --minutes 6

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

test: lint types contracts
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

clean:
	rm -rf .venv demo_out
