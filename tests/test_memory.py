"""Memory of an evaluation by the number of images."""

import weakref
from collections import OrderedDict
from dataclasses import replace

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ascood.data import LazyImages
from ascood.evaluation import score_benchmark
from ascood.models import Backbone, Classifier

WIDTH = 1024  # features of the stub network


class _Repeated:
    "Few images, repeated: as many as are asked for, without storing them."

    def __init__(self, n):
        self.n, self.few = n, torch.randn(64, 3, 2, 2)

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.few[i % 64]


class _Peak(TorchDispatchMode):
    "The most bytes that tensors which were made meanwhile took at one time."
    live = peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        read, made = ([t.untyped_storage() for t in tree_leaves(each) if isinstance(t, torch.Tensor)]
                      for each in ((args, kwargs), out))
        for storage in {s._cdata: s for s in made if s._cdata not in {r._cdata for r in read}}.values():
            self.live += storage.nbytes()
            weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out

    def _free(self, size: int):
        self.live -= size


def _peak(rows: int, holdout) -> int:
    "The most bytes at one time, of an evaluation with a test set of so many images."
    def images(n, label):
        return LazyImages(_Repeated(n), label, nn.Identity(), scoring_batch=256)

    known = images(256, torch.arange(256) % holdout.num_classes)
    small = replace(holdout, train=known, val=known, test=known, ood_val={"o": images(256, -1)},
                    ood={"far": {"many": images(rows, -1)}})
    network = Classifier(Backbone(OrderedDict(layer1=nn.Conv2d(3, WIDTH, 1)), WIDTH), holdout.num_classes,
                         normalization="none").eval()
    with _Peak() as counter:
        found = score_benchmark(network, small, ["MSP", "EBO", "MLS", "ASH"], memory=0)
    assert not found.gaps and all(len(scores["far", "many"]) == rows for scores in found.scores.values())
    return counter.peak


def test_tensors_made_on_the_way_do_not_grow_with_the_images(holdout):
    """Counted, so it does not depend on what an allocator keeps: activations go to a file, and no step copies all of
    them. When a cycle is freed varies by a batch or two."""
    few, many = (_peak(rows, holdout) for rows in (2000, 6000))
    assert many - few < 4 * WIDTH * 4000 / 2, f"{few / 2**20:.1f} MiB for 2000 images, {many / 2**20:.1f} MiB for 6000"
