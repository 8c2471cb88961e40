"""The bootstrap against copied images and slow metrics; how often the interval decides where there is no effect."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascood.evaluation import ood_metrics
from ascood.study.bootstrap import (
    Row,
    draw_rows,
    draw_weights,
    half_width,
    paired_difference,
    shown_by_seed,
    weighted_metrics,
)

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
    found = weighted_metrics(known, unknown, a, b)
    for i in range(4):
        copied = np.repeat(known, a[i]), np.repeat(unknown, b[i])
        assert found["auroc"][i] == pytest.approx(ood_metrics(*copied)["auroc"], abs=1e-4)
        assert found["fpr95"][i] == pytest.approx(slow_fpr95(*copied), abs=1e-9)


@pytest.mark.parametrize(
    "case", pd.read_csv(REFERENCE / "reference_metrics.csv").to_dict("records"), ids=lambda case: case["case"]
)
def test_metrics_are_those_of_the_released_evaluation(case):
    with np.load(REFERENCE / "reference_metrics.npz") as scores:
        known, unknown = scores[case["case"] + "_id"], scores[case["case"] + "_ood"]
    found = weighted_metrics(known, unknown, np.ones((1, len(known)), np.int32), np.ones((1, len(unknown)), np.int32))
    assert found["fpr95"][0] == pytest.approx(case["fpr95"], abs=1e-5) and found["auroc"][0] == pytest.approx(
        case["auroc"], abs=1e-5
    )


def test_by_hand():
    "ID scores 1, 2, 3; OOD 2, 4: AUROC (1.5 + 3) / 6; at 2 both OOD images are detected, and two of three ID are rejected."
    one = np.ones((1, 3), np.int32), np.ones((1, 2), np.int32)
    found = weighted_metrics(np.array([3.0, 1, 2]), np.array([4.0, 2]), *one)
    assert found["auroc"][0] == 75 and found["fpr95"][0] == pytest.approx(200 / 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 20), st.text(max_size=8))
def test_draws_keep_the_size_and_depend_on_the_name(n, draws, name):
    weights = draw_weights(name, n, draws)
    assert (
        weights.shape == (draws + 1, n)
        and (weights.sum(1) == n).all()
        and (weights[0] == 1).all()
        and (weights >= 0).all()
    )
    assert n < 30 or not np.array_equal(weights[1:], draw_weights(name + "x", n, draws)[1:])


def row(*seeds):
    return Row(
        [{("id", "test"): s[0], ("near", "a"): s[1], ("near", "b"): s[2], ("far", "c"): s[3]} for s in seeds],
        [s[0] < 0.5 for s in seeds],
    )


def test_a_row_is_the_mean_over_seeds_and_sets():
    rng = np.random.default_rng(0)
    seeds = [[rng.normal(0, 1, 50), *rng.normal(1, 1, (3, 40))] for _ in range(2)]
    drawn = draw_rows({"m": row(*seeds)}, 5)["m"]
    near = np.mean([ood_metrics(s[0], s[i])["auroc"] for s in seeds for i in (1, 2)])
    assert drawn["near", "auroc"][:, 0].mean() == pytest.approx(near, abs=1e-4)
    assert drawn["far", "fpr95"][:, 0].mean() == pytest.approx(
        np.mean([slow_fpr95(s[0], s[3]) for s in seeds]), abs=1e-4
    )
    assert drawn["id", "accuracy"][:, 0].mean() == pytest.approx(100 * np.mean([s[0] < 0.5 for s in seeds]))


def test_same_scores_differ_by_nothing_and_swapping_turns_the_sign():
    rng = np.random.default_rng(1)
    seeds = [[rng.normal(0, 1, 60), *rng.normal(1, 1, (3, 50))] for _ in range(3)]
    better = [[s[0], *(values + 1 for values in s[1:])] for s in seeds]
    drawn = draw_rows({"a": row(*seeds), "b": row(*seeds), "c": row(*better)}, 200)
    same = paired_difference(drawn["a"]["near", "auroc"], drawn["b"]["near", "auroc"])
    assert tuple(same) == (0, 0, (0, 0, 0)) and not same.excludes_zero
    up, down = (paired_difference(drawn[x]["near", "auroc"], drawn[y]["near", "auroc"]) for x, y in ("ca", "ac"))
    assert (
        up.excludes_zero
        and up.difference == -down.difference
        and up.half_width == pytest.approx(down.half_width)
        and min(up.by_seed) > 0 > max(down.by_seed)
    )


def test_other_images_are_no_pairs():
    small = [np.zeros(5), *np.ones((3, 4))]
    large = [np.zeros(6), *np.ones((3, 4))]
    with pytest.raises(ValueError, match="same images"):
        draw_rows({"a": row(small), "b": row(large)}, 2)


def test_the_half_width_by_hand():
    "Seeds 1, 2, 6 have a variance of 7 and t = 4.3027; draws of the mean at 1 and 3 have a variance of 2."
    a = np.array([[1.0, 0, 2], [2, 1, 3], [6, 2, 4]])
    found = paired_difference(a, np.zeros_like(a))
    assert found.difference == 3 and found.by_seed == (1, 2, 6)
    assert (
        found.half_width == pytest.approx(math.sqrt(4.302653**2 * 7 / 3 + 1.96**2 * 2), rel=1e-6)
        and not found.excludes_zero
    )
    assert paired_difference(a + 12, np.zeros_like(a)).excludes_zero


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_decide_nothing(seeds):
    found = paired_difference(np.full((seeds, 50), 90.0), np.full((seeds, 50), 10.0))
    assert found.difference == 80 and math.isnan(found.half_width) and not found.excludes_zero


@pytest.mark.parametrize("spread", [4, 8])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_without_an_effect_few_comparisons_are_decided(seeds, spread):
    "6,000 comparisons; a percentile bootstrap over seeds and images, as contrast, decides far more."
    rng, comparisons, draws = np.random.default_rng(seeds), 6000, 100
    by_seed = spread * rng.normal(size=(comparisons, seeds)) + rng.normal(size=(comparisons, 1))
    images, again = rng.normal(size=(comparisons, draws)), rng.integers(0, seeds, (comparisons, draws, seeds))
    ours = np.abs(by_seed.mean(1)) > half_width(by_seed, images.var(1, ddof=1))
    low, high = np.percentile(
        by_seed[np.arange(comparisons)[:, None, None], again].mean(2) + images, [2.5, 97.5], axis=1
    )
    assert 0.02 < ours.mean() <= 0.06 < {3: 0.17, 5: 0.10, 10: 0.07}[seeds] < ((low > 0) | (high < 0)).mean()
    one = paired_difference(by_seed[0][:, None] + np.r_[0, images[0]][None], np.zeros((seeds, 1 + draws)))
    assert one.half_width == pytest.approx(half_width(by_seed[:1], images[:1].var(1, ddof=1))[0]), (
        "the rule that is used is the one that is tested"
    )


def test_the_seeds_own_differences_in_one_line():
    assert shown_by_seed([3.14, -2, 5.49, -0.04]) == "+3.1 -2.0 +5.5 +0.0"
