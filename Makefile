# make reproduce   the environment, then every table and figure of a profile
# make test        the environment, then every test
# make benchmark   one training step against the textbook's, and one pass over the images against detector by detector; some minutes on an idle machine
VENV ?= .venv
PYTHON ?= python3
PROFILE ?= quick
DATA ?=
CORES ?= all

# The profile is read by make and by the shell, so it is checked as it was written, before either expands it. A path (mine.yaml) may have slashes.
LETTERS := a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I J K L M N O P Q R S T U V W X Y Z 0 1 2 3 4 5 6 7 8 9 . _ - : , /
LEFT := $(value PROFILE)
$(foreach letter,$(LETTERS),$(eval LEFT := $$(subst $$(letter),,$$(value LEFT))))
ifneq ($(words $(value PROFILE))$(value LEFT)$(filter -%,$(value PROFILE)),1)
$(error PROFILE is a name of letters, digits, ".", "_" and "-", as in make reproduce PROFILE=quick, or the path of a .yaml file of such names)
endif
PROFILE_FILE := $(firstword $(subst :, ,$(PROFILE)))
ifneq ($(if $(findstring /,$(PROFILE_FILE)),$(filter-out %.yaml %.yml,$(PROFILE_FILE))),)
$(error PROFILE=$(PROFILE) is neither a name nor the path of a .yaml file)
endif
PROFILE_NAME := $(patsubst %.yml,%,$(patsubst %.yaml,%,$(notdir $(PROFILE_FILE))))

# The rooms of the wings, in the order in which they are read.
ROOMS = $(sort $(wildcard nbs/[0-9]*.ipynb)) $(sort $(wildcard nbs/benchmarks/*.ipynb nbs/benchmarks/builders/*.ipynb)) $(sort $(wildcard nbs/study/*.ipynb)) $(sort $(wildcard nbs/own/*.ipynb))

BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cksum < requirements.lock | cut -d' ' -f1)
export PYTHONPATH := $(CURDIR)
export PYTHONDONTWRITEBYTECODE := 1
# glibc keeps and reuses large blocks, on huge pages, instead of asking the kernel for each tensor anew; other systems ignore it.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592
ifneq ($(DATA),)
export ASCOOD_DATA := $(abspath $(DATA))
endif

.PHONY: reproduce test benchmark env notebooks export readme lab clean

reproduce: $(READY)
	@$(BIN)/python -m ascood run --cores $(CORES) '$(PROFILE)'

test: $(READY)
	OMP_NUM_THREADS=1 ASCOOD_SHORT=1 $(BIN)/nbdev_test --n_workers 2 --do_print
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

benchmark: $(READY)
	@mkdir -p results/benchmarks/notebooks
	$(BIN)/python -m ascood.study.notebooks nbs/experiments/benchmark.ipynb results/benchmarks/notebooks/benchmark.ipynb
	@tail -n +1 results/benchmarks/*.csv

env: $(READY)

$(READY): requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	[ "$(VENV)" != .venv ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	rm -f $(VENV)/.ready-*
	touch $@

# For those who change a notebook: run all from a clean kernel, export the package, redo the README.
notebooks: $(READY)
	ASCOOD_BATCH=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace $(ROOMS) $(addprefix nbs/,start_here.ipynb guide.ipynb other_libraries.ipynb index.ipynb)
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

clean:
	rm -rf results/$(PROFILE_NAME)/runs results/$(PROFILE_NAME)/notebooks
