# Each target makes .venv first when it is missing or older than the files that describe it.
# Works with GNU make 3.81 (macOS) and BSD make.

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
READY = $(VENV)/.installed

help:
	@echo "make run [NB=03]     execute a notebook and print its results (default: 00)"
	@echo "make lab             open JupyterLab on the notebooks"
	@echo "make doctor          say what was found on this machine and what is missing"
	@echo "make test            everything CI runs"
	@echo "make bench [NAME=x]  time parts of adlearn beside a reference"
	@echo "make export          write adlearn/methods from the notebooks"
	@echo "make outputs [NB=03] execute notebooks (default: all), refresh committed outputs and numbers"
	@echo "make readme          fill README's table from the committed numbers"
	@echo "make lint            ruff and the export check"
	@echo "PYTHON=python3.13 chooses the Python that .venv is made with"

run: $(READY)
	@$(BIN)/adlearn run $(NB)

lab: $(READY)
	@$(BIN)/adlearn lab

doctor: $(READY)
	@$(BIN)/adlearn doctor

test: $(READY)
	@$(BIN)/adlearn test

bench: $(READY)
	@$(BIN)/adlearn bench $(NAME)

export: $(READY)
	@$(BIN)/adlearn export

outputs: $(READY)
	@$(BIN)/adlearn outputs $(NB)

readme: $(READY)
	@$(BIN)/adlearn results --readme

lint: $(READY)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/adlearn export --check

# The stamp is written last, so an interrupted installation is taken up again; a .venv without a working pip
# is made anew, any other is kept.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "adlearn needs Python 3.11 or newer; name one: make PYTHON=python3.13 ..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV) (the first time this takes some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(READY)

.PHONY: help run lab doctor test bench export outputs readme lint
