# make demo    set up, then train on the embedded digits
# make lint    set up, then check style, format and types
# make test    set up, then run the tests
# make doctor  set up, then check this machine: what is wrong with it, what is slow, and what to do
#
# make gpu-check   the doctor and the tests that need a GPU, and one table; on a machine without .venv:
#                  make gpu-check PYTHON=python3.12 BUNDLE=FOLDER, where torch, torchvision, timm and numba are installed
# make gpu-bundle  set up, then make that FOLDER to carry there (42 MB)
#
# Set-up fills .venv from requirements.lock, every file checked against its hash. It happens once; remove .venv to
# start afresh. Variables, for `make setup`:
#   PYTHON=python3.12     3.11, 3.12 or 3.13
#   EXTRA=cuda12 TORCH_BACKEND=cu126
#                         for NVIDIA drivers before 580 or GPUs before Turing: newest versions that pyproject.toml
#                         allows, without hashes, since the lock holds CUDA 13
.DELETE_ON_ERROR:
.PHONY: demo test doctor gpu-check gpu-bundle setup lint lock
SHELL  := /bin/bash
STAMP  := .venv/.ready
READY  := $(shell cat $(STAMP) 2>/dev/null)
EXTRA  ?= $(or $(READY),cuda13)
PYTHON ?= python3
RUN    := .venv/bin/python
export GOMP_SPINCOUNT := 20000
UV     := .venv/bin/uv
SHIM   := pipeline/opencv_shim

# Container images ask Python to write no byte code; without it each start compiles for some five seconds.
unexport PYTHONDONTWRITEBYTECODE

# FFCV comes as source. The shim spares it OpenCV; without fused multiply-add its resize equals OpenCV's to the bit.
# --reinstall-package: a copy in uv's cache may have been compiled against something else.
COMPILE := PKG_CONFIG_PATH="$(CURDIR)/$(SHIM)/pkgconfig:$$PKG_CONFIG_PATH" CFLAGS="$$CFLAGS -O3 -ffp-contract=off"
INSTALL := $(COMPILE) $(UV) pip install -q -p $(RUN) -b build-constraints.txt --reinstall-package ffcv

ifneq ($(filter-out $(EXTRA),$(READY)),)
$(error .venv was made with EXTRA=$(READY); remove it, then run make again)
endif

demo: $(STAMP)
	$(RUN) train.py semi_mae:digits --run.oracle

test: $(STAMP)
	@.ci/slurm_packages
	@.ci/tests $(RUN)

doctor: $(STAMP)
	$(RUN) -m models.doctor

BUNDLE ?= gpu_bundle
gpu-check:
	@.ci/gpu_check $(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) $(BUNDLE)

gpu-bundle: $(STAMP)
	@.ci/gpu_bundle $(RUN) $(BUNDLE)

setup: $(STAMP)

$(STAMP): requirements.lock build-constraints.txt $(SHIM)/include/opencv2/opencv.hpp
	@.ci/system_packages $(PYTHON)
	test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) -m pip install -q --require-hashes --no-deps -r build-constraints.txt
ifeq ($(EXTRA),cuda13)
	$(INSTALL) --require-hashes --no-deps -r requirements.lock
else
	$(INSTALL) -r pyproject.toml --extra $(EXTRA) --extra test $(TORCH_BACKEND:%=--torch-backend=%)
endif
	test ! -e train.py || $(RUN) -c "import train, pipeline.convert"   # Dockerfile installs before it copies the code
	@echo $(EXTRA) >$@

lint: $(STAMP)
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	.venv/bin/ty check --error-on-warning

# The locks name no host: every installation takes the index its own configuration says.
LOCK := $(COMPILE) $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-annotate --custom-compile-command "make lock"
lock:
	$(LOCK) pyproject.toml --extra cuda13 --extra test -c constraints.txt -o requirements.lock
	printf '%s\n' packaging setuptools uv wheel | $(LOCK) - -c constraints.txt -o build-constraints.txt
