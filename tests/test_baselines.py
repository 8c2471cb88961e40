import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from pytorch_ood import loss as library
from conftest import stopping
from torch import nn

from ascood import baselines, training
from ascood.baselines import (
    CIDER, GODIN, MixOE, NPOS, OE, VOS, ConfBranch, FeatureQueue, LogitNorm, compactness, dispersion, hinted_loss, mix_outliers, moved_prototypes,
)
from ascood.data import ImageSet
from ascood.models import Backbone, load_classifier
from ascood.synthesis import SYNTHESES
from ascood.training import CrossEntropy, Step, TrainConfig, create_method, create_optimizer, list_methods, train

SMALL = {  # outliers are made within the first steps
    "vos": dict(start=0, queue=4, sample_from=50),
    "npos": dict(start=0, queue=6, k=2, boundary=3, candidates=4, dim=8),
    "cider": dict(dim=8),
}
NAMES = ["conf_branch", "rot_pred", "godin", "vos", "logit_norm", "cider", "npos", "oe", "mixoe"]
OWN_SCORES = ["ConfBranch", "RotPred", "G-ODIN", "EBO", "MSP", "KNN", "KNN", "MSP", "MSP"]
CONFIG = TrainConfig(epochs=1, batch_size=32)


def some(images: ImageSet, every: int) -> ImageSet:
    return ImageSet(images.images[::every], images.labels[::every], images.transform)


@pytest.fixture(scope="module")
def tiny(holdout):
    return replace(holdout, train=some(holdout.train, 5), val=some(holdout.val, 10),
                   auxiliary=some(holdout.auxiliary, 20))


@pytest.fixture(scope="module")
def batch(tiny):
    return tiny.train[list(range(0, 160, 10))]


def small(name: str) -> CrossEntropy:
    return create_method(name, **SMALL.get(name, {}))


# Training


def test_every_method_is_known_by_name_with_its_score_and_needs():
    assert set(NAMES) <= set(list_methods())
    assert [create_method(n).own_score for n in NAMES] == OWN_SCORES
    assert [n for n in NAMES if create_method(n).needs_outliers] == ["oe", "mixoe"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_is_interrupted_ends_with_the_same_bits_and_its_checkpoint_has_them(tmp_path, tiny, batch,
                                                                                       monkeypatch, name):
    method, config, trained, finish = small(name), TrainConfig(epochs=2, batch_size=32), [], training._finish
    monkeypatch.setattr(training, "_finish", lambda run,
                        *rest: (trained.append(run.bare.eval()), finish(run, *rest))[1])
    whole = train(method, tiny, config, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(stopping(type(method), 2)(**dict(method)), tiny, config, tmp_path / "cut", progress=False)
    assert list((tmp_path / "cut").glob("state-0001")) and not (tmp_path / "cut" / "model.safetensors").exists()
    resumed = train(method, tiny, config, tmp_path / "cut", progress=False)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert resumed.history.loss.tolist() == whole.history.loss.tolist()
    loaded, (x, _) = load_classifier(whole.checkpoint).requires_grad_(False), batch
    assert type(loaded) is type(trained[0]) and loaded.architecture() == trained[0].architecture()
    assert torch.equal(loaded(x), trained[0](x)) and loaded(x).shape == (16, 8) and loaded.features(x).shape == (16, 64)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("epoch", [1, 10])
def test_every_parameter_has_a_gradient_before_and_after_the_start(tiny, batch, name, epoch):
    "Several processes wait for the gradient of each."
    settings = SMALL.get(name, {}) | ({"start": 0.5, "queue": 2} if name in ("vos", "npos") else {})
    method = create_method(name, **settings | ({"k": 1, "boundary": 1} if name == "npos" else {}))
    model = method.create_model(TrainConfig(), 8)
    for _ in range(2):
        loss, _ = method.loss(model, *batch, Step(epoch, 10, model, tiny.auxiliary[list(range(16))][0]))
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    create_optimizer(model, TrainConfig(), 1)


@pytest.mark.parametrize("name", ["oe", "mixoe"])
def test_without_auxiliary_outliers_there_is_no_training(tmp_path, tiny, name):
    for auxiliary in (None, some(tiny.auxiliary, 10)):
        with pytest.raises(ValueError,
            match=f"{name} learns from auxiliary outliers.*scene-digits-holdout has {len(auxiliary or ())}"):
            train(create_method(name), replace(tiny, auxiliary=auxiliary), CONFIG, tmp_path, progress=False)
    assert not list(tmp_path.glob("state*")) and not (tmp_path / "history.csv").exists()


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("godin", {"tau": 1}, "unknown setting 'tau'"),
        ("vos", {"select": 5, "sample_from": 4}, "select 5 exceeds sample_from 4"),
        ("npos", {"k": 100}, "k 100 must be less than"),
        ("mixoe", {"mix": "mixup"}, "mix:"),
    ],
)
def test_impossible_settings_are_one_line(name, settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        create_method(name, **settings)
    assert "\n" not in str(caught.value)


# Losses, by hand


class Flat(Backbone):
    "Channel means and their negatives as features: what a model with it computes can be done by hand."

    def __init__(self):
        nn.Sequential.__init__(self)
        self.num_features = 6

    def forward(self, x):
        return torch.cat([x, -x], 1)


@pytest.fixture
def flat(monkeypatch):
    monkeypatch.setattr(training, "create_backbone", lambda name, pretrained: Flat())


def test_confidence_branch_weighs_the_cost_with_lambda_of_before(flat):
    method = ConfBranch(weight=0.2)
    model = method.create_model(TrainConfig(), 3)
    x, y = torch.randn(6, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    torch.manual_seed(5)
    loss, logits = method.loss(model, x, y, Step(1, 1, model))
    torch.manual_seed(5)
    hinted = torch.rand(6, 1) < 0.5
    assert 0 < hinted.sum() < 6
    p, c = logits.softmax(1)[range(6), y], model.confidence(model.features(x)).sigmoid()[:, 0]
    used = torch.where(hinted[:, 0], c, 1.0)
    by_hand = -(used * p + 1 - used).log().mean() - 0.2 * c.log().mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert model.weight.item() == pytest.approx(0.2 / 0.99)  # half sure: dearer than the budget


def test_methods_with_outliers_read_one_batch_of_both(tiny, batch):
    "Batch norm must see images and outliers together."
    outliers = tiny.auxiliary[list(range(16))][0]
    for method in (OE(), MixOE()):
        model, seen = method.create_model(TrainConfig(), 8), []
        model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        method.loss(model, *batch, Step(1, 1, model, outliers))
        (both,) = seen
        assert len(both) == 32 and torch.equal(both[:16], batch[0]) and not torch.equal(both[16:], batch[0])


# MixOE


def test_cutmix_covers_one_box_and_says_how_much():
    torch.manual_seed(0)
    share = torch.linspace(0, 1, 50)
    mixed, left = mix_outliers(torch.zeros(50, 3, 20, 20), torch.ones(50, 3, 20, 20), share)
    assert torch.equal(mixed[:, 0], mixed[:, 2])
    for image, part in zip(mixed[:, 0], left):
        rows, columns = image.amax(1), image.amax(0)
        assert torch.equal(image, rows[:, None] * columns)  # a rectangle...
        assert (rows.diff().abs().sum() <= 2) and (columns.diff().abs().sum() <= 2)  # ...without gaps
        assert part.item() == pytest.approx(1 - image.mean().item(), abs=1e-6)
    assert (left >= share - 0.11).all() and left[-1] == 1  # at most by whole pixels more than wanted
    assert len({tuple(image.flatten().tolist()) for image in mixed[:-5, 0]}) > 35  # each image has its own place


def test_mixoe_by_hand():
    x, outliers, y = torch.zeros(8, 3, 4, 4), torch.ones(8, 3, 4, 4), torch.tensor([0, 1] * 4)
    seen = []

    def model(both):
        seen.append(both)
        return torch.stack([both.mean((1, 2, 3)), torch.zeros(len(both))], 1)

    loss, _ = MixOE(weight=3.0).loss(model, x, y, Step(1, 1, None, outliers))
    away = seen[0][8:].mean((1, 2, 3)).double()  # 1 - l of each image, since images are 0 and outliers 1
    assert away.std() > 0.05  # each image has its own
    log_p = [(a - math.log(math.exp(a) + 1), -math.log(math.exp(a) + 1)) for a in away.tolist()]
    wanted = [((1 - a) * (k == 0) + a / 2, (1 - a) * (k == 1) + a / 2) for a, k in zip(away.tolist(), y.tolist())]
    soft = [-sum(t * lp for t, lp in zip(*pair)) for pair in zip(wanted, log_p)]
    assert loss.item() == pytest.approx(math.log(2) + 3 * sum(soft) / 8, rel=1e-5)


# No step waits for the device

READS = {f"aten::{name}" for name in (
    "item", "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "bincount", "equal", "_unique2",
    "unique_dim", "unique_consecutive")}


@pytest.mark.parametrize("method",
    [create_method("cross_entropy"), *(create_method("ascood", synthesis=kind) for kind in SYNTHESES),
                                    create_method("ascood", uncertainty="energy"),
                                    *map(small, NAMES)], ids=repr)
def test_a_step_reads_no_value_from_the_device(method, holdout, tmp_path, monkeypatch):
    "From one batch to the next. What would make a GPU wait is an operation on a CPU too, and the profiler sees it."
    steps, profile = [], torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])

    class Watched(type(method)):
        name: ClassVar[str] = "watched"

        def loss(self, model, x, y, step):
            steps.append(step)
            if len(steps) == 4:
                profile.start()
            elif len(steps) == 5:
                profile.stop()
                raise KeyboardInterrupt
            return super().loss(model, x, y, step)

    monkeypatch.setattr(training, "_METHODS", dict(training._METHODS))
    monkeypatch.setattr(training, "_read", lambda *run: None)  # once a second it does read
    monkeypatch.setattr(training, "_epoch_row", lambda *run: {})
    with pytest.raises(KeyboardInterrupt):
        train(Watched(**method.model_dump()), holdout, CONFIG, tmp_path, progress=False)
    ran = {event.key for event in profile.key_averages()}
    assert "aten::convolution_backward" in ran and any("Optimizer.step" in name for name in ran)
    assert not ran & READS


# Queues and synthesis


def test_losses_are_those_of_pytorch_ood():
    torch.manual_seed(0)
    logits, y, c = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2]), torch.rand(6, 1)
    hinted, outliers = torch.rand(6, 1) < 0.5, torch.randn(4, 3)
    both, labels = torch.cat([logits, outliers]), torch.cat([y, torch.full((4,), -1)])
    step = Step(1, 1, None, torch.zeros(4, 1))
    used = torch.where(hinted, c, 1.0)
    pairs = [(hinted_loss(logits, c, y, hinted)[0], library.ConfidenceLoss(alpha=0.0)(logits, used, y)),
             (LogitNorm(tau=0.2).loss(lambda x: logits, None, y, None)[0], library.LogitNorm(0.2)(logits, y)),
             (OE(weight=0.7).loss(lambda x: both, torch.zeros(6, 1), y, step)[0],
              library.OutlierExposureLoss(0.7, "sum")(both, labels) / 6)]
    net = VOS(queue=4).create_model(TrainConfig(), 3)
    net.head = nn.Identity()
    pairs.append((net.regularised(logits, y, outliers, 0.3),
                  library.VOSRegLoss(net.phi, net.energy_weights, 0.3)(both, labels)))
    for found, expected in pairs:
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("length", [1, 3, 50])
def test_queue_keeps_the_last_of_each_class(length):
    torch.manual_seed(length)
    queue, lists = FeatureQueue(3, length, 2), [[], [], []]
    for _ in range(6):
        h, y = torch.randn(10, 2), torch.randint(3, (10,))
        queue.push(h, y)
        for one, k in zip(h.tolist(), y.tolist()):
            lists[k].append(one)
    for k in range(3):
        kept = sorted(queue.features[k, : min(length, len(lists[k]))].tolist())
        assert kept == sorted(torch.tensor(lists[k][-length:]).tolist()) and queue.seen[k] == len(lists[k])
    assert queue.full() == (length < 50)


@pytest.mark.parametrize("kind, settings", [(VOS, {"queue": 2}), (NPOS, {"queue": 2, "k": 1, "boundary": 2, "dim": 8})])
def test_no_outliers_before_the_start_or_before_the_queues_are_full(batch, monkeypatch, kind, settings):
    calls, maker = [], {VOS: "virtual_outliers", NPOS: "boundary_outliers"}[kind]
    make = getattr(baselines, maker)
    monkeypatch.setattr(baselines, maker, lambda *a: calls.append(step.epoch) or make(*a))
    method = kind(start=0.4, **settings)
    model = method.create_model(TrainConfig(), 8)
    for epoch in (4, 5, 6):  # two images of each class a batch: full after the first
        step = Step(epoch, 10, model)
        method.loss(model, *batch, step)
    assert calls == [5, 6]
    calls.clear()
    model = method.create_model(TrainConfig(), 8)
    step = Step(10, 10, model)
    method.loss(model, *batch, step)
    assert calls == []
    method.loss(model, *batch, step)
    assert calls == [10]


# Prototypes


def test_prototypes_follow_their_images_one_by_one():
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    z, y = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.6, 0.8]]), torch.tensor([0, 0, 1])
    moved = moved_prototypes(prototypes, z, y, 0.5)
    first = torch.tensor([0.25, 0.25 * 1 - 0.5 * 1])  # halved twice, the earlier image halved once more
    second = torch.tensor([0.3, 0.9])
    assert torch.allclose(moved, torch.stack([first / first.norm(), second / second.norm(), prototypes[2]]), atol=1e-6)


def test_weight_decay_spares_only_the_numerator_of_the_quotient():
    model = GODIN().create_model(TrainConfig(), 8)
    optimizer, _ = create_optimizer(model, TrainConfig(weight_decay=0.1), 1)
    spared = [p for g in optimizer.param_groups if g["weight_decay"] == 0 for p in g["params"]]
    assert len(spared) == 1 and spared[0] is model.head.weight
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    for name in NAMES:
        groups = create_optimizer(small(name).create_model(TrainConfig(), 8), TrainConfig(), 1)[0].param_groups
        assert all(g["weight_decay"] for g in groups) == (name != "godin")


def test_cider_weighs_compactness_and_sends_dispersion_through_the_prototypes(flat):
    method = CIDER(dim=4, weight=3.0)
    model = method.create_model(TrainConfig(), 3)
    x, y = torch.randn(6, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    old = model.head.prototypes.clone()
    loss, logits = method.loss(model, x, y, Step(1, 1, model))
    z = model.head.embed(model.features(x))
    moved = moved_prototypes(old, z, y, 0.95)
    by_hand = dispersion(moved, 0.1) + 3.0 * compactness(z, y, moved.detach(), 0.1)
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5) and torch.equal(model.head.prototypes, moved.detach())
    weight = model.head.projection[0].weight
    (got,), (want,) = torch.autograd.grad(loss, weight), torch.autograd.grad(by_hand, weight)
    assert torch.allclose(got, want, atol=1e-6) and want.norm() > 0


# Gradients


def test_vos_survives_energy_weights_that_fell_below_zero(holdout):
    method = create_method("vos", start=0, queue=2)
    model = method.create_model(TrainConfig(), holdout.num_classes)
    model.energy_weights.weight.data.fill_(-1)
    x, y = holdout.val[range(40)]
    for _ in range(4):  # the first steps fill the queue
        loss, _ = method.loss(model, x, y, Step(1, 1, model))
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_losses_of_prototypes_do_not_lose_bits_under_autocast():
    "In bf16 the cosines over tau = 0.1 were too coarse: CIDER ended at 60 % accuracy instead of 98."
    z, y, found = F.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)),
                              dim=1), torch.arange(16) % 4, []
    for enabled in (False, True):
        torch.manual_seed(0)
        head = baselines.PrototypeHead(6, 4, 8, 0.1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append((*baselines.CIDER(dim=8).closed_loss(z, y, head), head.prototypes))
    assert all(torch.equal(plain, cast) and cast.dtype == torch.float32 for plain, cast in zip(*found))
