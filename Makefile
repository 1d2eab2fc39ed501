# Every target does its own set-up; python 3.11+ and make are all that has to be there.
#
#   make serve PORT=9000                     variables go after the target
#   make test PYTEST_ARGS="tests/core -x"
#   make figures FIGURES_ARGS=--measure
#   make serve TORCH_INDEX=<address>         take torch from this package index, such as PyTorch's CPU-only one
#   make serve PYTHON=python3.12             the Python that .venv is made from, the first time

PYTHON ?= python3
TORCH_INDEX ?=
PORT ?= 8000
SERVE_ARGS ?=
LAB_ARGS ?=
PYTEST_ARGS ?=
FIGURES_ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --disable-pip-version-check
# A stamp says that an extra is installed as of the last change of what it is installed from.
SOURCES := pyproject.toml constraints.txt
TORCH := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help serve test lab notebooks book translations figures lint format wheel clean
.DELETE_ON_ERROR:

help: ## show this list
	@echo "Usage: make TARGET [PORT=8000] [TORCH_INDEX=address] [PYTHON=python3] [PYTEST_ARGS=...]"
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' Makefile

serve: $(VENV)/.installed-run ## serve the small model with its chat page; prints the address
	@$(RUN) -m minivllm.serve --port $(PORT) $(SERVE_ARGS)

test: $(VENV)/.installed-test ## run the whole test suite, a file on each core
	@$(RUN) -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

lab: $(VENV)/.installed-lab ## open JupyterLab on notebooks/
	@find notebooks -name '*.ipynb' -exec $(VENV)/bin/jupyter trust {} +
	@$(VENV)/bin/jupyter lab --allow-root --notebook-dir=notebooks $(LAB_ARGS)

notebooks: $(VENV)/.installed-test ## run all notebooks and compare with what they show
	@$(RUN) -m minivllm.course notebooks --check

book: $(VENV)/.installed-book ## make the book: open book/_build/html/index.html
	@$(RUN) -m sphinx -q -W --keep-going -c book . book/_build/html
	@$(RUN) -m sphinx -q -W --keep-going -c book -D language=zh_CN . book/_build/html/zh_CN
	@echo "The book: book/_build/html/index.html"

translations: $(VENV)/.installed-book ## bring book/locale up to date with the English text
	@$(RUN) book/translate.py

figures: $(VENV)/.installed-test ## draw the headline figures of the book from the committed results
	@$(RUN) -m minivllm.bench figures $(FIGURES_ARGS)

lint: $(VENV)/.installed-dev ## check style and types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

format: $(VENV)/.installed-dev ## mend what the style check can mend by itself
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

wheel: $(VENV)/.installed-dev ## build dist/minivllm-*.whl
	@$(RUN) -m build --wheel

clean: ## remove .venv, build outputs and caches
	rm -rf $(VENV) build dist book/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "minivllm needs Python 3.11 or newer, and '$(PYTHON)' is not. Name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' came without its venv module. Debian, Ubuntu: apt install python3-venv"; exit 1; }
	@$(RUN) -c 'import pip' 2>/dev/null || $(PYTHON) -m venv $(VENV)
	@touch $@

# .installed-run is the package alone, .installed-test the package with its extra `test`, and so on.
$(VENV)/.installed-%: $(VENV)/.made $(SOURCES)
	@echo "Bringing $(VENV)/ up to date for '$*' (the first time takes minutes: torch is large) ..."
	@$(if $(TORCH_INDEX),$(PIP) --no-deps --index-url $(TORCH_INDEX) $(TORCH))
	@$(PIP) -c constraints.txt -e "$(subst [run],,.[$*])"
	@touch $@ $(VENV)/.installed-run
