import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ascood.attribution import top_fraction_mask, true_class_gradient


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
                         nn.Linear(6 * 36, 4))


def snapshot(model):
    return (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        {k: v.clone() for k, v in model.state_dict().items()},
    )


def assert_unchanged(model, before):
    modes, needs, grads, state = before
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == needs
    for p, grad in zip(model.parameters(), grads):
        assert (p.grad is None) == (grad is None) and (grad is None or torch.equal(p.grad, grad))
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_equals_one_backward_pass_per_image():
    model, x, y = network(), torch.randn(5, 3, 8, 8), torch.tensor([0, 3, 1, 2, 2])
    g = true_class_gradient(model, x, y)
    model.eval()
    for image, label, found in zip(x, y, g):
        image = image[None].clone().requires_grad_()
        model(image)[0, label].backward()
        torch.testing.assert_close(found, image.grad[0], rtol=1e-5, atol=1e-6)


def test_train_mode_uses_batch_statistics_and_keeps_the_running_ones():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(216, 4))
    x, y = torch.randn(5, 3, 8, 8), torch.tensor([0, 3, 1, 2, 2])
    before = snapshot(model)
    g = true_class_gradient(model, x, y, mode="train")
    assert_unchanged(model, before)
    model.train()
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf).gather(1, y[:, None]).sum(), leaf)
    torch.testing.assert_close(g, expected)
    assert not torch.allclose(g, true_class_gradient(model, x, y))


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("fault", ["none", "label", "forward"])
def test_model_is_left_as_it_was(mode, fault):
    model = network()
    model.train()
    model[1].eval()  # one frozen batch norm in a training model
    model[0].weight.requires_grad_(False)
    model[5].weight.grad = torch.full_like(model[5].weight, 3.0)
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    if fault == "label":
        y[0] = 4
    if fault == "forward":
        x = torch.randn(4, 5, 8, 8)
    before = snapshot(model)
    if fault == "none":
        true_class_gradient(model, x, y, mode)
    else:
        with pytest.raises((IndexError, RuntimeError)):
            true_class_gradient(model, x, y, mode)
    assert_unchanged(model, before)


def test_computes_no_parameter_gradient():
    "A hook on a parameter's gradient must never run."
    model, calls = network(), []
    for p in model.parameters():
        p.register_hook(calls.append)
    true_class_gradient(model, torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))
    assert calls == []


@pytest.mark.parametrize(
    "y, error, words",
    [
        (torch.tensor([0.0, 1.0]), TypeError, "integer"),
        (torch.tensor([True, False]), TypeError, "integer"),
        (torch.tensor([0, 4]), RuntimeError, "out of bounds"),
        (torch.tensor([-1, 0]), RuntimeError, "out of bounds"),
        (torch.tensor([[0, 1]]), ValueError, "one label per image"),
        (torch.tensor([0, 1, 2]), ValueError, "one label per image"),
    ],
)
def test_refuses_wrong_labels(y, error, words):
    with pytest.raises(error, match=words):
        true_class_gradient(network(), torch.randn(2, 3, 8, 8), y)


def test_works_where_the_caller_disabled_gradients():
    model, x, y = network(), torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    expected = true_class_gradient(model, x, y)
    with torch.no_grad():
        assert torch.equal(true_class_gradient(model, x, y), expected)
    with torch.inference_mode():
        torch.testing.assert_close(true_class_gradient(model, x.clone(), y), expected)


def test_bfloat16_and_small_integer_labels():
    g = true_class_gradient(network().bfloat16(), torch.randn(2, 3, 8, 8).bfloat16(),
                            torch.tensor([0, 1], dtype=torch.int32))
    assert g.dtype == torch.bfloat16


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.floats(0, 1), st.booleans(), st.integers(0, 2**16))
def test_mask_is_exactly_the_largest(batch, numel, fraction, tied, seed):
    rng = np.random.RandomState(seed)
    g = torch.from_numpy(rng.randint(-2, 3, (batch, numel)).astype("float32") if tied else rng.randn(batch, numel))
    mask = top_fraction_mask(g, fraction)
    for row, chosen in zip(g.abs(), mask):
        assert chosen.sum() == math.floor(numel * fraction)
        if chosen.any() and not chosen.all():
            assert row[chosen].min() >= row[~chosen].max()


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan"), float("inf")])
def test_mask_refuses_other_fractions(fraction):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        top_fraction_mask(torch.zeros(1, 4), fraction)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu():
    model, x, y = network().double(), torch.randn(4, 3, 8, 8).double(), torch.tensor([0, 1, 2, 3])
    expected = true_class_gradient(model, x, y)
    found = true_class_gradient(model.cuda(), x.cuda(), y.cuda())
    torch.testing.assert_close(found.cpu(), expected)
