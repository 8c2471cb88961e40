# The workflow of one profile: train and evaluate every run, collect, then tables and figures.
#   snakemake --cores all --config profile=quick        (profile=paper:cifar10,cars for some of its benchmarks)
import json
import os
import re
import sys
import time
from pathlib import Path

import ascood
from ascood.study.figures import FIGURES, figure_stems
from ascood.study.page import all_tables_of
from ascood.study.premises import has_synthesis
from ascood.study.profiles import load_profile, shipped
from ascood.study.runs import check_data, lists_now, lists_read

PROFILE_NAME = str(config.get("profile", "quick"))
try:
    PROFILE = load_profile(PROFILE_NAME)
except (ValueError, FileNotFoundError) as error:
    raise WorkflowError(str(error)) from None
RUNS = {run.run_id: run for run in PROFILE.runs if run.benchmark in PROFILE.chosen}
RESULTS = config.get("results", "results")
FIGURE_DIR = config.get("figures", "figures")
OUT = f"{RESULTS}/{PROFILE.name}"
try:
    check_data(PROFILE, RESULTS)  # before any job: what is missing, and where to get it
except (ValueError, FileNotFoundError) as error:
    raise WorkflowError(str(error)) from None
# Snakemake compares times of files. After a clock was set back, files from the future would count as newer than all that is made from now on.
NOW = time.time()
for path in (path for folder in (OUT, f"{FIGURE_DIR}/{PROFILE.name}") for path in Path(folder).rglob("*") if path.is_file() and path.stat().st_mtime > NOW):
    os.utime(path, (NOW, NOW))
# Named as targets too: a deleted checkpoint is then made again, although everything after it is there.
RUN_FILES = expand(f"{OUT}/runs/{{run}}/{{file}}", run=RUNS,
                   file=["model.safetensors", "history.csv", "run.json", "evaluation.json", "metrics.csv", "groups.csv", "scores.npz"])


def done(name):
    "Made when a job has succeeded. Files that are updated stay when a job fails, and would be taken for its work."
    return f"{OUT}/notebooks/{name}.done"


def updated(files):
    "Files that a job writes anew from what is here and what they hold already, so Snakemake must not delete them before; the last is that of `done`."
    return [*map(update, files[:-1]), touch(files[-1])]


COLLECTED = [f"{OUT}/{name}{part}.csv" for name in ("metrics", "groups", "history", "runs") for part in ("", "_studies")[:1 + bool(PROFILE.studies)]]
COLLECTED += [done("collect")] if PROFILE.validation_only else [f"{OUT}/differences.csv", done("collect")]
TABLES = all_tables_of(PROFILE)
TABLE_FILES = [*expand(f"{OUT}/{{table}}.{{kind}}", table=TABLES, kind=["csv", "md", "tex"]), done("tables")]
PREMISES = [f"{OUT}/premises.csv", done("premises")] if has_synthesis(PROFILE) and not PROFILE.validation_only else []
PAGE = [] if PROFILE.validation_only else [f"{OUT}/report.html", f"{OUT}/README.md", done("page")]
STEMS = {name: stems for name in FIGURES if (stems := figure_stems(PROFILE, name, FIGURE_DIR).values())}
FIGURE_FILES = [f"{stem}.{kind}" for stems in STEMS.values() for stem in stems for kind in ("png", "pdf")]
FIGURE_FILES += [done("figures")] if FIGURE_FILES else []

PROTOCOL = [path for path in [f"{OUT}/protocol.md"] if os.path.exists(path)]
PUBLISHED = [str(path) for path in sorted(Path(shipped("results/published")).glob("*.csv"))]

# `:q` quotes each value for the shell.
WHERE = ["-p", "profile", PROFILE_NAME, "-p", "results", RESULTS, "-p", "figures", FIGURE_DIR]
ASCOOD = ["ascood", "--results", RESULTS, "--figures", FIGURE_DIR]
PYTHON = "OMP_NUM_THREADS={threads} {sys.executable:q} -m"
PAPERMILL = PYTHON + " ascood.study.notebooks {input.notebook:q} {log.notebook:q} {WHERE:q}"
IN_ONE_KERNEL = PYTHON + " ascood.study.notebooks {input.notebooks:q} {OUT:q}/notebooks {WHERE:q}"


def code(*modules):
    return [os.path.relpath(Path(ascood.__file__).parent / f"{module}.py") for module in modules]


def notebook(name):
    "Where the notebook is, in a clone or in the installed package. A changed text does not make its results old."
    return ancient(str(shipped(f"nbs/experiments/{name}.ipynb")))


TRAINING = code("attribution", "synthesis", "normalization", "losses", "models", "data", "training", "baselines",
                "benchmarks/embedded", "benchmarks/disk", "benchmarks/scenes", "benchmarks/builders/lists")
SCORING = code("detectors", "evaluation")


def which(wildcards):
    run = RUNS[wildcards.run]
    return ["-p", "benchmark", run.benchmark, "-p", "method", run.method, "-p", "seed", str(run.config.seed)]


def lists(wildcards):
    "The image lists that are read, as far as they are here, else as they were; so that an evaluation of other lists is made again."
    run = RUNS[wildcards.run]
    return json.dumps(found, sort_keys=True) if (found := lists_read(run, RESULTS) | lists_now(run)) else ""


wildcard_constraints:
    run="|".join(map(re.escape, RUNS)),


rule all:
    input:
        RUN_FILES,
        COLLECTED,
        PREMISES,
        TABLE_FILES,
        FIGURE_FILES,
        PAGE,


rule train:
    input:
        TRAINING,
        notebook=notebook("train"),
    output:
        f"{OUT}/runs/{{run}}/model.safetensors",
        f"{OUT}/runs/{{run}}/history.csv",
        f"{OUT}/runs/{{run}}/run.json",
    log:
        notebook=f"{OUT}/runs/{{run}}/train.ipynb",
    params:
        which=which,
    threads: int(config.get("threads", 1))
    resources:
        gpu=int(config.get("gpu", 0)),
    shell:
        PAPERMILL + " {params.which:q}"


rule evaluate:
    input:
        TRAINING,
        SCORING,
        rules.train.output,
        notebook=notebook("evaluate"),
    output:
        f"{OUT}/runs/{{run}}/evaluation.json",
        f"{OUT}/runs/{{run}}/metrics.csv",
        f"{OUT}/runs/{{run}}/groups.csv",
        f"{OUT}/runs/{{run}}/scores.npz",
    log:
        notebook=f"{OUT}/runs/{{run}}/evaluate.ipynb",
    params:
        which=which,
        detectors=lambda wildcards: json.dumps(RUNS[wildcards.run].detectors, sort_keys=True) + lists(wildcards),
    threads: int(config.get("threads", 1))
    resources:
        gpu=int(config.get("gpu", 0)),
    shell:
        PAPERMILL + " {params.which:q}"


rule collect:
    input:
        RUN_FILES,
        code("study/profiles", "study/reporting", "study/bootstrap", "study/runs", "study/collected", "study/differences", "study/collect"),
    output:
        updated(COLLECTED),
    shell:
        PYTHON + " {ASCOOD:q} collect {PROFILE_NAME:q}"


rule premises:
    input:
        RUN_FILES,
        TRAINING,
        code("study/premises"),
        notebook=notebook("premises"),
    output:
        updated(PREMISES or ["no-premises"]),
    log:
        notebook=f"{OUT}/notebooks/premises.ipynb",
    threads: int(config.get("threads", 1))
    resources:
        gpu=int(config.get("gpu", 0)),
    shell:
        PAPERMILL


rule tables:
    input:
        COLLECTED,
        code("study/profiles", "study/reporting", "study/collected", "study/differences", "study/tables", "study/claims", "study/premises"),
        PUBLISHED,
        PROTOCOL,
        PREMISES,
        notebooks=[notebook(name) for name in TABLES],
    output:
        updated(TABLE_FILES),
    log:
        expand(f"{OUT}/notebooks/{{name}}.ipynb", name=TABLES),
    shell:
        IN_ONE_KERNEL


rule figures:
    input:
        COLLECTED,
        code("study/profiles", "study/reporting", "study/runs", "study/collected", "study/differences", "study/tables", "study/plots", "study/figures", "study/premises"),
        PREMISES,
        notebooks=[notebook(name) for name in STEMS],
    output:
        updated(FIGURE_FILES or ["no-figures"]),
    log:
        expand(f"{OUT}/notebooks/{{name}}.ipynb", name=STEMS),
    shell:
        IN_ONE_KERNEL


rule page:
    input:
        TABLE_FILES,
        FIGURE_FILES,
        PROTOCOL,
        code("study/profiles", "study/collected", "study/claims", "study/page"),
        os.path.relpath(Path(ascood.__file__).parent / "study" / "page.html"),
    output:
        updated(PAGE or ["no-page"]),
    shell:
        PYTHON + " {ASCOOD:q} page {PROFILE_NAME:q}"
