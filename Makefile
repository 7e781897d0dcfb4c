# Needs make and a Python; everything else is installed into .venv. uv, from the path or from PyPI, installs it, and
# finds or downloads a Python that TensorFlow supports; make PYTHON=/path/to/python3.12 selects another one.
PYTHON ?= >=3.11,<3.14
BIN := .venv/bin
# uv also uses pip's find-links folders of wheels, for example for PyTorch without CUDA.
ifndef UV_FIND_LINKS
export UV_FIND_LINKS := $(shell echo $${PIP_FIND_LINKS:-$$(python3 -m pip config get global.find-links 2> /dev/null)} | tr ' ' ',')
endif
UV := $(or $(shell command -v uv 2> /dev/null),.uv/bin/uv)

# $(call install,ENVIRONMENT,PACKAGES); if uv reaches no index, pip, with its own configuration, installs them.
# Where Python may not write bytecode, it is compiled here; otherwise each start of TensorFlow would compile it.
define install
	@$(UV) venv --quiet --allow-existing --python '$(PYTHON)' $(1) || \
	  { echo 'Python 3.11, 3.12 or 3.13 is required; install one, or run make PYTHON=/path/to/python3.12' >&2; exit 1; }
	@echo 'installing packages into $(1)'
	@$(UV) pip install --quiet $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode) --python $(1)/bin/python $(2) || \
	  { $(1)/bin/python -m ensurepip && $(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2); }
	@touch $@
endef

.PHONY: demo test soak test-backends test-pipelines test-saved-models lint format docs constraints clean

demo: .venv/demo-installed  ## train all three tasks quickly, export, serve, open the page: http://127.0.0.1:7860
	$(BIN)/python -m demos.quickstart

test: .venv/installed  ## all tests, slow ones too, in two processes; a file runs in one process, in the given order
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The server is under load for so long.
SOAK_SECONDS ?= 600
soak: .venv/installed  ## trainings killed 20 times; the server under load for ten minutes, then with batching
	KERASNETS_KILLS=5 $(BIN)/python -m pytest -m slow tests/kerasnets/training/test_survival.py
	KERASNETS_SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -rP tests/serving/survival/test_survival_soak.py

test-backends: .venv/installed .venv-backends/installed  ## layers and models on JAX and PyTorch, without TensorFlow
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 KERAS_BACKEND=jax .venv-backends/bin/python -m pytest tests/backends
	KERAS_BACKEND=torch .venv-backends/bin/python -m pytest tests/backends

test-pipelines: .venv/installed .venv-beam/installed  ## exported models in Keras, saved_model_cli and Apache Beam
	$(BIN)/python -m pytest tests/test_pipelines.py

test-saved-models: .venv/installed .venv-tensorflow-2.20/installed  ## exports with only TensorFlow 2.20 installed
	$(BIN)/python -m pytest tests/saved_models

lint: .venv/installed  ## format, style, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/installed  ## all pages and the API reference: docs/_build/html/index.html
	$(BIN)/sphinx-build --builder html --fresh-env --fail-on-warning --keep-going --quiet docs docs/_build/html

.venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt | $(UV)
	$(call install,.venv,--constraint constraints.txt --editable '.[dev]')

.venv/demo-installed: pyproject.toml constraints.txt | $(UV)
	$(call install,.venv,--constraint constraints.txt --editable '.[all]')

.venv-backends/installed: requirements-backends.txt | $(UV)
	$(call install,.venv-backends,--requirement requirements-backends.txt)

.venv-beam/installed: requirements-beam.txt | $(UV)
	$(call install,.venv-beam,--requirement requirements-beam.txt)

.venv-tensorflow-2.20/installed: | $(UV)
	$(call install,.venv-tensorflow-2.20,'tensorflow==2.20.*')

.uv/bin/uv:
	@python3 -m pip install --quiet --disable-pip-version-check --target .uv uv 2> /dev/null || \
	  { rm -rf .uv && python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv; }

constraints: | $(UV)  ## pin the newest versions of all packages, for every supported Python and platform
	{ echo '# Exact versions of everything in the environment of `make test` and `make demo`; `make constraints` renews them.'; \
	  $(UV) pip compile --quiet --universal --python-version 3.11 --extra dev --no-header --no-annotate \
	    --no-emit-index-url --upgrade pyproject.toml; } > constraints.new
	mv constraints.new constraints.txt

clean:  ## remove the runs and exports of `make demo`
	rm -rf runs/quick models
