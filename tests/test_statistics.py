"""Differences against slow and hand-made ones; how often the interval decides where there is no effect."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import made_results

from ascood.evaluation import ood_metrics
from ascood.study.statistics import (choose_detectors, did_not_learn, differences, draw_weights, judged_rows, paired_difference,
                                     weighted_metrics)

REFERENCE = Path(__file__).parent / "reference"


def slow_fpr95(known, unknown):
    "Threshold by threshold from above, until 95 % of the OOD scores lie at or above it; then the share of ID scores there."
    for threshold in sorted(set(unknown), reverse=True):
        if sum(score >= threshold for score in unknown) / len(unknown) >= 0.95:
            return 100 * sum(score >= threshold for score in known) / len(known)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(0, 2**31))
def test_weights_are_copies(n, m, levels, seed):
    "Few levels make many ties; every draw must give what the copied images give."
    rng = np.random.default_rng(seed)
    known, unknown = rng.integers(0, levels, n).astype(np.float32), rng.integers(0, levels, m).astype(np.float32)
    a, b = draw_weights("id/test", n, 3, seed), draw_weights("near/x", m, 3, seed)
    assert (a.sum(1) == n).all() and (a[0] == 1).all() and (a >= 0).all()
    found = weighted_metrics(known, unknown, a, b)
    for i in range(4):
        copied = np.repeat(known, a[i]), np.repeat(unknown, b[i])
        assert found["auroc"][i] == pytest.approx(ood_metrics(*copied)["auroc"], abs=1e-4)
        assert found["fpr95"][i] == pytest.approx(slow_fpr95(*copied), abs=1e-9)


@pytest.mark.parametrize("case", pd.read_csv(REFERENCE / "reference_metrics.csv").to_dict("records"), ids=lambda case: case["case"])
def test_metrics_are_those_of_the_released_evaluation(case):
    with np.load(REFERENCE / "reference_metrics.npz") as scores:
        known, unknown = scores[case["case"] + "_id"], scores[case["case"] + "_ood"]
    found = weighted_metrics(known, unknown, np.ones((1, len(known)), np.int32), np.ones((1, len(unknown)), np.int32))
    assert found["fpr95"][0] == pytest.approx(case["fpr95"], abs=1e-5)
    assert found["auroc"][0] == pytest.approx(case["auroc"], abs=1e-5)


def test_the_half_width_by_hand():
    "Seeds 1, 2, 6 have a variance of 7 and t = 4.3027; draws of the mean at 1 and 3 have a variance of 2. Two seeds decide nothing."
    a = np.array([[1.0, 0, 2], [2, 1, 3], [6, 2, 4]])
    found = paired_difference(a, np.zeros_like(a))
    assert found.difference == 3 and found.by_seed == "+1.0 +2.0 +6.0" and found.seeds == 3
    assert found.half_width == pytest.approx(math.sqrt(4.302653**2 * 7 / 3 + 1.959963985**2 * 2), rel=1e-6)
    assert math.isnan(paired_difference(np.full((2, 50), 90.0), np.full((2, 50), 10.0)).half_width)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return made_results(tmp_path_factory.mktemp("made"), {("ascood", ""): 3.0, ("ascood", "normalization=none"): 0.5, ("logit_norm", ""): 1.0})


def decided(table):
    return table["difference"].abs() > table["half_width"]


def side(row, name):
    return tuple(getattr(row, f"{name}_{column}") for column in ("method", "variant", "detector", "params"))


def test_a_difference_is_that_of_the_means_over_sets_and_seeds(results):
    table, metrics = differences(results, draws=50), results.metrics
    checked = 0
    for row in table[table["metric"] != "accuracy"].itertuples():
        values = []
        for method, variant, detector, params in (side(row, "a"), side(row, "b")):
            here = metrics[(metrics["benchmark"] == row.benchmark) & (metrics["method"] == method) & (metrics["variant"] == variant)
                           & (metrics["detector"] == detector) & (metrics["params"] == params) & (metrics["ood_group"] == row.group)]
            values.append(here.groupby("seed")[row.metric].mean())
        assert row.difference == pytest.approx((values[0] - values[1]).mean(), abs=1e-4)
        assert [float(text) for text in row.by_seed.split()] == pytest.approx((values[0] - values[1]).tolist(), abs=0.06)
        checked += 1
    assert checked > 50 and decided(table)[table["difference"].abs() > 40].all()


def test_pairs_are_those_that_a_question_asks_for(results):
    table = differences(results, draws=2).query("benchmark == 'scene-digits' and metric == 'auroc' and group == 'near'")
    pairs = {(side(row, "a"), side(row, "b")) for row in table.itertuples()}
    by = lambda method, variant="", detector="MSP", params="": (method, variant, detector, params)  # noqa: E731
    assert (by("ascood"), by("cross_entropy")) in pairs and (by("ascood_subtract"), by("ascood")) in pairs
    assert (by("ascood", "normalization=none"), by("ascood")) in pairs and (by("ascood", "normalization=none"), by("cross_entropy")) in pairs
    many = '{"k": 10}'
    assert (by("cross_entropy", "", "i-ODIN", many), by("cross_entropy", "", "ODIN")) in pairs
    assert (by("cross_entropy", "", "i-ODIN"), by("cross_entropy", "", "i-ODIN", many)) in pairs
    assert (by("logit_norm"), by("ascood")) not in pairs and (by("cross_entropy"), by("ascood")) not in pairs


def test_without_an_effect_nothing_is_decided_in_most_pairs(tmp_path):
    table = differences(made_results(tmp_path), draws=100)
    assert decided(table).mean() < 0.12


def test_a_row_without_all_its_scores_is_not_compared(tmp_path):
    results = made_results(tmp_path)
    run = next(run for run in results.profile.runs if run.method == "ascood")
    (results.folder / "scores" / f"{run.run_id}.npz").unlink()
    table = differences(results, draws=2).query("benchmark == @run.benchmark")
    assert len(table) and not ((table["a_method"] == "ascood") & (table["a_variant"] == "")).any()


def test_other_images_are_no_pairs(tmp_path):
    results = made_results(tmp_path)
    path = next((results.folder / "scores").glob("*cross_entropy*.npz"))
    with np.load(path) as file:
        shorter = {key: values[:-1] if key.endswith("near|a") and key.startswith("ranks") else values for key, values in file.items()}
    np.savez_compressed(path, **shorter)
    with pytest.raises(ValueError, match="same images"):
        differences(results, draws=2)


def test_validation_chooses_and_a_gap_comes_last(results):
    rows = judged_rows(results)
    chosen = choose_detectors(rows)
    means = rows[rows["ood_group"] == "val"].groupby(["benchmark", "method", "variant", "detector", "params"])["auroc"].mean()
    for names, how in chosen.items():
        assert means[(*names, *how)] == means[names].max()
    name = chosen["scene-digits", "ascood", ""]
    first = (rows["method"] == "ascood") & (rows["variant"] == "") & (rows["detector"] == name[0]) & (rows["seed"] == 0)
    assert choose_detectors(rows.assign(auroc=rows["auroc"].mask(first)))["scene-digits", "ascood", ""] != name


def test_who_did_not_learn(results):
    metrics = results.metrics
    weak = metrics.assign(accuracy=metrics["accuracy"].where(metrics["method"] != "logit_norm", 50.0))
    assert did_not_learn(metrics, "cross_entropy") == set()
    assert did_not_learn(weak, "cross_entropy") == {("scene-digits", "logit_norm", ""), ("scene-digits-holdout", "logit_norm", "")}


def test_a_variant_of_the_data_is_compared_with_the_baseline_on_the_same_data(tmp_path):
    study = {"strength": {"methods": ["cross_entropy", "ascood"], "vary": {"correlation": [0.5]}, "benchmarks": ["scene-digits"]}}
    table = differences(made_results(tmp_path, plan={"studies": study}), draws=2).query(
        "a_variant == 'correlation=0.5' and metric == 'auroc' and a_detector == b_detector")
    assert {*zip(table["a_method"], table["b_method"], table["b_variant"])} == {("ascood", "cross_entropy", "correlation=0.5")}
