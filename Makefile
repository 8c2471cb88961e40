# make reproduce   the environment, then every run, table and figure of a profile (PROFILE=quick, or a .yaml file)
# make test        the environment, then every test
# make benchmark   what is fast and what bounds it; some minutes on an idle machine
# make docs        web pages of all notebooks and of the API, in _docs/html
VENV ?= .venv
PYTHON ?= python3
PROFILE ?= quick
DATA ?=
CORES ?= all
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cksum < requirements.lock | cut -d' ' -f1)
NOTEBOOKS = $(sort $(wildcard nbs/[0-9]*.ipynb)) $(sort $(wildcard nbs/benchmarks/*.ipynb)) $(sort $(wildcard nbs/study/*.ipynb)) \
  $(sort $(wildcard nbs/own/*.ipynb)) $(addprefix nbs/,start_here.ipynb findings.ipynb guide.ipynb other_libraries.ipynb index.ipynb)
export PYTHONPATH := $(CURDIR)
ifneq ($(DATA),)
export ASCOOD_DATA := $(abspath $(DATA))
endif

.PHONY: reproduce test benchmark env notebooks export readme lab

reproduce: $(READY)
	@$(BIN)/python -m ascood run --cores $(CORES) '$(PROFILE)'

test: $(READY)
	OMP_NUM_THREADS=1 ASCOOD_SHORT=1 $(BIN)/nbdev_test --n_workers 2 --do_print
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

benchmark: $(READY)
	$(BIN)/python -m ascood notebook nbs/experiments/benchmark.ipynb results/benchmarks/benchmark.ipynb

env: $(READY)

$(READY): requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	[ "$(VENV)" != .venv ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	rm -f $(VENV)/.ready-*
	touch $@

# For those who change a notebook: run all from a clean kernel, export the package, redo the README.
notebooks: $(READY)
	ASCOOD_BATCH=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace $(NOTEBOOKS)
	$(MAKE) export readme

export: $(READY)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

# Code cells are left out, and links lead from the project's root.
readme: $(READY)
	$(BIN)/jupyter nbconvert --to markdown --stdout --TemplateExporter.exclude_input=True --log-level WARN nbs/index.ipynb \
	  | sed 's#(\.\./#(#g' | cat -s > README.md

lab: $(READY)
	$(BIN)/jupyter lab nbs

.PHONY: docs
docs: $(READY)
	$(BIN)/python -c 'import myst_nb' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/python -m sphinx -q -E -c docs . _docs/html && echo _docs/html/index.html
