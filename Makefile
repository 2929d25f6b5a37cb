# Convoy from a fresh machine: Python 3.11 and make are enough. `make help` lists what can be done.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3.11
IMAGE ?= convoy:dev
BASE ?= python:3.11-slim-bookworm
ACCELERATOR ?= cpu

VENV := .venv
PY := $(VENV)/bin/python
SITE = $(VENV)/lib/python3.11/site-packages
JOBS := tests/end_to_end
OURS := conf storage data_pipeline trainer launcher benchmarks
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --no-compile --no-deps
UV_COMPILE := $(VENV)/bin/uv pip compile pyproject.toml --quiet --python-version 3.11 \
    --generate-hashes --no-emit-index-url --no-header --no-annotate $(UPGRADE)

# Without bytecode TensorFlow imports three times slower, so nothing that runs from here may go without it.
unexport PYTHONDONTWRITEBYTECODE
# A job of the shell around us is no business of the tests.
unexport TF_CONFIG

##@ Use

.PHONY: help
help: ## say what can be done
	@awk 'BEGIN {FS = ":.*## "; print "make TARGET"} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: quickstart
quickstart: $(VENV)/.installed ## install, then train and evaluate on scikit-learn's digits
	$(PY) launcher/run.py

.PHONY: install
install: $(VENV)/.installed ## .venv with what Convoy needs to run, and the command `convoy`

.PHONY: install-dev
install-dev: $(VENV)/.installed-dev ## the same and what its tests and checks need

##@ Work on it

.PHONY: test
ifdef TESTS
test: $(VENV)/.installed-dev ## the whole test suite; TESTS="tests/conf -k batch" for a part
	$(PY) -m pytest --durations=15 $(TESTS)
else
test: test-parts test-jobs
endif

.PHONY: test-parts
test-parts: $(VENV)/.installed-dev # all but whole jobs: two files at a time
	$(PY) -m pytest --durations=15 --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(JOBS:%=--ignore=%)

.PHONY: test-jobs
test-jobs: $(VENV)/.installed-dev # whole jobs, after all else: small failures explain large ones
	$(PY) -m pytest --durations=15 --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(JOBS)

.PHONY: models
models: $(VENV)/.installed-dev ## every model of keras.applications against Keras itself, the same bits again, every precision: minutes
	$(PY) -m pytest --durations=5 tests/trainer/every_model.py tests/trainer/synchronized_models.py \
	  tests/trainer/deterministic_models.py tests/trainer/mixed_precision.py

.PHONY: memory
memory: $(VENV)/.installed-dev ## peaks with and without rematerialisation, what fits, models over several devices: minutes
	$(PY) -m pytest --durations=5 tests/trainer/memory_runs.py tests/end_to_end/fitting.py

.PHONY: recipes
recipes: $(VENV)/.installed-dev ## each recipe that tunes loaded weights, from its first phase to its last: minutes
	$(PY) -m pytest --durations=5 tests/end_to_end/recipes.py

.PHONY: sweep
sweep: $(VENV)/.installed-dev ## trials that share the hosts of a running Ray cluster: a minute
	$(PY) -m pytest tests/end_to_end/sweep_on_cluster.py

# Minutes each, on a machine for itself; CHAOS_PATIENCE=3 is for a busy one.
.PHONY: chaos
chaos: $(VENV)/.installed-dev ## a seeded storm of deaths in a bucket, a host that drains, one that goes and comes back; CHAOS_SEED=2 for another
	$(PY) -m pytest -o faulthandler_timeout=0 --durations=0 --durations-min=5 tests/chaos/drain.py tests/chaos/elastic.py tests/chaos/soak.py $(TESTS)

.PHONY: deaths
deaths: $(VENV)/.installed-dev ## worker, agent, driver, raylet and head die or stand still in every phase of a job
	$(PY) -m pytest -o faulthandler_timeout=0 --durations=0 --durations-min=5 tests/chaos/deaths.py $(TESTS)

.PHONY: law4
law4: $(VENV)/.installed-dev ## ten deaths of one training, sixteen ways: the same bits as without; twenty minutes
	$(PY) -m pytest -o faulthandler_timeout=0 --durations=0 --durations-min=5 tests/chaos/law4.py $(TESTS)

.PHONY: check
check: $(VENV)/.installed-dev ## lint, format and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

.PHONY: format
format: $(VENV)/.installed-dev ## rewrite the code as `make check` wants it
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

.PHONY: bench
bench: $(VENV)/.installed-bench ## Convoy and its peers side by side: start-up, training step and its features, input, order
	$(PY) benchmarks/startup.py
	$(PY) -m benchmarks.recovery
	$(PY) benchmarks/step.py
	$(PY) -m benchmarks.train
	$(PY) -m benchmarks.input
	$(PY) -m benchmarks.small_images
	$(PY) -m benchmarks.order
	$(PY) -m benchmarks.prepare

.PHONY: picture
picture: $(VENV)/.installed-dev ## draw docs/terminal.svg anew: what a person sees of the first job
	$(PY) docs/picture.py

.PHONY: lock
lock: $(VENV)/.installed-dev ## write the lock files anew from pyproject.toml; UPGRADE=--upgrade for newer versions
	$(UV_COMPILE) -o requirements.lock
	$(UV_COMPILE) --group dev -c requirements.lock -o requirements-dev.lock
	$(UV_COMPILE) --group bench -c requirements.lock -c requirements-dev.lock -o requirements-bench.lock
	$(UV_COMPILE) --extra gpu -c requirements.lock -o requirements-gpu.lock

.PHONY: image
image: ## build the container image: IMAGE=name BASE=image ACCELERATOR=cpu|gpu
	docker build --build-arg BASE=$(BASE) --build-arg ACCELERATOR=$(ACCELERATOR) --tag $(IMAGE) .

.PHONY: clean
clean: ## remove .venv and what tools left; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(OURS) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# What follows makes files, each once.

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: there is no $(PYTHON) here - Convoy runs on Python 3.11 - apt-get install python3.11, or make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "make: PYTHON=$(PYTHON) is $$($(PYTHON) --version) - Convoy runs on Python 3.11 - make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot make virtual environments - Debian ships that part apart - apt-get install python3.11-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created requirements.lock pyproject.toml
	@echo "installing what requirements.lock lists (two minutes or so, once)"
	@$(call install,requirements.lock)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created requirements-dev.lock pyproject.toml
	@echo "installing what requirements-dev.lock lists (two minutes or so, once)"
	@$(call install,requirements-dev.lock)
	@touch $(VENV)/.installed $@

$(VENV)/.installed-bench: $(VENV)/.installed requirements-bench.lock
	@echo "installing what requirements-bench.lock lists"
	@$(call install,requirements-bench.lock)
	@touch $@

# The lock is complete and hashed, so pip resolves nothing (--no-deps). The project itself is linked, not copied, with the
# setuptools that the lock brought. compileall leaves what is compiled alone; a package's own broken test files are not our matter.
define install
$(PIP_INSTALL) --require-hashes -r $(1) && \
$(PIP_INSTALL) --no-build-isolation --config-settings editable_mode=compat -e . && \
{ $(PY) -m compileall -qq -j 0 $(SITE) $(OURS) >/dev/null 2>&1 || true; }
endef
