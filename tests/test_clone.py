"""`make reproduce` in a clone that has committed results and none of their runs."""

import os
import shlex
import shutil
import subprocess
import sys

import yaml
from test_workflow import ENV, FEW, TINY, project  # noqa: F401 (a fixture)

from ascood.study.cli import write_report
from ascood.study.profiles import load_profile
from ascood.study.runs import make_run


def test_reproducing_in_a_fresh_clone_keeps_the_rows_and_pictures_of_runs_that_are_elsewhere(project):  # noqa: F811
    "`make reproduce` of one of two benchmarks, without the folders of earlier runs; the running interpreter stands in for .venv."
    two = TINY | {"benchmarks": {"scene-digits": FEW, "scene-digits-holdout": FEW}, "detectors": ["MSP", "EBO"]}
    path, out, figures = project / "two.yaml", project / "results" / "two", project / "figures" / "two"
    path.write_text(yaml.safe_dump(two))
    plan = load_profile(str(path))
    here = os.getcwd()
    os.chdir(project)
    try:
        for run in plan.runs:
            make_run(run, plan, progress=False)
        write_report("two.yaml")
    finally:
        os.chdir(here)
    shutil.rmtree(out / "runs")
    rows = {name: (out / f"{name}.csv").read_text().splitlines() for name in ("metrics", "groups", "history", "runs")}
    whole_picture = (figures / "diagnostics.png").stat()
    pictures = {path: path.read_bytes() for path in figures.glob("gallery_scene-digits-holdout*")}
    path.write_text(yaml.safe_dump(two | {"benchmarks": {"scene-digits": FEW | {"methods": {"ascood": {"weight": 0.2}}}, "scene-digits-holdout": FEW}}))
    (bin_ := project / "venv" / "bin").mkdir(parents=True)
    ready = subprocess.run("cksum < requirements.lock | cut -d' ' -f1", shell=True, cwd=project, capture_output=True, text=True).stdout.strip()
    (project / "venv" / f".ready-{ready}").touch()
    (bin_ / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (bin_ / "python").chmod(0o755)
    env = {name: value for name, value in ENV.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}  # `make test` sets them
    made = subprocess.run(["make", "reproduce", "VENV=venv", "CORES=2", "PROFILE=two.yaml:scene-digits"], cwd=project, env=env,
                          capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    said = made.stdout + made.stderr
    assert "kept: 2 runs not on this machine: ascood on scene-digits-holdout, cross_entropy on scene-digits-holdout" in said
    assert "kept: 1 run no longer planned by two" in said
    made_anew = next(run.run_id for run in plan.runs if (run.benchmark, run.method) == ("scene-digits", "cross_entropy"))
    for name, lines in rows.items():
        assert {line for line in lines if made_anew not in line} <= {*(out / f"{name}.csv").read_text().splitlines()}, name
    assert pictures and all(path.read_bytes() == content for path, content in pictures.items())
    whole = [page for page in ("table_main.md", "README.md") if "scene-digits-holdout" in (out / page).read_text()]
    assert len(whole) == 2 and "gallery_scene-digits-holdout.png" in (out / "README.md").read_text()
    assert whole_picture.st_size * 0.9 < (figures / "diagnostics.png").stat().st_size, "a picture of the whole is not narrowed to a part"
