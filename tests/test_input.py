"""Profiles that are not valid are refused in one line; tensors of any kind give what a slow loop gives."""

import copy

import pandas as pd
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ascood.attribution import top_fraction_mask
from ascood.losses import ascood_loss, energy_uncertainty, uniform_kl
from ascood.normalization import l2_normalize, standardize
from ascood.study.cli import main
from ascood.study.profiles import load_profile
from ascood.synthesis import add_gradient, shuffle_invariant

TINY = {
    "description": "for tests",
    "seeds": [0],
    "train": {"epochs": 1},
    "methods": {"cross_entropy": {}, "ascood": {"alpha_max": 3.0, "weight": 0.1}},
    "benchmarks": {"scene-digits": {"options": {"n_train": 40, "n_ood": 40}, "leave_out": ["cross_entropy"]}},
    "detectors": {"MSP": {}, "KNN": {"k": [1, 2]}},
    "studies": {"slope": {"methods": ["ascood"], "vary": {"sigma": [0.5, 2.0]}}},
    "more_detectors": {"ascood": {"i-ODIN@k=10": {"k": 10}}},
}
SOME = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.just(10**30), st.floats(allow_nan=True),
                 st.text(max_size=8), st.just([]), st.just({}),
                 st.just([None]), st.just({"x": 1}), st.just([[]]), st.just({1: 2}),
                 st.sampled_from(["$(x)", "a b", "<b>", "cross_entropy", "1e3", "x" * 300, "\n"]))


def places(value, path=()):
    "Every place in a nested value."
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


PLACES = [path for path in places(TINY) if path]


@given(st.sampled_from(PLACES), SOME, st.sampled_from(["replace", "remove", "rename"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture],
          derandomize=True)
def test_a_mutated_profile_is_valid_or_refused_in_one_line(tmp_path, place, value, how):
    plan = copy.deepcopy(TINY)
    inner = plan
    for key in place[:-1]:
        inner = inner[key]
    old = inner[place[-1]] if how == "replace" else inner.pop(place[-1])
    if how == "replace":
        inner[place[-1]] = value
    elif how == "rename" and isinstance(inner, dict):
        inner[value if isinstance(value, (str, int, float, bool)) else "x"] = old
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    try:
        load_profile(str(tmp_path / "tiny.yaml"))
    except (ValueError, FileNotFoundError) as error:
        assert str(error).startswith("profile tiny.yaml: ") and "\n" not in str(error) and len(str(error)) < 200


LAYOUTS = {"plain": lambda x: x, "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
           "strided": lambda x: x.repeat_interleave(2, -1)[..., ::2],
           "expanded": lambda x: x[:1].expand(x.shape)}


@given(st.integers(0, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4),
       st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
       st.sampled_from([*LAYOUTS]), st.floats(0, 1), st.sampled_from([0.0, 1.0, 1e4]))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_masks_and_outliers_agree_with_a_loop_over_elements(b, c, h, w, dtype, layout, fraction, size):
    torch.manual_seed(b + 10 * c + 100 * h)
    g, x = (LAYOUTS[layout]((size * torch.randn(b, c, h, w)).to(dtype)) if b else torch.zeros(0, c, h, w, dtype=dtype)
            for _ in range(2))
    mask, outliers = top_fraction_mask(g, fraction), add_gradient(x, g, 2.0, fraction)
    k = int(c * h * w * fraction)
    assert mask.shape == g.shape and mask.dtype == torch.bool and outliers.dtype == x.dtype
    for i in range(b):
        inside, outside = g[i][mask[i]].abs(), g[i][~mask[i]].abs()
        assert len(inside) == k and (not k or not len(outside) or inside.min() >= outside.max())
        assert torch.equal(outliers[i], torch.where(mask[i], (x[i] + 2.0 * g[i]).to(dtype), x[i]))
    moved = shuffle_invariant(x, g, fraction)
    assert torch.equal(moved.flatten(2).sort(2).values, x.flatten(2).sort(2).values), "pixels only change places"


@given(st.integers(0, 3), st.integers(2, 6), st.sampled_from([torch.float32, torch.float64, torch.bfloat16,
    torch.float16]), st.sampled_from([1e-3, 1.0, 100.0]), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
@pytest.mark.filterwarnings("ignore:std_mean")  # an empty batch
def test_normalisations_agree_with_a_loop_over_rows(b, m, dtype, size, strided):
    torch.manual_seed(m)
    h = (size * torch.randn(b, 2 * m if strided else m)).to(dtype)[:, :: 1 + strided]
    z, unit = standardize(h, 0.5), l2_normalize(h)
    assert z.dtype == unit.dtype == h.dtype and z.shape == h.shape
    near = {"rtol": 0.02, "atol": 0.02} if dtype in (torch.bfloat16, torch.float16) else {"rtol": 1e-4, "atol": 1e-4}
    for row, got, length in zip(h.double(), z.double(), unit.double()):
        mean = sum(row.tolist()) / m
        std = (sum((value - mean) ** 2 for value in row.tolist()) / (m - 1)) ** 0.5
        torch.testing.assert_close(got, 0.5 * (row - mean) / (std + 1e-6), **near)
        torch.testing.assert_close(length.norm(), torch.tensor(1.0).double(), **near)


@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([torch.float32, torch.float64]),
       st.sampled_from([0.0, 1.0, 1e4]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_losses_agree_with_a_loop_over_classes(b, classes, dtype, size):
    torch.manual_seed(b + 7 * classes)
    known, unknown, y = size * torch.randn(b, classes, dtype=dtype), size * torch.randn(b + 1, classes,
        dtype=dtype), torch.randint(classes, (b,))
    log_p = [[value - torch.logsumexp(row, 0).item() for value in row.tolist()] for row in unknown.double()]
    by_hand = sum(sum(torch.tensor(1 / classes).log().item() - value for value in row) / classes
                  for row in log_p) / len(log_p)
    assert float(uniform_kl(unknown)) == pytest.approx(by_hand, rel=1e-4, abs=1e-5) and uniform_kl(unknown) >= -1e-5
    right = -sum(row[i].item() - torch.logsumexp(row, 0).item() for row, i in zip(known.double(), y)) / b
    assert float(ascood_loss(known, y, unknown, 0.3)) == pytest.approx(right + 0.3 * by_hand, rel=1e-4, abs=1e-4)
    assert 0 <= energy_uncertainty(known, unknown) < float("inf")


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    "One run, trained, evaluated and collected; its folder is gone, as in a fresh clone."
    folder = tmp_path_factory.mktemp("verify")
    plan = TINY | {"detectors": ["MSP"], "studies": {}, "more_detectors": {}, "methods": {"cross_entropy": {}},
                   "benchmarks": {"scene-digits": {"options": {"n_train": 40, "n_ood": 40}}}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(plan))
    call = ["--results", str(folder / "r")]
    for command in (["train"], ["evaluate"]):
        assert main([*call, *command, str(folder / "tiny.yaml"), "scene-digits", "cross_entropy", "0"]) == 0
    assert main([*call, "collect", str(folder / "tiny.yaml")]) == 0
    return folder


@pytest.mark.parametrize("change, status, said", [(0, 0, "0 within 0.5 percentage points, 0 not"),
                                                  (0.4, 0, "1 within 0.5"), (3, 1, "1 not\n"), (None, 1, "1 not\n")])
def test_a_run_is_made_again_and_compared(collected, capsys, change, status, said):
    path = collected / "r" / "tiny" / "metrics.csv"
    before = path.read_text()
    metrics = pd.read_csv(path)
    row = metrics.index[metrics["ood_group"] == "near"][0]
    metrics.loc[row, "auroc"] = None if change is None else metrics.loc[row, "auroc"] + change
    metrics.to_csv(path, index=False, float_format="%.6g")
    try:
        assert main(["--results", str(collected / "r"), "verify", str(collected / "tiny.yaml"), "--tolerance",
                     "0.5"]) == status
    finally:
        path.write_text(before)
    printed = capsys.readouterr().out
    assert said in printed and printed.endswith("not reproduced\n" if status
                                                else "\nreproduced\n") and ("MSP" in printed) == (change != 0)
