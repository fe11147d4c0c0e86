# Two commands on a fresh machine: `make demo` and `make test`. Both need Python 3.10 or newer and pip, nothing else.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
TESTS  ?=
# what `make bench` runs: commas stand for spaces
BENCH  ?= step.py,--arch,resnet18,--height,128,--width,64,--n,32,--steps,3,--rounds,3 feeding.py,--n_ids,40 \
          tracking.py,--bs,16,--steps,3,--rounds,3 quality.py,--max_n,8000 sampler.py \
          evaluation.py,--no-dense,--sizes,market tables.py,--n,100000 embedder.py

.PHONY: demo test install test-lowest install-lowest lint nbs docs bench clean

demo: $(VENV)/ready
	$(BIN)/python recipes/reid.py

test: $(VENV)/ready-dev
	$(BIN)/python -m pytest $(strip $(TESTS))

install: $(VENV)/ready-dev

# the tests with the lowest versions that settings.ini allows, in an environment of their own
test-lowest: install-lowest
	$(MAKE) test VENV=.venv-lowest

install-lowest: export PIP_CONSTRAINT = $(CURDIR)/.venv-lowest/lowest.txt
install-lowest:
	mkdir -p .venv-lowest
	sed -n 's/^ *\([A-Za-z0-9_-]*\)>=\([0-9.]*\)$$/\1==\2/p' settings.ini > .venv-lowest/lowest.txt
	$(MAKE) install VENV=.venv-lowest

lint: $(VENV)/ready-dev
	$(BIN)/ruff check

nbs: $(VENV)/ready-dev
	OMP_NUM_THREADS=1 WANDB_MODE=offline $(BIN)/nbdev-test

# the site in build/docs/html, built without a network; a link that leads nowhere is an error
docs: $(VENV)/ready-docs
	$(BIN)/python -W ignore docs/pages.py

# tables as Markdown, also in bench/, with the same as JSON
bench: $(VENV)/ready-dev
	set -e; for f in $(BENCH); do echo "== $$f"; $(BIN)/python -W ignore benchmarks/$$(echo $$f | tr , ' ') --out bench; done

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "qsd_fastai needs Python 3.10 or newer; $(PYTHON) is older. Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/ready: settings.ini setup.py pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -e .
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(BIN)/python -m pip install -e '.[dev]'
	@touch $@

$(VENV)/ready-docs: $(VENV)/ready-dev
	$(BIN)/python -m pip install -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-lowest build dist *.egg-info .pytest_cache .ruff_cache runs wandb
