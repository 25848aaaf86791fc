# Everything on a fresh machine: `make audit` sets up and runs the quickstart, `make test` sets up and runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# One thread per process: parallel work is done by processes.
export OMP_NUM_THREADS ?= 1

.PHONY: audit test test-slow lint bench setup clean
setup: $(STAMP)

# torch goes first: any other package that asks for it is then content with the pinned one.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

audit: $(STAMP)
	$(BIN)/fedsec audit examples/quickstart.yaml --output out/quickstart

test: $(STAMP)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --cov --cov-report=term:skip-covered

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) out
