# genstudy: hyperparameter search for generative models.
#
#   make study NAME=cae     search, retrain and export the best
#   make test               run the tests
#
# Each target makes the environment first when it is missing or out of date.

VENV ?= .venv
PY := $(VENV)/bin/python
LOCK := requirements.lock
STAMP := $(VENV)/.installed-$(shell cksum < $(LOCK) | tr ' ' '-')
PEER_LOCK := tests/benchmarks/requirements.lock
PEER_STAMP := $(VENV)/.peers-$(shell cat $(LOCK) $(PEER_LOCK) | cksum | tr ' ' '-')
BASE_PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# What a person may set; unset means the study's own value (see `make help`).
export NAME TRIALS EPOCHS RETRAIN_EPOCHS MINUTES TRIAL_MINUTES MEMORY WORKERS GPUS DATA DATA_ROOT STORAGE SEED RUNS TOP
export SAMPLER PRUNER FIRST FROM CSV PARQUET HOST PORT
export ROWS FULL OUT

# Shells export some of these for purposes of their own: here they count only on the command line.
NOT_FROM_ENVIRONMENT := NAME HOST PORT TOP MEMORY FIRST FROM CSV ROWS FULL OUT
$(foreach v,$(NOT_FROM_ENVIRONMENT),$(if $(filter environment,$(origin $(v))),$(eval unexport $(v))))

# Names given on the command line, so that a misspelt one is refused.
export GENSTUDY_GIVEN := $(filter-out VENV,$(foreach v,$(.VARIABLES),$(if $(filter command line,$(origin $(v))),$(v))))

# A password may hold a $: taken as it was typed.
ifeq ($(origin STORAGE),command line)
override STORAGE := $(value STORAGE)
endif

.DEFAULT_GOAL := help
.PHONY: help study studies trials report dashboard test torture bench check format lock install clean

help:  ## what there is
	@printf '\ngenstudy: hyperparameter search for generative models\n\n'
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'
	@printf '\nVariables, on the command line: make study NAME=cae TRIALS=10\n\n'
	@sed -n 's/^    "\([A-Z_]*\)": "\(.*\)",$$/  \1|\2/p' search/variables.py | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'
	@echo

study: $(STAMP)  ## search, retrain and export: NAME=cae
	@$(PY) -m search study

studies: $(STAMP)  ## what can be studied, and how far each study is
	@$(PY) -m search studies

trials: $(STAMP)  ## the leaderboard: NAME=cae, CSV=path or PARQUET=path for all of it
	@$(PY) -m search trials

report: $(STAMP)  ## a page about a study, with pictures: NAME=cae
	@$(PY) -m search report

dashboard: $(STAMP)  ## optuna-dashboard with pictures, also while a study runs
	@$(PY) -m search dashboard

test: $(STAMP)  ## all tests
	@env -u GENSTUDY_GIVEN $(PY) -m pytest

torture: $(STAMP)  ## random faults over a running study: MINUTES=10
	@$(PY) -m tests.torture

bench: $(PEER_STAMP)  ## measure against Optuna, Lightning and Ray Tune: ROWS=training,start-up FULL=1
	@$(PY) -m tests.benchmarks

check: $(STAMP)  ## lint, format and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: $(STAMP)  ## put the code in shape
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

install: $(STAMP)  ## only make the environment

PIN := uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.11 --extra dev

lock:  ## pin the dependencies anew (needs uv)
	$(PIN) pyproject.toml -o $(LOCK)
	$(PIN) --extra bench -c $(LOCK) pyproject.toml -o $(PEER_LOCK)

clean:  ## remove the environment and caches; runs and data stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find search models storage tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): | $(LOCK)
	@test -n "$(BASE_PYTHON)" || { echo "error: genstudy needs Python 3.11 or later as python3; none is on PATH" >&2; exit 2; }
	@echo "installing $$(grep -c '==' $(LOCK)) pinned packages into $(VENV): once, a few minutes, about 6 GB with CUDA"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(BASE_PYTHON) -m venv --clear $(VENV)
	@rm -f $(VENV)/.installed-*
	@$(PY) -m pip install --disable-pip-version-check --require-hashes -r $(LOCK) | sed -un 's/^Collecting \([^ ]*\).*/  fetching \1/p; s/^Installing collected packages.*/  unpacking .../p'; \
		test $${PIPESTATUS[0]} -eq 0
	@$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "the environment is ready"

# The peers come on top: same versions of all that is shared, so that the tests see no difference.
$(PEER_STAMP): $(PEER_LOCK) | $(STAMP)
	@echo "installing what genstudy is measured against into $(VENV): once"
	@rm -f $(VENV)/.peers-*
	@$(PY) -m pip install --disable-pip-version-check --quiet --require-hashes -r $(PEER_LOCK)
	@touch $@

SHELL := /bin/bash
