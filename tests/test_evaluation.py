from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score

from ascood.data import ImageSet
from ascood.evaluation import (
    BOTH_FPR, Activations, candidates, evaluate, extract, fpr95_id_positive, group_table, ood_metrics, score_benchmark,
    validation_auroc)
from ascood.models import Classifier


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.lists(st.integers(-4, 4), min_size=1, max_size=40))
def test_metrics_agree_with_scikit_learn_and_a_slow_loop(known, unknown):
    "Small integers make ties the rule."
    found = ood_metrics(torch.tensor(known), torch.tensor(unknown))
    truth, scores = np.array([0] * len(known) + [1] * len(unknown)), np.array(known + unknown, dtype=float)
    assert found["auroc"] == pytest.approx(100 * roc_auc_score(truth, scores))
    precision, recall, _ = precision_recall_curve(truth, scores)
    assert found["aupr_out"] == pytest.approx(100 * auc(recall, precision))
    precision, recall, _ = precision_recall_curve(1 - truth, -scores)
    assert found["aupr_in"] == pytest.approx(100 * auc(recall, precision))
    detects = max(t for t in unknown if sum(s >= t for s in unknown) >= 0.95 * len(unknown))  # the first threshold with 95 % of OOD above it
    assert found["fpr95"] == pytest.approx(100 * sum(s >= detects for s in known) / len(known))
    keeps = min(t for t in known if sum(s <= t for s in known) >= 0.95 * len(known))  # the first that keeps 95 % of ID
    assert fpr95_id_positive(known, unknown) == pytest.approx(100 * sum(s <= keeps for s in unknown) / len(unknown))


REFERENCE = Path(__file__).parent / "reference"
THEIRS = pd.read_csv(REFERENCE / "reference_metrics.csv", index_col="case")
SCORES = np.load(REFERENCE / "reference_metrics.npz")


@pytest.mark.parametrize("case", THEIRS.index)
def test_metrics_are_those_of_the_released_code(case):
    known, unknown, theirs = SCORES[f"{case}_id"], SCORES[f"{case}_ood"], THEIRS.loc[case]
    assert ood_metrics(known, unknown) == pytest.approx(dict(theirs[["fpr95", "auroc", "aupr_in", "aupr_out"]]), abs=1e-5)
    assert fpr95_id_positive(known, unknown) == pytest.approx(theirs["fpr95_id_positive"], abs=1e-5)


@pytest.mark.parametrize(
    "known, unknown, words",
    [([], [1.0], "no ID scores"), ([1.0], [], "no OOD scores"), ([1.0, float("nan")], [1.0], "1 of 2 ID scores are NaN")],
)
def test_metrics_refuse_what_has_no_answer(known, unknown, words):
    with pytest.raises(ValueError, match=words):
        ood_metrics(torch.tensor(known), torch.tensor(unknown))


def test_extract_reads_each_image_once_in_order(trained, holdout):
    seen = []
    hook = trained.backbone.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    found = extract(trained, holdout.val, batch_size=150)
    hook.remove()
    assert sum(seen) == len(holdout.val) == len(found.logits)
    with torch.no_grad():
        torch.testing.assert_close(found.logits, trained(holdout.val[range(len(holdout.val))][0]), rtol=1e-4, atol=1e-4)
    assert torch.equal(found.labels, holdout.val.labels)


def test_extract_leaves_the_mode_as_it_was(trained, holdout):
    trained.train()
    trained.backbone.bn1.eval()
    buffers = {k: v.clone() for k, v in trained.named_buffers()}
    extract(trained, holdout.val)
    assert trained.training and not trained.backbone.bn1.training
    assert all(torch.equal(v, buffers[k]) for k, v in trained.named_buffers())
    trained.eval()


def test_validation_only_reads_no_test_set(trained, holdout, monkeypatch):
    def forbidden(*_):
        raise AssertionError("a test set was read")

    for images in (holdout.test, *holdout.ood["near"].values(), *holdout.ood["far"].values()):
        monkeypatch.setattr(images, "transform", forbidden)
    detectors = {"MSP": {}, "i-ODIN": {"temperature": [1, 100], "eps": 0.001}, "TempScale": {}, "KNN": {}}
    found = score_benchmark(trained, holdout, detectors, validation_only=True)
    assert not found.gaps and all({group for group, _ in by_set} == {"id", "val"} for by_set in found.scores.values())


def test_a_list_of_values_takes_the_place_of_the_grid(trained, holdout):
    assert candidates("i-ODIN", trained, {"k": 3, "eps": [0.1, 0.2], "temperature": 5}) == [
        {"k": 3, "eps": 0.1, "temperature": 5}, {"k": 3, "eps": 0.2, "temperature": 5}]
    assert len(candidates("i-ODIN", trained, {})) == 28 and candidates("MSP", trained, {}) == [{}]
    found = score_benchmark(trained, holdout, {"KNN": {"k": [1, 3]}}, validation_only=True)
    tried = {k: score_benchmark(trained, holdout, {"KNN": {"k": k}}, validation_only=True).scores["KNN"] for k in (1, 3)}
    best = max(tried, key=lambda k: validation_auroc(tried[k]))
    assert found.hyperparameters["KNN"] == {"k": best}


def test_a_network_whose_answer_is_not_finite_is_named(trained, holdout):
    model = Classifier(trained.backbone, 8, "none").eval()
    model.head.weight.data.fill_(float("inf"))
    with pytest.raises(ValueError, match=f"{len(holdout.val)} of {len(holdout.val)} images have logits or features that"):
        extract(model, holdout.val)


def test_evaluate_has_a_row_for_every_detector_and_set(trained, holdout):
    table = evaluate(trained, holdout, {"MSP": {}, "KNN": {"k": 5}})
    assert len(table) == 2 * (3 + 1 + 4) and table[BOTH_FPR].stack().between(0, 100).all()
    with pytest.raises(ValueError, match="did you mean .MSP"):
        evaluate(trained, holdout, ["msp"])


def test_group_table_counts_by_hand(trained, digits):
    logits = torch.tensor([[9.0, 0.0]] * 4)  # always class 0
    labels, environments = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 3, 1])
    images = ImageSet(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), labels, digits.val.transform, environments)
    benchmark = replace(digits, test=images)
    table = group_table(benchmark, {("id", "test"): Activations(logits, logits, labels)}).set_index("group")
    assert table.loc["all", "accuracy"] == 50
    assert table.loc["majority", ["n", "accuracy"]].tolist() == [2, 50] and table.loc["minority", ["n", "accuracy"]].tolist() == [2, 50]
