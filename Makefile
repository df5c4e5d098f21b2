# `make train` and `make test` are all that a fresh machine needs; every target is a plain command that also works by hand.
# Every package is pinned in requirements/, and all but PyTorch, whose build differs by index, by its hash.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet
COMPILE := $(BIN)/uv pip compile --quiet $(UPGRADE)

.PHONY: train test lint types docs check pins audit clean

train: .venv/.installed  ## fetch and verify CIFAR-10, train the quick default model, print its test accuracy
	$(BIN)/python train.py -m speednet-quick

test: .venv/.installed-test  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed-test
	$(BIN)/mypy

docs: .venv/.installed-test  ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: lint types docs test

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml requirements/train.txt requirements/torch.txt
	$(INSTALL) --no-deps --require-hashes -r requirements/train.txt
	$(INSTALL) -c requirements/torch.txt torch torchvision
	$(INSTALL) --no-deps --no-build-isolation -e .
	touch $@

.venv/.installed-test: .venv/.installed requirements/test.txt
	$(INSTALL) --no-deps --require-hashes -r requirements/test.txt
	touch $@

.venv/bin/uv: .venv/bin/python
	$(INSTALL) uv==0.13.9

pins: .venv/bin/uv  ## write requirements/ after a change of pyproject.toml; with UPGRADE=--upgrade, the newest versions
	printf 'torch\ntorchvision\n' | $(COMPILE) --no-config --universal --python-version 3.11 --no-annotate \
	  --custom-compile-command 'make pins  (without hashes: a build of PyTorch differs by index)' \
	  -o requirements/torch.txt - >/dev/null
	$(COMPILE) --generate-hashes --group build --extra test -c requirements/torch.txt \
	  --custom-compile-command 'make pins' -o requirements/test.txt pyproject.toml >/dev/null
	$(COMPILE) --generate-hashes --group build -c requirements/torch.txt -c requirements/test.txt \
	  --custom-compile-command 'make pins' -o requirements/train.txt pyproject.toml >/dev/null

audit: .venv/bin/uv  ## known faults of the pinned versions, from a public database
	$(BIN)/uv tool run pip-audit --disable-pip --no-deps -r requirements/test.txt -r requirements/torch.txt

clean:  ## the environment and caches of tools; never runs or data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
