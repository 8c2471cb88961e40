import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)

from ascood.data import load_benchmark
from ascood.models import load_classifier
from ascood.training import CrossEntropy, TrainConfig, train


LONGEST = ("test_workflow", "test_training", "test_detectors", "test_own", "test_experiments", "test_disk", "test_baselines", "test_premises")


def pytest_collection_modifyitems(items):
    "The longest files first, so that all processes end at about the same time."
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def digits():
    return load_benchmark("scene-digits")


@pytest.fixture(scope="session")
def holdout():
    return load_benchmark("scene-digits-holdout")


@pytest.fixture(scope="session")
def trained(holdout, tmp_path_factory):
    "A small model that has learned something."
    run = train(CrossEntropy(), holdout, TrainConfig(epochs=6, batch_size=32), tmp_path_factory.mktemp("trained"), progress=False)
    return load_classifier(run.checkpoint)
