"""Several processes train as one does: they share every step."""

import multiprocessing
import os
import socket
from collections import OrderedDict

import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from ascood import models
from ascood.data import ImageSet
from ascood.training import ASCOOD, TrainConfig, train

CONFIG = {"epochs": 2, "batch_size": 16, "lr": 0.05}


def _without_batch_norm(weights) -> models.Backbone:
    layers = [("conv1", nn.Conv2d(3, 8, 3, 2)), ("layer1", nn.Sequential(nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()))]
    return models.Backbone(OrderedDict(layers), num_features=16)


@pytest.fixture
def plain(holdout, monkeypatch):
    "64 images of 16 x 16 without augmentation, and a backbone without batch norm under the name of the smallest one."
    monkeypatch.setitem(models.BACKBONES, "tiny_resnet", _without_batch_norm)
    few = ImageSet(holdout.train.images[:64, :, ::4, ::4], holdout.train.labels[:64], holdout.val.transform)
    return type(holdout)(**{**vars(holdout), "train": few, "val": few})


def _train(rank, port, benchmark, config, folder):
    "One of two processes, as `accelerate launch --cpu` starts them."
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # a copy of this process would take itself for the only one
    try:
        train(ASCOOD(alpha_max=3, weight=0.1), benchmark, TrainConfig(**config), folder, progress=False)
    except ValueError as error:
        (folder / f"error-{rank}").write_text(str(error))


def _by_two(benchmark, config, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [multiprocessing.get_context("fork").Process(target=_train, args=(rank, port, benchmark, config, folder))
               for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="copies of a process that has used a GPU cannot use it")
def test_two_processes_give_the_losses_and_the_weights_of_one(plain, tmp_path):
    "The outliers are made from gradients, so attribution, z-scores and both losses are compared too."
    one = train(ASCOOD(alpha_max=3, weight=0.1), plain, TrainConfig(**CONFIG), tmp_path / "one", progress=False)
    (tmp_path / "two").mkdir()
    _by_two(plain, CONFIG, tmp_path / "two")
    columns = ["loss", "accuracy", "lr", "val_accuracy"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "two" / "history.csv")[columns], one.history[columns],
                                  rtol=1e-4)
    weights = [models.load_classifier(tmp_path / which / "model.safetensors").state_dict() for which in ("one", "two")]
    for name, values in weights[0].items():
        torch.testing.assert_close(weights[1][name], values, rtol=1e-3, atol=1e-5)
    assert one.history["loss"].iloc[1] < one.history["loss"].iloc[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="copies of a process that has used a GPU cannot use it")
def test_a_batch_that_cannot_be_shared_is_refused(plain, tmp_path):
    _by_two(plain, CONFIG | {"batch_size": 15}, tmp_path)
    assert "batch_size 15 cannot be shared equally by 2 processes" in (tmp_path / "error-0").read_text()
