"""All of it on a second device gives the numbers of the first, and what mixes both places raises, as on a GPU."""

import pandas as pd
import pytest
import torch
from second_device import Far, second_device

from ascood import baselines  # noqa: F401 (registers its methods)
from ascood.detectors import DETECTORS, list_detectors
from ascood.evaluation import evaluate
from ascood.models import load_classifier
from ascood.own.detector import OutlierDetector
from ascood.own.images import example_folders
from ascood.settings import TrainConfig
from ascood.study.diagnostics import diagnose
from ascood.training import create_method, list_methods, train

SETTINGS = {  # outliers are made within the first steps
    "vos": dict(start=0, queue=4, sample_from=50), "cider": dict(dim=8),
    "npos": dict(start=0, queue=6, k=2, boundary=3, candidates=4, dim=8)}
RUNS = [(name, SETTINGS.get(name, {})) for name in list_methods() if name != "pretrained"] + [
    ("ascood", dict(synthesis="shuffle", uncertainty="energy")),
    ("ascood", dict(synthesis="subtract")),
    ("ascood", dict(synthesis="gaussian", attribution_mode="train")),
    ("ascood", dict(normalization="none")), ("cross_entropy", dict(normalization="l2"))]
CONFIG = TrainConfig(epochs=1, batch_size=12)
FIXED = {name: {} for name in list_detectors()} | {
    "KNN": {"k": 3}, "NNGuide": {"k": 3}, "ODIN": {"eps": [0.001, 0.01]},
    "i-ODIN": {"eps": [0.001, 0.01], "temperature": 10}}


def test_the_device_is_one():
    with second_device() as far:
        x = torch.arange(6.0, device=far).view(2, 3)
        assert isinstance(x, Far) and x.device == far and type(x.cpu()) is torch.Tensor and x.sum().item() == 15
        assert isinstance(torch.tensor([1.0], device=far), Far) and x[torch.tensor([1])].tolist() == [[3.0, 4.0, 5.0]]
        x[0] = 7.0  # through a view
        assert x.tolist()[0] == [7.0, 7.0, 7.0]
        near = torch.ones(2, 3)
        for wrong in (lambda: x + near, lambda: torch.cat([x, near]), lambda: near.T @ x):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()
        with pytest.raises((RuntimeError, TypeError)):
            x.numpy()


@pytest.mark.parametrize("name, settings", RUNS)
def test_training(small, tmp_path, name, settings):
    method = create_method(name, **settings)
    near = train(method, small, CONFIG, tmp_path / "near", progress=False)
    with second_device():
        far = train(method, small, CONFIG, tmp_path / "far", progress=False)
    pd.testing.assert_frame_equal(*(run.history[["loss", "accuracy", "val_accuracy"]] for run in (near, far)))
    weights = [load_classifier(run.checkpoint).state_dict() for run in (near, far)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])  # fp16 has a scaler: some GPUs have no bf16
def test_half_precision(small, tmp_path, precision):
    losses = []
    with second_device():
        for kind in (precision, "no"):
            config = CONFIG.model_copy(update={"mixed_precision": kind})
            run = train(create_method("ascood"), small, config, tmp_path / kind, progress=False)
            losses += run.history.loss.tolist()
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.fixture(scope="module")
def checkpoint(small, tmp_path_factory):
    config = CONFIG.model_copy(update={"epochs": 10})
    return train(create_method("ascood"), small, config, tmp_path_factory.mktemp("run"), progress=False).checkpoint


def test_every_detector(small, checkpoint):
    near = evaluate(load_classifier(checkpoint), small, FIXED, both_readings=True)
    with second_device() as far:
        found = evaluate(load_classifier(checkpoint, far), small, FIXED, both_readings=True)
    assert set(near.gap) == {""} and {*near.detector} == {*DETECTORS}
    assert found[["detector", "reads", "ood_set", "gap"]].equals(near[["detector", "reads", "ood_set", "gap"]])
    assert found.auroc.to_numpy() == pytest.approx(near.auroc.to_numpy(), abs=1)  # another memory order


@pytest.mark.parametrize("method, detector", [
    ("conf_branch", "ConfBranch"), ("rot_pred", "RotPred"), ("godin", "G-ODIN")])
def test_the_methods_own_detectors(small, tmp_path, method, detector):
    path = train(create_method(method), small, CONFIG, tmp_path, progress=False).checkpoint
    near = evaluate(load_classifier(path), small, [detector])
    with second_device() as far:
        found = evaluate(load_classifier(path, far), small, [detector])
    pd.testing.assert_frame_equal(found, near, rtol=1e-4, atol=1e-2)


def test_diagnostics(small, checkpoint):
    synthesizer = create_method("ascood").synthesizer()
    near = diagnose(load_classifier(checkpoint), small.train, synthesizer)
    with second_device() as far:
        assert diagnose(load_classifier(checkpoint, far), small.train, synthesizer) == pytest.approx(near, nan_ok=True)


def test_own_images(tmp_path):
    folder = example_folders(tmp_path / "images", classes=2, images=10)
    made = lambda: OutlierDetector("tiny_resnet", 32, 1, 8, alphas=[1.0], weights=[0.1], flip=False)
    near = made().fit(folder / "train", ood_val=folder / "ood-val")
    with second_device():
        far = made().fit(folder / "train", ood_val=folder / "ood-val")
    pd.testing.assert_frame_equal(near.trials_, far.trials_)
