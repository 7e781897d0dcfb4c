# Needs Python 3.11 or newer and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak test-backends test-pipelines test-saved-models lint format clean

demo: .venv/installed  ## train all three tasks quickly, export, serve, show: http://127.0.0.1:7860
	$(BIN)/python -m demos.quickstart

test: .venv/installed  ## all tests, the slow ones too; a file of tests in one of two processes, in the order given
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: .venv/installed  ## ten minutes of the server under load, then a third of it with batches
	KERASNETS_SOAK_SECONDS=600 $(BIN)/python -m pytest -rP tests/serving/survival/test_survival_soak.py

test-backends: .venv/installed .venv-backends/installed  ## layers and models on JAX and PyTorch, without TensorFlow
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 KERAS_BACKEND=jax .venv-backends/bin/python -m pytest tests/backends
	KERAS_BACKEND=torch .venv-backends/bin/python -m pytest tests/backends

test-pipelines: .venv/installed .venv-beam/installed  ## exported models in Keras, TensorFlow's command line, Apache Beam
	$(BIN)/python -m pytest tests/test_pipelines.py

test-saved-models: .venv/installed .venv-tensorflow-2.20/installed  ## exports where there is TensorFlow 2.20 and nothing else
	$(BIN)/python -m pytest tests/saved_models

lint: .venv/installed  ## format, style, types, and which package imports which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	@echo "installing TensorFlow and the other packages into .venv: some minutes the first time"
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv-backends/installed: requirements-backends.txt
	$(PYTHON) -m venv .venv-backends
	@echo "installing JAX and PyTorch into .venv-backends"
	.venv-backends/bin/pip install --quiet --disable-pip-version-check --requirement requirements-backends.txt
	touch $@

.venv-beam/installed: requirements-beam.txt
	$(PYTHON) -m venv .venv-beam
	@echo "installing Apache Beam and TensorFlow into .venv-beam"
	.venv-beam/bin/pip install --quiet --disable-pip-version-check --requirement requirements-beam.txt
	touch $@

.venv-tensorflow-2.20/installed:
	$(PYTHON) -m venv .venv-tensorflow-2.20
	@echo "installing TensorFlow 2.20 into .venv-tensorflow-2.20"
	.venv-tensorflow-2.20/bin/pip install --quiet --disable-pip-version-check 'tensorflow==2.20.*'
	touch $@

clean:  ## what was trained and exported by `make demo`
	rm -rf runs/quick models
