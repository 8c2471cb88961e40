"""Diagnostics against numbers worked out by hand and runs whose weights are known."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from ascood.data import ImageSet
from ascood.models import Classifier, create_backbone, load_classifier, save_classifier
from ascood.study.diagnostics import HEADINGS, broken, checkpoints, diagnose, diagnose_run, synthesizer_of, untrained_model
from ascood.study.profiles import find_run, load_profile
from ascood.study.tables import auroc_gains, diagnostics_rows
from ascood.synthesis import OutlierSynthesizer
from ascood.training import create_method, train


class Linear(nn.Module):
    "z_0 = <weight, x>, z_1 = 0: the gradient of class 0 is `weight`, of class 1 zero."

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        z = (x * self.weight).sum((1, 2, 3))
        return torch.stack([z, torch.zeros_like(z)], dim=1)


def white(n, labels=0):
    "White images; the object is the upper left pixel."
    masks = torch.zeros(n, 2, 2, dtype=torch.bool)
    masks[:, 0, 0] = True
    images = torch.full((n, 3, 2, 2), 255, dtype=torch.uint8)
    return ImageSet(images, labels, lambda images: images.float() / 255, masks=masks)


def test_a_linear_model_has_the_shares_of_its_weights():
    "12 elements; the corner has weights 4, 0, 2 of a sum of 12; the 3 largest are 4, 3 and 2 (in the corner: 4 and 2)."
    weight = torch.tensor([[[4.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [-3.0, 1.0]], [[2.0, 0.0], [0.0, -1.0]]])
    found = diagnose(Linear(weight), white(5), OutlierSynthesizer("gradient", 0.25, 0.5, 0.5))
    step, z, raised = 0.5 * (16 + 9 + 4) ** 0.5, 4.0, 4 + 0.5 * 29
    sure, surer = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(-raised))
    assert found == pytest.approx({
        "images": 5, "alpha": 0.5, "area": 1 / 4, "g_inside": 6 / 12, "g_inside_ratio": 2, "g_inv_inside": 2 / 3,
        "g_inv_inside_ratio": 8 / 3, "step_touched": step / 3**0.5, "step_all": step / 12**0.5,
        "confidence": sure, "true_probability": sure, "outlier_confidence": surer, "outlier_true_probability": surer,
        "outlier_kl": -np.log(2) + np.log1p(np.exp(-raised)) + raised / 2}, rel=1e-5)


def test_an_image_without_gradient_does_not_count_and_no_image_is_refused():
    "Two of five images are of class 1, whose gradient is zero: their shares are excluded, and their steps are 0."
    weight = torch.zeros(3, 2, 2)
    weight[:, 0, 0] = 1.0
    images = white(5, torch.tensor([0, 1, 0, 1, 0]))
    found = diagnose(Linear(weight), images, OutlierSynthesizer("gradient", 0.25, 1.0, 1.0))
    assert found["g_inside"] == 1.0 and found["step_touched"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no image to measure on"):
        diagnose(Linear(weight), white(0), OutlierSynthesizer())


@pytest.mark.parametrize("changes", [{"kind": kind} for kind in ("gradient", "subtract", "shuffle", "gaussian")] + [{"places": "random"}])
def test_neither_the_batch_nor_the_random_state_counts_and_what_cannot_be_measured_is_nan(changes):
    torch.manual_seed(0)
    model, synthesizer = Classifier(create_backbone("tiny_resnet"), 3).eval(), OutlierSynthesizer(alpha_max=30.0, alpha_min=3.0, **changes)
    noise = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    images = ImageSet(noise, torch.arange(8) % 3, lambda images: images.float() / 255, masks=noise[:, 0] > 128)
    found = diagnose(model, images, synthesizer, 1, 3)
    torch.manual_seed(7)
    assert diagnose(model, images, synthesizer, 1, 3) == pytest.approx(found, nan_ok=True, abs=0)
    if changes == {"kind": "gradient"}:
        assert diagnose(model, images, synthesizer, 1, 3, batch=3) == pytest.approx(found, rel=1e-4)
    empty = {name for name, value in found.items() if np.isnan(value)}
    assert empty == (set() if changes.get("kind") in ("gradient", "subtract") else {"step_touched", "step_all"})
    without = diagnose(model, images.changed(masks=None), synthesizer, 1, 3)
    assert all(np.isnan(without[name]) == ("inside" in name or name == "area" or name in empty) for name in without)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_at_most_limit_images_evenly_spaced():
    seen = []

    class Counting(Linear):
        def forward(self, x):
            seen.append(x[:, 0, 0, 0])
            return super().forward(x)

    numbered = torch.arange(101).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).to(torch.uint8)
    images, model = ImageSet(numbered, 0, lambda x: x.float()), Counting(torch.rand(3, 2, 2))
    assert diagnose(model, images, OutlierSynthesizer("gradient", 0.0), limit=5)["images"] == 5
    assert seen[0].tolist() == [0, 25, 50, 75, 100]


@pytest.fixture
def profile(tmp_path):
    methods = {"cross_entropy": {}, "vos": {}, "ascood_shuffle": {"kind": "ascood", "synthesis": "shuffle"},
               "ascood": {"alpha_max": 30.0, "alpha_min": 3.0}}
    content = {"description": "for tests", "seeds": [0, 1], "train": {"epochs": 3}, "detectors": ["MSP"],
               "snapshots": [1, 2], "methods": methods, "benchmarks": {"scene-digits-holdout": {}},
               "studies": {"sigma": {"vary": {"sigma": [2]}}}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return load_profile(str(tmp_path / "tiny.yaml"))


def of(profile, method, seed=0, variant=""):
    return find_run(profile, "scene-digits-holdout", method, seed, variant)


def test_epoch_zero_is_the_network_that_training_began_with(holdout, profile, tmp_path):
    "A learning rate that moves no weight leaves it in the checkpoint."
    run = of(profile, "ascood", 1)
    still = run.config.model_copy(update={"lr": 1e-30, "min_lr": 0.0, "epochs": 1})
    made = create_method(run.kind, **run.settings)
    checkpoint = train(made, holdout, still, tmp_path / "still", progress=False).checkpoint
    state = torch.random.get_rng_state()
    before = untrained_model(run, holdout)
    assert torch.random.get_rng_state().equal(state)
    for (name, trained), parameter in zip(load_classifier(checkpoint).named_parameters(), before.parameters()):
        assert torch.allclose(trained, parameter, atol=1e-12, rtol=0), name


def test_a_run_is_measured_by_epochs_and_its_model_counts_as_the_epoch_that_was_kept(holdout, profile, tmp_path):
    for run in profile.runs:
        model = create_method(run.kind, **run.settings).create_model(run.config, 8)
        for file in ("model.safetensors", *(f"snapshot-{epoch:04d}.safetensors" for epoch in run.snapshots)):
            save_classifier(model, run.folder(tmp_path) / file)
    kept = diagnose_run(of(profile, "ascood"), profile, tmp_path, holdout, kept=2, limit=20)
    assert kept[["epoch", "trained"]].values.tolist() == [[0, False], [1, False], [2, True]]
    assert kept["alpha"].tolist() == pytest.approx([21, 21, 12]) and set(kept["images"]) == {20}
    assert set(kept["synthesis"]) == {"gradient, p_inv 0.1, alpha 30 to 3, eval"}
    assert [*checkpoints(of(profile, "ascood"), tmp_path)] == [1, 2, 3]
    second = diagnose_run(of(profile, "cross_entropy", 1), profile, tmp_path, holdout, limit=20)
    assert second["epoch"].tolist() == [0, 3] and second["alpha"].tolist() == pytest.approx([21, 3])
    assert synthesizer_of(profile, of(profile, "ascood_shuffle")).kind == "shuffle"
    others = of(profile, "vos"), of(profile, "ascood", 0, "sigma=2")
    assert all(diagnose_run(run, profile, tmp_path, holdout).empty for run in others)
    (of(profile, "ascood").folder(tmp_path) / "model.safetensors").unlink()
    assert diagnose_run(of(profile, "ascood"), profile, tmp_path, holdout).empty


def test_rows_are_means_over_trained_models_beside_the_gain_of_the_same_seed_detector_and_group():
    names = {"benchmark": "scene-digits", "setting": "spurious", "variant": "", "params": ""}
    rows = [names | {"run_id": f"{method}{seed}", "method": method, "kind": kind, "seed": seed, "detector": detector,
                     "reads": reads, "ood_group": group, "auroc": auroc + 10 * seed}
            for method, kind, auroc in (("cross_entropy", "post-hoc", 60), ("ascood", "ASCOOD", 65)) for seed in (0, 1)
            for detector, reads, group in (("ODIN", "released", "near"), ("ODIN", "released", "far"),
                                           ("ODIN", "standardised", "near"), ("MSP", "released", "near"))]
    metrics = pd.DataFrame(rows)
    right = metrics[["detector", "reads", "ood_group"]].eq(["ODIN", "released", "near"]).all(axis=1)
    metrics.loc[(metrics["method"] == "ascood") & ~right, "auroc"] += 30  # must not be read
    assert auroc_gains(metrics, "cross_entropy").values.tolist() == [["ascood0", "ODIN", 5], ["ascood1", "ODIN", 5]]
    alone = auroc_gains(metrics[(metrics["method"] != "cross_entropy") | (metrics["seed"] == 0)], "cross_entropy")
    assert alone["gain"].isna().tolist() == [False, True]
    measured = [{"run_id": f"ascood{seed}", "benchmark": "scene-digits", "method": "ascood", "trained": epoch == 4}
                | dict.fromkeys(HEADINGS, epoch + seed) for seed in (0, 1) for epoch in (0, 4)]
    baseline = SimpleNamespace(baseline="cross_entropy")
    results = SimpleNamespace(metrics=metrics, diagnostics=pd.DataFrame(measured), profile=baseline)
    (row,) = diagnostics_rows(results).to_dict("records")
    assert (row["seeds"], row["area of object"], row["gain"], row["runs"]) == (2, 4.5, 5, "ascood0 ascood1")
    assert row["broken"] == "step too large, not learned"
    results.diagnostics = pd.DataFrame(columns=["run_id", "benchmark", "method", "epoch"])
    assert diagnostics_rows(results).empty


@pytest.mark.parametrize("changes, expected", [
    ({}, ""), ({"g_inv_inside_ratio": 1.0}, "object missed"), ({"step_touched": 0.0999}, "step too small"),
    ({"step_all": 1.0}, "step too large"), ({"outlier_confidence": 0.9}, "not learned")])
def test_what_is_broken(changes, expected):
    fine = dict(g_inv_inside_ratio=1.01, step_touched=0.1, step_all=0.99, confidence=0.9, outlier_confidence=0.89)
    assert broken(fine | changes) == expected
