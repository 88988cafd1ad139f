# Everything sets itself up in .venv; nothing but python3.11, pip, make and git is needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
CORES ?= all
VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# LAPACK threads inside one small matrix cost more than they give; jobs are the parallelism.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo verdicts test lint format docs checkpoints benchmark faults clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with the locked packages

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
	  { echo "iredinterp needs Python 3.11, found $$($(PYTHON) --version 2>&1): make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: $(READY) ## analyse the bundled checkpoints and write the report
	@snakemake --cores $(CORES) all report
	@echo "The report is at $(CURDIR)/results/report.html"

verdicts: $(READY) ## judge the registered hypotheses on every bundled seed and condition
	@snakemake --cores $(CORES) all verdicts scorecard report --config 'report={verdicts: all}'
	@echo "The report is at $(CURDIR)/results/report.html, the verdicts alone at $(CURDIR)/results/verdicts.html"

test: $(READY) ## run every test
	@python -m pytest --numprocesses 2 --dist worksteal --durations 25

lint: $(READY) ## check style: ruff, snakefmt, snakemake --lint
	@ruff check .
	@ruff format --check .
	@snakefmt --check workflow
	@snakemake --lint

format: $(READY) ## rewrite the code in the house style
	@ruff check --fix . && ruff format .
	@snakefmt workflow

docs: $(READY) ## build the documentation into docs/_build/html
	@sphinx-build -W --keep-going -q -b html -c docs . docs/_build/html -d docs/_build/doctrees
	@echo "The documentation is at $(CURDIR)/docs/_build/html/index.html"

checkpoints: $(READY) ## train the bundled checkpoints anew
	@snakemake --cores $(CORES) trained
	@cp results/training/*/checkpoints/*.safetensors resources/checkpoints/

benchmark: $(READY) ## measure what RESULTS.md says of engines, geometry, training, searches, kernels and circuits
	@python benchmarks/hessian.py
	@python benchmarks/grassmann.py
	@python benchmarks/training.py
	@python benchmarks/landscape.py
	@python benchmarks/ntk.py
	@python benchmarks/circuits.py

faults: $(READY) ## kill runs at random, fill the disk, damage files, and rewrite docs/faults.md
	@python benchmarks/faults.py

clean: ## delete results, logs, caches and built pages; keeps .venv
	@rm -rf results/* logs .snakemake .pytest_cache .ruff_cache docs/_build
