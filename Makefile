# make serve   the server on the default model (MODEL=, PORT= override)
# make test    the whole test suite        make lint   ruff and mypy        make bench   the figures of docs/benchmarks.md
PYTHON ?= python3
MODEL  ?=
PORT   ?= 8000
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check -q
SOURCES := $(shell find src csrc -type f -not -name '*.pyc' -not -name '*.so') CMakeLists.txt

.PHONY: serve test lint bench install install-test install-bench clean

serve: install
	$(BIN)/paceline serve $(MODEL) --port $(PORT)

test: install-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: install-test
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy

bench: install-bench
	$(BIN)/paceline bench all $(BENCH_ARGS)

install: $(VENV)/paceline.stamp
install-bench: $(VENV)/bench.stamp $(VENV)/paceline.stamp
install-test: $(VENV)/test.stamp $(VENV)/paceline.stamp

# torch first and exactly: any other order may pull the CUDA build, which is gigabytes.
$(VENV)/torch.stamp:
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), "Python 3.11 to 3.13 is needed, this is " + sys.version'
	$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	$(PIP) install -U pip
	$(PIP) install torch==2.13.0
	touch $@

# The build tools live in the environment, so that a second build only compiles what changed.
$(VENV)/build.stamp: $(VENV)/torch.stamp
	$(PIP) install 'scikit-build-core>=0.11' 'nanobind>=2.4' 'cmake>=3.24' ninja
	touch $@

$(VENV)/paceline.stamp: $(VENV)/build.stamp $(SOURCES) pyproject.toml README.md
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) install --no-build-isolation .
	touch $@

$(VENV)/bench.stamp: $(VENV)/paceline.stamp pyproject.toml
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) install --no-build-isolation '.[bench]'
	touch $@

$(VENV)/test.stamp: $(VENV)/paceline.stamp pyproject.toml
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) install --no-build-isolation '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist
