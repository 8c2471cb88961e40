import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)

from ascood import data, training
from ascood.benchmarks import disk
from ascood.data import Benchmark, ImageSet, _normalize, load_benchmark
from ascood.models import load_classifier
from ascood.training import CrossEntropy, TrainConfig, train


LONGEST = ("test_workflow", "test_clone", "test_training", "test_speed", "test_networks", "test_own", "test_detectors", "test_baselines",
           "test_study", "test_disk")


def pytest_collection_modifyitems(items):
    "The longest files first, so that all processes end at about the same time."
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def registers():
    "What a test declares or registers is forgotten after it."
    kept = [(names, dict(names)) for names in (disk.SPECS, disk._FILES, data._REGISTER, training._METHODS)]
    yield
    for names, before in kept:
        names.clear()
        names.update(before)


@pytest.fixture(scope="session")
def digits():
    return load_benchmark("scene-digits", contrast=1.0)


@pytest.fixture(scope="session")
def holdout():
    return load_benchmark("scene-digits-holdout", contrast=1.0)


@pytest.fixture(scope="session")
def trained(holdout, tmp_path_factory):
    "A small model that has learned something."
    config = TrainConfig(epochs=6, batch_size=32)
    run = train(CrossEntropy(), holdout, config, tmp_path_factory.mktemp("trained"), progress=False)
    return load_classifier(run.checkpoint)


def make_small(pixels: int = 32) -> Benchmark:
    "Stripes of three widths as classes, noise and plain images as outliers: a benchmark that is read in no time."
    generator, classes = torch.Generator().manual_seed(0), torch.arange(36) % 3
    columns = torch.arange(pixels) // (1 + classes[:, None]) % 2 * 120

    def images(base=torch.zeros(12, 1)):
        noise = torch.randint(0, 136, (len(base), 3, pixels, pixels), generator=generator)
        return (noise + base[:, None, None]).to(torch.uint8)

    def known():
        return ImageSet(images(columns), classes, _normalize((0.5,) * 3, (0.5,) * 3))

    train, plain = known(), known().transform
    noise, dark, more = (ImageSet(images(torch.full((n, 1), level)), -1, plain)
                         for n, level in ((12, 90), (12, 0), (36, 60)))
    return Benchmark("small", "conventional", 3, train, known(), known(), {"noise": noise},
                     {"near": {"noise": noise}, "far": {"dark": dark}}, auxiliary=more)


@pytest.fixture(scope="session")
def small():
    return make_small()


def stopping(method: type, epoch: int) -> type:
    "The same method, but for an interruption in the first step of that epoch."
    class Stopped(method):
        def loss(self, model, x, y, step):
            if step.epoch == epoch:
                raise KeyboardInterrupt
            return super().loss(model, x, y, step)

    return Stopped
