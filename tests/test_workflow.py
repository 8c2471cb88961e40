"""The command line and the Snakefile, run for real on a tiny profile."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ascood.study.cli import main
from ascood.study.profiles import list_profiles, load_profile

ROOT = Path(__file__).parents[1]
FEW = {"options": {"n_train": 40, "n_ood": 40}}
TINY = {"description": "For tests.", "seeds": [0], "train": {"epochs": 1}, "detectors": ["MSP"],
        "methods": {"cross_entropy": {}, "ascood": {"alpha_max": 3.0, "weight": 0.1}}, "benchmarks": {"scene-digits-holdout": FEW}}
ENV = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("name", list_profiles())
def test_every_profile_is_valid(name):
    profile = load_profile(name)
    assert len({run.run_id for run in profile.runs}) == len(profile.runs) > 0


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A folder with links to the project's files, and a profile of its own."
    folder = tmp_path_factory.mktemp("project")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    for name in ("ascood", "nbs", "Snakefile", "settings.ini", "Makefile", "requirements.lock"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "results").mkdir()
    (folder / "results" / "published").symlink_to(ROOT / "results" / "published")
    return folder


def start(folder, *words):
    return subprocess.Popen([sys.executable, "-m", "ascood", *words], cwd=folder, env=ENV, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True)


def done(folder, *words):
    "(output, exit status)."
    process = start(folder, *words)
    output, _ = process.communicate(timeout=600)
    return output, process.returncode


def jobs(output: str) -> dict[str, int]:
    "The job counts that Snakemake announces; none if there is nothing to do."
    lines = output.partition("Job stats:")[2].splitlines()[3:]
    end = next((i for i, line in enumerate(lines) if line.startswith("total")), 0)
    return {line.split()[0]: int(line.split()[1]) for line in lines[:end]}


def test_two_calls_take_turns_and_a_killed_one_leaves_no_lock(project):
    "The first is killed with all its jobs while it trains; the second waits for it, and makes what is left."
    first, end = start(project, "run", "tiny.yaml"), time.monotonic() + 240
    while not [*project.glob("results/tiny/runs/*/settings.json")]:
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    second = start(project, "run", "tiny.yaml")
    assert "another process works on" in second.stdout.readline()
    os.killpg(first.pid, signal.SIGKILL)
    output, _ = second.communicate(timeout=600)
    first.communicate()
    assert second.returncode == 0 and output.rstrip().endswith("tiny is up to date: results/tiny/report.html"), output[-3000:]
    out = project / "results" / "tiny"
    assert len([*out.glob("runs/*/run.ipynb")]) == len([*(out / "scores").iterdir()]) == 2
    page, readme = (out / "report.html").read_text(), (out / "README.md").read_text()
    assert "data:image/png" in page and "One seed says nothing" in page and "### Main results" in readme
    assert all((out / link).exists() for link in ["table_main.csv", "../../figures/tiny/diagnostics.png", "runs.csv"]) and "injected" not in page


def test_nothing_is_made_twice_and_what_is_stale_is_made_again(project):
    out = project / "results" / "tiny"
    output, status = done(project, "run", "tiny.yaml")
    assert status == 0 and not jobs(output)
    deleted = next(out.glob("runs/*ascood*/model.safetensors"))
    weights = deleted.read_bytes()
    deleted.unlink()
    output, status = done(project, "run", "tiny.yaml")
    assert status == 0 and jobs(output) == {"run": 1, "report": 1, "all": 1} and deleted.read_bytes() == weights


def test_a_failed_cell_fails_the_run_and_its_notebook_is_kept(project):
    (project / "bad.yaml").write_text(yaml.safe_dump(TINY | {"train": {"epochs": 1, "lr": 1e30}, "methods": {"cross_entropy": {}}}))
    output, status = done(project, "run", "bad.yaml")
    assert status != 0 and "FloatingPointError" in output
    (kept,) = project.glob("results/bad/runs/*/run.ipynb")
    assert "FloatingPointError" in kept.read_text() and not (kept.parent / "model.safetensors").exists()


def test_a_cluster_is_asked_for_what_training_needs(project):
    "A dry run needs no plugin of the cluster: the executor is replaced by the one that only plans."
    (project / "dry.yaml").write_text(yaml.safe_dump(TINY | {"seeds": [7]}))
    words = ["snakemake", "--profile", str(ROOT / "profiles" / "slurm"), "--executor", "dryrun", "--dry-run", "--config", "profile=dry.yaml"]
    made = subprocess.run([sys.executable, "-m", *words], cwd=project, env=ENV, capture_output=True, text=True)
    asked = {block.split(":")[0]: block for block in (made.stdout + made.stderr).split("\nrule ")[1:]}
    assert made.returncode == 0 and "gpu=1" in asked["run"] and "runtime=1440" in asked["run"] and "mem_mb=64000" in asked["run"]
    assert "gpu=1" not in asked["report"] and "runtime=60" in asked["report"]


def test_the_workflow_quotes_its_values_and_refuses_a_profile_in_one_line(project):
    (project / "a b.yaml").write_text(yaml.safe_dump(TINY | {"name": "quoted"}))
    words = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", "--printshellcmds", "--config"]
    made = subprocess.run([*words, "profile=a b.yaml", "results=r $(touch pwned)"], cwd=project, env=ENV, capture_output=True, text=True)
    assert made.returncode == 0 and "-p 'profile=a b.yaml'" in made.stdout + made.stderr and "'results=r $(touch pwned)'" in made.stdout + made.stderr
    (project / "a b.yaml").write_text(yaml.safe_dump(TINY | {"name": "$(touch pwned)"}))
    made = subprocess.run([*words, "profile=a b.yaml"], cwd=project, env=ENV, capture_output=True, text=True)
    assert made.returncode != 0 and "profile a b.yaml: '$(touch pwned)' is no name" in made.stdout + made.stderr
    assert not (project / "pwned").exists()


def test_commands_in_a_fresh_process(tmp_path):
    "Help loads nothing heavy; a mistake is one line and exit status 2; a notebook gets its parameters."
    slow = "import sys; from ascood.study.cli import main; main(['--help']); print('loaded', {'torch', 'pandas', 'papermill'} & {*sys.modules})"
    made = subprocess.run([sys.executable, "-c", slow], env=ENV, capture_output=True, text=True)
    assert "loaded set()" in made.stdout and all(name in made.stdout for name in ("run", "verify", "data", "build", "own"))
    made = subprocess.run([sys.executable, "-m", "ascood", "status", "smok"], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert made.returncode == 2 and made.stderr == "error: no profile 'smok'; did you mean 'smoke'?\n"
    cells = [{"cell_type": "code", "execution_count": None, "id": name, "metadata": {"tags": tags}, "outputs": [], "source": source}
             for name, tags, source in (("a", ["parameters"], "a, b = 1, 'x'"), ("b", [], "import sys; print(sys.executable, a, b)"))]
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "x"}}
    (tmp_path / "in.ipynb").write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    assert main(["notebook", str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), "-p", "a=2", "-p", "b=k=1"]) == 0
    assert f"{sys.executable} 2 k=1" in (tmp_path / "out.ipynb").read_text()
    assert all(main([name, "--help"]) == 0 for name in ("run", "status", "one", "collect", "report", "verify", "data", "build", "own"))
