# genstudy: hyperparameter search for generative models.
#
#   make study NAME=cae     search, retrain and export the best
#   make test               run the tests
#
# Each target makes the environment first when it is missing or out of date.

VENV ?= .venv
PY := $(VENV)/bin/python
LOCK := requirements.lock
PACKAGES := $(VENV)/.installed-$(shell cksum < $(LOCK) | tr ' ' '-')
STAMP := $(VENV)/.ready-$(shell cat $(LOCK) pyproject.toml | cksum | tr ' ' '-')
PEER_LOCK := tests/benchmarks/requirements.lock
PEER_STAMP := $(VENV)/.peers-$(shell cat $(LOCK) $(PEER_LOCK) | cksum | tr ' ' '-')
BASE_PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

TARGETS := help study worker status studies trials replay simulate look sample report compare dashboard test torture bench gpu-pack check format lock install clean

# The variables stand in `search/variables.py`. Make passes on those of its command line and of the
# environment, and Python reads and checks them. This list says which ones stand on the command line,
# so that Python refuses a misspelt one and ignores a NAME or a HOST that only the shell exports.
export GENSTUDY_GIVEN := $(filter-out VENV,$(foreach v,$(.VARIABLES),$(if $(filter command line,$(origin $(v))),$(v))))

# Words that are no targets, as in `make study cae`: Python says what was meant.
export GENSTUDY_STRAY := $(filter-out $(TARGETS),$(MAKECMDGOALS))

# The variables of `make bench` count only on the command line.
$(foreach v,ROWS FULL OUT,$(if $(filter environment,$(origin $(v))),$(eval unexport $(v))))

# A folder or a password may hold a $: what stands on the command line is passed on as it was typed.
# Make itself writes $$ for one $, which a path may do too.
TYPED := $(filter-out STORAGE NOTIFY WARM,$(GENSTUDY_GIVEN))
$(foreach v,$(TYPED),$(eval override $(v) := $$(subst $$$$$$$$,$$$$,$$(value $(v)))))
export $(TYPED)

# An address may hold a secret: only the commands that need it inherit it, and they drop it at
# once (`search/passwords.py`). Make would also repeat it in the MAKEFLAGS of every child.
MAKEOVERRIDES :=
ifeq ($(origin STORAGE),command line)
ADDRESS := $(value STORAGE)
unexport STORAGE
study worker status studies trials replay simulate report compare dashboard: private override export STORAGE := $(ADDRESS)
endif
ifeq ($(origin NOTIFY),command line)
RECEIVER := $(value NOTIFY)
unexport NOTIFY
study worker: private override export NOTIFY := $(RECEIVER)
endif
ifeq ($(origin WARM),command line)
EARLIER := $(value WARM)
unexport WARM
study: private override export WARM := $(EARLIER)
endif

.DEFAULT_GOAL := help
.PHONY: $(TARGETS)

# What is no target gets a line that says what was meant.
.DEFAULT:
	@$(or $(wildcard $(PY)),$(BASE_PYTHON),false) -B -m search.hints $@ $(TARGETS)

# `help` needs no environment: any Python from 3.11 on prints the variables.
help:  ## list all commands and variables
	@printf '\ngenstudy: hyperparameter search for generative models\n\n'
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-17s %s\n", $$1, $$2}'
	@printf '\nVariables, on the command line: make study NAME=cae TRIALS=10\n\n'
	@$(or $(wildcard $(PY)),$(BASE_PYTHON),false) -B -m search.variables || echo '  (Python 3.11 or later lists them; none is on PATH)'
	@echo

study: $(STAMP)  ## search, retrain the best and export them: NAME=cae
	@$(PY) -m search study

worker: $(STAMP)  ## join a stored study from any machine: NAME=cae STORAGE=...
	@$(PY) -m search worker

status: $(STAMP)  ## say who runs what on which machine, and what is left: NAME=cae
	@$(PY) -m search status

studies: $(STAMP)  ## list the studies, and how far each is
	@$(PY) -m search studies

trials: $(STAMP)  ## show the best: NAME=cae; CSV=path or PARQUET=path writes all
	@$(PY) -m search trials

replay: $(STAMP)  ## train a trial again, and compare its curve: NAME=cae TRIAL=7
	@$(PY) -m search replay

simulate: $(STAMP)  ## say what a pruner would cost and find: NAME=cae PRUNER=asha
	@$(PY) -m search simulate

look: $(STAMP)  ## show what a folder of images holds: DATA=folder:PATH
	@$(PY) -m search look

sample: $(STAMP)  ## make images with an export: NAME=cae RANK=1 N=64
	@$(PY) -m search sample

report: $(STAMP)  ## write a page about a study, with pictures: NAME=cae
	@$(PY) -m search report

compare: $(STAMP)  ## compare winners and costs of studies: NAMES=cae,cae_27
	@$(PY) -m search compare

dashboard: $(STAMP)  ## serve optuna-dashboard, also while a study runs
	@$(PY) -m search dashboard

test: $(STAMP)  ## run all tests
	@env -u GENSTUDY_GIVEN $(PY) -m pytest

torture: $(STAMP)  ## test a running study with random faults: MINUTES=10
	@$(PY) -m tests.torture

bench: $(PEER_STAMP)  ## measure beside other tools: ROWS=training,start-up FULL=1
	@$(PY) -m tests.benchmarks

gpu-pack: $(STAMP)  ## write .gpu/, for a check on a machine with a GPU
	@$(PY) -m tests.gpu.pack --data "$${DATA_ROOT:-data}"

check: $(STAMP)  ## check lint, format and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: $(STAMP)  ## put the code in shape
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

install: $(STAMP)  ## make the environment, and nothing else

PIN := uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.11 --extra dev

lock:  ## pin the dependencies anew (needs uv)
	$(PIN) pyproject.toml -o $(LOCK)
	$(PIN) --extra bench -c $(LOCK) pyproject.toml -o $(PEER_LOCK)

clean:  ## remove the environment and all caches; runs and data stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find search models storage tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(PACKAGES): | $(LOCK)
	@test -n "$(BASE_PYTHON)" || { echo "error: genstudy needs Python 3.11 or later as python3; none is on PATH" >&2; exit 2; }
	@echo "installing $$(grep -c '==' $(LOCK)) pinned packages into $(VENV): once, a few minutes, about 6 GB with CUDA"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(BASE_PYTHON) -m venv --clear $(VENV)
	@rm -f $(VENV)/.installed-*
	@$(PY) -m pip install --disable-pip-version-check --require-hashes -r $(LOCK) | sed -un 's/^Collecting \([^ ]*\).*/  fetching \1/p; s/^Installing collected packages.*/  unpacking .../p'; \
		test $${PIPESTATUS[0]} -eq 0
	@touch $@

# genstudy itself: its modules stay here. Its command and its import path follow pyproject.toml.
$(STAMP): | $(PACKAGES)
	@rm -f $(VENV)/.ready-*
	@$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "the environment is ready; its command for other folders is $(VENV)/bin/genstudy"

# The peers are installed on top, with the same versions of all that is shared: tests see no difference.
$(PEER_STAMP): $(PEER_LOCK) | $(STAMP)
	@echo "installing what genstudy is measured against into $(VENV): once"
	@rm -f $(VENV)/.peers-*
	@$(PY) -m pip install --disable-pip-version-check --quiet --require-hashes -r $(PEER_LOCK)
	@touch $@

SHELL := /bin/bash
