"""Scores from the one pass against pytorch-ood's own, hyperparameters, gaps, memory."""
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import pytorch_ood.detector as po
import torch
from pytorch_ood.api import FeaturesDetector, GradientDetector

from ascood import detectors as ours
from ascood.data import ImageSet, batches
from ascood.detectors import DETECTORS, IODIN, OWN_SCORES, Recipe, Relation, create_detector, list_detectors, perturbation, recipe
from ascood.evaluation import Shelf, _fitting_set, candidates, evaluate, extract, metrics_table, score_benchmark, validation_auroc
from ascood.models import Classifier, create_backbone

STD = [0.5, 0.5, 0.5]


def some(images: ImageSet, n: int) -> ImageSet:
    pick = torch.linspace(0, len(images) - 1, n).long()
    labels = images.labels if isinstance(images.labels, int) else images.labels[pick]
    return ImageSet(images.images[pick], labels, images.transform)


@pytest.fixture(scope="module")
def small(holdout):
    "A benchmark of a few hundred images: 400 for fitting."
    ood = {group: {name: some(s, 60) for name, s in sets.items() if name in ("held-out-digits", "letters", "noise")}
           for group, sets in holdout.ood.items()}
    return replace(holdout, train=some(holdout.train, 400), val=some(holdout.val, 80), test=some(holdout.test, 80),
                   ood_val={name: some(s, 60) for name, s in holdout.ood_val.items()}, ood=ood)


@pytest.fixture(scope="module", params=["none", "zscore"])
def model(request, trained):
    "The trained network with a plain and with a standardised feature."
    made = Classifier(trained.backbone, trained.num_classes, request.param)
    made.head = trained.head
    return made.eval()


def library(name: str, model: Classifier, **params):
    "pytorch-ood's own detector, on images, put together by its documentation."
    h, head = model.features, model.head
    basis = torch.eye(64) if model.normalization == "none" else ours.zero_sum_basis(64)
    spanned = lambda x: h(x) @ basis
    maps = lambda x: h(x)[:, :, None, None]
    from_maps = lambda x: head(x[:, :, 0, 0])
    after_pooling = lambda x: head(model.pool(x))
    return {
        "MSP": lambda: po.MaxSoftmax(model), "TempScale": lambda: po.TemperatureScaling(model), "MLS": lambda: po.MaxLogit(model),
        "ODIN": lambda: po.ODIN(model, norm_std=STD, **params), "MDS": lambda: po.Mahalanobis(spanned), "RMDS": lambda: po.RMD(spanned),
        "MDSEns": lambda: po.MultiMahalanobis(model.backbone.stages()), "EBO": lambda: po.EnergyBased(model),
        "Gram": lambda: po.Gram(after_pooling, model.backbone.stages(), model.num_classes),
        "GradNorm": lambda: po.GradNorm(model, param_filter=lambda n: n == "head.weight"),
        "ReAct": lambda: po.ReAct(maps, from_maps, **params), "KLM": lambda: po.KLMatching(model),
        "VIM": lambda: po.ViM(h, params["d"], head.weight, head.bias), "DICE": lambda: po.DICE(h, head.weight, head.bias, **params),
        "RankFeat": lambda: po.RankFeat(model.feature_maps, after_pooling), "ASH": lambda: po.ASH(maps, from_maps, **params),
        "SHE": lambda: po.SHE(h, head), "GEN": lambda: po.GEN(model, **params), "NNGuide": lambda: po.NNGuide(h, head, **params),
        "SCALE": lambda: po.SCALE(maps, from_maps, **params), "FDBD": lambda: po.fDBD(h, head), "KNN": lambda: po.KNN(h, **params),
        "Relation": lambda: Relation(h, head, **params), "i-ODIN": lambda: IODIN(model, norm_std=STD, **params),
    }[name]()


@pytest.mark.parametrize("name", list_detectors())
def test_one_pass_gives_the_scores_of_the_library_on_images(model, small, name):
    found = score_benchmark(model, small, [name])
    assert not found.gaps
    alone = library(name, model, **found.hyperparameters[name]).to("cpu")
    assert alone.requires_fit == bool(recipe(name).fits)
    loader = batches(_fitting_set(small) if recipe(name).fits == "train" else small.val, 64)
    if alone.requires_fit:
        with torch.random.fork_rng():
            alone.fit(ours._ThenSeed(loader))
    for key in (("id", "test"), ("near", "held-out-digits"), ("far", "noise")):
        x, _ = small.sets()[key][range(60)]
        with torch.enable_grad() if isinstance(alone, GradientDetector) else torch.no_grad():
            expected = alone.predict(x).detach().float()
        scores = torch.from_numpy(found.scores[name][key][:60])
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
        assert scores.std() > 0, "a score that is the same for all would pass unseen"


@pytest.mark.parametrize("name", [n for n in list_detectors() if n in ("ODIN", "ReAct", "KNN", "GEN", "i-ODIN", "ASH")])
def test_chosen_hyperparameters_are_the_best_on_validation(trained, small, name):
    "The slow way: every candidate by itself, from the images."
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
    names = ["ReAct", "KNN", "i-ODIN"]
    assert score_benchmark(trained, small, names).hyperparameters == score_benchmark(trained, swapped, names).hyperparameters


def test_given_hyperparameters_are_kept(trained, small):
    found = score_benchmark(trained, small, {"KNN": {"k": 7}, "ODIN": {"eps": 0.001}})
    assert found.hyperparameters["KNN"] == {"k": 7}
    assert found.hyperparameters["ODIN"]["eps"] == 0.001 and found.hyperparameters["ODIN"]["temperature"] in (1, 10, 100, 1000)


def test_each_image_is_read_once_for_all_but_the_image_sweep(trained, small):
    seen = []
    hook = trained.backbone.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    score_benchmark(trained, small, [n for n in list_detectors() if recipe(n).reads != "images"])
    hook.remove()
    assert sum(seen) == len(small.train) + sum(len(s) for s in small.sets().values())


def test_scores_are_the_same_from_disk(trained, small, monkeypatch):
    names, shelves = ["MDS", "Gram", "RankFeat", "KNN", "MDSEns"], []
    monkeypatch.setattr("ascood.evaluation.Shelf", lambda budget: shelves.append(Shelf(budget)) or shelves[-1])
    in_memory, on_disk = score_benchmark(trained, small, names), score_benchmark(trained, small, names, memory=0)
    assert shelves[0].spilled == 0 and shelves[1].spilled > 800 * 64 * 16 * 4 / 2 and not in_memory.gaps
    for name in names:
        for key, values in in_memory.scores[name].items():
            np.testing.assert_array_equal(values, on_disk.scores[name][key])


def test_budget_is_kept_and_the_rest_is_on_disk(trained, holdout):
    shelf = Shelf(100 * 64 * 4)  # the features of 100 images, no more
    extract(trained, some(holdout.val, 100), shelf=shelf, also={"maps"})
    assert 0 <= shelf.left < 100 * 64 * 4 and shelf.spilled >= 100 * 64 * 16 * 4


def test_a_killed_process_leaves_no_file_behind(tmp_path):
    code = "from ascood.evaluation import Shelf\nimport os, signal\na = Shelf(0).array(1000, 1000)\na[:] = 1\nos.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)})
    assert done.returncode == -9 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["MDS", "RMDS"])
def test_order_of_the_training_images_does_not_matter(trained, small, name):
    "On standardised features the library's own inverse is decided by rounding, and does depend on it."
    model = Classifier(trained.backbone, 8, "zscore").eval()
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    shuffled = replace(small, train=ImageSet(small.train.images[order], small.train.labels[order], small.train.transform))
    one, other = (score_benchmark(model, b, [name]).scores[name] for b in (small, shuffled))
    for key in one:
        np.testing.assert_allclose(one[key], other[key], rtol=2e-3, atol=2e-3 * np.abs(one[key]).max())


# gaps


class Broken(FeaturesDetector):
    def __init__(self, how):
        self.how = how

    def predict(self, x):
        return self.predict_features(x.flatten(1))

    def predict_features(self, z):
        if self.how == "raises":
            raise RuntimeError("the covariance is singular")
        return {"nan": torch.full((len(z),), math.nan), "short": torch.zeros(1), "constant": torch.zeros(len(z))}[self.how]


@pytest.mark.parametrize("reads", ["features", "images"])
@pytest.mark.parametrize("how, words", [("raises", "covariance is singular"), ("nan", "80 of 80 scores are NaN"), ("short", "one score an image")])
def test_failure_is_a_named_gap_and_stops_no_other(trained, small, monkeypatch, how, words, reads):
    monkeypatch.setitem(DETECTORS, "Broken", Recipe(lambda model, std: Broken(how), reads))
    table = evaluate(trained, small, ["MSP", "Broken", "i-ODIN", "KNN"])
    broken = table[table.detector == "Broken"]
    assert len(broken) == 3 + 1 + 2 and broken.auroc.isna().all() and broken.gap.str.contains(words).all()
    others = table[table.detector != "Broken"]
    assert set(others.detector) == {"MSP", "i-ODIN", "KNN"} and others.auroc.notna().all() and (others.gap == "").all()


def test_a_misspelt_name_in_the_code_is_no_gap(trained, small, monkeypatch):
    for reads in ("features", "images"):
        monkeypatch.setitem(DETECTORS, "Typo", Recipe(lambda model, std: unknown_name, reads))  # noqa: F821
        with pytest.raises(NameError):
            score_benchmark(trained, small, ["MSP", "Typo"])


def test_constant_scores_are_a_result(trained, small, monkeypatch):
    monkeypatch.setitem(DETECTORS, "Constant", Recipe(lambda model, std: Broken("constant")))
    table = evaluate(trained, small, ["Constant"])
    assert (table.auroc == 50).all() and (table.fpr95 == 100).all() and (table.gap == "").all()


def test_a_map_of_one_pixel_is_a_gap_of_rankfeat_alone(small):
    class Flat(torch.nn.Module):
        def forward(self, x):
            return x.mean((-2, -1), keepdim=True)

    from collections import OrderedDict

    from ascood.models import Backbone

    torch.manual_seed(0)
    net = Backbone(OrderedDict(layer1=torch.nn.Conv2d(3, 16, 8, 4), last=Flat()), 16)
    found = score_benchmark(Classifier(net, 8, "none").eval(), small, ["MSP", "RankFeat", "Gram"])
    assert list(found.gaps) == ["RankFeat"] and "one pixel" in found.gaps["RankFeat"]


def test_two_classes_and_few_images_leave_gaps_or_numbers(digits):
    "Two classes, eight images for fitting: whatever cannot be, says why."
    torch.manual_seed(0)
    tiny = replace(digits, train=some(digits.train, 8), val=some(digits.val, 20), test=some(digits.test, 20),
                   ood_val={"symbols": some(digits.ood_val["symbols"], 20)}, ood={"near": {"b": some(digits.ood["near"]["backgrounds"], 20)}})
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


def test_no_validation_outliers_means_the_first_candidate(trained, small):
    found = score_benchmark(trained, replace(small, ood_val={}), ["ReAct"])
    assert found.hyperparameters["ReAct"] == {"percentile": 0.85} and math.isnan(validation_auroc(found.scores["ReAct"]))


def test_rows_name_their_hyperparameters(trained, small):
    found = score_benchmark(trained, small, ["ReAct", "MSP"])
    table = metrics_table(found, 50.0).drop_duplicates("detector").set_index("detector")["hyperparameters"]
    assert table["MSP"] == "{}" and table["ReAct"].startswith('{"percentile": 0.')


def test_every_name_says_what_it_reads():
    assert all(r.reads in ("logits", "features", "maps", "stages", "gram", "images") for r in (DETECTORS | OWN_SCORES).values())
    assert len(DETECTORS) == 24


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


def test_iodin_is_a_pytorch_ood_detector(trained, holdout):
    x, _ = holdout.val[range(8)]
    detector = IODIN(trained).set_hyperparameters(temperature=10, eps=0.0028)
    assert not detector.requires_fit and detector(x).shape == (8,)
    with pytest.raises(ValueError):
        detector.set_hyperparameters(epsilon=1)


