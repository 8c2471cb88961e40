import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from ascood.experiments import code_version, collect, find_run, list_profiles, load_profile, main

ROOT = Path(__file__).parents[1]
TINY = {
    "description": "for tests",
    "seeds": [0],
    "train": {"epochs": 1},
    "methods": {"cross_entropy": {}, "ascood": {"alpha_max": 3.0, "alpha_min": 0.3, "weight": 0.1}},
    "benchmarks": {"colored-digits": {}},
    "detectors": ["MSP", "i-ODIN"],
}


@pytest.fixture(autouse=True)
def in_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def profile_file(folder, **changes):
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | changes, sort_keys=False))
    return str(path)


@pytest.mark.parametrize("name", list_profiles())
def test_every_profile_is_valid(name):
    profile = load_profile(name)
    assert len({run.run_id for run in profile.runs}) == len(profile.runs) > 0


def test_whole_road_without_jupyter(tmp_path, capsys):
    where = ["--results", str(tmp_path / "results"), "--figures", str(tmp_path / "figures")]
    tiny = profile_file(tmp_path)
    assert main([*where, "run", tiny]) == 0
    out = tmp_path / "results" / "tiny"
    metrics, runs = pd.read_csv(out / "metrics.csv"), pd.read_csv(out / "runs.csv")
    wanted = "benchmark setting method detector seed ood_group ood_set fpr95 auroc aupr_in aupr_out accuracy".split()
    assert set(wanted) <= set(metrics.columns) and len(metrics) == 2 * 2 * (3 + 2 + 4)
    assert set(metrics.run_id) == set(runs.run_id) and (runs.code == code_version()).all()
    assert json.loads(runs.libraries[0])["torch"] and json.loads(runs.settings[1])["weight"] == 0.1
    tuned = metrics[metrics.detector == "i-ODIN"].hyperparameters.map(json.loads)
    assert all(set(chosen) == {"temperature", "eps"} for chosen in tuned) and metrics.gap.isna().all()
    for table in ("table_compared", "table_main", "table_scores", "table_hyperparameters", "table_spurious"):
        for suffix in (".csv", ".md", ".tex"):
            assert (out / f"{table}{suffix}").stat().st_size > 100
    for figure in ("compared", "gallery", "scores", "roc", "training", "spurious"):
        assert (tmp_path / "figures" / "tiny" / f"{figure}_colored-digits.png").stat().st_size > 5000

    capsys.readouterr()
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/*")}
    assert main([*where, "run", tiny]) == 0
    assert "training" not in capsys.readouterr().out
    assert stamps == {p: p.stat().st_mtime_ns for p in out.glob("runs/*/*")}

    next(out.glob("runs/*/evaluation.json")).write_text("{")  # damaged: scored anew, not taken for finished
    trained = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/model.safetensors")}
    assert main([*where, "run", profile_file(tmp_path, detectors=["EBO"])]) == 0  # other scores: evaluated anew, not trained
    assert set(pd.read_csv(out / "metrics.csv").detector) == {"EBO"}
    assert trained == {p: p.stat().st_mtime_ns for p in out.glob("runs/*/model.safetensors")}

    checkpoint = next(out.glob("runs/*ascood*/model.safetensors"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:999])
    assert main([*where, "evaluate", tiny, "colored-digits", "ascood", "0"]) == 2
    error = capsys.readouterr().err
    assert "damaged" in error and "delete it" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"benchmarks": {"colored-digit": {}}}, "unknown benchmark 'colored-digit'; choose one of"),
        ({"detectors": ["MPS"]}, "unknown detector 'MPS'; choose one of"),
        ({"train": {"epoch": 3}}, "unknown setting 'epoch'"),
        ({"methods": {"ascood": {"alpha": 3}}}, "unknown setting 'alpha'"),
        ({"methods": {"oee": {}}}, "unknown method 'oee'"),
        ({"methods": {"ascood": {"detectors": ["MPS"]}}}, "unknown detector 'MPS'; choose one of"),
        ({"detectors": {"KNN": {"kk": 5}}}, "profile tiny: detector KNN has no such parameter"),
        ({"shown": ["ascod"]}, "unknown method in `shown` 'ascod'"),
        ({"benchmarks": {"mnist": {"methods": {"ascod": {}}}}}, "unknown method 'ascod'"),
        ({"seed": [1]}, "unknown setting 'seed'"),
        ({"seeds": []}, "seeds"),
    ],
)
def test_wrong_profiles_are_one_line_before_any_work(tmp_path, capsys, changes, words):
    assert main(["--results", str(tmp_path / "r"), "run", profile_file(tmp_path, **changes)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "args, words",
    [
        (["status", "embeded"], "no profile 'embeded'; choose one of cifar10-jpeg,"),
        (["train", "smoke", "mnist-holdout", "ascood", "7"], "no seed 7; choose one of [0]"),
        (["train", "smoke", "mnist", "ascood", "0"], "unknown benchmark"),
        (["report", "smoke", "table_1"], "unknown report 'table_1'"),
    ],
)
def test_wrong_names_are_one_line(tmp_path, capsys, args, words):
    assert main(["--results", str(tmp_path), *args]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_missing_files_say_which_command_makes_them(tmp_path, capsys):
    assert main(["--results", str(tmp_path), "collect", "smoke"]) == 2
    assert "python -m ascood.experiments run smoke" in capsys.readouterr().err
    assert main(["--results", str(tmp_path), "report", "smoke"]) == 2
    assert "python -m ascood.experiments collect smoke" in capsys.readouterr().err
    assert main(["--results", str(tmp_path), "evaluate", "smoke", "mnist-holdout", "ascood", "0"]) == 2
    assert "train the model first" in capsys.readouterr().err


def test_methods_are_read_out_by_their_own_score_unless_the_profile_says_otherwise(tmp_path):
    methods = {"cross_entropy": {}, "vos": {}, "oe": {"detectors": ["KNN", "MSP"]}, "godin": {"detectors": {"G-ODIN": {"eps": 0.01}}}}
    profile = load_profile(profile_file(tmp_path, methods=methods))
    assert {run.method: run.detectors for run in profile.runs} == {
        "cross_entropy": {"MSP": {}, "i-ODIN": {}}, "vos": {"EBO": {}}, "oe": {"KNN": {}, "MSP": {}}, "godin": {"G-ODIN": {"eps": 0.01}}}


def test_a_profile_may_extend_another(tmp_path):
    quick, full = load_profile("quick"), load_profile("embedded")
    assert quick.seeds == [0] and set(quick.methods) < set(full.methods) and quick.benchmarks.keys() == full.benchmarks.keys()
    for run in quick.runs:
        twin = find_run(full, run.benchmark, run.method, 0)
        assert (run.run_id, run.settings, run.config, run.detectors) == (twin.run_id, twin.settings, twin.config, twin.detectors)
    path = tmp_path / "less.yaml"
    path.write_text("extends: smoke\ndescription: x\nleave_out: [ascod]")
    with pytest.raises(ValueError, match="unknown method in `leave_out` 'ascod'"):
        load_profile(str(path))
    path.write_text(f"extends: {path}")
    with pytest.raises(ValueError, match="extends itself"):
        load_profile(str(path))
    path.write_text("- extends")
    with pytest.raises(ValueError, match="no mapping"):
        load_profile(str(path))


def test_a_failing_detector_is_a_gap_in_the_tables(tmp_path):
    "KNN with more neighbours than there are training images."
    where = ["--results", str(tmp_path / "results"), "--figures", str(tmp_path / "figures")]
    assert main([*where, "run", profile_file(tmp_path, methods={"cross_entropy": {}}, detectors={"MSP": {}, "KNN": {"k": 10**6}})]) == 0
    table = (tmp_path / "results" / "tiny" / "table_compared.md").read_text()
    line = next(row for row in table.splitlines() if "KNN" in row and row.startswith("|"))
    assert "–" in line and "- KNN on colored-digits (Cross-entropy, seed 0): k=1000000 exceeds" in table


def test_broken_yaml_is_one_line(tmp_path, capsys):
    path = tmp_path / "broken.yaml"
    path.write_text("methods: {a: [")
    assert main(["status", str(path)]) == 2
    error = capsys.readouterr().err
    assert "not valid YAML" in error and error.count("\n") == 1


def test_run_id_changes_with_what_decides_the_weights_and_only_then(tmp_path):
    def run_id(**changes):
        return find_run(load_profile(profile_file(tmp_path, **changes)), "colored-digits", "ascood", 0).run_id

    same = run_id()
    assert run_id(detectors=["MSP"]) == same and run_id(description="x") == same
    assert run_id(train={"epochs": 2}) != same
    assert run_id(benchmarks={"colored-digits": {"methods": {"ascood": {"weight": 0.2}}}}) != same
    assert run_id(benchmarks={"colored-digits": {"options": {"correlation": 0.8}}}) != same


def test_command_line_in_a_fresh_process(tmp_path):
    done = subprocess.run([sys.executable, "-m", "ascood.experiments", "status", "nothing"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("error: no profile") and "Traceback" not in done.stderr


def test_collect_takes_only_runs_of_the_profile(tmp_path):
    stray = tmp_path / "tiny" / "runs" / "colored-digits-cross_entropy-seed0-00000000"
    stray.mkdir(parents=True)
    (stray / "metrics.csv").write_text("run_id\nx\n")
    with pytest.raises(FileNotFoundError, match="no finished run"):
        collect(load_profile(profile_file(tmp_path)), tmp_path)
