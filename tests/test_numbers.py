"Detectors and metrics on unusual numbers and layouts: finite values, or why not in one line."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascood.detectors import create_detector, list_detectors, recipe
from ascood.evaluation import Activations, _fit, _predict, ood_metrics
from ascood.models import Classifier, create_backbone

torch.manual_seed(0)
MODEL = Classifier(create_backbone("tiny_resnet"), 3).eval()
PLAIN = [name for name in list_detectors() if recipe(name).reads in ("logits", "features")]
KINDS = {
    "as they are": lambda z: z, "float64": lambda z: z.double(), "bfloat16": lambda z: z.bfloat16(),
    "strided": lambda z: z.repeat_interleave(2, 1)[:, ::2],
    "huge": lambda z: z * 1e30, "zero": lambda z: z * 0, "alike": lambda z: z[:1].expand(z.shape),
}  # what is not finite, and what is empty, is refused before


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(kind=st.sampled_from([*KINDS]), fitted=st.sampled_from([1, 40]), scored=st.sampled_from([1, 5]),
       classes=st.integers(1, 3))
def test_a_detector_scores_or_says_why_not(name, kind, fitted, scored, classes):
    def activations(n, seed):
        z = KINDS[kind](torch.rand(n, 64, generator=torch.Generator().manual_seed(seed)))
        with torch.no_grad():
            logits = MODEL.head(z.float())
        return Activations(logits, z.float(), torch.arange(n) % classes)

    k = {"k": 1} if name in ("KNN", "NNGuide") else {}
    detector, reads = create_detector(name, MODEL, **k), recipe(name).reads
    try:
        _fit(detector, reads, activations(fitted, 1))
        scores = _predict(detector, reads, activations(scored, 2), "cpu")
    except (ValueError, TypeError) as error:
        assert "\n" not in str(error) and 0 < len(str(error)) < 200
    else:
        assert scores.shape == (scored,) and scores.dtype == np.float32 and not np.isnan(scores).any()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(*[st.lists(st.sampled_from([0.0, 1.0, 1.0, 2.5, -1e30, 1e30, float("inf"), -float("inf"), float("nan")]),
                  max_size=6)] * 2,
       st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), st.booleans())
def test_metrics_are_numbers_of_pairs_or_refused(known, unknown, dtype, strided):
    a, b = (torch.tensor(side, dtype=dtype).repeat_interleave(1 + strided)[:: 1 + strided] for side in (known, unknown))
    try:
        found = ood_metrics(a, b)
    except ValueError as error:
        nothing = not known or not unknown or bool(a.isnan().any() | b.isnan().any())
        assert "\n" not in str(error) and len(str(error)) < 200 and nothing
        return
    pairs = [(u > k) + (u == k) / 2 for k in a.double().tolist() for u in b.double().tolist()]
    assert found["auroc"] == pytest.approx(100 * sum(pairs) / len(pairs), abs=1e-3) and all(0 <= value <= 100 for value in found.values())
