# `make train` and `make test` are all that a fresh machine needs; every target is a plain command that also works by hand.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test lint types check clean

train: .venv/.installed  ## fetch and verify CIFAR-10, train the quick default model, print its test accuracy
	$(BIN)/python train.py -m speednet-quick

test: .venv/.installed-test  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed-test
	$(BIN)/mypy

check: lint types test

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $@

clean:  ## the environment and caches of tools; never runs or data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
