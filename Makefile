# `make help` lists the targets. Two environments: .venv (offline work) and .venv-serving (what Triton runs models in).
PYTHON ?= python3
VENV := .venv/bin
SERVING := .venv-serving/bin
BUILD ?= build/demo
export PYTHONDONTWRITEBYTECODE := 1
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export GOMP_SPINCOUNT := 10000

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-long lint render bench bench-kernels clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Make the two environments (.venv, .venv-serving), both at once
	@$(MAKE) --no-print-directory --jobs 2 .venv/.ready .venv-serving/.ready

# optimum-intel pins versions that do not resolve with ours, and pulls torchvision, which breaks a CPU build of torch.
.venv/.ready: pyproject.toml client/pyproject.toml
	$(PYTHON) -m venv .venv
	$(VENV)/python -m pip install --quiet --disable-pip-version-check --editable '.[build,kernels,studio,bench,facts,kafka,dev]'
	$(VENV)/python -m pip install --quiet --disable-pip-version-check --no-deps 'optimum>=2.3,<3' 'optimum-intel>=2.2,<3'
	@touch $@

.venv-serving/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-serving
	$(SERVING)/python -m pip install --quiet --disable-pip-version-check --editable '.[serving,kafka]'
	@touch $@

demo: setup ## Build the demo catalogue and its models, start the server, print pages
	$(VENV)/endcap demo --out $(BUILD)

serve: setup ## Serve the build in BUILD (default build/demo) until Ctrl-C
	$(VENV)/endcap serve --build $(BUILD)

# A file's tests stay in one process, with what they share; a file against the real server has a server of that process.
# Threads of torch and OpenBLAS in several test processes would wait for each other on few cores.
TESTS = OMP_NUM_THREADS=1 $(VENV)/python -m pytest --numprocesses auto --maxprocesses 4 \
	--dist loadfile --no-loadscope-reorder

test: setup ## Run every test, including those against the real server (of what there is much of its kind, a sample)
	$(TESTS)

test-long: setup ## The same, and everything of each kind
	$(TESTS) --long

lint: setup ## ruff, mypy, import-linter, and endcap lint on model_repository
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports
	$(VENV)/endcap lint --strict model_repository

render: setup ## Write model_repository/ and the tables of docs/lint.md from the declarations
	$(VENV)/python -m endcap_server.serving.model_repository model_repository
	$(VENV)/python -m endcap_server.lint.document docs/lint.md

bench: setup ## Measure BUILD under load and beside a naive baseline; BASE=report.json compares, ARGS="--quick" and others
	$(VENV)/python -m benchmarks --build $(BUILD) $(if $(BASE),--base $(BASE)) $(ARGS)

bench-kernels: setup ## Measure the fused kernels on a GPU; without one, compile them
	$(VENV)/python -m benchmarks.kernels $(ARGS)

clean: ## Remove everything that was built
	rm -rf build benchmarks/out
