# `make demo` and `make test` do everything on a machine with Python 3.10 or newer, make and bash.
# All state is inside the checkout: .venv (packages), .tools (uv, caches), .modalbatch (apps, local engine).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export UV_CACHE_DIR ?= $(CURDIR)/.tools/uv-cache
export MODALBATCH_CACHE ?= $(CURDIR)/.tools/cache
# uv does not read pip's variables; a mirror or a certificate is often named only there.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
export NODE_EXTRA_CA_CERTS ?= $(PIP_CERT)
endif
# Without bytecode every process compiles every import again: twice the start-up time.
export UV_COMPILE_BYTECODE := 1
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
DEMO := specs/wordcount/wordcount.yaml
ARGS ?=
SECONDS ?= 3600
MUTANTS ?=

.PHONY: help setup demo test engine-versions soak mutants coverage check format bench clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 22

setup: ## install everything into .venv
	@.ci/setup

demo: setup ## word counts of 7,957 verses on the local engine; the second time there is nothing to do
	$(BIN)/modalbatch apply $(DEMO) --engine local
	$(BIN)/modalbatch ls $(DEMO)
	$(BIN)/modalbatch verify $(DEMO)

test: setup ## the whole test suite; ARGS="tests/unit -k spec" for a part of it
	$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),-n 2 --dist loadfile --no-loadscope-reorder)

engine-versions: setup ## the engine's tests with each minor series of modal; VERSIONS="1.5.5" for one version
	@.ci/engine-versions

soak: setup ## the simulation for SECONDS=3600, with seeds that nobody has tried
	$(BIN)/python tests/sim/soak.py $(SECONDS)

mutants: setup ## how many small mistakes in the commit protocol the tests find; hours; MUTANTS="--sample 50" for a look
	$(BIN)/python tests/mutation/mutate.py $(MUTANTS)

coverage: setup ## every branch of the commit protocol is run by its tests
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $$($(BIN)/python tests/mutation/targets.py)
	$(BIN)/python -m coverage report

check: setup ## ruff, mypy, and whether generated files are fresh
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy bench docs
	$(BIN)/python docs/make_spec.py --check
	$(BIN)/python docs/make_engine.py --check
	$(BIN)/python docs/make_faults.py --check
	$(BIN)/python -m pytest tests/unit/compiler/test_golden_apps.py

format: setup ## let ruff format, and write generated files anew
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/python docs/make_spec.py
	$(BIN)/python docs/make_engine.py
	$(BIN)/python docs/make_faults.py

bench: setup ## the measurements of bench/README.md; some minutes, on a quiet machine
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/engine.py
	$(BIN)/python bench/w1.py
	$(BIN)/python bench/memory.py

clean: ## remove everything that the other targets made
	rm -rf .venv .tools .modalbatch specs/*/out build dist .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
