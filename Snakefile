# The workflow of one profile: every run, then the report.
#   snakemake --cores all --config profile=quick        (profile=paper:cifar10,cars for some of its benchmarks)
import os
import re
import sys
from pathlib import Path

import ascood
from ascood.study.profiles import load_profile, shipped
from ascood.study.runs import check_data, is_fresh

NAME = str(config.get("profile", "quick"))
RESULTS, FIGURES = str(config.get("results", "results")), str(config.get("figures", "figures"))
try:
    PROFILE = load_profile(NAME)
    check_data(PROFILE, RESULTS)  # before any job: what is missing, and where to get it
except (ValueError, FileNotFoundError) as error:
    raise WorkflowError(str(error)) from None
OUT = f"{RESULTS}/{PROFILE.name}"
RUNS = {run.run_id: run for run in PROFILE.runs if run.benchmark in PROFILE.chosen}
for run in RUNS.values():  # the one rule of staleness is `is_fresh`; Snakemake sees its answer as a file
    if not is_fresh(run, RESULTS):
        Path(OUT, "runs", run.run_id, "done").unlink(missing_ok=True)
WHAT = Path(OUT, "profile.json")  # the profile as it is read; a change of it makes the report again
if not WHAT.is_file() or WHAT.read_text() != PROFILE.model_dump_json():
    WHAT.parent.mkdir(parents=True, exist_ok=True)
    WHAT.write_text(PROFILE.model_dump_json())
STUDY = ["names", "diagnostics", "results", "statistics", "claims", "tables", "figures", "report"]


def which(wildcards):
    run = RUNS[wildcards.run]
    values = {"profile": NAME, "benchmark": run.benchmark, "method": run.method, "variant": run.variant,
              "seed": run.config.seed, "results": RESULTS}
    return [word for name, value in values.items() for word in ("-p", f"{name}={value}")]


wildcard_constraints:
    run="|".join(map(re.escape, RUNS)),


DONE = [f"{OUT}/runs/{run}/done" for run in RUNS]


rule all:
    input:
        DONE,  # named as targets too: Snakemake would not make a missing one again while the report is there
        f"{OUT}/report.html",


rule run:
    output:
        touch(f"{OUT}/runs/{{run}}/done"),
    log:
        notebook=f"{OUT}/runs/{{run}}/run.ipynb",
    params:
        notebook=str(shipped("nbs/experiments/run.ipynb")),
        which=which,
    threads: int(config.get("threads", 1))
    resources:
        gpu=int(config.get("gpu", 0)),
    shell:
        "OMP_NUM_THREADS={threads} {sys.executable:q} -m ascood notebook {params.notebook:q} {log.notebook:q} {params.which:q}"


rule report:
    input:
        DONE,
        [os.path.relpath(Path(ascood.__file__).parent / "study" / f"{name}.py") for name in STUDY],
        str(WHAT),
        str(shipped("nbs/experiments/report.ipynb")),
        [str(path) for path in sorted(Path(shipped("results/published")).glob("*.csv"))],
        [path for path in [f"{OUT}/protocol.md"] if os.path.exists(path)],
    output:
        f"{OUT}/report.html",
    shell:
        "OMP_NUM_THREADS=1 {sys.executable:q} -m ascood --results {RESULTS:q} --figures {FIGURES:q} report {NAME:q}"
