"""The Snakefile, run for real on a tiny profile."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from road import make_all

from ascood.study.profiles import load_profile

ROOT = Path(__file__).parents[1]
PROFILE = {
    "description": "for tests",
    "seeds": [0],
    "train": {"epochs": 1},
    "methods": {"cross_entropy": {}, "ascood": {"alpha_max": 3.0, "weight": 0.1}},
    "benchmarks": {"scene-digits-holdout": {"options": {"n_train": 40, "n_ood": 40}}},
    "detectors": ["MSP"],
}


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    "Snakemake on a profile of its own, state and results in a temporary folder; returns (output, exit status)."
    folder = tmp_path_factory.mktemp("workflow")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(PROFILE))
    for name in ("ascood", "nbs", "Snakefile", "settings.ini"):
        (folder / name).symlink_to(ROOT / name)

    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(*args):
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going", *args, "--config", "profile=tiny.yaml"]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        return done.stdout + done.stderr, done.returncode

    def start():
        return subprocess.Popen([sys.executable, "-m", "ascood", "run", "tiny.yaml"], cwd=folder, env=env, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, start_new_session=True)

    run.folder, run.start = folder, start
    return run


def jobs(output: str) -> dict[str, int]:
    "The job counts that Snakemake announces."
    table = output.split("Job stats:")[1].splitlines()[3:]
    return {line.split()[0]: int(line.split()[1]) for line in table[: next(i for i, l in enumerate(table) if l.startswith("total"))]}


def test_two_calls_take_turns_and_a_killed_one_leaves_no_lock(workflow):
    "The first is killed with all its jobs while it trains; the second waits for it, and makes what is left."
    first, end = workflow.start(), time.monotonic() + 120
    while not [*workflow.folder.glob("results/tiny/runs/*/settings.json")]:
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    second = workflow.start()
    assert "another process works on" in second.stdout.readline()
    os.killpg(first.pid, signal.SIGKILL)
    output, _ = second.communicate(timeout=300)
    first.communicate()
    assert second.returncode == 0 and output.rstrip().endswith("profile tiny is up to date; all on one page: results/tiny/report.html"), output[-3000:]


def test_only_what_hangs_on_a_deleted_checkpoint_is_made_again(workflow):
    some = "results/tiny/table_main.md", "results/tiny/table_claims.md", "figures/tiny/roc_scene-digits-holdout.pdf"
    out = workflow.folder / "results" / "tiny"
    assert all((workflow.folder / path).is_file() for path in some)
    assert len(list(out.glob("runs/*/train.ipynb"))) == 2 and (out / "notebooks" / "table_main.ipynb").is_file()

    output, status = workflow()
    assert status == 0 and "Nothing to be done" in output

    table, metrics = out / "table_main.md", out / "metrics.csv"
    before, content = table.read_bytes(), metrics.read_bytes()
    metrics.write_text("damaged")  # so that the job fails
    output, status = workflow(failed := "results/tiny/notebooks/tables.done")
    assert status != 0 and table.read_bytes() == before
    metrics.write_bytes(content)
    output, status = workflow(failed)
    assert status == 0 and jobs(output) == {"tables": 1} and table.read_bytes() == before, "a failed job is not taken for done"

    deleted = next(out.glob("runs/*ascood*/model.safetensors"))
    weights = deleted.read_bytes()
    deleted.unlink()
    output, _ = workflow("--dry-run")
    planned = jobs(output)
    assert planned["train"] == planned["evaluate"] == planned["collect"] == planned["premises"] == planned["page"] == 1
    assert planned["tables"] == planned["figures"] == 1

    output, status = workflow(str(deleted.relative_to(workflow.folder)))
    assert status == 0 and deleted.read_bytes() == weights


def test_failed_cell_fails_the_run_and_its_notebook_is_kept(workflow):
    (workflow.folder / "tiny.yaml").write_text(yaml.safe_dump(PROFILE | {"train": {"epochs": 1, "lr": 1e30}, "methods": {"cross_entropy": {}}}))
    output, status = workflow()
    assert status != 0 and "FloatingPointError" in output
    (kept,) = [p for p in workflow.folder.glob("results/tiny/runs/*/train.ipynb") if "FloatingPointError" in p.read_text()]
    assert not (kept.parent / "model.safetensors").exists()


@pytest.mark.parametrize("profile", ["slurm", "kubernetes"])
def test_a_cluster_is_asked_for_what_training_needs(workflow, profile):
    "A dry run needs no plugin of the cluster: the executor is replaced by the one that only plans."
    (workflow.folder / "tiny.yaml").write_text(yaml.safe_dump(PROFILE | {"seeds": [7]}))
    output, status = workflow("--profile", str(ROOT / "profiles" / profile), "--executor", "dryrun", "--dry-run")
    assert status == 0, output[-2000:]
    asked = {block.split(":")[0]: block for block in output.split("\nrule ")[1:]}
    assert "gpu=1" in asked["train"] and "runtime=1440" in asked["train"] and "mem_mb=32000" in asked["train"] and "gpu=1" in asked["evaluate"]
    assert "gpu=0" not in asked["train"] and "gpu=1" not in asked["tables"] and "runtime=30" in asked["tables"]


def test_the_workflow_refuses_a_profile_in_one_line_and_quotes_its_values(workflow):
    quoted = workflow.folder / "a b.yaml"
    quoted.write_text(yaml.safe_dump(PROFILE | {"name": "quoted"}))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", "--printshellcmds", "--config"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "profile=a b.yaml", "results=r $(touch pwned)"], cwd=workflow.folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "-p profile 'a b.yaml' -p results 'r $(touch pwned)'" in done.stdout + done.stderr
    quoted.write_text(yaml.safe_dump(PROFILE | {"name": "$(touch pwned)"}))
    done = subprocess.run([*command, "profile=a b.yaml"], cwd=workflow.folder, env=env, capture_output=True, text=True)
    assert done.returncode != 0 and "profile a b.yaml: name: '$(touch pwned)' is no name" in done.stdout + done.stderr
    assert not (workflow.folder / "pwned").exists()


def csv_lines(folder, besides=()):
    "{CSV file: its lines}, without lines that have one of these texts in them."
    return {path.name: [line for line in path.read_text().splitlines() if not any(text in line for text in besides)] for path in folder.glob("*.csv")}


def reproduce(folder, profile):
    "`make reproduce` in a clone, its output and status; the environment of the running interpreter stands in for .venv."
    bin_ = folder / "venv" / "bin"
    bin_.mkdir(parents=True)
    ready = subprocess.run("cksum < requirements.lock | cut -d' ' -f1", shell=True, cwd=folder, capture_output=True, text=True).stdout.strip()
    (folder / "venv" / f".ready-{ready}").touch()
    (bin_ / "python").write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} \"$@\"\n")
    (bin_ / "python").chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}  # `make test` sets them
    done = subprocess.run(["make", "reproduce", "VENV=venv", "CORES=2", f"PROFILE={profile}"], cwd=folder, env=env, capture_output=True, text=True)
    return done.stdout + done.stderr, done.returncode


def test_reproducing_a_part_keeps_the_rows_and_pictures_of_all_other_runs(tmp_path, monkeypatch):
    "A clone without the folders of its runs; the profile has other settings for one method of one benchmark, and only that benchmark is made."
    few = {"options": {"n_train": 40, "n_ood": 40}}
    plan = PROFILE | {"benchmarks": {"scene-digits": few, "scene-digits-holdout": few}, "detectors": ["MSP", "EBO"]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(plan))
    for name in ("ascood", "nbs", "Snakefile", "settings.ini", "Makefile", "requirements.lock"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "published").symlink_to(ROOT / "results" / "published")
    monkeypatch.chdir(tmp_path)
    make_all("tiny.yaml", "results", "figures")
    out, figures = tmp_path / "results" / "tiny", tmp_path / "figures" / "tiny"
    old = next(run.run_id for run in load_profile("tiny.yaml").runs if (run.benchmark, run.method) == ("scene-digits", "ascood"))
    shutil.rmtree(out / "runs")  # as in a fresh clone
    made_anew = [f"{old.split('-ascood')[0]}-{method}-seed0" for method in ("cross_entropy", "ascood")]
    rows, tables = csv_lines(out), csv_lines(out, [*made_anew, "scene-digits,"])
    pictures = {path: path.read_bytes() for path in figures.glob("*scene-digits-holdout*")}
    before = {path.name for path in [*out.glob("*.*"), *figures.glob("*")]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(plan | {"benchmarks": {"scene-digits": few | {"methods": {"ascood": {"weight": 0.2}}}, "scene-digits-holdout": few}}))

    output, status = reproduce(tmp_path, "tiny.yaml:scene-digits")
    assert status == 0, output[-3000:]
    assert "kept: 2 runs not on this machine: ascood on scene-digits-holdout, cross_entropy on scene-digits-holdout" in output
    assert "kept: 1 run no longer planned by tiny (collect --prune removes them): ascood on scene-digits" in output
    assert before <= {path.name for path in [*out.glob("*.*"), *figures.glob("*")]}
    assert len(pictures) > 10 and all(path.read_bytes() == content for path, content in pictures.items())
    now = csv_lines(out)
    for name, lines in tables.items():
        assert {*lines} <= {*now[name]} and len(rows[name]) <= len(now[name]), name
    for name in ("metrics", "groups", "history", "runs"):  # the earlier settings too
        assert [line for line in now[f"{name}.csv"] if old in line] == [line for line in rows[f"{name}.csv"] if old in line] != [], name
    assert "scene-digits-holdout" in (out / "table_main.md").read_text() and "gallery_scene-digits-holdout.png" in (out / "README.md").read_text()
