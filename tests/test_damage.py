"""Damaged files: each is refused in one line, or made again; no number is read from one."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ascood.benchmarks import disk
from ascood.models import load_classifier
from ascood.study.profiles import load_profile
from ascood.study.collect import _gathered, collect
from ascood.study.collected import Collected
from ascood.study.runs import evaluate_run, is_evaluated, load_scores, train_run
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


def test_a_collected_file_that_cannot_be_read_is_named_and_collecting_again_mends_it_once_deleted(profile, results):
    collect(profile, results)
    file = results / profile.name / "metrics.csv"
    before = file.read_bytes()
    file.write_bytes(b"")
    for call in (lambda: Collected(profile, results).metrics, lambda: collect(profile, results)):  # it may have held rows of runs that are not here
        with pytest.raises(ValueError, match="metrics.csv is damaged .* repeat: ascood collect tiny"):
            call()
    file.unlink()
    collect(profile, results)
    assert file.read_bytes() == before
