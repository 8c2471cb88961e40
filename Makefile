# make reproduce   the environment, then every table and figure of a profile
# make test        the environment, then every test
# make faults      bad inputs, kills at random moments, full disks and the like, and damaged files; results/inputs.md and results/faults.md
# make audit       known vulnerabilities of the locked packages, by pip-audit; needs the network
# make benchmark   one pass over the images against method by method, the input pipeline alone, what each training method costs, one training
#                  step against the textbook's (benchmark-step: that one alone), runs beside each other against one by one, and what the profile
#                  paper would cost; about an hour on an idle machine
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

.PHONY: reproduce test benchmark benchmark-step faults audit env notebooks export readme lab clean

reproduce: $(READY)
	@$(BIN)/python -m ascood run --cores $(CORES) '$(PROFILE)'

test: $(READY)
	OMP_NUM_THREADS=1 ASCOOD_SHORT=1 $(BIN)/nbdev_test --n_workers 2 --do_print
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

benchmark: $(READY)
	@mkdir -p results/benchmarks/notebooks
	$(BIN)/python -m ascood.study.notebooks nbs/experiments/benchmark_scoring.ipynb results/benchmarks/notebooks/scoring_tiny_resnet.ipynb
	$(BIN)/python -m ascood.study.notebooks nbs/experiments/benchmark_scoring.ipynb results/benchmarks/notebooks/scoring_cifar_resnet18.ipynb \
	  -p backbone cifar_resnet18 -p pixels 32 -p epochs 8 -p train_images 200 -p val_images 50 -p test_images 40
	OMP_NUM_THREADS=1 $(BIN)/python -m ascood.study.notebooks nbs/experiments/benchmark_pipeline.ipynb results/benchmarks/notebooks/pipeline.ipynb
	OMP_NUM_THREADS=1 $(BIN)/python -m ascood.study.notebooks nbs/experiments/benchmark_training.ipynb results/benchmarks/notebooks/training.ipynb
	$(BIN)/python -m ascood.study.notebooks nbs/experiments/benchmark_parallel.ipynb results/benchmarks/notebooks/parallel.ipynb
	$(BIN)/python -m ascood.study.notebooks nbs/experiments/benchmark_cost.ipynb results/benchmarks/notebooks/cost.ipynb
	$(MAKE) benchmark-step
	@cat results/benchmarks/*.md

# Our training step by default settings against the textbook's, with all cores.
benchmark-step: $(READY)
	@mkdir -p results/benchmarks/notebooks
	$(BIN)/python -m ascood.study.notebooks nbs/experiments/benchmark_step.ipynb results/benchmarks/notebooks/step.ipynb

# Some 250 bad inputs in seconds; a hundred kills at random moments, some forty adverse surroundings and seventy damaged files in about fifteen
# minutes; a few of them are in make test. Who may not mount a file system does without the full disks.
faults: $(READY)
	@$(BIN)/python tests/bad_inputs.py
	@$(BIN)/python tests/faults.py

# pip-audit has an environment of its own, so that its packages are no part of the lock.
audit:
	@[ -x .venv-audit/bin/pip-audit ] || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install --quiet --disable-pip-version-check "pip-audit>=2.9,<3"; }
	@$(PYTHON) tests/audit.py .venv-audit/bin/pip-audit

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
