"The benchmark notebook, run small, and attribution that shares the training pass."
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from ascood.losses import ascood_loss
from ascood.models import Classifier, create_backbone
from ascood.synthesis import add_gradient
from ascood.training import ASCOOD, Step

ROOT = Path(__file__).parents[1]


def fresh():
    torch.manual_seed(0)
    return Classifier(create_backbone("tiny_resnet"), 10).train(), torch.randn(4, 3, 16, 16), torch.randint(10, (4,))


def test_the_benchmark_runs_and_writes_its_tables(tmp_path):
    "The notebook itself checks that both steps give the same loss, and that ours needs one forward pass less."
    words = ["nbs/experiments/benchmark.ipynb", tmp_path / "out.ipynb", "-p", "networks", "{tiny_resnet: [16, 4]}",
             "-p", "seconds", "0.01",
             "-p", "detectors", "[MSP, KNN]", "-p", "images", "20", "-p", "results", tmp_path]
    done = subprocess.run([sys.executable, "-m", "ascood.study.notebooks", *map(str, words)], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = pd.read_csv(next((tmp_path / "benchmarks").glob("step_*.csv")))
    assert steps["precision"].tolist() == ["fp32", "bf16"] and (steps[["textbook (s)", "ours (s)"]] > 0).all(axis=None)
    assert len(pd.read_csv(next((tmp_path / "benchmarks").glob("scoring_*.csv")))) == 2


def test_shared_attribution_is_the_gradient_of_the_training_pass():
    "Written out: G from the pass in training mode over x, then a pass over x' by itself; batch norm has seen both."
    method, (model, x, y), (other, _, _) = ASCOOD(attribution_mode="shared", alpha_max=2.0,
                                                  alpha_min=2.0), fresh(), fresh()
    loss, logits = method.loss(model, x, y, Step(1, 2, model))
    seen = x.clone().requires_grad_()
    known = other(seen)
    (g,) = torch.autograd.grad(known[range(4), y].sum(), seen, retain_graph=True)
    by_hand = ascood_loss(known, y, other(add_gradient(x, g, 2.0, 0.1)), 1.0)
    assert torch.equal(logits, known) and torch.equal(loss, by_hand)
    loss.backward(), by_hand.backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), other.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers()))
    assert model.backbone.bn1.num_batches_tracked == 2


def test_shared_attribution_is_refused_for_a_wrapped_model():
    model, x, y = fresh()
    with pytest.raises(ValueError, match="one process; choose 'eval'") as caught:
        ASCOOD(attribution_mode="shared").loss(torch.nn.Sequential(model), x, y, Step(1, 2, model))
    assert len(str(caught.value)) < 200
