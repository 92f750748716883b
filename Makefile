# make demo: the full pipeline on synthetic images.  make test: the tests.  Both install what is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# cpu, or gpu on a machine with an NVIDIA card, or tpu on a Cloud TPU VM
DEVICE ?= cpu
BIN := .venv/bin

.PHONY: demo test test-robustness test-slow lint format check-kaggle benchmarks tables leaderboard dist docs clean

demo: .venv/installed
	$(BIN)/python examples/demo.py --output=demo

test: .venv/installed
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

# Corrupt images, hostile models and names, killed writers, full disks, slow clients; loopback only.
test-robustness: .venv/installed
	$(BIN)/python -m pytest -q -s -m "" tests/robustness

# Prints the time of each part. Files stay together: what their tests share takes long to make.
test-slow: .venv/installed
	@failed=0; for part in tests/training "tests/models tests/export" \
			"tests/input tests/datasets tests/search tests/evaluation tests/reporting tests/app" \
			"tests/kaggle tests/examples $(wildcard tests/test_*.py)"; do \
		start=$$(date +%s); \
		$(BIN)/python -m pytest -q -rs -n 2 --dist loadfile -m slow $$part || failed=1; \
		echo "slow tests of $$part: $$(( $$(date +%s) - start )) s"; \
	done; exit $$failed

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

# Measures all speed, one benchmark after another, on a machine that does nothing else, and rewrites the
# tables of README.md and benchmarks/results/. Needs BACKBONE=PATH/TO/efficientnet_lite0.keras and
# TORCH_PYTHON, a Python with pytorch-metric-learning. ONLY=heads,export: only these; also those of quality.
benchmarks: .venv/benchmarks
	$(BIN)/python benchmarks/record.py --only="$(ONLY)" --backbone="$(BACKBONE)" --torch_python="$(TORCH_PYTHON)" \
		$(if $(ALLOW_BUSY),--allow_busy)

.venv/benchmarks: .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[benchmarks]"
	@touch $@

# The tables and the leaderboard from the records in benchmarks/results/, without measuring.
tables leaderboard: .venv/installed
	$(BIN)/python benchmarks/tables.py

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

# The site in site/, built strictly: a broken link or a missing docstring fails.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@

# The wheel and the sdist; `pytest -m slow tests/test_distribution.py` builds and installs both.
dist: .venv/installed
	rm -rf dist
	$(BIN)/python -m build --outdir dist

clean:
	rm -rf .venv .venv-kaggle demo dist site
