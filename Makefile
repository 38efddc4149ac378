# make setup: an environment in .venv    make demo: restore a sample photo    make test: linter and tests
# make lint, make types, make layers: one check each
# make soak: the long tests (half an hour), and the figures in docs/conformance.md
# make fuzz: ten minutes of looking for bytes that break the readers

PYTHON ?= python3
BIN := .venv/bin
# The first is a build for processors wherever one is offered: far smaller than the one for GPUs.
TORCH ?= torch==2.13.0

.PHONY: setup demo test soak fuzz lint types layers clean

setup: .venv/ready

.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/python examples/demo.py

test: lint
	$(BIN)/python -m pytest

soak: setup
	$(BIN)/python -m pip install --quiet -e ".[soak]"
	$(BIN)/python -m pytest tests/conformance tests/jobs/test_buckets.py -m "soak or not soak" --figures

fuzz: setup
	$(BIN)/python -m pip install --quiet -e ".[fuzz]"
	$(BIN)/python tests/photo/fuzz.py 600

lint: setup
	$(BIN)/ruff check src tests examples

types: setup
	$(BIN)/mypy

layers: setup
	$(BIN)/lint-imports

clean:
	rm -rf .venv build dist src/*.egg-info
