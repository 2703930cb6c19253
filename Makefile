# Two commands do all the set-up on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKSPACE ?= workspace
DATASETS ?= datasets.yaml
RECIPE ?= deploy/recipes/toy.yaml
STAGE ?= encode-latents
OPTIONS ?=
WORKERS ?= 3

export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install run serve stage test test-long test-fast gpu lint format clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## make .venv and see to ffmpeg

$(VENV)/.installed: pyproject.toml constraints.txt deploy/install-ffmpeg.sh
	sh deploy/install-ffmpeg.sh
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

run: install ## run the whole pipeline here (DATASETS=, RECIPE=, WORKSPACE=)
	@if [ "$(DATASETS)" = datasets.yaml ]; then $(BIN)/ltx2 samples datasets/glimmer; fi
	@$(BIN)/ltx2 run --workspace $(WORKSPACE) --datasets $(DATASETS) --recipe $(RECIPE)

serve: install ## start Prefect, MLflow and the workers, and deploy every flow
	@if [ "$(DATASETS)" = datasets.yaml ]; then $(BIN)/ltx2 samples datasets/glimmer; fi
	@exec $(BIN)/ltx2 serve --workspace $(WORKSPACE) --datasets $(DATASETS) --recipe $(RECIPE) $(OPTIONS)

stage: install ## run one stage alone (STAGE=encode-latents)
	@$(BIN)/ltx2 stage $(STAGE) --workspace $(WORKSPACE) --datasets $(DATASETS) --recipe $(RECIPE)

# The longest files, those of tests/e2e, come first, so that no worker is left alone with one of them at the end.
test: install ## the tests, in a few minutes
	$(BIN)/python -m pytest -m "not gpu and not long" -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=8

test-long: install ## the others: sweeps, and what waits for minutes
	$(BIN)/python -m pytest -m "not gpu and long" -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=8

FAST := $(addprefix tests/unit/,config stages memory training validation publishing tasks test_docs_paths.py \
	test_docstrings.py test_pages.py test_readme.py)

# Whatever imports a model library is left out; the watchdog's tests do so in processes of their own.
test-fast: install ## the tests that load no models, in under a minute
	$(BIN)/python -m pytest $(FAST) --ignore tests/unit/memory/test_watchdog.py -m "not gpu" -p tests.without_models

gpu: ## measure on a GPU, part by part; installs nothing (BIN=, OPTIONS=)
	$(BIN)/python -m bench.gpu $(OPTIONS)

lint: install ## ruff, mypy and the layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and the caches, not the workspace
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .import_linter_cache
