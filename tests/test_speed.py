"What a step costs, and attribution that shares the training pass."
import pytest
import torch

from ascood.losses import ascood_loss
from ascood.speed import a_batch, alternate, arms, count_step, fresh
from ascood.synthesis import add_gradient
from ascood.training import ASCOOD, Step



def test_shared_attribution_is_the_gradient_of_the_training_pass():
    "Written out: G from the pass in training mode over x, then a pass over x' by itself; batch norm has seen both."
    method, (x, y) = ASCOOD(attribution_mode="shared", alpha_max=2.0, alpha_min=2.0), a_batch(4, 16)
    (model, _), (other, _) = fresh("tiny_resnet"), fresh("tiny_resnet")
    loss, logits = method.loss(model, x, y, Step(1, 2, model))
    seen = x.clone().requires_grad_()
    known = other(seen)
    (g,) = torch.autograd.grad(known[range(4), y].sum(), seen, retain_graph=True)
    by_hand = ascood_loss(known, y, other(add_gradient(x, g, 2.0, 0.1)), 1.0)
    assert torch.equal(logits, known) and torch.equal(loss, by_hand)
    loss.backward(), by_hand.backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), other.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers())) and model.backbone.bn1.num_batches_tracked == 2


def test_shared_attribution_is_refused_for_a_wrapped_model():
    model, (x, y) = fresh("tiny_resnet")[0], a_batch(4, 16)
    with pytest.raises(ValueError, match="one process; choose 'eval'") as caught:
        ASCOOD(attribution_mode="shared").loss(torch.nn.Sequential(model), x, y, Step(1, 2, model))
    assert len(str(caught.value)) < 200


def test_a_step_costs_one_forward_pass_less_than_the_textbook_one():
    row = count_step("tiny_resnet", 32)
    assert row["attribution (F)"] == pytest.approx(2, abs=1e-3) and 5.9 < row["training (F)"] < 6
    assert row["textbook (F)"] - row["step (F)"] == pytest.approx(1, abs=1e-3)
    assert 0.9 < row["step (F)"] - row["shared (F)"] < 1


def test_steps_are_timed_in_turns():
    said = []
    seconds = alternate({name: lambda name=name: said.append(name) for name in "ab"}, repeats=2)
    assert said == list("ababab") and seconds.shape == (2, 2) and (seconds >= 0).all(axis=None)


def test_every_arm_trains_and_begins_with_the_same_weights():
    steps = arms("tiny_resnet", 16, 4)
    losses = {name: float(step()) for name, step in steps.items()}
    assert losses["textbook"] == pytest.approx(losses["input gradient alone"], rel=1e-4) == pytest.approx(losses["and channels_last"], rel=1e-4)
    assert losses["textbook"] == pytest.approx(losses["and bf16"], rel=0.05) and len(steps) == 5
    assert all(float(step()) != losses[name] for name, step in steps.items())
