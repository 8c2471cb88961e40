"""A process imports what it uses: libraries that take seconds are not in those that have no need of them."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = "torch", "torchvision", "accelerate", "pytorch_ood", "scipy.stats", "timm"


@pytest.mark.parametrize("program, without", [
    ("import ascood", HEAVY),
    ("from ascood.settings import TrainConfig, checked; checked(TrainConfig, 'training', epochs=3)", HEAVY),
    ("import ascood.training, ascood.baselines", HEAVY[3:]),
])
def test_a_fresh_process_is_light(program, without):
    told = f"{program}; import sys; print(*{{*{without!r}}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", told], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr


def test_names_are_those_of_what_the_modules_make():
    from ascood import baselines, detectors, networks, settings, synthesis, training  # noqa: F401 (registers methods)

    assert {*settings.METHOD_NAMES} <= {*training.list_methods()}
    assert settings.DETECTOR_NAMES == tuple(detectors.DETECTORS)
    assert settings.OWN_SCORE_NAMES == tuple(detectors.OWN_SCORES)
    assert settings.BACKBONE_NAMES == tuple(networks.BACKBONES)
    assert settings.SYNTHESIS_NAMES == tuple(synthesis.SYNTHESES)
