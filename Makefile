.DEFAULT_GOAL := help
PY := .venv/bin/python
BENCH ?= all
ARGS ?=

.PHONY: help setup demo test check bench chaos lock clean

help: ## what there is
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-7s %s\n", $$1, $$2}'

setup: ## build .venv with everything that running, testing and checking needs
	@scripts/setup.sh dev

demo: ## a year of flights through the whole loop (about five minutes)
	@scripts/setup.sh runtime
	@.venv/bin/driftline demo $(ARGS)

# In the order of the folders: by default the files of the fewest tests come last, which are the longest.
# Three processes for two cores: brokers, agents in processes of their own and time-outs are waited for a good part of it.
test: ## the test suite (ARGS="-n 0" for one process)
	@scripts/setup.sh dev
	@$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: ## format, lint, types, layers, locks
	@scripts/setup.sh dev
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports
	@$(PY) scripts/check_tree.py
	@scripts/native.sh --check

bench: ## measure everything, or make bench BENCH=join ARGS=--json
	@scripts/setup.sh dev
	@.venv/bin/driftline bench $(BENCH) $(ARGS)

chaos: ## the fault matrix, with more rounds than the suite
	@scripts/setup.sh dev
	@$(PY) -m pytest tests/chaos -m "" $(ARGS)

lock: ## resolve the requirements anew
	@scripts/lock.sh

clean: ## remove the environment and local data
	@rm -rf .venv .driftline .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
