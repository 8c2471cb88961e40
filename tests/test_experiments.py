import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from road import make_all

from ascood.study import cli
from ascood.study.cli import main
from ascood.study.profiles import find_run, list_profiles, load_profile
from ascood.study.collect import collect
from ascood.study.runs import code_version

ROOT = Path(__file__).parents[1]
TINY = {
    "description": "for tests",
    "seeds": [0],
    "train": {"epochs": 1},
    "methods": {"cross_entropy": {}, "ascood": {"alpha_max": 3.0, "alpha_min": 0.3, "weight": 0.1}},
    "benchmarks": {"scene-digits": {"options": {"n_train": 40, "n_ood": 40}}},
    "detectors": {"MSP": {}, "i-ODIN": {"temperature": [1, 100], "eps": [0.001, 0.004]}},
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
    tiny, places = profile_file(tmp_path), (tmp_path / "results", tmp_path / "figures")
    make_all(tiny, *places)
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
        assert (tmp_path / "figures" / "tiny" / f"{figure}_scene-digits.png").stat().st_size > 5000

    table, differences = pd.read_csv(out / "table_main.csv"), pd.read_csv(out / "differences.csv", keep_default_na=False)
    near = table[table.quantity == "near_auroc"].set_index("method")["mean"]
    pair = differences.query("group == 'near' and metric == 'auroc' and a_method == 'ascood' and b_method == 'cross_entropy'")
    pair = pair[pair.b_detector == table[table.method == "cross_entropy"].detector.iloc[0]].iloc[0]
    assert float(pair.difference) == pytest.approx(near["ascood"] - near["cross_entropy"], abs=1e-3)
    page = (out / "report.html").read_text()
    assert page.count("data:image/webp;base64,") >= 6 and "table_claims" in page and 'src="http' not in page

    stamps = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/*")}
    make_all(tiny, *places)
    assert stamps == {p: p.stat().st_mtime_ns for p in out.glob("runs/*/*")}

    next(out.glob("runs/*/evaluation.json")).write_text("{")  # damaged: scored anew, not taken for finished
    trained = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/model.safetensors")}
    other = profile_file(tmp_path, detectors=["EBO"])  # other scores: evaluated anew, not trained
    for method in ("cross_entropy", "ascood"):
        assert main([*where, "train", other, "scene-digits", method, "0"]) == main([*where, "evaluate", other, "scene-digits", method, "0"]) == 0
    assert main([*where, "collect", other]) == 0
    assert set(pd.read_csv(out / "metrics.csv").detector) == {"EBO"}
    assert trained == {p: p.stat().st_mtime_ns for p in out.glob("runs/*/model.safetensors")}

    checkpoint = next(out.glob("runs/*ascood*/model.safetensors"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:999])
    capsys.readouterr()
    assert main([*where, "evaluate", tiny, "scene-digits", "ascood", "0"]) == 2
    error = capsys.readouterr().err
    assert "damaged" in error and "delete it" in error and error.count("\n") == 1

    # a fresh clone has tables and figures, but not all runs: neither is replaced by less
    assert main([*where, "evaluate", str(tmp_path / "tiny.yaml"), "scene-digits", "cross_entropy", "0"]) == 0
    tables = [out / f"{name}.csv" for name in ("metrics", "groups", "history", "runs", "differences")]
    pictures = [tmp_path / "figures" / "tiny" / f"{name}.png" for name in ("summary", "gallery_scene-digits")]
    for folder in out.glob("runs/*-ascood-*"):
        folder.rename(tmp_path / folder.name)
    before, drawn = [pd.read_csv(path) for path in tables], [path.read_bytes() for path in pictures]
    assert any("ascood" in set(table.get("a_method", [])) for table in before)
    capsys.readouterr()
    assert main([*where, "collect", str(tmp_path / "tiny.yaml")]) == 0
    for path, table in zip(tables[:-2], before):
        pd.testing.assert_frame_equal(pd.read_csv(path), table)
    pairs = [table[["metric", "group", "a_method", "a_detector", "b_method", "b_detector", "difference"]].sort_values(["metric", "group", "a_method", "a_detector", "b_detector"])
             for table in (pd.read_csv(tables[-1]), before[-1])]
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in pairs))
    assert main([*where, "report", str(tmp_path / "tiny.yaml"), "figure_summary", "figure_gallery"]) == 0
    assert capsys.readouterr().err.count("stays as it is") == 2 and drawn == [path.read_bytes() for path in pictures]
    assert main([*where, "status", str(tmp_path / "tiny.yaml")]) == 0
    assert "not begun" in (said := capsys.readouterr().out) and "collected in" in said and said.strip().endswith("2 of 2")

    # what the profile no longer plans stays until somebody asks for it to go
    fewer = profile_file(tmp_path, methods={"cross_entropy": {}}, detectors=["EBO"])
    assert main([*where, "collect", fewer]) == 0
    assert "kept: 1 run no longer planned by tiny (collect --prune removes them): ascood on scene-digits" in capsys.readouterr().err
    assert all({*table.columns} == {*pd.read_csv(path).columns} and len(table) == len(pd.read_csv(path)) for path, table in zip(tables, before))
    assert main([*where, "report", fewer, "table_main", "table_synthesis"]) == 0 and (out / "table_synthesis.md").is_file()
    assert "ascood" not in set(pd.read_csv(out / "table_main.csv").method), "tables have planned rows"
    assert main([*where, "collect", fewer, "--prune"]) == 0
    assert f"rows of {out}/metrics.csv: scene-digits-ascood-seed0-" in (said := capsys.readouterr().out) and "table_synthesis.csv" in said
    assert {*pd.read_csv(out / "metrics.csv").method} == {"cross_entropy"} and pd.read_csv(out / "differences.csv").empty
    assert not (out / "table_synthesis.md").exists() and (out / "table_main.md").is_file()
    assert main([*where, "collect", fewer, "--prune"]) == 0 and "nothing in" in capsys.readouterr().out


def test_differences_of_runs_that_are_not_here_stay_until_the_other_side_is_another_run(tmp_path, capsys):
    where = ["--results", str(tmp_path)]
    small = {"train": {"epochs": 0}, "detectors": ["MSP"], "benchmarks": {"scene-digits": {"options": {"n_train": 20, "n_ood": 20}}}}

    def made(*methods, **changes):
        profile = profile_file(tmp_path, **small | changes)
        for method in methods:
            assert main([*where, "train", profile, "scene-digits", method, "0"]) == main([*where, "evaluate", profile, "scene-digits", method, "0"]) == 0
        assert main([*where, "collect", profile]) == 0
        return pd.read_csv(tmp_path / "tiny" / "differences.csv", keep_default_na=False), capsys.readouterr().err

    before, said = made("cross_entropy", "ascood")
    assert len(before) and "kept" not in said
    shutil.rmtree(next((tmp_path / "tiny" / "runs").glob("*-ascood-*")))
    found, said = made()
    pd.testing.assert_frame_equal(found, before)
    assert "kept: 1 run not on this machine: ascood on scene-digits" in said and "gone" not in said
    found, said = made("cross_entropy", train={"epochs": 0}, methods={"cross_entropy": {"train": {"lr": 0.2}}, "ascood": TINY["methods"]["ascood"]})
    assert found.empty and f"gone: {len(before)} differences" in said
    assert len(pd.read_csv(tmp_path / "tiny" / "runs.csv")) == 3


def test_methods_are_read_out_by_their_own_score_unless_the_profile_says_otherwise(tmp_path):
    methods = {"cross_entropy": {}, "vos": {}, "oe": {"detectors": ["KNN", "MSP"]}, "godin": {"detectors": {"G-ODIN": {"eps": 0.01}}}}
    profile = load_profile(profile_file(tmp_path, methods=methods))
    assert {run.method: run.detectors for run in profile.runs} == {
        "cross_entropy": {"MSP": {}, "i-ODIN": TINY["detectors"]["i-ODIN"]}, "vos": {"EBO": {}}, "oe": {"KNN": {}, "MSP": {}}, "godin": {"G-ODIN": {"eps": 0.01}}}


def test_a_profile_may_extend_another():
    quick, full = load_profile("quick"), load_profile("embedded")
    assert quick.seeds == [0] and set(quick.methods) < set(full.methods) and quick.benchmarks.keys() == full.benchmarks.keys()
    for run in quick.runs:
        twin = find_run(full, run.benchmark, run.method, 0)
        assert (run.run_id, run.settings, run.config, run.detectors) == (twin.run_id, twin.settings, twin.config, twin.detectors)


def test_a_failing_detector_is_a_gap_in_the_tables(tmp_path):
    "KNN with more neighbours than there are training images."
    make_all(profile_file(tmp_path, methods={"cross_entropy": {}}, detectors={"MSP": {}, "KNN": {"k": 10**6}}), tmp_path / "results", tmp_path / "figures")
    table = (tmp_path / "results" / "tiny" / "table_compared.md").read_text()
    line = next(row for row in table.splitlines() if "KNN" in row and row.startswith("|"))
    assert "–" in line and "- KNN on scene-digits (Cross-entropy, seed 0): k=1000000 exceeds" in table


def test_run_id_changes_with_what_decides_the_weights_and_only_then(tmp_path):
    def run_id(**changes):
        return find_run(load_profile(profile_file(tmp_path, **changes)), "scene-digits", "ascood", 0).run_id

    same = run_id()
    assert run_id(detectors=["MSP"]) == same and run_id(description="x") == same
    assert run_id(train={"epochs": 2}) != same
    assert run_id(benchmarks={"scene-digits": {"methods": {"ascood": {"weight": 0.2}}}}) != same
    assert run_id(benchmarks={"scene-digits": {"options": {"correlation": 0.8}}}) != same


def test_command_line_in_a_fresh_process(tmp_path):
    done = subprocess.run([sys.executable, "-m", "ascood", "status", "nothing"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("error: no profile") and "Traceback" not in done.stderr


def test_the_page_is_opened_only_when_asked(tmp_path, monkeypatch, capsys):
    opened, page = [], tmp_path / "report.html"
    monkeypatch.setattr(cli, "write_pages", lambda profile, results, figures: (page, tmp_path / "README.md"))
    monkeypatch.setattr(cli.webbrowser, "open", opened.append)
    assert main(["page", "smoke"]) == 0 and opened == []
    assert main(["page", "smoke", "--open"]) == 0 and opened == [page.as_uri()]


def test_help_everywhere(capsys):
    for call in ("", "run", "status", "train", "evaluate", "collect", "premises", "report", "verify", "page", "data", "data check", "build", "build waterbirds"):
        assert main([*call.split(), "--help"]) == 0 and "Usage:" in capsys.readouterr().out, call


def test_collect_takes_only_runs_of_the_profile(tmp_path):
    stray = tmp_path / "tiny" / "runs" / "scene-digits-cross_entropy-seed0-00000000"
    stray.mkdir(parents=True)
    (stray / "metrics.csv").write_text("run_id\nx\n")
    with pytest.raises(FileNotFoundError, match="no finished run"):
        collect(load_profile(profile_file(tmp_path)), tmp_path)


def test_paper_profile_says_what_the_paper_says():
    "The table of settings, written out once more."
    told = {  # benchmark: backbone, epochs, lr, batch, synthesis, fraction, alphas, lambda
        "waterbirds": ("resnet18", 30, 0.01, 128, "gradient", 0.1, (300, 30), 0.1),
        "celeba": ("resnet18", 30, 0.01, 128, "gaussian", None, (0.1, 0.1), 1),
        "aircraft": ("resnet50", 30, 0.01, 32, "gradient", 0.1, (0.1, 0.1), 1),
        "cars": ("resnet50", 30, 0.01, 32, "gradient", 0.1, (0.1, 0.1), 1),
        "cifar10": ("cifar_resnet18", 100, 0.1, 128, "shuffle", 0.15, None, 1),
        "cifar100": ("cifar_resnet18", 100, 0.1, 128, "shuffle", 0.1, None, 5),
    }
    profile = load_profile("paper")
    assert set(profile.benchmarks) == {*told, "imagenet100"} and profile.seeds == [0, 1, 2]
    for name, (backbone, epochs, lr, batch, synthesis, fraction, alphas, weight) in told.items():
        ours = [r for r in profile.runs if r.benchmark == name and r.settings.get("synthesis") == synthesis and r.config.seed == 0]
        (run,) = ours
        config = run.config
        assert (config.backbone, config.epochs, config.lr, config.batch_size) == (backbone, epochs, lr, batch)
        assert config.pretrained == (not name.startswith("cifar")) and run.settings["weight"] == weight
        assert fraction in (None, run.settings["fraction"])
        assert alphas is None or (run.settings["alpha_max"], run.settings["alpha_min"]) == alphas
        assert config.head_lr_factor == (0.05 if name == "cifar100" else 1)
        assert {r.method for r in profile.runs if r.benchmark == name} >= {"cross_entropy", "conf_branch", "rot_pred", "godin", "vos", "logit_norm", "cider", "npos"}
        assert ("oe" in {r.method for r in profile.runs if r.benchmark == name}) == name.startswith("cifar")


def test_a_part_of_a_profile(capsys):
    part = load_profile("paper:cars,cifar10")
    assert part.chosen == ["cars", "cifar10"] and part.name == "paper"
    assert [r.run_id for r in part.runs] == [r.run_id for r in load_profile("paper").runs]  # tables gather all that is finished
    assert main(["status", "paper:cars"]) == 0
    *lines, whole = capsys.readouterr().out.splitlines()
    assert {line.split()[-1].split("-")[0] for line in lines} == {"cars"} and whole.startswith(f"0 of {len(lines)} runs done")


def test_a_method_left_out_of_a_benchmark_has_no_runs(tmp_path):
    changes = {"benchmarks": {"scene-digits": {"leave_out": ["ascood"]}, "scene-digits-all": {}}}
    profile = load_profile(profile_file(tmp_path, **changes))
    assert {(r.benchmark, r.method) for r in profile.runs} == {("scene-digits", "cross_entropy"), ("scene-digits-all", "cross_entropy"), ("scene-digits-all", "ascood")}
    with pytest.raises(ValueError, match="unknown method in profile tiny, scene-digits: 'ascood'"):
        find_run(profile, "scene-digits", "ascood", 0)


def test_missing_data_is_told_before_any_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ASCOOD_DATA", str(tmp_path))
    assert main(["--results", str(tmp_path / "r"), "run", "cifar10-jpeg-small"]) == 2
    error = capsys.readouterr().err
    assert "far/texture: no list" in error and "near/tin" in error and not (tmp_path / "r").exists()
    done = subprocess.run([sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", "--config", "profile=paper:cifar100", f"results={tmp_path}/r"],
                          capture_output=True, text=True)
    printed = done.stdout + done.stderr
    assert done.returncode != 0 and "near/cifar10" in printed and "Job stats" not in printed


def test_a_run_belongs_to_its_data(tmp_path, monkeypatch, capsys):
    import test_disk

    root = tmp_path / "data"
    test_disk.fill_lists(root, "cifar10-jpeg")
    monkeypatch.setenv("ASCOOD_DATA", str(root))
    tiny = profile_file(tmp_path, benchmarks={"cifar10-jpeg": {"options": {"any_count": True}}}, methods={"cross_entropy": {}}, detectors=["MSP"],
                        train={"epochs": 1, "batch_size": 8})
    results = ["--results", str(tmp_path / "r")]
    assert main([*results, "train", tiny, "cifar10-jpeg", "cross_entropy", "0"]) == 0
    (record,) = (tmp_path / "r").glob("tiny/runs/*/run.json")
    before = record.read_text()
    assert main([*results, "train", tiny, "cifar10-jpeg", "cross_entropy", "0"]) == 0 and record.read_text() == before
    file = root / "benchmark_imglist/cifar10/train_cifar10.txt"
    file.write_text("\n".join(file.read_text().splitlines()[::-1]) + "\n")
    for command in ("train", "evaluate"):
        capsys.readouterr()
        assert main([*results, command, tiny, "cifar10-jpeg", "cross_entropy", "0"]) == 2
        assert "id/train" in capsys.readouterr().err and record.read_text() == before


def test_profiles_and_notebooks_are_found_outside_a_clone(tmp_path):
    "As with an editable installation: the package is on the path, the current folder is elsewhere and empty."
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "ascood", "status", "smoke"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("not begun") == len(load_profile("smoke").runs) and not [*tmp_path.iterdir()]
    command = [sys.executable, "-m", "ascood.study.notebooks", "table_main", "out.ipynb", "-p", "nothing", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "table_main.ipynb has no parameter 'nothing'" in done.stderr
