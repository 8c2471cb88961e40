"""The most likely bad inputs: each is answered in one line that says where the fault is and what to do, before anything is written."""

import importlib
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ascood.study.cli import app
from ascood.command import run_app
from ascood.models import Classifier, create_backbone

TINY = {"description": "for tests", "seeds": [0, 1], "train": {"epochs": 1}, "methods": {"cross_entropy": {}, "ascood": {"alpha_max": 3.0, "weight": 0.1}},
        "benchmarks": {"scene-digits": {"options": {"n_train": 40, "n_ood": 40}}}, "detectors": {"MSP": {}, "KNN": {"k": [1, 2]}}}
FIT = "own fit --train photos/train --ood-val photos/other --out out --backbone tiny_resnet --pixels 32 --epochs 1 --batch-size 4 --no-progress "
NAMES = {name.rpartition(".")[2]: importlib.import_module(f"ascood.{name}") for name in (
    "attribution", "data", "detectors", "evaluation", "models", "study.profiles", "synthesis", "training")}
NAMES |= {"torch": torch, "x": torch.zeros(2, 3, 4, 4), "y": torch.tensor([0, 1]), "net": Classifier(create_backbone("tiny_resnet"), 2).eval()}

PROFILES = [  # text of a profile, what must be said
    ("", "description: Field required"),
    ("a: b: c", "is not valid YAML: mapping values are not allowed here"),
    ("extends: smok", "no profile 'smok'; did you mean 'smoke'?"),
    ("extends: tiny.yaml\nbenchmarks: {scene-digit: {}}", "unknown benchmark 'scene-digit'; did you mean 'scene-digits'?"),
    ("extends: tiny.yaml\nbenchmarks: {scene-digits: {options: {n_trian: 40}}}", "has no option 'n_trian'; did you mean 'n_train'?"),
    ("extends: tiny.yaml\ndetectors: [MPS]", "unknown detector 'MPS'; did you mean 'MSP'?"),
    ("extends: tiny.yaml\ndetectors: {KNN: {kk: 5}}", "detector KNN has no hyperparameter 'kk'; did you mean 'k'?"),
    ("extends: tiny.yaml\ntrain: {epoch: 3}", "unknown setting 'epoch'; did you mean 'epochs'?"),
    ("extends: tiny.yaml\ntrain: {epochs: -1}", "epochs: Input should be greater than or equal to 0"),
    ("extends: tiny.yaml\nmethods: {ascood: {fraction: 10}}", "fraction: Input should be less than or equal to 1"),
    ("extends: tiny.yaml\nmethods: {oee: {}}", "unknown method 'oee'; did you mean 'oe'?"),
    ("extends: tiny.yaml\nseeds: [0, 1, 0]", "0 is there twice"),
]
COMMANDS = [
    ("statu smoke", "No such command 'statu'"),
    ("status desing", "no profile 'desing'; did you mean 'design'?"),
    ("one tiny.yaml scene-digits ascood 7", "profile tiny has no seed 7; choose one of [0, 1]"),
    ("one tiny.yaml scene-digits asood 0", "unknown method in profile tiny, scene-digits: 'asood'; did you mean 'ascood'?"),
    ("one tiny.yaml scene-digits ascood 0 --variant sigma=3", "unknown variant of ascood: 'sigma=3'"),
    ("collect tiny.yaml", "no run of tiny is here; start with: python -m ascood run tiny"),
    ("report tiny.yaml", "no run of tiny is here; start with: python -m ascood run tiny"),
    ("--results photos/other/0.png run tiny.yaml", "0.png is a file; give a folder"),
    ("data check boats", "'boats' is no benchmark on disk; choose one of"),
    ("data check --root none", "there is no data folder none; give one as root, or set ASCOOD_DATA to it"),
    ("build waterbirds --root none", "there is no data folder none; give one as root, or set ASCOOD_DATA to it"),
    ("own predict none photos/other/0.png", "none is not there; give the detector.safetensors"),
    (FIT + "--train photos/nothing", "the folder photos/nothing is not there; correct the path"),
    (FIT + "--ood-val photos/train", "are the same image; remove one"),
    (FIT + "--batch-size 900", "images that are left for training; lower it"),
    (FIT + "--train photos/torn", "torn/cat/0.png is truncated or no image, or may not be read; get it again, or remove it"),
]
CALLS = [
    ("data.load_benchmark('scene-digit')", "unknown benchmark 'scene-digit'; did you mean 'scene-digits'?"),
    ("data.load_benchmark('scene-digits', n_train=0)", "n_train must be a whole number from 1 to 320, not 0"),
    ("data.load_benchmark('cifar10', root='none')", "the data folder none does not exist; correct it"),
    ("profiles.load_profile('smok')", "no profile 'smok'; did you mean 'smoke'?"),
    ("training.checked(training.TrainConfig, 'training', epoch=3)", "training: unknown setting 'epoch'; did you mean 'epochs'?"),
    ("training.create_method('ascood', fraction=2)", "method ascood: fraction: Input should be less than or equal to 1"),
    ("training.create_method('asood')", "unknown method 'asood'; did you mean 'ascood'?"),
    ("models.create_backbone('resnet')", "unknown backbone 'resnet'; did you mean"),
    ("models.load_classifier('tiny.yaml')", "checkpoint tiny.yaml is damaged or is no ascood checkpoint"),
    ("detectors.create_detector('MPS', net)", "unknown detector 'MPS'; did you mean 'MSP'?"),
    ("evaluation.ood_metrics([1.0], [float('nan')])", "1 of 1 OOD scores are NaN; check the detector"),
    ("synthesis.add_gradient(x, x[:1], 1, 0.1)", "x and g need one shape [B,C,H,W], but are (2, 3, 4, 4) and (1, 3, 4, 4)"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "A valid profile, images of two classes and outliers, and the same classes with an image that is cut off."
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY, sort_keys=False))
    rng = np.random.default_rng(0)
    for name, n in (("train/cat", 6), ("train/dog", 6), ("torn/cat", 6), ("torn/dog", 6), ("other", 2)):
        Path("photos", name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(f"photos/{name}/{i}.png")
    torn = Path("photos/torn/cat/0.png")
    torn.write_bytes(torn.read_bytes()[:-200])
    return tmp_path


def refused(line: list[str], said: str, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert run_app(app, line) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and said in err and err.count("\n") == 1 and len(err) < 230 and not out
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


@pytest.mark.parametrize("text, said", PROFILES)
def test_a_profile(folder, capsys, text, said):
    Path("mine.yaml").write_text(text)
    refused(["run", "mine.yaml"], said, capsys)


@pytest.mark.parametrize("text, said", COMMANDS)
def test_a_command(folder, capsys, text, said):
    refused(shlex.split(text), said, capsys)


@pytest.mark.parametrize("text, said", CALLS)
def test_a_call(folder, text, said):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        eval(text, NAMES)  # noqa: S307 (a constant of this file)
    assert said in str(error.value) and "\n" not in str(error.value)
