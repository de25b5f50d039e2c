# make demo    a first training run on drawn faces, from nothing to an accuracy
# make test    all tests
# make setup   only the virtual environment that both use

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test

setup: .venv/ready

.venv/ready: requirements.txt requirements-engines.txt tests/requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	touch $@

demo: setup
	$(BIN)/python datasets/demo.py --output datasets/demo
	CUDA_VISIBLE_DEVICES=-1,-1 $(BIN)/python -m paddle.distributed.launch --nproc_per_node 2 \
		--log_dir runs/demo_cpu/launch --log_level WARNING train.py --config configs/demo_cpu.yaml
	$(BIN)/python valid.py --checkpoint runs/demo_cpu --data_dir datasets/demo --val_targets demo
	@echo "Curves: $(BIN)/visualdl --logdir runs/demo_cpu/log --language en"

test: setup
	$(BIN)/python -m pytest
