# `make` lists the targets. Everything runs in .venv; nothing else needs to be installed or activated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# What stages and tests start by name (python, dvc) is the environment's too.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.DEFAULT_GOAL := help
.PHONY: help all test check doctor bench bench-envs report remote-demo endpoint deploy deploy-demo lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

all: $(INSTALLED) ## Install what is locked, then run the whole graph (dvc repro; JOBS=4: stages side by side)
ifdef JOBS
	@$(RUN) $(BIN)/python -m affine repro --jobs $(JOBS)
else
	@$(RUN) $(BIN)/dvc repro
endif

test: $(INSTALLED) ## Run the tests (ARGS="tests/test_sat.py -k name" for some of them)
	@$(RUN) $(BIN)/python -m pytest $(ARGS)

check: $(INSTALLED) ## Lint, check the formatting and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

doctor: $(INSTALLED) ## Say what this machine can run, and what to do about the rest
	@$(RUN) $(BIN)/python -m affine doctor

bench: $(INSTALLED) ## Measure speed on this machine
	@$(RUN) $(BIN)/python -m affine bench $(ARGS)

bench-envs: $(INSTALLED) ## Measure the environments beside HTTP servers and upstream's engines (ARGS=--quick: without what takes minutes)
	@$(RUN) $(BIN)/python -m affine bench envs $(ARGS)

report: $(INSTALLED) ## Write the results and a browser of episodes to report.html
	@$(RUN) $(BIN)/python -m affine report $(ARGS)

remote-demo: $(INSTALLED) ## Show push, pull, damage and healing on an S3 server on this machine (in .s3/)
	@$(RUN) scripts/remote_demo.sh

endpoint: $(INSTALLED) ## Evaluate the served policy that params.yaml names (evaluate.endpoint)
	@$(RUN) $(BIN)/dvc repro --single-item endpoint/dvc.yaml:endpoint

deploy: $(INSTALLED) ## Bring the graph up to date and publish the release to the Hub (DRY=1: only say what would be sent)
	@$(RUN) $(BIN)/python -m stages.deploy --check $(if $(DRY),--dry-run)
	@$(RUN) $(BIN)/dvc repro
ifdef DRY
	@$(RUN) $(BIN)/python -m stages.deploy --dry-run
else
	@$(RUN) $(BIN)/dvc repro --force --single-item deploy/dvc.yaml:deploy
endif

deploy-demo: $(INSTALLED) ## Publish the release to a Hub on loopback and load it back: no account, nothing leaves here
	@$(RUN) $(BIN)/python -m scripts.deploy_demo

lock: $(INSTALLED) ## Resolve pyproject.toml anew into the lock files
	$(BIN)/python scripts/lock.py

clean: ## Delete unfinished work, logs and tools' caches (results, which dvc.lock names, stay)
	rm -rf work logs report.html .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find affine stages scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last: an installation that was cut short is taken up again by the next run.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "make: $(PYTHON) must be Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
		{ echo "make: no virtual environment could be made; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo "installing what requirements.lock names into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
