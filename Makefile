# make demo: the full pipeline on synthetic images.  make test: the tests.  Both install what is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# cpu, or gpu on a machine with an NVIDIA card, or tpu on a Cloud TPU VM
DEVICE ?= cpu
BIN := .venv/bin

.PHONY: demo test test-robustness test-slow lint format check-kaggle clean

demo: .venv/installed
	$(BIN)/python examples/demo.py --output=demo

test: .venv/installed
	$(BIN)/python -m pytest -q -n 2

# Corrupt images, hostile models and names, killed writers, full disks, slow clients; loopback only.
test-robustness: .venv/installed
	$(BIN)/python -m pytest -q -s -m "" tests/robustness

test-slow: .venv/installed
	$(BIN)/python -m pytest -q -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Loads and runs a submission in the TensorFlow of Kaggle's scorer, 2.6.4. Needs Python 3.9.
check-kaggle: .venv/installed
	$(BIN)/python tests/kaggle/check.py

.venv/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no python3 on the PATH; install Python 3.11" >&2; exit 1; }
	@echo "installing into .venv (a few minutes, once) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[$(DEVICE),beam,test]"
	# Replaces the Pillow 12 that Beam asks for; pip says so. Beam uses Pillow in its examples only.
	$(BIN)/python -m pip install --quiet --editable ".[serve]"
ifeq ($(DEVICE),tpu)
	# KerasHub requires plain TensorFlow, which has no TPU kernels and owns the same files. pip warns
	# that it is gone.
	$(BIN)/python -m pip uninstall --quiet --yes tensorflow tensorflow-tpu
	$(BIN)/python -m pip install --quiet --no-deps tensorflow-tpu==2.20.0
endif
	@touch $@

clean:
	rm -rf .venv .venv-kaggle demo
