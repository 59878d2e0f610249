# The exact versions that the project is developed and tested with; the bounds of what
# it supports are in setup.py. tools/setup_env.sh holds the order and nothing else.
TORCH    := torch==2.13.0
MMCV     := mmcv==2.1.0
BUILD    := setuptools==79.0.1 wheel==0.48.0 ninja==1.13.2
PACKAGES := mmengine==0.10.7 mmdet==3.3.0 mmrazor==1.0.0 \
	numpy==2.4.6 scipy==1.17.1 opencv-python==5.0.0.93 pycocotools==2.0.11 \
	shapely==2.2.0 joblib==1.6.0 scikit-learn==1.9.1 matplotlib==3.11.2 \
	packaging==26.3 tensorboard==2.21.0 pytest==9.2.0 ruff==0.17.6
PYTHON   ?= python3.11

# The environment made here has mmcv's CPU operators only: a GPU that PyTorch can see
# would be chosen by MMEngine and then fail. GPU users install into their own one.
export CUDA_VISIBLE_DEVICES :=

PY := .venv/bin/python

.PHONY: help demo test lint clean
help:
	@echo 'make demo   train teacher, student and distilled student on digits; print mAP'
	@echo 'make test   run all tests'
	@echo 'make lint   check style with ruff'
	@echo 'make clean  remove .venv and work_dirs (the cached mmcv wheel stays)'
	@echo 'demo, test and lint make .venv first where it is missing or out of date.'

demo: .venv/.ready
	$(PY) tools/demo.py

test: .venv/.ready
	$(PY) -m pytest

lint: .venv/.ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:
	rm -rf .venv work_dirs

# The stamp comes last, so a .venv without it, or older than its inputs, is never
# trusted: it is removed and made again. So is one of another place: a clone that was
# moved would run the code at its old path.
ifneq ($(shell cat .venv/.ready 2>/dev/null),$(CURDIR))
.PHONY: .venv/.ready
endif
.venv/.ready: Makefile setup.py tools/setup_env.sh
	@rm -rf .venv
	@PYTHON='$(PYTHON)' TORCH='$(TORCH)' MMCV='$(MMCV)' BUILD='$(BUILD)' \
		PACKAGES='$(PACKAGES)' tools/setup_env.sh
	@echo '$(CURDIR)' > $@
