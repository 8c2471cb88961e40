import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascood.losses import ascood_loss, energy_uncertainty, uniform_kl
from ascood.models import Classifier, create_backbone, load_classifier, save_classifier
from ascood.normalization import l2_normalize, standardize


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(2, 300), st.floats(0.05, 3), st.integers(0, 2**16))
def test_proposition_2_norm_of_every_feature(batch, m, sigma, seed):
    h = torch.randn(batch, m, dtype=torch.double, generator=torch.Generator().manual_seed(seed)) * 7 + 2
    torch.testing.assert_close(standardize(h, sigma, eps=0).norm(dim=1),
                               torch.full((batch,), sigma * math.sqrt(m - 1)).double())


def test_standardize_equals_the_formula_element_by_element():
    h = torch.rand(3, 5, dtype=torch.double)
    for row, found in zip(h.tolist(), standardize(h).tolist()):
        mean = sum(row) / 5
        std = math.sqrt(sum((v - mean) ** 2 for v in row) / 4)
        assert found == pytest.approx([0.5 * (v - mean) / (std + 1e-6) for v in row])


def test_standardize_forgets_scale_and_offset():
    h = torch.rand(4, 32, dtype=torch.double)
    torch.testing.assert_close(standardize(3 * h + 5), standardize(h), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(l2_normalize(h + 5), l2_normalize(h))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(2, 20), st.floats(0, 30), st.integers(0, 2**16))
def test_uniform_kl_equals_a_slow_sum_and_is_never_negative(batch, classes, spread, seed):
    logits = spread * torch.randn(batch, classes, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    total = 0.0
    for row in logits.tolist():
        log_sum = max(row) + math.log(sum(math.exp(v - max(row)) for v in row))
        total += sum((1 / classes) * (math.log(1 / classes) - (v - log_sum)) for v in row)
    assert uniform_kl(logits).item() == pytest.approx(total / batch, abs=1e-9)
    assert uniform_kl(logits) >= -1e-12


@pytest.mark.parametrize("weight", [0.0, 0.1, 5.0])
def test_proposition_1_gradient_of_every_logit(weight):
    torch.manual_seed(1)
    z, z_out = (torch.randn(1, 6, dtype=torch.double, requires_grad=True) for _ in range(2))
    ascood_loss(z, torch.tensor([4]), z_out, weight).backward()
    one_hot = torch.nn.functional.one_hot(torch.tensor([4]), 6)
    torch.testing.assert_close(z.grad, z.softmax(1).detach() - one_hot)
    torch.testing.assert_close(z_out.grad, weight * (z_out.softmax(1).detach() - 1 / 6))


def test_energy_falls_when_sides_part():
    near, far = torch.zeros(3, 4), torch.full((3, 4), 2.0)
    assert energy_uncertainty(far, near) < energy_uncertainty(near, near) < energy_uncertainty(near, far)
    assert torch.autograd.gradcheck(energy_uncertainty,
                                    [torch.randn(2, 3, dtype=torch.double, requires_grad=True) for _ in range(2)])


@pytest.mark.parametrize("normalization", ["zscore", "l2", "none"])
def test_classifier_parts_fit_together(normalization):
    model = Classifier(create_backbone("tiny_resnet"), 5, normalization).eval()
    x = torch.randn(3, 3, 32, 32)
    assert model.feature_maps(x).shape == (3, 64, 4, 4)
    torch.testing.assert_close(model.pooled(x), model.feature_maps(x).flatten(2).mean(2))
    torch.testing.assert_close(model(x), model.head(model.normalize(model.pooled(x))))


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text", "foreign"])
def test_damaged_checkpoint_is_one_line_that_says_what_to_do(tmp_path, damage):
    path = save_classifier(Classifier(create_backbone("tiny_resnet"), 5), tmp_path / "model.safetensors", "tiny_resnet")
    data = path.read_bytes()
    path.write_bytes({"truncate": data[:-100], "flip": b"\xff" * 16 + data[16:], "empty": b"",
                      "text": b"hello" * 100}.get(damage, data))
    if damage == "foreign":
        from safetensors.torch import save_file

        save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="delete it and train again") as caught:
        load_classifier(path)
    assert "\n" not in str(caught.value)


def test_saving_leaves_no_half_file(tmp_path, monkeypatch):
    model = Classifier(create_backbone("tiny_resnet"), 5)
    path = save_classifier(model, tmp_path / "model.safetensors", "tiny_resnet")
    before = path.read_bytes()

    def fail(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("ascood.models.save_file", fail)
    with pytest.raises(OSError):
        save_classifier(model, path, "tiny_resnet")
    assert path.read_bytes() == before
