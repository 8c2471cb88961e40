import json
import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from accelerate.utils import set_seed
from conftest import stopping
from torch import nn

from ascood import training
from ascood.baselines import CIDER
from ascood.data import ImageSet, load_benchmark
from ascood.models import Backbone, Classifier, load_classifier
from ascood.training import ASCOOD, CrossEntropy, Step, TrainConfig, create_method, create_optimizer, train

SETTINGS = dict(alpha_max=3.0, alpha_min=0.3, weight=0.1)
SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from ascood.data import ImageSet, load_benchmark
from ascood.training import ASCOOD, TrainConfig, train
train(eval(sys.argv[2]), load_benchmark("scene-digits", n_train=40), TrainConfig(epochs=6), sys.argv[1], progress=False)
"""


@pytest.fixture(scope="module")
def few_digits():
    return load_benchmark("scene-digits", n_train=40)


def test_killed_process_goes_on_and_ends_with_the_same_bits(tmp_path, few_digits):
    method = ASCOOD(**SETTINGS)
    whole = train(method, few_digits, TrainConfig(epochs=6), tmp_path / "whole", progress=False)
    cut = tmp_path / "cut"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(cut), repr(method)],
                               env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    deadline = time.time() + 300
    while not list(cut.glob("state-0*")) and time.time() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL and list(cut.glob("state-0*"))
    assert not (cut / "model.safetensors").exists()
    resumed = train(method, few_digits, TrainConfig(epochs=6), cut, progress=False)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    same = ["epoch", "lr", "alpha", "loss", "accuracy", "val_accuracy", "kept"]
    pd.testing.assert_frame_equal(resumed.history[same], whole.history[same])
    assert sorted(p.name for p in cut.iterdir()) == ["history.csv", "model.safetensors", "settings.json",
                                                     "settings.json.lock"]


REFERENCE = np.load(Path(__file__).parent / "reference" / "reference_training.npz")


def theirs(at: str) -> dict[str, torch.Tensor]:
    "The released trainer's weights and buffers at some time, by our names."
    names = {key: key.removeprefix(f"{at}/").replace("backbone.fc.", "head.") for key in REFERENCE
             if key.startswith(f"{at}/")}
    return {name: torch.from_numpy(REFERENCE[key]) for key, name in names.items() if name != "sigma"}


def test_three_epochs_repeat_the_released_trainer():
    """Gradient, synthesis, schedule of alpha, batch norm, loss, optimiser and cosine at once; an alpha that is one
    epoch late is off by 9e-3."""
    layers = OrderedDict(conv1=nn.Conv2d(3, 8, 3, padding=1, bias=False), bn1=nn.BatchNorm2d(8), relu=nn.ReLU(),
                         conv2=nn.Conv2d(8, 16, 3, 2, 1, bias=False), bn2=nn.BatchNorm2d(16), relu2=nn.ReLU())
    model = Classifier(Backbone(layers, 16), 5, "zscore", REFERENCE["epoch1/sigma"].item())
    model.load_state_dict(theirs("init"))
    method = ASCOOD(fraction=0.1, alpha_max=20, alpha_min=2, weight=0.7)
    config = TrainConfig(epochs=3, lr=0.05, head_lr_factor=0.5, min_lr=1e-6)
    optimizer, schedule = create_optimizer(model, config, 12)
    batches = [*zip(torch.from_numpy(REFERENCE["x"]).split(10), torch.from_numpy(REFERENCE["y"]).split(10))]
    for epoch in (1, 2, 3):
        for x, y in batches:
            method.loss(model.train(), x, y, Step(epoch, 3, model))[0].backward()
            optimizer.step(), schedule.step(), optimizer.zero_grad()
        assert method.alpha(epoch, 3) == pytest.approx(REFERENCE["alpha"][epoch - 1])
        assert schedule.get_last_lr() == pytest.approx(REFERENCE[f"lr{epoch}"].tolist(), rel=1e-4)
        expected, found = theirs(f"epoch{epoch}"), model.state_dict()
        assert expected.keys() == found.keys()
        assert max((found[k] - v).abs().max().item() for k, v in expected.items()) < 1e-5


class Counts(ASCOOD):
    "Remembers the epochs that its loss is told, and the weights that each left."

    def loss(self, model, x, y, step):
        Counts.told.append((step.epoch, step.epochs))
        return super().loss(model, x, y, step)


def test_the_loop_counts_epochs_as_the_paper_does(tmp_path, few_digits):
    Counts.told = []
    history = train(Counts(alpha_max=20, alpha_min=2), few_digits, TrainConfig(epochs=3), tmp_path,
                    progress=False).history
    assert list(dict.fromkeys(Counts.told)) == [(1, 3), (2, 3), (3, 3)]
    assert history["epoch"].tolist() == [1, 2, 3] and history["alpha"].tolist() == pytest.approx([14, 8, 2])


def kept_of(monkeypatch, tmp_path, digits, method, accuracies, **settings):
    "The history of a run with given validation accuracies, and after how many epochs its weights were: snapshots tell."
    answers = iter(accuracies)
    monkeypatch.setattr(training, "_accuracy", lambda *a: next(answers))
    n = len(accuracies)
    run = train(method, digits, TrainConfig(epochs=n, **settings), tmp_path, progress=False, snapshots=range(1, n + 1))
    same = [i for i in range(1, n + 1) if all(torch.equal(a, b) for a, b in zip(
        load_classifier(run.checkpoint).state_dict().values(),
        load_classifier(tmp_path / f"snapshot-{i:04d}.safetensors").state_dict().values()))]
    return run.history, same


@pytest.mark.parametrize("accuracies, keep, kept",
                         [((50, 90, 90, 70), "best", 3), ((50, 90, 90, 70), "last", 4), ((80, 70, 60), "best", 1)])
def test_the_best_epoch_is_kept_the_later_of_equals(monkeypatch, tmp_path, few_digits, accuracies, keep, kept):
    history, same = kept_of(monkeypatch, tmp_path, few_digits, CrossEntropy(), accuracies, keep=keep)
    assert same == [kept] and history.loc[history["kept"], "epoch"].tolist() == [kept]


def test_cider_keeps_the_epoch_of_lowest_loss(monkeypatch, tmp_path, few_digits):
    history, same = kept_of(monkeypatch, tmp_path, few_digits, CIDER(dim=8), (90, 10, 10, 20))
    assert same == [history["loss"].idxmin() + 1] == history.loc[history["kept"], "epoch"].tolist()


def test_the_best_weights_survive_an_interruption(tmp_path, few_digits, monkeypatch):
    "The best epoch is the first; the run stops in the third and goes on."
    accuracies = {1: 90, 2: 50, 3: 60}

    def run(method, folder, from_epoch=1):
        answers = iter([accuracies[e] for e in range(from_epoch, 4)])
        monkeypatch.setattr(training, "_accuracy", lambda *a: next(answers))
        return train(method, few_digits, TrainConfig(epochs=3), tmp_path / folder,
                     progress=False).checkpoint.read_bytes()

    with pytest.raises(KeyboardInterrupt):
        run(stopping(CrossEntropy, 3)(), "cut")
    assert run(CrossEntropy(), "cut", 3) == run(CrossEntropy(), "whole")


def test_fp16_goes_on_with_its_scale(tmp_path, few_digits):
    "The loss is scaled; gradients that overflow halve the scale and skip the step, so the scale is part of the state."
    config, train_set = TrainConfig(epochs=2, mixed_precision="fp16", batch_size=8), few_digits.train
    few = ImageSet(train_set.images[::5], train_set.labels[::5], train_set.transform)  # fp16 is slow without a GPU
    few = replace(few_digits, train=few, val=few)

    class Loud(CrossEntropy):
        def loss(self, model, x, y, step):
            loss, logits = super().loss(model, x, y, step)
            return 1e4 * loss, logits

    whole = train(Loud(), few, config, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(stopping(Loud, 2)(), few, config, tmp_path / "cut", progress=False)
    resumed = train(Loud(), few, config, tmp_path / "cut", progress=False)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


def interrupted(folder, digits, epochs=3):
    "A run that was stopped in its second epoch."
    with pytest.raises(KeyboardInterrupt):
        train(stopping(CrossEntropy, 2)(), digits, TrainConfig(epochs=epochs), folder, progress=False)
    (state,) = folder.glob("state-0*")
    return state


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl"])
def test_damaged_state_is_named_with_what_to_do(tmp_path, digits, file):
    state = interrupted(tmp_path, digits)
    data = (state / file).read_bytes()
    (state / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="delete that folder") as caught:
        train(CrossEntropy(), digits, TrainConfig(epochs=3), tmp_path, progress=False)
    assert str(state) in str(caught.value) and "\n" not in str(caught.value)


class _Harmful:
    def __reduce__(self):
        return print, ("unpickled",)


def test_a_state_with_more_than_tensors_is_not_unpickled(tmp_path, digits, capsys):
    torch.save(_Harmful(), interrupted(tmp_path, digits) / "custom_checkpoint_0.pkl")
    with pytest.raises(ValueError, match="saved state .* is damaged"):
        train(CrossEntropy(), digits, TrainConfig(epochs=3), tmp_path, progress=False)
    assert "unpickled" not in capsys.readouterr().out


def test_other_settings_in_the_same_folder_are_refused(tmp_path, digits):
    train(CrossEntropy(), digits, TrainConfig(epochs=1), tmp_path, progress=False)
    with pytest.raises(ValueError, match="lr 0.05 -> 0.2.*choose another folder"):
        train(CrossEntropy(), digits, TrainConfig(epochs=1, lr=0.2), tmp_path, progress=False)
    assert json.loads((tmp_path / "settings.json").read_text())["lr"] == 0.05


def test_nan_stops_with_step_and_settings_and_keeps_the_state(tmp_path, digits):
    class Breaks(CrossEntropy):
        def loss(self, model, x, y, step):
            loss, logits = super().loss(model, x, y, step)
            return (loss * float("nan") if step.epoch == 2 else loss), logits

    with pytest.raises(FloatingPointError, match=r"epoch 2, step 0, at learning rate .* lower lr") as caught:
        train(Breaks(), digits, TrainConfig(epochs=2), tmp_path, progress=False)
    assert "\n" not in str(caught.value) and (tmp_path / "state-0001").is_dir()


@pytest.mark.parametrize("label", [-1, 99])
def test_labels_out_of_range_are_refused_before_training(tmp_path, digits, label):
    wrong = digits.train.changed(labels=digits.train.labels.clone())
    wrong.labels[5] = label
    said = rf"labels of the training images of scene-digits must lie in 0..{digits.num_classes - 1}, but lie in "
    with pytest.raises(ValueError, match=said):
        train(CrossEntropy(), replace(digits, train=wrong), TrainConfig(epochs=1), tmp_path, progress=False)


def test_seeds_decide_the_weights(tmp_path, digits):
    a, b, c = (train(CrossEntropy(), digits, TrainConfig(epochs=1, seed=s), tmp_path / n,
                     progress=False).checkpoint.read_bytes()
               for s, n in ((0, "a"), (0, "b"), (1, "c")))
    assert a == b != c


@pytest.mark.parametrize("spared", [(), ("bias",), ("weight", "bias")])
def test_a_head_says_what_weight_decay_spares(spared):
    model = CrossEntropy().create_model(TrainConfig(), 3)
    model.head.no_weight_decay = spared
    optimizer, _ = create_optimizer(model, TrainConfig(lr=0.1, head_lr_factor=0.5), steps=10)
    found = {p: (g["weight_decay"], g["lr"]) for g in optimizer.param_groups for p in g["params"]}
    assert found == {p: (0 if name.removeprefix("head.") in spared else 5e-4, 0.05 if name.startswith("head.") else 0.1)
                     for name, p in model.named_parameters()}


@pytest.mark.parametrize("views", [1, 2])
def test_a_batch_holds_all_views_and_training_is_prepared_once(tmp_path, digits, views):
    batches, plain, at_start = [], [], []

    class Looks(CrossEntropy):
        views: ClassVar[int] = 2

        def prepare(self, model, known):
            plain.append([(x.clone(), y) for x, y in known])
            model.head.bias.data.fill_(7.0)

        def loss(self, model, x, y, step):
            at_start.append(step.bare.head.bias.mean().item())
            batches.append((x, y))
            if len(batches) == 16:  # in the second epoch, once
                raise KeyboardInterrupt
            return super().loss(model, x, y, step)

    Looks.views = views
    with pytest.raises(KeyboardInterrupt):
        train(Looks(), digits, TrainConfig(epochs=2), tmp_path, progress=False)
    x, y = batches[0]
    assert x.shape == (64 * views, 3, 64, 64) and at_start[0] == 7.0
    for first, second in zip(x.split(64), x.split(64)[1:]):
        assert not torch.equal(first, second)  # other shifts...
        assert (first.mean((2, 3)) - second.mean((2, 3))).abs().max() < 0.2  # ...of the same images
        assert torch.equal(y[:64], y[64:])
    history = train(Looks(), digits, TrainConfig(epochs=2), tmp_path, progress=False).history
    assert len(plain) == 1 and len(history) == 2
    images, labels = torch.cat([x for x, _ in plain[0]]), torch.cat([y for _, y in plain[0]])
    assert torch.equal(images, digits.val.transform(digits.train.images)) and torch.equal(labels, digits.train.labels)


def test_a_run_stopped_in_its_first_epoch_starts_anew_with_the_same_bits(tmp_path, digits):
    class Stopped(CIDER):
        def loss(self, model, x, y, step):
            super().loss(model, x, y, step)  # the prototypes move
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Stopped(dim=8), digits, TrainConfig(epochs=1), tmp_path / "cut", progress=False)
    cut, whole = (train(CIDER(dim=8), digits, TrainConfig(epochs=1), tmp_path / n, progress=False)
                  for n in ("cut", "whole"))
    assert cut.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


def test_ascood_reads_one_concatenated_batch():
    "Batch norm must see images and outliers together."
    method = ASCOOD(**SETTINGS)
    model, sizes = method.create_model(TrainConfig(), 3), []
    model.backbone.register_forward_pre_hook(lambda module, inputs: sizes.append((len(inputs[0]), module.training)))
    method.loss(model.train(), torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]), Step(1, 1, model))
    assert sizes == [(4, False), (8, True)]


def test_no_epochs_keep_the_model_as_it_was_created(tmp_path, digits):
    config = TrainConfig(epochs=0, seed=3)
    run = train(CrossEntropy(), digits, config, tmp_path / "none", progress=False)
    one = train(CrossEntropy(), digits, TrainConfig(epochs=1), tmp_path / "one", progress=False)
    assert len(run.history) == 0 and list(run.history) == list(one.history)
    again = train(CrossEntropy(), digits, config, tmp_path / "none", progress=False)
    assert len(again.history) == 0 and list(again.history) == list(one.history)
    assert float(again.history["seconds"].sum()) == 0
    set_seed(3)
    created = CrossEntropy().create_model(config, digits.num_classes)
    assert all(torch.equal(a, b) for a, b in zip(created.parameters(), load_classifier(run.checkpoint).parameters()))


def imagenet_file(folder) -> str:
    torch.manual_seed(0)
    path = folder / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return str(path)


def test_pretrained_goes_to_a_checkpoint_untrained(tmp_path, digits):
    weights = imagenet_file(tmp_path)
    known = replace(digits, num_classes=1000)
    config = TrainConfig(epochs=0, backbone="resnet18", pretrained=weights)
    run = train(create_method("pretrained"), known, config, tmp_path / "run", progress=False)
    model, file = load_classifier(run.checkpoint), torch.load(weights, weights_only=True)
    assert torch.equal(model.head.weight, file["fc.weight"]) and torch.equal(model.head.bias, file["fc.bias"])
    assert torch.equal(model.backbone.conv1.weight, file["conv1.weight"])
    assert model.normalization == "none" and len(run.history) == 0


def test_two_processes_on_one_folder_take_turns(tmp_path):
    "Both end well, and what is there is what one process alone makes."
    # long enough that the second one finds the first at work
    script = SCRIPT.replace("progress=False", "progress=True").replace("n_train=40", "n_train=120")
    command = [sys.executable, "-c", script.replace("epochs=6", "epochs=2"), str(tmp_path / "both"),
               repr(ASCOOD(**SETTINGS))]
    processes = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
                                  stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True) for _ in range(2)]
    said = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and sum("waiting until it ends" in text
                                                                           for text in said) == 1
    single = train(ASCOOD(**SETTINGS), load_benchmark("scene-digits", n_train=120), TrainConfig(epochs=2),
                   tmp_path / "single", progress=False)
    assert (tmp_path / "both" / "model.safetensors").read_bytes() == single.checkpoint.read_bytes()
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == ["history.csv", "model.safetensors",
                                                                     "settings.json", "settings.json.lock"]


def test_a_finished_run_is_not_trained_again_and_read_without_a_lock(tmp_path, few_digits, monkeypatch):
    "So also from a folder that cannot be written."
    run = train(CrossEntropy(), few_digits, TrainConfig(epochs=1), tmp_path, progress=False)
    stamp = run.checkpoint.stat().st_mtime_ns
    monkeypatch.setattr("ascood.training.FileLock", None)
    again = train(CrossEntropy(), few_digits, TrainConfig(epochs=1), tmp_path, progress=False)
    assert again.history.equals(run.history) and again.checkpoint.stat().st_mtime_ns == stamp
