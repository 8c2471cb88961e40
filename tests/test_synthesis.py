import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ascood.synthesis import SYNTHESES, OutlierSynthesizer, add_gradient, alpha_at, gaussian_outliers, shuffle_invariant

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.floats(0, 1), st.integers(0, 2**16))
def test_shuffle_moves_only_the_salient_pixels_and_loses_none(batch, height, width, fraction, seed):
    generator = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(batch, 3, height, width, generator=generator) for _ in range(2))
    out = shuffle_invariant(x, g, fraction, generator)
    k = math.floor(height * width * fraction)
    for before, after, gradient in zip(x.flatten(2), out.flatten(2), g.flatten(2)):
        saliency = [sum(math.exp(v) for v in column) for column in gradient.T.tolist()]
        order = sorted(range(len(saliency)), key=lambda p: -saliency[p])
        for p in order[k:]:
            assert torch.equal(before[:, p], after[:, p])
        assert sorted(before.T.tolist()) == sorted(after.T.tolist())


def test_shuffle_survives_gradients_whose_exponential_overflows():
    x, g = torch.rand(1, 3, 4, 4), torch.full((1, 3, 4, 4), 1e4)
    g[0, :, 0, :] = 2e4  # the four most salient pixels
    out = shuffle_invariant(x, g, 0.25)
    assert torch.equal(out[0, :, 1:], x[0, :, 1:])


def test_every_permutation_of_three_pixels_occurs():
    x = torch.arange(3.0).view(1, 1, 1, 3).expand(600, 1, 1, 3)
    out = shuffle_invariant(x, torch.zeros(600, 1, 1, 3), 1.0, torch.Generator().manual_seed(0))
    counts = torch.unique(out.flatten(1), dim=0, return_counts=True)[1]
    assert len(counts) == 6 and counts.min() > 60


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", SYNTHESES)
def test_outliers_are_detached_repeatable_and_keep_type(kind, dtype, device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).to(device, dtype)
    x, y = torch.randn(4, 3, 4, 4).to(device, dtype).requires_grad_(), torch.tensor([0, 1, 2, 0]).to(device)
    make = OutlierSynthesizer(kind, 0.25, 3.0, 0.3)
    first, again = (make(model, x, y, 1, 3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again) and first.shape == x.shape and first.dtype == dtype and first.device == x.device
    assert not first.requires_grad and not torch.equal(first, x)


def test_add_gradient_equals_a_slow_loop():
    x, g = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    out = add_gradient(x, g, 0.7, 0.3)
    for b in range(3):
        expected, flat = x[b].flatten().clone(), g[b].flatten()
        for i in sorted(range(32), key=lambda i: -abs(flat[i]))[: math.floor(32 * 0.3)]:
            expected[i] += 0.7 * flat[i]
        torch.testing.assert_close(out[b].flatten(), expected)


def test_non_contiguous_images():
    x, g = (torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last) for _ in range(2))
    assert torch.equal(add_gradient(x, g, 1.0, 0.2), add_gradient(x.contiguous(), g.contiguous(), 1.0, 0.2))
    first, second = (shuffle_invariant(a, b, 0.5, torch.Generator().manual_seed(0))
                     for a, b in ((x, g), (x.contiguous(), g.contiguous())))
    assert torch.equal(first, second)


def test_gaussian_ignores_the_image():
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    first, second = (gaussian_outliers(x, 0.5, g)
                     for x, g in zip((torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)), generators))
    assert torch.equal(first, second)


@given(st.integers(1, 200), st.floats(0, 300), st.floats(0, 300))
def test_schedule_falls_from_max_towards_min(epochs, alpha_max, alpha_min):
    values = [alpha_at(e, epochs, alpha_max, alpha_min) for e in range(1, epochs + 1)]
    assert values[-1] == pytest.approx(alpha_min, abs=1e-9)
    steps = [b - a for a, b in zip([alpha_max] + values, values)]
    assert steps == pytest.approx([(alpha_min - alpha_max) / epochs] * epochs, abs=1e-9)


def test_refuses_shapes_that_differ():
    for function in (lambda x, g: add_gradient(x, g, 1.0, 0.1), lambda x, g: shuffle_invariant(x, g, 0.1)):
        with pytest.raises(ValueError, match="one shape"):
            function(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))


@pytest.mark.parametrize("control", [{}, {"places": "random"}, {"places": "other"}, {"random_sign": True}])
@pytest.mark.parametrize("kind", ["gradient", "subtract"])
def test_a_control_changes_one_thing_and_keeps_the_step(kind, control):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x, y = torch.randn(4, 3, 4, 4).double(), torch.tensor([0, 1, 2, 0])
    made = {name: OutlierSynthesizer(kind, 0.25, relative_step=0.5, **options)(model, x, y) - x
            for name, options in (("method", {}), ("control", control))}
    for change in made.values():
        assert torch.allclose(change.flatten(1).norm(dim=1), 0.5 * x.flatten(1).norm(dim=1))
        assert ((change != 0).flatten(1).sum(1) == 12).all()
    method, changed = (change / change.flatten(1).norm(dim=1)[:, None, None, None] for change in made.values())
    if control.get("places") == "other":
        assert torch.allclose(changed, method.roll(1, 0))
    elif control.get("places") == "random":
        assert torch.allclose(changed.flatten(1).sort().values, method.flatten(1).sort().values)
        assert not torch.equal(changed != 0, method != 0)
    else:
        assert torch.allclose(changed.abs(), method.abs()) and torch.equal(changed, method) == (not control)


def test_shuffle_of_random_pixels_moves_pixels_that_the_gradient_does_not_choose():
    x, y = torch.rand(2, 3, 6, 6), torch.tensor([0, 1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    make = OutlierSynthesizer("shuffle", 0.3, places="random")
    moved = [(make(model, x, y, generator=torch.Generator().manual_seed(seed)) != x).any(1) for seed in range(8)]
    assert all(each.flatten(1).sum(1).max() <= 10 for each in moved) and torch.stack(moved).any(0).float().mean() > 0.6
