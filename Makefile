# Two entrances: `make demo` runs the main job, `make test` runs the quick tests. Both make .venv first.
VENV ?= .venv
PYTHON ?= python3
PIP = $(VENV)/bin/python -m pip

.PHONY: demo test test-slow install install-dev clean help

help:
	@echo "make demo       run the whole job on made-up Cu-Au data, write report.html"
	@echo "make test       run the quick tests"
	@echo "make test-slow  run the tests that take longer"
	@echo "make clean      remove .venv and caches"

demo: install
	$(VENV)/bin/kernelpot demo

test: install-dev
	$(VENV)/bin/python -m pytest -m "not slow" -n 2

test-slow: install-dev
	$(VENV)/bin/python -m pytest -m slow

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kernelpot needs Python 3.11 or newer; say which: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# PyTorch first: on its own, pip takes the pinned build, and nothing after it asks for another.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt torch
	touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.torch
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find kernelpot tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
