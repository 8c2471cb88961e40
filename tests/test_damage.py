"""A state of training that cannot be saved leaves nothing behind; damaged files of runs are in test_study."""

import pytest

from ascood.files import NotWritten
from ascood.training import CrossEntropy, TrainConfig, train


@pytest.mark.parametrize("error", [RuntimeError("unexpected pos 64 vs 0"), KeyboardInterrupt()])  # torch does not say that a disk is full
def test_a_state_that_cannot_be_saved_leaves_none_and_training_goes_on_later(holdout, tmp_path, monkeypatch, error):
    def fail(*args):
        raise error

    config = TrainConfig(epochs=1)
    whole = train(CrossEntropy(), holdout, config, tmp_path / "whole", progress=False)
    monkeypatch.setattr("accelerate.Accelerator.save_state", fail)
    with pytest.raises(NotWritten if isinstance(error, RuntimeError) else KeyboardInterrupt, match="state-0001 cannot be written|^$"):
        train(CrossEntropy(), holdout, config, tmp_path / "run", progress=False)
    assert not [*(tmp_path / "run").glob("*state*")]
    monkeypatch.undo()
    done = train(CrossEntropy(), holdout, config, tmp_path / "run", progress=False)
    assert done.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
