"""Damaged files: each is refused in one line, or made again; no number is read from one."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from ascood.benchmarks import disk
from ascood.files import accept, read_list, read_listed
from ascood.models import load_classifier
from ascood.study import tables
from ascood.study.page import report_page
from ascood.study.profiles import load_profile
from ascood.study.collect import _gathered, collect
from ascood.study.collected import Collected
from ascood.study.runs import evaluate_run, is_evaluated, load_scores, train_run
from ascood.study.tables import TABLES, read_published
from ascood.training import create_method, train

PROFILE = {"description": "for tests", "seeds": [0], "train": {"epochs": 1}, "methods": {"cross_entropy": {}},
           "benchmarks": {"scene-digits-holdout": {}}, "detectors": ["MSP"]}


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "tiny.yaml"
    path.write_text(yaml.safe_dump(PROFILE))
    return load_profile(path)


@pytest.fixture(scope="module")
def whole(profile, tmp_path_factory):
    "One finished run, made once."
    results = tmp_path_factory.mktemp("whole")
    train_run(profile.runs[0], results, progress=False)
    evaluate_run(profile.runs[0], results)
    return results


@pytest.fixture
def results(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "results")


def flip(data: bytes, at: float) -> bytes:
    place = min(int(len(data) * at), len(data) - 1)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1:]


DAMAGE = {
    **{f"bit at {at:.0%}": lambda data, at=at: flip(data, at) for at in (0.01, 0.3, 0.6, 0.9)},
    "half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "empty": lambda data: b"",
    "other bytes": lambda data: b"\x00" * len(data),
}
FILES = ("model.safetensors", "history.csv", "run.json", "evaluation.json", "metrics.csv", "groups.csv", "scores.npz")


def read(run, results):
    "Every reading of a finished run's folder: of the model, and of what `collect` gathers."
    load_classifier(run.folder(results) / "model.safetensors")
    return _gathered([run], results)["metrics"][0]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_run_is_refused(profile, results, name, damage):
    run = profile.runs[0]
    file = run.folder(results) / name
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(name)) as refused:
        read(run, results)
    said = str(refused.value)
    assert "\n" not in said and len(said.replace(str(file.parent), "")) < 200


def test_a_run_without_its_record_of_evaluation_is_evaluated_anew_with_equal_numbers(profile, whole, results):
    run = profile.runs[0]
    (run.folder(results) / "evaluation.json").write_text("")
    assert not is_evaluated(run, results)
    evaluate_run(run, results)
    assert is_evaluated(run, results)
    assert all((run.folder(results) / file).read_bytes() == (run.folder(whole) / file).read_bytes() for file in ("metrics.csv", "groups.csv"))


@pytest.mark.parametrize("name", ["history.csv", "run.json"])
def test_a_finished_run_is_not_trained_over_damage(profile, results, name):
    run = profile.runs[0]
    file = run.folder(results) / name
    file.write_bytes(flip(file.read_bytes(), 0.5))
    with pytest.raises(ValueError, match=re.escape(name)):
        train_run(run, results, progress=False)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_scores_are_refused_or_hold_the_same_numbers(profile, whole, results, damage):
    file = profile.runs[0].folder(results) / "scores.npz"
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    try:
        found, correct = load_scores(file)
    except ValueError as error:
        assert "scores.npz is damaged" in str(error)
    else:  # a bit of the archive's directory that says nothing about the numbers, such as a date
        expected, was_correct = load_scores(profile.runs[0].folder(whole) / "scores.npz")
        assert found.keys() == expected.keys() and np.array_equal(correct, was_correct)
        assert all(np.array_equal(found[d][key], expected[d][key]) for d in expected for key in expected[d])


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "[1]", '{"method": "cross_entropy"}'])
def test_damaged_settings_are_refused(profile, results, text):
    run = profile.runs[0]
    (run.folder(results) / "settings.json").write_text(text)
    with pytest.raises(ValueError, match="damaged|other settings"):
        train_run(run, results, progress=False)


def test_a_run_of_an_older_version_without_digests_is_read(profile, results):
    folder = profile.runs[0].folder(results)
    for file in ("run.json", "evaluation.json"):
        record = json.loads((folder / file).read_text())
        del record["sha256"]
        (folder / file).write_text(json.dumps(record))
    assert len(read(profile.runs[0], results))


@pytest.fixture(scope="module")
def stopped(holdout, profile, tmp_path_factory):
    "The folder of a run that stopped after its first epoch, before it finished."
    from ascood import training
    run, folder = profile.runs[0], tmp_path_factory.mktemp("stopped")
    finish, training._finish = training._finish, lambda *_: None
    try:
        train(create_method(run.kind, **run.settings), holdout, run.config, folder, progress=False)
    finally:
        training._finish = finish
    return folder


@pytest.mark.parametrize("number, damage", [*enumerate(["bit at 60%", "half", "empty", "bit at 30%", "one byte short", "other bytes"])])
def test_a_damaged_training_state_is_refused(holdout, profile, stopped, tmp_path, number, damage):
    folder = shutil.copytree(stopped, tmp_path / "run")
    files = sorted(next(folder.glob("state-*")).iterdir())
    file = files[number % len(files)]
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    run = profile.runs[0]
    with pytest.raises(ValueError, match="saved state .* is damaged"):
        train(create_method(run.kind, **run.settings), holdout, run.config, folder, progress=False)


class _Harmful:
    def __reduce__(self):
        return print, ("unpickled",)


def test_a_state_with_more_than_tensors_is_not_unpickled(holdout, profile, stopped, tmp_path, capsys):
    folder = shutil.copytree(stopped, tmp_path / "run")
    state = next(folder.glob("state-*"))
    torch.save(_Harmful(), next(state.glob("custom_checkpoint_*.pkl")))
    (state / "sha256.json").unlink()
    run = profile.runs[0]
    with pytest.raises(ValueError, match="saved state .* is damaged"):
        train(create_method(run.kind, **run.settings), holdout, run.config, folder, progress=False)
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_of_images_is_made_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    source = disk._Listed(paths)
    images = disk._decode_once(source, 8, at_least=0)
    file, = (tmp_path / "cache").rglob("*.npy")
    whole = file.read_bytes()
    file.write_bytes(DAMAGE[damage](whole))
    assert torch.equal(disk._decode_once(source, 8, at_least=0), images)
    assert file.read_bytes() == whole and not list(file.parent.glob("*.unfinished"))


def test_weights_of_another_run_are_refused(profile, results, tmp_path):
    run = profile.runs[0]
    other = train_run(run.model_copy(update={"config": run.config.model_copy(update={"seed": 1})}), tmp_path / "other", progress=False)
    shutil.copy(other.checkpoint, run.folder(results) / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors differs from its SHA-256"):
        evaluate_run(run, results)


@pytest.fixture(scope="module")
def collected(profile, whole, tmp_path_factory):
    results = shutil.copytree(whole, tmp_path_factory.mktemp("collected") / "results")
    collect(profile, results)
    TABLES["table_accuracy"](profile, results)
    return results


READ = {"metrics.csv": lambda profile, results: Collected(profile, results).metrics, "groups.csv": lambda profile, results: Collected(profile, results).groups,
        "history.csv": lambda profile, results: Collected(profile, results).history, "runs.csv": lambda profile, results: Collected(profile, results).runs,
        "differences.csv": lambda profile, results: Collected(profile, results).differences, "sha256.json": lambda profile, results: Collected(profile, results).metrics,
        "table_accuracy.md": lambda profile, results: report_page(profile, results, results)}


@pytest.mark.parametrize("name, damage", [(name, damage) for name in READ for damage in DAMAGE if name in ("metrics.csv", "sha256.json") or damage in ("half", "bit at 60%")])
def test_a_damaged_collected_file_is_refused_and_collecting_again_mends_it_once_deleted(profile, collected, tmp_path, name, damage):
    results = shutil.copytree(collected, tmp_path / "results")
    file = results / profile.name / name
    before = file.read_bytes()
    file.write_bytes(DAMAGE[damage](before))
    if name != "sha256.json" or damage != "one byte short":  # the last byte is the end of the line
        with pytest.raises(ValueError, match=re.escape(name)) as refused:
            READ[name](profile, results)
        said = str(refused.value).replace(str(file.parent), "")
        assert "\n" not in said and len(said) < 200 and "repeat: ascood" in said
    if not name.startswith("table"):
        if name != "sha256.json" or damage != "one byte short":
            with pytest.raises(ValueError, match=re.escape(name)):  # it may hold rows of runs that are not here
                collect(profile, results)
        file.unlink()
        collect(profile, results)
        READ[name](profile, results)
        assert name == "sha256.json" or file.read_bytes() == before


def test_damaged_differences_of_runs_that_are_not_here_are_refused_before_anything_is_written(collected, tmp_path):
    "As in a fresh clone: the folder of seed 0 is here, and of seed 1 only the collected rows."
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(PROFILE | {"seeds": [0, 1]}))
    wider, results = load_profile(tmp_path / "tiny.yaml"), shutil.copytree(collected, tmp_path / "results")
    folder = results / wider.name
    for name in ("metrics", "groups", "history", "runs"):
        rows = pd.read_csv(folder / f"{name}.csv")
        pd.concat([rows, rows.assign(run_id=wider.runs[1].run_id)]).to_csv(folder / f"{name}.csv", index=False)
    accept(folder)
    collect(wider, results)
    assert {*Collected(wider, results).runs["run_id"]} == {run.run_id for run in wider.runs}
    (folder / "differences.csv").write_bytes(flip((folder / "differences.csv").read_bytes(), 0.5))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.*")}
    with pytest.raises(ValueError, match=re.escape("differences.csv")):
        collect(wider, results)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.*")} == before


def test_a_folder_without_digests_is_read_as_it_is(profile, collected, tmp_path):
    results = shutil.copytree(collected, tmp_path / "results")
    (results / profile.name / "sha256.json").unlink()
    (results / profile.name / "runs.csv").write_bytes((results / profile.name / "runs.csv").read_bytes().replace(b"\n", b"\r\n"))
    assert len(Collected(profile, results).runs) == 1


@pytest.mark.parametrize("folder", sorted(path.parent for path in (Path(__file__).parents[1] / "results").glob("*/*.csv") if path.name in ("metrics.csv", "table1_main.csv", "step_cpu.csv")), ids=lambda path: path.name)
def test_committed_results_are_as_their_lists_say(folder):
    listed = read_list(folder)
    assert {path.name for path in folder.glob("*.csv")} <= listed.keys()
    for name in listed:
        assert read_listed(folder / name, "git checkout")


def test_a_damaged_table_of_printed_numbers_is_refused(tmp_path, monkeypatch):
    shutil.copytree(Path(__file__).parents[1] / "results" / "published", folder := tmp_path / "published")
    monkeypatch.setattr(tables, "shipped", lambda path: tmp_path / Path(path).relative_to("results"))
    assert len(read_published("table1_main.csv"))
    file = folder / "table1_main.csv"
    file.write_bytes(flip(file.read_bytes(), 0.5))
    with pytest.raises(ValueError, match="table1_main.csv differs from its SHA-256"):
        read_published("table1_main.csv")
