"""Damaged files: each is refused in one line, or made again; no number is read from one."""

import errno
import re
import shutil
from pathlib import Path

import pytest
import yaml

from ascood.files import NotWritten
from ascood.models import load_classifier
from ascood.study.collect import collect
from ascood.study.collected import Collected
from ascood.study.profiles import load_profile
from ascood.study.runs import evaluate_run, is_evaluated, load_scores, run_row, train_run

PROFILE = {"description": "for tests", "seeds": [0], "train": {"epochs": 1}, "methods": {"cross_entropy": {}},
           "benchmarks": {"scene-digits-holdout": {}}, "detectors": ["MSP"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "tiny.yaml"
    path.write_text(yaml.safe_dump(PROFILE))
    return load_profile(path).runs[0]


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    "One finished run, made once."
    results = tmp_path_factory.mktemp("finished")
    train_run(run, results, progress=False)
    evaluate_run(run, results)
    return results


@pytest.fixture
def results(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "results")


def flip(data: bytes) -> bytes:
    place = int(len(data) * 0.6)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1:]


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    return b""


def refused(call, *names):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, names))) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [flip, half, empty])
def test_damaged_weights_and_scores_are_refused(run, results, damage):
    folder = run.folder(results)
    for name in ("model.safetensors", "scores.npz"):
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
    refused(lambda: evaluate_run(run, results), "model.safetensors")
    refused(lambda: train_run(run, results, progress=False), "model.safetensors")
    refused(lambda: load_scores(folder / "scores.npz"), "scores.npz differs from its SHA-256 in evaluation.json")
    (folder / "evaluation.json").unlink()  # without a record, an archive that is whole is read as it is
    if damage is not flip:
        refused(lambda: load_scores(folder / "scores.npz"), "scores.npz is damaged")


@pytest.mark.parametrize("name", ["run.json", "evaluation.json", "settings.json"])
def test_a_damaged_record_is_refused(run, results, name):
    (run.folder(results) / name).write_bytes(half((run.folder(results) / name).read_bytes()))
    read = evaluate_run if name == "settings.json" else lambda run, results: run_row(run.folder(results))
    refused(lambda: read(run, results), f"{name} is damaged", "delete")


def test_a_run_without_its_record_of_evaluation_is_evaluated_anew_with_equal_numbers(run, finished, results):
    (run.folder(results) / "evaluation.json").write_text("")
    assert not is_evaluated(run, results)
    evaluate_run(run, results)
    assert is_evaluated(run, results)
    for file in ("metrics.csv", "groups.csv", "scores.npz"):
        assert (run.folder(results) / file).read_bytes() == (run.folder(finished) / file).read_bytes()


def test_weights_of_another_run_are_refused(run, results, tmp_path):
    other = train_run(run.model_copy(update={"config": run.config.model_copy(update={"seed": 1})}), tmp_path / "other", progress=False)
    load_classifier(shutil.copy(other.checkpoint, run.folder(results) / "model.safetensors"))
    refused(lambda: evaluate_run(run, results), "model.safetensors differs from its SHA-256 in run.json")


def test_a_damaged_csv_file_is_named_and_collecting_again_mends_it_once_deleted(run, results, tmp_path):
    profile = load_profile(_written(tmp_path / "tiny.yaml"))
    metrics = run.folder(results) / "metrics.csv"
    before = metrics.read_bytes()
    metrics.write_bytes(b"")
    refused(lambda: collect(profile, results), "metrics.csv is damaged", "delete it", "ascood run tiny")
    metrics.write_bytes(before)
    collect(profile, results)
    file = results / profile.name / "metrics.csv"
    before = file.read_bytes()
    file.write_bytes(b"")
    refused(lambda: Collected(profile, results).metrics, "metrics.csv is damaged", "repeat: ascood collect tiny")
    refused(lambda: collect(profile, results), "metrics.csv is damaged")  # it may have held rows of runs that are not here
    file.unlink()
    collect(profile, results)
    assert file.read_bytes() == before


def _written(path):
    path.write_text(yaml.safe_dump(PROFILE))
    return path


def test_a_full_disk_is_one_line_that_names_the_file_and_a_repeat_ends_as_if_nothing_had_happened(run, finished, results, monkeypatch):
    real = Path.write_bytes

    def full(path, content):
        if not path.name.startswith("metrics.csv"):
            return real(path, content)
        real(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(NotWritten, match=r"metrics.csv cannot be written \(No space left on device\)") as error:
        evaluate_run(run, results)
    folder = run.folder(results)
    assert "\n" not in str(error.value) and not list(folder.glob("*.unfinished")) and not is_evaluated(run, results)
    monkeypatch.undo()
    evaluate_run(run, results)
    assert all((folder / file).read_bytes() == (run.folder(finished) / file).read_bytes() for file in ("metrics.csv", "groups.csv", "scores.npz"))
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in run.folder(finished).iterdir())


@pytest.mark.parametrize("error", [RuntimeError("unexpected pos 64 vs 0"), KeyboardInterrupt()])  # torch does not say that a disk is full
def test_a_state_that_cannot_be_saved_leaves_none_and_training_goes_on_later(run, finished, tmp_path, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr("accelerate.Accelerator.save_state", fail)
    with pytest.raises(NotWritten if isinstance(error, RuntimeError) else KeyboardInterrupt, match="state-0001 cannot be written|^$"):
        train_run(run, tmp_path, progress=False)
    assert [path.name for path in run.folder(tmp_path).glob("*state*")] == []
    monkeypatch.undo()
    done = train_run(run, tmp_path, progress=False)
    assert done.checkpoint.read_bytes() == (run.folder(finished) / "model.safetensors").read_bytes()
