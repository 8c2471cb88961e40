"""The bootstrap against copies of images and against metrics computed the long way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascood.evaluation import ood_metrics
from ascood.study.bootstrap import Row, draw_rows, draw_weights, paired_difference, weighted_metrics


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(0, 2**31))
def test_weights_are_copies(n, m, levels, seed):
    "Few levels make many ties; every draw must give what the copied images give."
    rng = np.random.default_rng(seed)
    known, unknown = rng.integers(0, levels, n).astype(np.float32), rng.integers(0, levels, m).astype(np.float32)
    a, b = draw_weights("id/test", n, 3, seed), draw_weights("near/x", m, 3, seed)
    found = weighted_metrics(known, unknown, a, b)
    for i in range(4):
        slow = ood_metrics(np.repeat(known, a[i]), np.repeat(unknown, b[i]))
        assert found["auroc"][i] == pytest.approx(slow["auroc"], abs=1e-4)
        assert found["fpr95"][i] == pytest.approx(slow["fpr95"], abs=1e-4)


def test_by_hand():
    "ID scores 1, 2, 3; OOD 2, 4: AUROC (1.5 + 3) / 6; the threshold that accepts 95 % of ID is 3, and one of two OOD is at or below it."
    one = np.ones((1, 3), np.int32), np.ones((1, 2), np.int32)
    found = weighted_metrics(np.array([3.0, 1, 2]), np.array([4.0, 2]), *one)
    assert found["auroc"][0] == 75 and found["fpr95"][0] == 50


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 20), st.text(max_size=8))
def test_draws_keep_the_size_and_depend_on_the_name(n, draws, name):
    weights = draw_weights(name, n, draws)
    assert weights.shape == (draws + 1, n) and (weights.sum(1) == n).all() and (weights[0] == 1).all() and (weights >= 0).all()
    assert n < 30 or not np.array_equal(weights[1:], draw_weights(name + "x", n, draws)[1:])


def row(*seeds):
    return Row([{("id", "test"): s[0], ("near", "a"): s[1], ("near", "b"): s[2], ("far", "c"): s[3]} for s in seeds], [s[0] < 0.5 for s in seeds])


def test_a_row_is_the_mean_over_seeds_and_sets():
    rng = np.random.default_rng(0)
    seeds = [[rng.normal(0, 1, 50), *rng.normal(1, 1, (3, 40))] for _ in range(2)]
    drawn = draw_rows({"m": row(*seeds)}, 5)["m"]
    near = np.mean([ood_metrics(s[0], s[i])["auroc"] for s in seeds for i in (1, 2)])
    assert drawn["near", "auroc"][:, 0].mean() == pytest.approx(near, abs=1e-4)
    assert drawn["far", "fpr95"][:, 0].mean() == pytest.approx(np.mean([ood_metrics(s[0], s[3])["fpr95"] for s in seeds]), abs=1e-4)
    assert drawn["id", "accuracy"][:, 0].mean() == pytest.approx(100 * np.mean([s[0] < 0.5 for s in seeds]))


def test_same_scores_differ_by_nothing_and_swapping_turns_the_sign():
    rng = np.random.default_rng(1)
    scores = [rng.normal(0, 1, 60), *rng.normal(1, 1, (3, 50))]
    better = [scores[0], *(s + 1 for s in scores[1:])]
    drawn = draw_rows({"a": row(scores), "b": row(scores), "c": row(better)}, 200)
    same = paired_difference(drawn["a"]["near", "auroc"], drawn["b"]["near", "auroc"])
    assert tuple(same) == (0, 0, 0, False) and not same.survives
    up, down = (paired_difference(drawn[x]["near", "auroc"], drawn[y]["near", "auroc"]) for x, y in ("ca", "ac"))
    assert up.survives and up.low > 0 and up.difference == -down.difference and up.low == pytest.approx(-down.high)


def test_other_images_are_no_pairs():
    small = [np.zeros(5), *np.ones((3, 4))]
    large = [np.zeros(6), *np.ones((3, 4))]
    with pytest.raises(ValueError, match="same images"):
        draw_rows({"a": row(small), "b": row(large)}, 2)


def test_seeds_that_disagree_are_told():
    a, b = np.array([[3.0, 3, 3], [1, 1, 1]]), np.array([[1.0, 1, 1], [2, 2, 2]])
    found = paired_difference(a, b)
    assert found.difference == 0.5 and found.survives and not found.seeds_agree and paired_difference(a + 2, b).seeds_agree
