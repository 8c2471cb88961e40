import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from ascood.models import load_classifier
from ascood.training import ASCOOD, CrossEntropy, Step, TrainConfig, checked, create_method, create_optimizer, train

SETTINGS = dict(alpha_max=3.0, alpha_min=0.3, weight=0.1)
SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from ascood.data import load_benchmark
from ascood.training import ASCOOD, TrainConfig, train
train(ASCOOD(alpha_max=3.0, alpha_min=0.3, weight=0.1), load_benchmark("scene-digits"), TrainConfig(epochs=4), sys.argv[1], progress=False)
"""


def test_killed_process_goes_on_and_ends_with_the_same_bits(tmp_path, digits):
    whole = train(ASCOOD(**SETTINGS), digits, TrainConfig(epochs=4), tmp_path / "whole", progress=False)
    cut = tmp_path / "cut"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(cut)], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    deadline = time.time() + 120
    while not list(cut.glob("state-0*")) and time.time() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL and list(cut.glob("state-0*")) and not (cut / "model.safetensors").exists()
    resumed = train(ASCOOD(**SETTINGS), digits, TrainConfig(epochs=4), cut, progress=False)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    same = ["epoch", "lr", "alpha", "loss", "accuracy", "val_accuracy"]
    pd.testing.assert_frame_equal(resumed.history[same], whole.history[same])
    assert sorted(p.name for p in cut.iterdir()) == ["history.csv", "model.safetensors", "settings.json"]


def interrupted(folder, digits, epochs=3):
    "A run that was stopped in its second epoch."

    class Stopped(CrossEntropy):
        def loss(self, model, x, y, step):
            if step.epoch == 1:
                raise KeyboardInterrupt
            return super().loss(model, x, y, step)

    with pytest.raises(KeyboardInterrupt):
        train(Stopped(), digits, TrainConfig(epochs=epochs), folder, progress=False)
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


def test_a_half_written_state_is_ignored(tmp_path, digits):
    state = interrupted(tmp_path, digits)
    (tmp_path / "state.unfinished").mkdir()
    (tmp_path / "state.unfinished" / "model.safetensors").write_bytes(b"half")
    assert len(train(CrossEntropy(), digits, TrainConfig(epochs=3), tmp_path, progress=False).history) == 3
    assert not state.exists()


def test_finished_run_is_not_trained_again(tmp_path, digits):
    first = train(CrossEntropy(), digits, TrainConfig(epochs=1), tmp_path, progress=False)
    stamp = first.checkpoint.stat().st_mtime_ns
    again = train(CrossEntropy(), digits, TrainConfig(epochs=1), tmp_path, progress=False)
    assert again.checkpoint.stat().st_mtime_ns == stamp and len(again.history) == 1


def test_other_settings_in_the_same_folder_are_refused(tmp_path, digits):
    train(CrossEntropy(), digits, TrainConfig(epochs=1), tmp_path, progress=False)
    with pytest.raises(ValueError, match="lr 0.05 -> 0.2.*choose another folder"):
        train(CrossEntropy(), digits, TrainConfig(epochs=1, lr=0.2), tmp_path, progress=False)
    assert json.loads((tmp_path / "settings.json").read_text())["lr"] == 0.05


def test_nan_stops_with_step_and_settings_and_keeps_the_state(tmp_path, digits):
    class Breaks(CrossEntropy):
        def loss(self, model, x, y, step):
            loss, logits = super().loss(model, x, y, step)
            return (loss * float("nan") if step.epoch == 1 else loss), logits

    with pytest.raises(FloatingPointError, match=r"epoch 1, step 0, at learning rate .* lower lr") as caught:
        train(Breaks(), digits, TrainConfig(epochs=2), tmp_path, progress=False)
    assert "\n" not in str(caught.value) and (tmp_path / "state-0000").is_dir()


def test_seeds_decide_the_weights(tmp_path, digits):
    a, b, c = (train(CrossEntropy(), digits, TrainConfig(epochs=1, seed=s), tmp_path / n, progress=False).checkpoint.read_bytes()
               for s, n in ((0, "a"), (0, "b"), (1, "c")))
    assert a == b != c


def test_learning_rate_falls_by_step_and_the_head_has_its_own():
    model = CrossEntropy().create_model(TrainConfig(), 3)
    optimizer, schedule = create_optimizer(model, TrainConfig(lr=0.1, head_lr_factor=0.05), steps=10)
    head = {id(p) for p in model.head.parameters()}
    for group, lr in zip(optimizer.param_groups, (0.1, 0.005)):
        assert group["lr"] == pytest.approx(lr) and group["nesterov"] and group["weight_decay"] == 5e-4
        assert ({id(p) for p in group["params"]} == head) == (lr == 0.005)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


def test_ascood_reads_one_concatenated_batch():
    "Batch norm must see images and outliers together."
    method = ASCOOD(**SETTINGS)
    model, sizes = method.create_model(TrainConfig(), 3), []
    model.backbone.register_forward_pre_hook(lambda module, inputs: sizes.append((len(inputs[0]), module.training)))
    method.loss(model.train(), torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]), Step(0, 1, model))
    assert sizes == [(4, False), (8, True)]


def test_energy_variant_and_ablations_train(tmp_path, digits):
    for i, changes in enumerate(({"uncertainty": "energy"}, {"normalization": "none"}, {"synthesis": "gaussian"}, {"attribution_mode": "train"})):
        run = train(ASCOOD(**SETTINGS | changes), digits, TrainConfig(epochs=1), tmp_path / str(i), progress=False)
        assert load_classifier(run.checkpoint).normalization == changes.get("normalization", "zscore")


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: create_method("ascod"), "unknown method 'ascod'; choose one of"),
        (lambda: create_method("ascood", lamda=1), "unknown setting 'lamda'"),
        (lambda: create_method("ascood", fraction=1.5), "fraction: .* not 1.5"),
        (lambda: create_method("ascood", synthesis="swap"), "unknown synthesis 'swap'"),
        (lambda: create_method("cross_entropy", normalization="z"), "unknown normalization"),
        (lambda: checked(TrainConfig, "training", epochs=0), "epochs: .* not 0"),
        (lambda: checked(TrainConfig, "training", backbone="resnet"), "unknown backbone"),
        (lambda: checked(TrainConfig, "training", mixed_precision="half"), "mixed_precision"),
    ],
)
def test_impossible_settings_are_one_line(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
