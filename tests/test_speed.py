"What `auto` chooses, keeps and records, that profiles do not depend on it, and what a step costs."
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from ascood import training
from ascood.data import ImageSet
from ascood.losses import ascood_loss
from ascood.speed import a_batch, alternate, arms, count_step, fresh
from ascood.study.profiles import load_profile
from ascood.study.runs import train_run
from ascood.synthesis import add_gradient
from ascood.training import ASCOOD, CrossEntropy, Mode, Step, TrainConfig, checked, fastest_mode, possible_modes, probe_modes, settled, train

ROOT = Path(__file__).parents[1]
LONG = TrainConfig(epochs=20)  # 12 steps an epoch: long enough to be probed


@pytest.fixture
def probes(monkeypatch, tmp_path):
    "The probes that are made, with an answer that no machine would give; nothing is kept from before."
    made = []

    def answer(config, size, num_classes, device):
        made.append((config.backbone, *size))
        return {Mode("no", True): 3.0, Mode("bf16", False): 1.0}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(training, "_MODES", {})
    monkeypatch.setattr(training, "probe_modes", answer)
    return made


@pytest.mark.parametrize("profile", ["embedded", "cars-small", "texture-animals", "imagenet-samples"])
def test_committed_runs_keep_their_identity(profile):
    rows = pd.read_csv(ROOT / "results" / profile / "runs.csv").set_index("run_id")
    runs = {run.run_id: run for run in load_profile(profile).runs}
    assert set(rows.index) <= set(runs)
    for run_id, row in rows.iterrows():
        assert json.loads(row["config"]) == runs[run_id].config.model_dump()
        assert (runs[run_id].config.mixed_precision, runs[run_id].config.channels_last) == ("no", True)


def test_a_profile_may_ask_for_auto_and_its_record_says_what_became_of_it(tmp_path, probes):
    text = (ROOT / "nbs/experiments/profiles/smoke.yaml").read_text().replace("train: {", "train: {mixed_precision: auto, ")
    (tmp_path / "mine.yaml").write_text(text)
    run = load_profile(str(tmp_path / "mine.yaml")).runs[0]
    assert "mixed_precision: auto" in text and run.config.mixed_precision == "auto"
    train_run(run.model_copy(update={"config": run.config.model_copy(update={"epochs": 0})}), tmp_path, progress=False)
    (record,) = tmp_path.rglob("run.json")
    assert json.loads(record.read_text())["chosen"] == {"mixed_precision": "no"}


def test_a_long_run_is_probed_once_and_kept_for_other_processes(digits, probes):
    assert settled(LONG, digits) == LONG.model_copy(update={"mixed_precision": "bf16", "channels_last": False})
    assert settled(LONG, digits).mixed_precision == "bf16" and probes == [("tiny_resnet", 64, 64)]
    training._MODES.clear()  # as another process begins
    assert settled(LONG, digits).mixed_precision == "bf16" and len(probes) == 1
    (kept,) = Path(os.environ["XDG_CACHE_HOME"]).rglob("*.json")
    kept.write_text("{")
    training._MODES.clear()
    assert settled(LONG, digits).mixed_precision == "bf16" and len(probes) == 2


def test_short_runs_and_fixed_settings_are_not_probed(digits, probes):
    assert settled(TrainConfig(epochs=4), digits) == TrainConfig(epochs=4, mixed_precision="no", channels_last=True)
    fixed = LONG.model_copy(update={"mixed_precision": "bf16", "channels_last": True})
    assert settled(fixed, digits) == fixed and probes == []


def test_an_open_memory_order_leaves_the_precision_alone(digits, probes):
    assert settled(TrainConfig(epochs=20, mixed_precision="no"), digits) == TrainConfig(epochs=20, mixed_precision="no", channels_last=False)


def test_a_cache_that_cannot_be_written_is_none(digits, probes, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert settled(LONG, digits).mixed_precision == "bf16"


def small(digits):
    "Ten steps an epoch at 8 pixels."
    images = digits.train.images[:20, :, ::8, ::8].contiguous()
    return ImageSet(images, digits.train.labels[:20], digits.val.transform)


def test_the_record_counts_and_fixed_settings_repeat_the_run(digits, probes, tmp_path):
    tiny = replace(digits, train=small(digits), val=small(digits))
    auto = TrainConfig(epochs=20, batch_size=2)  # 200 steps
    first = train(CrossEntropy(), tiny, auto, tmp_path / "auto", progress=False)
    record = json.loads((tmp_path / "auto" / "settings.json").read_text())
    assert (record["mixed_precision"], record["channels_last"]) == ("bf16", False) and len(probes) == 1
    training._MODES.clear()
    for kept in Path(os.environ["XDG_CACHE_HOME"]).rglob("*.json"):
        kept.unlink()
    again = train(CrossEntropy(), tiny, auto, tmp_path / "auto", progress=False)  # reads the record
    assert again.history.equals(pd.read_csv(tmp_path / "auto" / "history.csv")) and len(probes) == 1
    fixed = auto.model_copy(update={"mixed_precision": "bf16", "channels_last": False})
    assert train(CrossEntropy(), tiny, fixed, tmp_path / "fixed", progress=False).checkpoint.read_bytes() == first.checkpoint.read_bytes()
    with pytest.raises(ValueError, match="mixed_precision 'bf16' -> 'no'"):
        train(CrossEntropy(), tiny, auto.model_copy(update={"mixed_precision": "no"}), tmp_path / "auto", progress=False)
    (tmp_path / "auto" / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged; delete the folder"):
        train(CrossEntropy(), tiny, auto, tmp_path / "auto", progress=False)


def test_a_probe_leaves_random_numbers_alone_and_drops_what_fails(monkeypatch):
    def step(model, x, y, mode):
        if mode.mixed_precision == "bf16":
            raise RuntimeError("not on this device")
        torch.rand(3)
        return 2.0 if mode.channels_last else 1.0

    monkeypatch.setattr(training, "step_seconds", step)
    torch.manual_seed(5)
    seconds = probe_modes(TrainConfig(batch_size=2), (8, 8), 3)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1)) and list(seconds) == [Mode("no", False)] and fastest_mode(seconds) == Mode("no", False)


def test_a_probe_that_fails_in_32_bits_says_why(monkeypatch):
    def step(model, x, y, mode):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(training, "step_seconds", step)
    with pytest.raises(RuntimeError, match="out of memory"):
        probe_modes(TrainConfig(batch_size=2), (8, 8), 3)


def test_auto_is_a_word_of_its_own():
    assert TrainConfig().mixed_precision == TrainConfig().channels_last == "auto"
    assert TrainConfig.model_validate_json(TrainConfig().model_dump_json()) == TrainConfig()
    assert [*possible_modes(TrainConfig(mixed_precision="no", channels_last=False))] == [Mode("no", False)]
    with pytest.raises(ValueError, match="channels_last"):
        checked(TrainConfig, "training", channels_last="sometimes")


PROGRAM = """
import json, os
from types import SimpleNamespace
import torch
from ascood import training
from ascood.training import Mode, TrainConfig, settled
rank = int(os.environ["RANK"])
training.probe_modes = lambda *_: {Mode("bf16", bool(rank)): 1.0}  # each would choose differently
config = settled(TrainConfig(epochs=20), SimpleNamespace(train=[(torch.zeros(3, 8, 8), 0)] * 800, num_classes=3))
print(json.dumps([rank, config.mixed_precision, config.channels_last]))
"""


def test_processes_of_one_run_agree(tmp_path):
    shared = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(20000 + os.getpid() % 10000), "ACCELERATE_USE_CPU": "true"}
    started = [subprocess.Popen([sys.executable, "-c", PROGRAM], env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "XDG_CACHE_HOME": str(tmp_path / str(rank))},
                                stdout=subprocess.PIPE, text=True) for rank in range(2)]
    said = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in started]
    assert said == [[0, "bf16", False], [1, "bf16", False]]


def test_shared_attribution_is_the_gradient_of_the_training_pass():
    "Written out: G from the pass in training mode over x, then a pass over x' by itself; batch norm has seen both."
    method, (x, y) = ASCOOD(attribution_mode="shared", alpha_max=2.0, alpha_min=2.0), a_batch(4, 16)
    (model, _), (other, _) = fresh("tiny_resnet"), fresh("tiny_resnet")
    loss, logits = method.loss(model, x, y, Step(0, 2, model))
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
        ASCOOD(attribution_mode="shared").loss(torch.nn.Sequential(model), x, y, Step(0, 2, model))
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
    steps = arms("tiny_resnet", 16, 4, Mode("bf16", False))
    losses = {name: float(step()) for name, step in steps.items()}
    assert losses["textbook"] == pytest.approx(losses["input gradient alone"], rel=1e-4) == pytest.approx(losses["and channels_last"], rel=1e-4)
    assert losses["textbook"] == pytest.approx(losses["by default"], rel=0.05) and len(steps) == 5
    assert all(float(step()) != losses[name] for name, step in steps.items())
