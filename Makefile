# make demo        a first training run on drawn faces, from nothing to an accuracy
# make test        a test of every promise: minutes
# make test-all    what make test leaves out: every case, thirty kills, whole LFW, fuzzing, Paddle 2.6.2
# make setup       only the virtual environment that all of them use

PYTHON ?= python3
BIN := .venv/bin
PIP := -m pip install --quiet --disable-pip-version-check
# Two processes: more would have the ranks of two tests wait for one another on few cores. A file's tests share fixtures.
PYTEST := -m pytest -n 2 --dist loadfile --durations=25

.PHONY: setup demo test test-all

setup: .venv/ready

.venv/ready: requirements.txt requirements-engines.txt tests/requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) -r requirements.txt -r requirements-engines.txt -r tests/requirements.txt
	touch $@

.venv/soak-ready: .venv/ready tests/soak/requirements.txt
	$(BIN)/python $(PIP) -r tests/soak/requirements.txt
	touch $@

# The oldest Paddle that is supported, which has no wheels for Python 3.13 and later: there its test is skipped.
.venv-2.6/ready: requirements.txt tests/requirements.txt
	$(PYTHON) -m venv .venv-2.6
	.venv-2.6/bin/python -c "import sys; sys.exit(sys.version_info >= (3, 13))" || exit 0; \
		.venv-2.6/bin/python $(PIP) "paddlepaddle<3" "numpy<2" "pyarrow<20" -r requirements.txt -r tests/requirements.txt
	touch $@

demo: setup
	$(BIN)/python datasets/demo.py --output datasets/demo
	$(BIN)/python -m paddle.distributed.launch --nproc_per_node 2 --log_dir runs/demo_cpu/launch --log_level WARNING \
		train.py --config configs/demo_cpu.yaml
	$(BIN)/python valid.py --checkpoint runs/demo_cpu --data_dir datasets/demo --val_targets demo
	@echo "Curves: $(BIN)/visualdl --logdir runs/demo_cpu/log --language en"

test: setup
	$(BIN)/python $(PYTEST)

test-all: .venv/soak-ready .venv-2.6/ready
	$(BIN)/python $(PYTEST) -m exhaustive
