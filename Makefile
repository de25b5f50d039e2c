# make demo           a first training run on drawn faces, from nothing to an accuracy
# make test           a test of every promise: minutes
# make test-all       what make test leaves out: every case, thirty kills, whole LFW, fuzzing, Paddle 2.6.2, PyTorch's files
# make test-gpu-wheel the core tests, on the CPU, with the Paddle 2.6.2 that is built for GPUs: a download of 760 MB
# make test-pythons   the demo and the core tests on each Python; PYTHONS='python3.12 python3.13' chooses
# make lint           ruff and mypy
# make docs           docs/options.md and the diagram of docs/architecture.md, from the code
# make setup          only the virtual environment, with the package as it is in this checkout; PYTHON=python3.12 chooses its Python

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check
DEMO_RUN ?= runs/demo_cpu
# Two processes: more would have the ranks of two tests wait for one another on few cores. A file's tests share fixtures.
PYTEST := -m pytest -n 2 --dist loadfile --durations=25
export CORE_TESTS ?= tests/unit tests/commands/test_errors.py tests/commands/test_installed.py

# What Paddle has wheels for.
SUPPORTED := 3.10 3.11 3.12 3.13
PYTHON_VERSION = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

.PHONY: setup setup-tests demo test test-all test-gpu-wheel test-pythons lint docs

setup: $(VENV)/ready
setup-tests: $(VENV)/ready-tests

$(VENV)/ready: requirements.txt pyproject.toml
	$(if $(filter $(PYTHON_VERSION),$(SUPPORTED)),,$(error $(PYTHON) $(if $(PYTHON_VERSION),is Python $(PYTHON_VERSION),cannot be run); Python 3.10 to 3.13 is needed: make $(MAKECMDGOALS) PYTHON=python3.12))
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) -r requirements.txt
	$(BIN)/python $(PIP) --no-deps -e .
	touch $@

$(VENV)/ready-tests: $(VENV)/ready requirements-engines.txt tests/requirements.txt
	$(BIN)/python $(PIP) -r tests/requirements.txt
	touch $@

$(VENV)/ready-soak: $(VENV)/ready-tests tests/soak/requirements.txt
	$(BIN)/python $(PIP) -r tests/soak/requirements.txt
	touch $@

# The oldest Paddle that is supported, which has no wheels for Python 3.13 and later: there its test is skipped.
OLDEST_WITH := "numpy<2" "pyarrow<20" "paddle2onnx<1.3" -r tests/requirements.txt

.venv-2.6/ready: requirements.txt tests/requirements.txt
	$(PYTHON) -m venv .venv-2.6
	.venv-2.6/bin/python -c "import sys; sys.exit(sys.version_info >= (3, 13))" || exit 0; \
		.venv-2.6/bin/python $(PIP) "paddlepaddle<3" -r requirements.txt $(OLDEST_WITH)
	touch $@

.venv-gpu/ready: requirements-gpu.txt tests/requirements.txt
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python $(PIP) "paddlepaddle-gpu<3" -r requirements-gpu.txt $(OLDEST_WITH)
	touch $@

# PyTorch, whose files are converted; where it has no wheel, its test is skipped. It is never in one process with Paddle.
.venv-torch/ready:
	$(PYTHON) -m venv .venv-torch
	-.venv-torch/bin/python $(PIP) "torch==2.13.0" "numpy<2.5" "onnx<1.24" "onnxscript<0.8"
	touch $@

demo: setup
	$(BIN)/python datasets/demo.py --output datasets/demo
	CUDA_VISIBLE_DEVICES=-1,-1 $(BIN)/python -m paddle.distributed.launch --nproc_per_node 2 \
		--log_dir $(DEMO_RUN)/launch --log_level WARNING \
		train.py --config configs/demo_cpu.yaml --output $(DEMO_RUN) --logdir $(DEMO_RUN)/log
	$(BIN)/python valid.py --checkpoint $(DEMO_RUN) --data_dir datasets/demo --val_targets demo
	@echo "Curves: $(DEMO_RUN)/log/curves.png; in a browser: $(BIN)/visualdl --logdir $(DEMO_RUN)/log --language en"

test: setup-tests
	$(BIN)/python $(PYTEST)

test-all: $(VENV)/ready-soak .venv-2.6/ready .venv-torch/ready
	$(BIN)/python $(PYTEST) -m exhaustive

test-gpu-wheel: setup-tests .venv-gpu/ready
	OLDEST_PADDLE=.venv-gpu $(BIN)/python -m pytest -s -m exhaustive tests/soak/test_oldest_paddle.py

test-pythons:
	@MAKE="$(MAKE)" tests/pythons.sh $(PYTHONS)

lint: setup-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup-tests
	PYTHONPATH=. $(BIN)/python docs/make_pages.py
