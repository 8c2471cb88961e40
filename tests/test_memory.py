"""Memory of an evaluation by the number of images."""

import gc
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ascood.data import LazyImages
from ascood.evaluation import score_benchmark
from ascood.models import Backbone, Classifier
from ascood.speed import counted

WIDTH = 1024  # features of the stub network


def _anonymous_mib() -> float:
    "Memory of this process that no file stands behind: what the system cannot write out by itself."
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 2**10


class _Repeated:
    "Few images, repeated: as many as are asked for, without storing them."

    def __init__(self, n):
        self.n, self.few = n, torch.randn(64, 3, 2, 2)

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.few[i % 64]


def _growth(rows: int, holdout, memory: int) -> float:
    "By how many MiB an evaluation with a test set of so many images grows, at its largest."
    def images(n, label):
        return LazyImages(_Repeated(n), label, nn.Identity(), scoring_batch=256)

    known = images(256, torch.arange(256) % holdout.num_classes)
    small = replace(holdout, train=known, val=known, test=known, ood_val={"o": images(256, -1)}, ood={"far": {"many": images(rows, -1)}})
    network = Classifier(Backbone(OrderedDict(layer1=nn.Conv2d(3, WIDTH, 1)), WIDTH), holdout.num_classes, normalization="none").eval()
    gc.collect()
    before, largest = _anonymous_mib(), 0.0

    def measure(*_):
        nonlocal largest
        largest = max(largest, _anonymous_mib())

    network.backbone.register_forward_hook(measure)
    found = score_benchmark(network, small, ["MSP", "EBO", "MLS", "ASH"], memory=memory)
    measure()
    assert not found.gaps and all(len(scores["far", "many"]) == rows for scores in found.scores.values())
    return largest - before


def test_tensors_made_on_the_way_do_not_grow_with_the_images(holdout):
    "Counted, so it does not depend on what an allocator keeps: activations go to a file, and no step copies all of them. When a cycle is freed varies by a batch or two."
    few, many = (counted(lambda: _growth(rows, holdout, memory=0)).memory.peak for rows in (2000, 6000))
    assert many - few < 4 * WIDTH * 4000 / 2, f"{few / 2**20:.1f} MiB with 2000 images, {many / 2**20:.1f} MiB with 6000"
