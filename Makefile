# make reproduce   the environment, then every table and figure of a profile
# make test        the environment, then every test
VENV ?= .venv
PYTHON ?= python3
PROFILE ?= embedded
CORES ?= all

BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cksum < requirements.lock | cut -d' ' -f1)
export PYTHONPATH := $(CURDIR)
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: reproduce test env notebooks export readme lab unlock clean

reproduce: $(READY)
	@$(BIN)/snakemake --cores $(CORES) --rerun-incomplete --keep-going --quiet rules --config profile=$(PROFILE)
	@echo "Up to date. Tables: results/$(PROFILE)/table_*.md   Figures: figures/$(PROFILE)/*.png"

test: $(READY)
	$(BIN)/nbdev_test --n_workers 2 --do_print
	$(BIN)/python -m pytest

env: $(READY)

$(READY): requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	test -d $(VENV) && rm -f $(VENV)/.ready-* && touch $@

# For those who change a notebook: run it from a clean kernel, export the package, redo the README.
notebooks: $(READY)
	for nb in nbs/[0-9]*.ipynb nbs/index.ipynb; do \
	  $(BIN)/jupyter nbconvert --to notebook --execute --inplace $$nb || exit 1; done
	$(MAKE) export readme

export: $(READY)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

readme: $(READY)
	$(BIN)/python -m tests.readme > README.md

lab: $(READY)
	$(BIN)/jupyter lab nbs

unlock: $(READY)
	$(BIN)/snakemake --unlock --config profile=$(PROFILE)

clean:
	rm -rf results/$(PROFILE)/runs results/$(PROFILE)/notebooks
