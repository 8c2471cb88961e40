"""Premises against numbers worked out by hand, slow loops, and runs whose weights are known."""
import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ascood.attribution import top_fraction_mask
from ascood.data import ImageSet
from ascood.models import Classifier, create_backbone, load_classifier, save_classifier
from ascood.study import figures, plots, premises, tables
from ascood.study.collected import Collected
from ascood.study.profiles import load_profile
from ascood.synthesis import OutlierSynthesizer
from ascood.training import create_method, train


def as_floats(images):
    return images.float() / 255


class Linear(nn.Module):
    "z_0 = <weight, x>, z_1 = 0: the gradient of class 0 is `weight`, of class 1 zero."

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        z = (x * self.weight).sum((1, 2, 3))
        return torch.stack([z, torch.zeros_like(z)], dim=1)


def white(n, side=2, label=0, masks=None):
    return ImageSet(torch.full((n, 3, side, side), 255, dtype=torch.uint8), label, as_floats, masks=masks)


def corner(n, side=2):
    masks = torch.zeros(n, side, side, dtype=torch.bool)
    masks[:, 0, 0] = True
    return masks


# by hand


def test_a_linear_model_has_the_shares_of_its_weights():
    "12 elements; the corner pixel has weights 4, 0, 2 of a sum of 12; the 3 largest are 4, 3 and 2 (in the corner: 4 and 2)."
    weight = torch.tensor([[[4.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [-3.0, 1.0]], [[2.0, 0.0], [0.0, -1.0]]])
    found = premises.premises(Linear(weight), white(5, masks=corner(5)), OutlierSynthesizer("gradient", 0.25, 0.5, 0.5))
    assert found["images"] == 5 and found["alpha"] == 0.5 and found["area"] == 0.25
    assert found["g_inside"] == pytest.approx(6 / 12) and found["g_inside_ratio"] == pytest.approx(2)
    assert found["g_inv_inside"] == pytest.approx(2 / 3) and found["g_inv_inside_ratio"] == pytest.approx(8 / 3)
    step = 0.5 * (16 + 9 + 4) ** 0.5
    assert found["step_touched"] == pytest.approx(step / 3**0.5) and found["step_all"] == pytest.approx(step / 12**0.5)
    z, raised = 4.0, 4 + 0.5 * 29
    assert found["confidence"] == found["true_probability"] == pytest.approx(1 / (1 + np.exp(-z)))
    assert found["outlier_true_probability"] == pytest.approx(1 / (1 + np.exp(-raised)), abs=1e-6)
    assert found["outlier_kl"] == pytest.approx(-np.log(2) + np.log1p(np.exp(-raised)) + raised / 2, rel=1e-5)


def test_subtracting_lowers_the_true_class_by_as_much():
    weight = torch.zeros(3, 2, 2)
    weight[0, 0, 0] = 2.0
    found = premises.premises(Linear(weight), white(1), OutlierSynthesizer("subtract", 1 / 12, 1.5, 1.5))
    assert found["outlier_true_probability"] == pytest.approx(1 / (1 + np.exp(-(2 - 1.5 * 4))))
    assert found["outlier_confidence"] == pytest.approx(1 - found["outlier_true_probability"])
    assert found["step_touched"] == pytest.approx(3) and found["step_all"] == pytest.approx(3 / 12**0.5)


def test_alpha_is_that_of_the_epoch():
    weight = torch.ones(3, 2, 2)
    synthesizer = OutlierSynthesizer("gradient", 1.0, 3.0, 1.0)
    steps = [premises.premises(Linear(weight), white(1), synthesizer, epoch, 4)["step_all"] for epoch in (1, 2, 3, 4)]
    assert steps == pytest.approx([2.5, 2, 1.5, 1])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_shares_and_steps_as_loops_count_them(n, channels, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    amount, x = (torch.rand(n, channels, height, width, generator=generator) + 0.01 for _ in range(2))
    masks = torch.rand(n, height, width, generator=generator) < 0.5
    share, kept = premises.share_inside(amount, masks), top_fraction_mask(amount, 0.5)
    touched, whole = premises.step_size(x, amount, 2.0, 0.5)
    for b in range(n):
        inside = sum(float(amount[b, c, i, j]) for c in range(channels) for i in range(height) for j in range(width) if masks[b, i, j])
        assert share[b].item() == pytest.approx(inside / float(amount[b].double().sum()), rel=1e-5)
        step = sum(4 * float(v) ** 2 for v in amount[b][kept[b]]) ** 0.5
        assert whole[b].item() == pytest.approx(step / float(x[b].norm()), rel=1e-4)
        if kept[b].any():
            assert touched[b].item() == pytest.approx(step / float(x[b][kept[b]].norm()), rel=1e-4)
        else:
            assert touched[b].isnan()


def test_the_middle_image_speaks_for_the_steps_and_an_image_without_gradient_for_nothing():
    "Two of five images are of class 1, whose gradient is zero: their shares are left out, and their steps are 0."
    images = white(5, masks=corner(5))
    images.labels = torch.tensor([0, 1, 0, 1, 0])
    weight = torch.zeros(3, 2, 2)
    weight[:, 0, 0] = 1.0
    found = premises.premises(Linear(weight), images, OutlierSynthesizer("gradient", 0.25, 1.0, 1.0))
    assert found["g_inside"] == 1.0 and found["step_touched"] == pytest.approx(1.0)


# what is not there


@pytest.mark.parametrize("kind", ["shuffle", "gaussian"])
def test_without_masks_or_step_the_columns_are_empty_and_the_others_are_not(kind):
    found = premises.premises(Linear(torch.rand(3, 4, 4)), white(3, 4), OutlierSynthesizer(kind, 0.5, 1.0, 1.0))
    empty = {name for name, value in found.items() if np.isnan(value)}
    assert empty == {"area", "g_inside", "g_inside_ratio", "g_inv_inside", "g_inv_inside_ratio", "step_touched", "step_all"}
    assert set(found) == {"images", "alpha", *premises.QUANTITIES}


# the model and the randomness


def noisy(n, side=32):
    images = torch.randint(0, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return ImageSet(images, torch.arange(n) % 3, as_floats, masks=images[:, 0] > 128)


@pytest.mark.parametrize("kind", ["gradient", "shuffle", "gaussian"])
def test_same_numbers_twice_whatever_the_batch_and_the_random_state(kind):
    torch.manual_seed(0)
    model, synthesizer = Classifier(create_backbone("tiny_resnet"), 3), OutlierSynthesizer(kind, 0.1, 2.0, 1.0)
    first = premises.premises(model, noisy(10), synthesizer)
    torch.manual_seed(7)
    assert premises.premises(model, noisy(10), synthesizer) == pytest.approx(first, nan_ok=True, abs=0)
    if kind == "gradient":
        assert premises.premises(model, noisy(10), synthesizer, batch=3) == pytest.approx(first, nan_ok=True, rel=1e-4)


@pytest.mark.parametrize("kind", ["gradient", "subtract", "shuffle", "gaussian"])
def test_outliers_are_those_of_training(kind):
    torch.manual_seed(0)
    model, synthesizer = Classifier(create_backbone("tiny_resnet"), 3).eval(), OutlierSynthesizer(kind, 0.1, 30.0, 3.0)
    x, y = noisy(8)[list(range(8))]
    logits = model(synthesizer(model, x, y, 1, 3, torch.Generator().manual_seed(0)))
    found = premises.premises(model, noisy(8), synthesizer, 1, 3)
    assert found["outlier_confidence"] == pytest.approx(logits.softmax(1).amax(1).mean().item(), rel=1e-5)


def test_at_most_limit_images_evenly_spaced():
    seen = []

    class Counting(Linear):
        def forward(self, x):
            seen.append(x[:, 0, 0, 0])
            return super().forward(x)

    images = ImageSet((torch.arange(101).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)).to(torch.uint8), 0, lambda x: x.float())
    assert premises.premises(Counting(torch.rand(3, 2, 2)), images, OutlierSynthesizer("gradient", 0.0), limit=5)["images"] == 5
    assert seen[0].tolist() == [0, 25, 50, 75, 100]


# of runs

PROFILE = {
    "description": "for tests", "seeds": [0, 1], "train": {"epochs": 2, "batch_size": 64}, "detectors": ["MSP", "EBO"], "snapshots": [1],
    "methods": {"cross_entropy": {}, "vos": {}, "ascood_shuffle": {"kind": "ascood", "synthesis": "shuffle"},
                "ascood": {"alpha_max": 30.0, "alpha_min": 3.0}},
    "benchmarks": {"scene-digits-holdout": {}},
}


def loaded(folder, **changes):
    (folder / "tiny.yaml").write_text(yaml.safe_dump(PROFILE | changes, sort_keys=False))
    return load_profile(str(folder / "tiny.yaml"))


@pytest.fixture
def profile(tmp_path):
    return loaded(tmp_path)


def finished(profile, folder, leave_out=()):
    "Checkpoints of untrained networks in place of trained ones, and collected tables with invented AUROC: 60 + 10 * seed, ASCOOD 5 more by MSP."
    rows = []
    for run in profile.runs:
        if run.kind in leave_out:
            continue
        here = run.folder(folder)
        here.mkdir(parents=True)
        model = create_method(run.kind, **run.settings).create_model(run.config, 8)
        for file in ("model.safetensors", *(f"snapshot-{epoch:04d}.safetensors" for epoch in run.snapshots)):
            save_classifier(model, here / file)
        for detector, bonus in (("MSP", 5), ("EBO", 50)):
            for group in ("val", "near", "far"):
                worse = group == "val" and detector == "EBO"  # so validation chooses MSP
                auroc = 10 if worse else 60 + 10 * run.config.seed + bonus * (run.kind == "ascood") + (group == "far")
                rows.append(dict(run_id=run.run_id, benchmark=run.benchmark, setting="fine-grained", method=run.method, seed=run.config.seed,
                                 detector=detector, ood_group=group, ood_set="o", fpr95=1, auroc=auroc, aupr_in=1, aupr_out=1, accuracy=90,
                                 hyperparameters="{}", gap=""))
    pd.DataFrame(rows).to_csv(folder / profile.name / "metrics.csv", index=False)
    run = dict(run_id=profile.runs[0].run_id, benchmark="scene-digits-holdout", method="cross_entropy", training_seconds=1, code="c", libraries=json.dumps({"torch": "9", "pytorch-ood": "9"}), device="d")
    pd.DataFrame([run]).to_csv(folder / profile.name / "runs.csv", index=False)


def test_cross_entropy_is_measured_with_the_profile_s_gradient_synthesis(profile, tmp_path):
    found = {run.method: premises.profile_synthesizer(profile, run) for run in profile.runs}
    assert found["cross_entropy"] == found["ascood"] == OutlierSynthesizer("gradient", 0.1, 30.0, 3.0)
    assert found["ascood_shuffle"].kind == "shuffle"
    plain = loaded(tmp_path, methods={"cross_entropy": {}})
    assert premises.profile_synthesizer(plain, plain.runs[0]) is None and not premises.has_synthesis(plain)


def test_epoch_zero_is_the_network_that_training_began_with(holdout, profile, tmp_path):
    "A learning rate that moves no weight leaves it in the checkpoint."
    run = next(run for run in profile.runs if run.method == "ascood" and run.config.seed == 1)
    still = run.config.model_copy(update={"lr": 1e-30, "min_lr": 0.0, "epochs": 1})
    checkpoint = train(create_method(run.kind, **run.settings), holdout, still, tmp_path / "still", progress=False).checkpoint
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    before = premises.untrained_model(run, holdout)
    assert torch.random.get_rng_state().equal(state)
    for (name, trained), made in zip(load_classifier(checkpoint).named_parameters(), before.parameters()):
        assert torch.allclose(trained, made, atol=1e-12, rtol=0), name


def test_a_profile_s_runs_are_measured_once_and_kept_where_there_are_no_folders(profile, tmp_path, monkeypatch):
    finished(profile, tmp_path, leave_out=["vos"])
    found = premises.measure_premises(profile, tmp_path)
    epochs = {key: sorted(part["epoch"]) for key, part in found.groupby(["method", "seed"])}
    assert epochs == {(m, seed): [0, 1, 2] if seed == 0 else [0, 2] for m in ("cross_entropy", "ascood", "ascood_shuffle") for seed in (0, 1)}
    assert set(found["images"]) == {200} and found["confidence"].notna().all() and found["area"].between(0.02, 0.5).all()
    assert found["alpha"][(found["method"] == "ascood") & (found["epoch"] == 2)].tolist() == [3, 3]  # of the second epoch, the last
    monkeypatch.setattr(premises, "premises_of_run", lambda *given, **more: pytest.fail("measured again"))
    pd.testing.assert_frame_equal(premises.measure_premises(profile, tmp_path), found, rtol=1e-4, check_dtype=False)
    for run in profile.runs:
        for file in run.folder(tmp_path).glob("*.safetensors"):
            file.unlink()
    text = (tmp_path / "tiny" / "premises.csv").read_text()
    assert len(premises.measure_premises(profile, tmp_path, anew=True)) == len(found)
    assert (tmp_path / "tiny" / "premises.csv").read_text() == text


def test_another_synthesis_or_a_new_snapshot_is_measured_anew(profile, tmp_path):
    finished(profile, tmp_path)
    premises.measure_premises(profile, tmp_path)
    other = loaded(tmp_path, methods=PROFILE["methods"] | {"ascood": {"alpha_max": 60.0, "alpha_min": 3.0}})
    found = premises.measure_premises(other, tmp_path)
    assert set(found.loc[found["method"] == "cross_entropy", "synthesizer"]) == {"gradient, p_inv 0.1, alpha 60 to 3, eval"}
    earlier = found[found["method"] == "ascood"]
    assert {*earlier["synthesizer"]} == {"gradient, p_inv 0.1, alpha 30 to 3, eval"}, "its runs have other settings now, and are not here"
    assert not {*earlier["run_id"]} & {run.run_id for run in other.runs}, "what was measured before stays"


# gains, table, figure


def test_the_gain_is_of_the_same_detector_seed_and_of_the_setting_s_group(profile, tmp_path):
    finished(profile, tmp_path)
    metrics = pd.read_csv(tmp_path / "tiny" / "metrics.csv")
    found = premises.auroc_gains(metrics, ["ascood"])
    assert found[["seed", "detector", "auroc", "gain"]].values.tolist() == [[0, "MSP", 65, 5], [1, "MSP", 75, 5]]
    alone = premises.auroc_gains(metrics[(metrics["method"] != "cross_entropy") | (metrics["seed"] == 0)], ["ascood"])
    assert alone["gain"].isna().tolist() == [False, True]


@pytest.mark.parametrize("changes, expected", [
    ({}, ""), ({"g_inv_inside_ratio": 1.0}, "object missed"), ({"step_touched": 0.0999}, "step too small"), ({"step_all": 1.0}, "step too large"),
    ({"outlier_confidence": 0.9}, "not learned"), ({"g_inv_inside_ratio": np.nan, "step_touched": np.nan, "step_all": np.nan}, ""),
])
def test_what_broke(changes, expected):
    row = dict(g_inv_inside_ratio=1.01, step_touched=0.1, step_all=0.99, confidence=0.9, outlier_confidence=0.89) | changes
    assert premises.broken_premises(row) == expected
    assert premises.broken_premises(row, trained=False) == expected.replace("not learned", "")


def test_correlations_are_those_of_ranks():
    rows = pd.DataFrame([dict(dict.fromkeys(premises.QUANTITIES, np.nan), run_id=str(i), epoch=epoch, last=epoch == 2, gain=gain, step_all=step)
                         for i, (gain, step) in enumerate([(1, 5), (2, 50), (4, 51), (np.nan, 9)]) for epoch in (0, 2)])
    found = premises.gain_correlations(rows).set_index("quantity").loc["step / x, all"]
    assert found["before training"] == found["after training"] == pytest.approx(1) and found["runs"] == 3


def test_table_and_figure_of_measured_runs(profile, tmp_path):
    finished(profile, tmp_path)
    text = tables.TABLES["table_premises"](profile, tmp_path)
    assert text == (tmp_path / "tiny" / "table_premises.md").read_text() and "nan" not in text
    written = pd.read_csv(tmp_path / "tiny" / "table_premises.csv")
    assert written.groupby("method")["epoch"].apply(list).to_dict() == {m: [0, 1, 2] for m in ("cross_entropy", "ascood", "ascood_shuffle")}
    last = written[(written["method"] == "ascood") & (written["epoch"] == 2)].iloc[0]
    assert last["gain"] == 5 and last["detector"] == "MSP" and last["seeds"] == 2 and len(last["runs"].split()) == 2
    assert written.loc[written["epoch"] < 2, "gain"].isna().all()
    figure = figures.FIGURES["figure_premises"].draw(Collected(profile, tmp_path), "tiny")
    assert len(figure.axes) == 8 and not plots.what_lacks(figure)
    step = figure.axes[1]
    courses = [line for line in step.get_lines() if line.get_linestyle() != ":"]  # dotted: the limit of the premise
    assert [len(line.get_xdata()) for line in courses] == [3, 3] and step.get_yscale() == "log"
    assert sum(len(dots.get_offsets()) for dots in figure.axes[6].collections) == 4  # p_y(x') of two seeds of two methods
    assert "premises" in str(figures.figure_stems(profile, "figure_premises")["tiny"])
