"""Scores from the one pass against pytorch-ood's own and OpenOOD's, hyperparameters, gaps, memory."""
import copy
import json
import math
import os
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pytorch_ood.detector as po
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_ood.api import FeaturesDetector, GradientDetector
from scipy.stats import spearmanr
from torch import nn

from ascood import detectors as ours
from ascood.data import Benchmark, ImageSet, batches
from ascood.detectors import (
    DETECTORS, NOT_AS_OPENOOD, Recipe, Relation, create_detector, list_detectors, perturbation, recipe,
    without_first_component,
)
from ascood.evaluation import _fitting_set, candidates, evaluate, metrics_table, score_benchmark, validation_auroc
from ascood.models import Backbone, Classifier, create_backbone

STD = [0.5, 0.5, 0.5]


def some(images: ImageSet, n: int) -> ImageSet:
    pick = torch.linspace(0, len(images) - 1, n).long()
    labels = images.labels if isinstance(images.labels, int) else images.labels[pick]
    return ImageSet(images.images[pick], labels, images.transform)


@pytest.fixture(scope="module")
def small(holdout):
    "A benchmark of a few hundred images: 240 for fitting."
    ood = {group: {name: some(s, 40) for name, s in sets.items() if name in ("held-out-digits", "letters", "noise")}
           for group, sets in holdout.ood.items()}
    return replace(holdout, train=some(holdout.train, 240), val=some(holdout.val, 64), test=some(holdout.test, 40),
                   ood_val={name: some(s, 40) for name, s in holdout.ood_val.items()}, ood=ood)


@pytest.fixture(scope="module", params=["none", "zscore"])
def model(request, trained):
    "The trained network with a plain and with a standardised feature."
    made = Classifier(trained.backbone, trained.num_classes, request.param)
    made.head = trained.head
    return made.eval()


class ThenSeed(list):
    "Batches, after the last of which the random state is that of seed 0; with it pytorch-ood's Gram holds out images."

    def __iter__(self):
        yield from super().__iter__()
        torch.manual_seed(0)


def alone_on_images(name: str, model: Classifier, reads: str = "", **params):
    "The detector that reads images; pytorch-ood's own for what OpenOOD's scores, below, do not vouch for."
    h, head, stages = model.features, model.head, model.backbone.stages()
    maps, from_maps = (lambda x: h(x)[:, :, None, None]), (lambda x: head(x[:, :, 0, 0]))
    standardised = {
        "ReAct": lambda: po.ReAct(maps, from_maps, **params), "SCALE": lambda: po.SCALE(maps, from_maps, **params),
        "SHE": lambda: po.SHE(h, head), "NNGuide": lambda: po.NNGuide(h, head, **params),
        "KNN": lambda: po.KNN(h, **params), "Relation": lambda: Relation(h, head, **params)}
    own = {
        "ODIN": lambda: po.ODIN(model, norm_std=STD, **params), "MDSEns": lambda: po.MultiMahalanobis(stages),
        "Gram": lambda: po.Gram(lambda x: head(model.pool(x)), stages, model.num_classes)}
    given = params | ({"reads": reads} if reads else {})
    return (own | (standardised if reads == "standardised" else {})).get(
        name, lambda: create_detector(name, model, STD, **given))()


@pytest.mark.parametrize("name", list_detectors())
def test_one_pass_gives_the_scores_of_the_detector_on_images(model, small, name):
    found = score_benchmark(model, small, [name], both_readings=True)
    assert not found.gaps and len(found.scores) == 1 + (model.normalization == "zscore" and recipe(name).reads == "h")
    for label in found.scores:
        as_on_images(found, label, name, model, small)


def as_on_images(found, label, name, model, small):
    alone = alone_on_images(name, model, **found.hyperparameters[label])
    assert alone.requires_fit == bool(recipe(name).fits)
    loader = batches(_fitting_set(small) if recipe(name).fits == "train" else small.val, 64)
    if alone.requires_fit:
        with torch.random.fork_rng():
            alone.fit(ThenSeed([*loader]))
    for key in (("id", "test"), ("near", "held-out-digits"), ("far", "noise")):
        x, _ = small.sets()[key][range(40)]
        with torch.enable_grad() if isinstance(alone, GradientDetector) else torch.no_grad():
            expected = alone.predict(x).detach().float()
        scores = torch.from_numpy(found.scores[label][key])
        # the sign of a gradient near 0 may turn with the batch; RMDS is a difference of two distances, and VIM measures
        # where features hardly vary: single precision alone moves it by more than 1e-4
        near = 1e-3 if isinstance(alone, (GradientDetector, po.RMD, po.ViM)) else 1e-4
        torch.testing.assert_close(scores, expected, rtol=near, atol=near * expected.abs().max().item())
        assert scores.std() > 0, "a score that is the same for all would pass unseen"


@pytest.mark.parametrize("name", [n for n in list_detectors() if n in ("ODIN", "ReAct", "KNN", "GEN", "i-ODIN", "ASH")])
def test_chosen_hyperparameters_are_the_best_on_validation(trained, small, name):
    "The slow way: every candidate by itself, from the images."
    small = replace(small, train=some(small.train, 120), val=some(small.val, 30),
                    ood_val={kind: some(s, 20) for kind, s in small.ood_val.items()})
    found = score_benchmark(trained, small, [name], validation_only=True)
    best = {}
    for params in candidates(name, trained, {}):
        try:
            alone = score_benchmark(trained, small, {name: params}, validation_only=True)
            best[tuple(params.values())] = validation_auroc(alone.scores[name])
        except KeyError:
            assert "exceeds the number of ID samples" in alone.gaps[name]
    chosen = tuple(found.hyperparameters[name].values())
    assert len(best) > 1 and best[chosen] == pytest.approx(max(best.values()))


def test_test_sets_have_no_say_in_hyperparameters(trained, small):
    swapped = replace(small, ood={"near": small.ood["far"], "far": small.ood["near"]}, test=small.val)
    names = {"ReAct": {}, "KNN": {}, "i-ODIN": {"temperature": [1, 100, 1000], "eps": [0.0005, 0.004]}}
    chosen, again = (score_benchmark(trained, given, names).hyperparameters for given in (small, swapped))
    assert chosen == again


def test_each_image_is_read_once_for_all_but_the_image_sweep(trained, small):
    seen = []
    hook = trained.backbone.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    score_benchmark(trained, small, [n for n in list_detectors() if recipe(n).reads != "images"])
    hook.remove()
    assert sum(seen) == len(small.train) + sum(len(s) for s in small.sets().values())


def test_scores_are_the_same_from_disk(trained, small):
    names = ["MDS", "Gram", "RankFeat", "KNN", "MDSEns"]
    in_memory, on_disk = score_benchmark(trained, small, names), score_benchmark(trained, small, names, memory=0)
    for name in names:
        for key, values in in_memory.scores[name].items():
            np.testing.assert_array_equal(values, on_disk.scores[name][key])


def test_a_killed_process_leaves_no_file_behind(tmp_path):
    code = ("from ascood.evaluation import _array\nimport os, signal\na = _array(0, 1000, 1000)\na[:] = 1\n"
            "os.kill(os.getpid(), signal.SIGKILL)")
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)})
    assert done.returncode == -9 and list(tmp_path.iterdir()) == []


# OpenOOD's own answers

REFERENCE = Path(__file__).parent / "reference"
PROBLEM = np.load(REFERENCE / "reference_scores.npz")
THEIR_PARAMS = pd.read_csv(REFERENCE / "reference_scores.csv",
                           index_col="detector").reference_hyperparameters.map(json.loads)
OURS = {"percentile": ("percentile", 0.01), "p": ("p", 0.01), "K": ("k", 1), "pow": ("power", 1), "gamma": ("gamma", 1),
        "M": ("M", 1)}


@pytest.fixture(scope="module")
def reference():
    "The made-up problem as a classifier, whose images are maps [B,12,4,4], and a benchmark: half of the test is known."
    conv = nn.Conv2d(12, 24, 1)
    model = Classifier(Backbone(OrderedDict(layer3=nn.Identity(), layer4=nn.Sequential(conv, nn.ReLU())), 24), 10,
                       "none").eval()
    with torch.no_grad():
        for parameter, name in ((conv.weight, "layer4_weight"), (conv.bias, "layer4_bias"),
                                (model.head.weight, "weight"), (model.head.bias, "bias")):
            parameter.copy_(torch.from_numpy(PROBLEM[name]))
    maps = torch.from_numpy(np.concatenate([PROBLEM[f"{split}_maps3"] for split in ("train", "val", "test")]))

    def look_up(pixels):  # an image is the number of its maps, in two of its bytes
        return maps[pixels[..., 0, 0, 0].long() * 256 + pixels[..., 1, 0, 0].long()]

    def images(rows, labels):
        pixels = torch.zeros(len(rows), 3, 1, 1, dtype=torch.uint8)
        pixels[:, 0, 0, 0], pixels[:, 1, 0, 0] = rows // 256, rows % 256
        return ImageSet(pixels, labels, look_up)

    train, val = (torch.from_numpy(PROBLEM[f"{split}_labels"]) for split in ("train", "val"))
    rows, is_ood = torch.arange(800, 1100), torch.from_numpy(PROBLEM["test_is_ood"])
    return model, Benchmark("reference", "conventional", 10, images(torch.arange(600), train),
                            images(torch.arange(600, 800), val),
                            images(rows[~is_ood], -1), {}, {"near": {"unknown": images(rows[is_ood], -1)}})


def as_openood(found: dict) -> np.ndarray:
    return np.concatenate([found["id", "test"], found["near", "unknown"]])  # the first 150 are known


@pytest.mark.parametrize("name", THEIR_PARAMS.index)
def test_ranks_as_openoods_own_code(reference, name):
    model, benchmark = reference
    assert not PROBLEM["test_is_ood"][:150].any() and PROBLEM["test_is_ood"][150:].all()
    params = params_of(name)
    found = score_benchmark(model, benchmark, {name: params})
    assert not found.gaps and found.hyperparameters[name].items() >= params.items()
    assert spearmanr(as_openood(found.scores[name]), PROBLEM[f"score_{name}"]).statistic > 0.999


STANDARDISED = np.load(REFERENCE / "reference_scores_ascood.npz")
CONFIDENT = np.load(REFERENCE / "reference_scores_confident.npz")


def params_of(name: str) -> dict:
    theirs = THEIR_PARAMS.get(name, {})
    given = {OURS[key][0]: value * OURS[key][1] for key, value in theirs.items() if key in OURS}
    return given | ({"d": 12} if name == "VIM" else {})  # half of 24 features


@pytest.fixture
def changed(reference):
    "The made-up problem with a head that is `times` as large, or standardised features; put back afterwards."
    model, benchmark = reference
    head = copy.deepcopy(model.head.state_dict())

    def change(times=1.0, normalization="none"):
        model.normalization, model.sigma = normalization, 0.5
        model.head.load_state_dict({name: times * values for name, values in head.items()})
        return model, benchmark
    yield change
    change()


@pytest.mark.parametrize("name", [key.removeprefix("score_") for key in STANDARDISED])
def test_ranks_as_the_released_network_with_standardised_features(changed, name):
    "And the other reading of detectors of h ranks otherwise, so that the comparison can tell."
    found = score_benchmark(*changed(normalization="zscore"), {name: params_of(name)}, both_readings=True)
    theirs = STANDARDISED[f"score_{name}"]
    assert not found.gaps and spearmanr(as_openood(found.scores[name]), theirs).statistic > 0.999
    assert (f"{name}@standardised" in found.scores) == (recipe(name).reads == "h")
    if recipe(name).reads == "h":
        assert spearmanr(as_openood(found.scores[f"{name}@standardised"]), theirs).statistic < 0.9


@pytest.mark.parametrize("name", [key.removeprefix("score_") for key in CONFIDENT])
def test_ranks_as_openood_on_a_confident_network(changed, name):
    found = as_openood(score_benchmark(*changed(times=12), {name: params_of(name)}).scores[name])
    theirs = CONFIDENT[f"score_{name}"]
    assert spearmanr(found, theirs).statistic > 0.999
    assert len(np.unique(found)) == pytest.approx(len(np.unique(theirs)), abs=3)  # ties too


def test_rows_say_what_was_read(changed):
    rows = metrics_table(score_benchmark(*changed(normalization="zscore"), {"MSP": {}, "KNN": {"k": 5}},
                                         both_readings=True), 0.0)
    assert rows[["detector", "reads"]].values.tolist() == [["MSP", "released"], ["KNN", "released"],
                                                           ["KNN", "standardised"]]
    assert rows["hyperparameters"].tolist() == ["{}", '{"k": 5}', '{"k": 5}'] and rows["auroc"].nunique() == 3
    plain = score_benchmark(*changed(), ["KNN"], both_readings=True)
    assert [*plain.scores] == ["KNN"]  # h is what the head reads: there is one reading


def test_every_detector_is_compared_or_said_not_to_be():
    compared = {key.removeprefix("score_") for file in (PROBLEM, STANDARDISED, CONFIDENT) for key in file
                if key.startswith("score_")}
    assert compared | set(NOT_AS_OPENOOD) == set(list_detectors()) and not compared & set(NOT_AS_OPENOOD)
    assert all(NOT_AS_OPENOOD.values())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_first_component_is_that_of_the_svd(b, c, h, w, seed):
    maps = torch.randn(b, c, h, w, generator=torch.Generator().manual_seed(seed))
    u, s, v = torch.linalg.svd(maps.double().flatten(2), full_matrices=False)
    expected = maps - (s[:, :1, None] * u[:, :, :1] @ v[:, :1]).view_as(maps)
    rest = without_first_component(maps)
    assert rest.shape == maps.shape
    second = s[:, 1] if s.shape[1] > 1 else 0  # where both are near, the direction is not well defined
    close = s[:, 0] - second > 0.05 * s[:, 0]
    torch.testing.assert_close(rest[close].double(), expected[close], atol=1e-3, rtol=0)


# gaps


class Broken(FeaturesDetector):
    def __init__(self, how):
        self.how = how

    def predict(self, x):
        return self.predict_features(x.flatten(1))

    def predict_features(self, z):
        if self.how == "raises":
            raise RuntimeError("the covariance is singular")
        return {"nan": torch.full((len(z),), math.nan), "short": torch.zeros(1)}[self.how]


@pytest.mark.parametrize("reads", ["features", "images"])
@pytest.mark.parametrize("how, words",
    [("raises", "covariance is singular"), ("nan", "64 of 64 scores are NaN"), ("short", "one score an image")])
def test_failure_is_a_named_gap_and_stops_no_other(trained, small, monkeypatch, how, words, reads):
    monkeypatch.setitem(DETECTORS, "Broken", Recipe(lambda model, std: Broken(how), reads))
    table = evaluate(trained, small,
                     {"MSP": {}, "Broken": {}, "i-ODIN": {"temperature": [1, 100], "eps": 0.001}, "KNN": {"k": [1, 5]}})
    broken = table[table.detector == "Broken"]
    assert len(broken) == 3 + 1 + 2 and broken.auroc.isna().all() and broken.gap.str.contains(words).all()
    others = table[table.detector != "Broken"]
    assert set(others.detector) == {"MSP", "i-ODIN", "KNN"} and others.auroc.notna().all() and (others.gap == "").all()


def test_two_classes_and_few_images_leave_gaps_or_numbers(digits):
    "Two classes, eight images for fitting: whatever cannot be, says why."
    torch.manual_seed(0)
    tiny = replace(digits, train=some(digits.train, 8), val=some(digits.val, 20), test=some(digits.test, 20),
                   ood_val={"symbols": some(digits.ood_val["symbols"], 20)},
                   ood={"near": {"b": some(digits.ood["near"]["backgrounds"], 20)}})
    model = Classifier(create_backbone("tiny_resnet"), 2).eval()
    table = evaluate(model, tiny)
    assert set(table.detector) == set(list_detectors())
    assert (table.auroc.isna() == (table.gap != "")).all()
    assert "k=50 exceeds" in table[table.detector == "KNN"].gap.iloc[0]
    assert table[table.detector == "MSP"].auroc.notna().all()


def test_nonlinear_head_is_a_gap_of_those_that_read_its_weights(trained, small):
    other = Classifier(trained.backbone, 8, "none")
    other.head = torch.nn.Sequential(trained.head)
    gaps = score_benchmark(other.eval(), small, ["MSP", "VIM", "DICE", "FDBD", "SHE"]).gaps
    assert set(gaps) == {"VIM", "DICE", "FDBD"} and all("linear head" in reason for reason in gaps.values())


def test_empty_set_is_named_before_any_work(trained, small, monkeypatch):
    empty = ImageSet(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), -1, small.val.transform)
    monkeypatch.setattr("ascood.evaluation.extract", lambda *_, **__: pytest.fail("work was started"))
    with pytest.raises(ValueError, match="near/nothing is empty"):
        evaluate(trained, replace(small, ood={"near": {"nothing": empty}}), ["MSP"])


@pytest.mark.parametrize("k", [1, 3, 100])
def test_iodin_moves_exactly_k_elements_towards_its_own_prediction(trained, holdout, k):
    x, _ = holdout.val[range(20)]
    x = x.requires_grad_(True)
    logits = trained(x)
    (g,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, logits.argmax(1), reduction="sum"), x)
    x = x.detach()
    moved = -perturbation(g, eps=0.01, k=k, norm_std=[0.5] * 3)
    assert ((moved != 0).flatten(1).sum(1) == k).all()
    assert moved[moved != 0].abs().sub(0.02).abs().max() < 1e-5
    with torch.no_grad():
        before, after = (trained(v).log_softmax(1) for v in (x, x + moved))
    own = before.argmax(1, keepdim=True)
    assert (after.gather(1, own) >= before.gather(1, own) - 1e-5).float().mean() > 0.9
    assert all(p.grad is None for p in trained.parameters())


@pytest.mark.parametrize("n", [40, 400])
def test_mahalanobis_inverts_as_scikit_learn_does_in_openood(n):
    "With fewer images than features too, where the covariance has no inverse."
    from sklearn.covariance import EmpiricalCovariance

    rng = torch.Generator().manual_seed(n)
    scale = torch.linspace(0.2, 3, 96)
    y = torch.arange(n) % 4
    means = torch.randn(4, 96, generator=rng)
    z, seen = ((torch.randn(k, 96, generator=rng) * scale + means[torch.arange(k) % 4]) for k in (n, 200))
    centers = torch.stack([z[y == c].mean(0) for c in range(4)])
    precision = EmpiricalCovariance(assume_centered=False).fit((z - centers[y]).numpy()).precision_
    apart = (seen[:, None] - centers).numpy()
    theirs = np.einsum("ncm,mk,nck->nc", apart, precision, apart).min(1)
    model = Classifier(create_backbone("tiny_resnet"), 4)
    found = ours.SpanMahalanobis(model).fit_features(z, y).predict_features(seen).numpy()
    assert spearmanr(found, theirs).statistic > 0.9999
    background = EmpiricalCovariance(assume_centered=False).fit(z.numpy())
    theirs = theirs - background.mahalanobis(seen.numpy())
    found = ours.SpanRMD(model).fit_features(z, y).predict_features(seen).numpy()
    assert spearmanr(found, theirs).statistic > 0.9999
