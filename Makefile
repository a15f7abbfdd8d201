# `make demo` and `make test` need Python 3.10-3.12 and make; everything else is installed into .venv.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.10 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2> /dev/null && echo $$python && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check docs clean

demo: .venv/demo  ## build, check and show the engines of a real sentence encoder
	$(BIN)/trtbuild build recipes/minilm

test: .venv/dev check  ## everything that must hold
	$(BIN)/python -m pytest --numprocesses 2

check: .venv/dev  ## style, types, floors, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: .venv/dev  ## regenerate what is generated
	$(BIN)/python -m trtbuild.recipe.json_schema > recipes/recipe.schema.json
	$(BIN)/python -m trtbuild.recipe.reference > docs/recipe.md
	$(BIN)/python -m trtbuild.reports.catalogue > recipes/README.md

clean:
	rm -rf .venv engines/*/ .pytest_cache .mypy_cache .ruff_cache

.venv/demo: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "trtbuild needs Python 3.10, 3.11 or 3.12; set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[demo]'
	touch $@

.venv/dev: .venv/demo
	$(PIP) --editable '.[demo,dev]'
	touch $@
