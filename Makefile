# The exact versions that the project is developed and tested with; the bounds of what
# it supports are in setup.py. tools/setup_env.sh holds the order and nothing else.
# STACK=onedl: the maintained forks instead of OpenMMLab's own releases. imaug, which
# the fork of MMDetection requires, wants both OpenCVs, below 4.13; those NumPy < 2.3.
# STACK=classification: mmpretrain too, and its tests alone: it needs a torchvision, whose
# usual wheel does not load beside a CPU build of torch and then stops MMEngine's Runner.
STACK    ?= openmmlab
TORCH    := torch==2.13.0
BUILD    := setuptools==79.0.1 wheel==0.48.0 ninja==1.13.2
PACKAGES := mmrazor==1.0.0 scipy==1.17.1 pycocotools==2.0.11 \
	shapely==2.2.0 joblib==1.6.0 scikit-learn==1.9.1 matplotlib==3.11.2 \
	packaging==26.3 tensorboard==2.21.0 hotcoco==1.3.0 pytest==9.2.0 \
	pytest-xdist==3.8.0 ruff==0.17.6 mypy==2.4.1 onnx==1.23.2 onnxruntime==1.32.0
ifeq ($(STACK),onedl)
MMCV     := onedl-mmcv==2.3.6
PACKAGES += onedl-mmengine==0.10.12 onedl-mmdetection==3.5.1 numpy==2.2.6 \
	imaug==0.4.3 opencv-python==4.12.0.88 opencv-python-headless==4.12.0.88
else
MMCV     := mmcv==2.1.0
PACKAGES += mmengine==0.10.7 mmdet==3.3.0 numpy==2.4.6 opencv-python==5.0.0.93
endif
ifeq ($(STACK),openmmlab)
VENV     := .venv
# For the guide and the tests in a browser, here alone.
PACKAGES += mkdocs==1.6.1 mkdocs-material==9.8.1 mkdocstrings==1.0.8 \
	mkdocstrings-python==2.0.11 selenium==4.51.0
else ifeq ($(STACK),onedl)
VENV     := .venv-onedl
else ifeq ($(STACK),classification)
VENV     := .venv-classification
TESTS    := tests/system/test_classification.py tests/system/test_torchvision_ops.py
PACKAGES += mmpretrain==1.2.0 torchvision==0.28.0 einops==0.8.2 \
	importlib-metadata==10.2.0 mat4py==0.6.0 modelindex==0.0.2
else
$(error STACK is '$(STACK)', wanted openmmlab, onedl or classification)
endif
PYTHON   ?= python3.11
# A module of tests at a time to each of two workers, in the order of tests/conftest.py.
XDIST    := -n 2 --dist loadscope --no-loadscope-reorder

# The environment made here has mmcv's CPU operators only: a GPU that PyTorch can see
# would be chosen by MMEngine and then fail. GPU users install into their own one.
export CUDA_VISIBLE_DEVICES :=

PY := $(VENV)/bin/python

.PHONY: help env demo demo-bccd ledger bench test test-fast lint docs clean
help:
	@echo 'make env    make the environment, $(VENV)'
	@echo 'make demo   train teacher, student and distilled student on digits; print mAP'
	@echo 'make demo-bccd  teacher, student and ctkd-zscore on photographs of blood cells in data/bccd'
	@echo 'make ledger train the runs of experiments/ that have no log, rebuild docs/results.md'
	@echo 'make bench  measure speed and memory, short form: under 10 minutes on 2 cores'
	@echo 'make test   run all tests, on two cores'
	@echo 'make test-fast  run those that start neither a training nor a process'
	@echo 'make lint   check style with ruff'
	@echo 'make docs   build the guide in work_dirs/site'
	@echo 'make clean  remove the environments and work_dirs (cached mmcv wheels stay)'
	@echo 'all except clean begin with make env, where $(VENV) is missing or out of date.'
	@echo 'STACK=onedl: with the maintained forks. STACK=classification: mmpretrain too.'

env: $(VENV)/.ready

demo: $(VENV)/.ready
	$(PY) tools/demo.py

demo-bccd: $(VENV)/.ready
	$(PY) tools/demo.py bccd

ledger: $(VENV)/.ready
	$(PY) -W ignore experiments/ledger.py

bench: $(VENV)/.ready
	@for name in step teacher loss checkpoint evaluate scale profile_epoch startup count; do \
		$(PY) -W ignore benchmarks/$$name.py --short || exit; \
	done

test: $(VENV)/.ready
	$(PY) -m pytest $(XDIST) $(TESTS)

test-fast: $(VENV)/.ready
	$(PY) -m pytest $(XDIST) -m unit $(TESTS)

lint: $(VENV)/.ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# The variable: without the theme's note on what comes after this version of MkDocs.
docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo 'to read it: $(PY) -m http.server -b 127.0.0.1 -d work_dirs/site'

clean:
	rm -rf .venv .venv-* work_dirs

# The stamp comes last, so an environment without it, or older than its inputs, is never
# trusted: it is removed and made again. So is one of another place: a clone that was
# moved would run the code at its old path.
ifneq ($(shell cat $(VENV)/.ready 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.ready
endif
$(VENV)/.ready: Makefile setup.py tools/setup_env.sh
	@rm -rf $(VENV)
	@VENV='$(VENV)' PYTHON='$(PYTHON)' TORCH='$(TORCH)' MMCV='$(MMCV)' BUILD='$(BUILD)' \
		PACKAGES='$(PACKAGES)' tools/setup_env.sh
	@echo '$(CURDIR)' > $@
