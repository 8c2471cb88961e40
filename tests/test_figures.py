"""Figures: the numbers drawn are the numbers given, and what is missing is said."""
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from made import made_results
from PIL import Image

from ascood.data import ImageSet
from ascood.models import save_classifier
from ascood.study import figures
from ascood.study.diagnostics import HEADINGS, untrained_model
from ascood.study.figures import Missing, draw, list_figures
from ascood.study.profiles import list_profiles, load_profile
from ascood.study.statistics import differences, excludes_zero

ONE = "scene-digits"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    "Made-up runs of three epochs: ASCOOD finds OOD images better; a study of sigma; the norm that a head reads is 4."
    studies = {"sigma": {"vary": {"sigma": [0.5, 2]}, "benchmarks": [ONE]}}
    plan, shifts = {"studies": studies, "train": {"epochs": 3}, "snapshots": [1]}, {("ascood", ""): 2.0}
    made = made_results(tmp_path_factory.mktemp("made"), shifts | {("cross_entropy", ""): 0.2}, plan)
    made.runs["kept_epoch"], read = 3, made.scores
    names = made.runs[["run_id", "benchmark", "setting", "method", "variant", "kind", "seed"]]
    trained = [names.assign(epoch=epoch, loss=1.0, val_accuracy=10 * epoch + names["seed"]) for epoch in (1, 2)]
    measured = names[names["kind"].isin(["post-hoc", "ASCOOD"])].assign(**dict.fromkeys(HEADINGS, 0.5))
    measured.loc[measured["benchmark"] != ONE, "g_inv_inside_ratio"] = np.nan
    courses = [measured.assign(epoch=epoch, trained=epoch == 3, outlier_kl=epoch) for epoch in (0, 3)]
    made.history, made.diagnostics = pd.concat(trained), pd.concat(courses)
    places = [("id", "test"), ("near", "a"), ("far", "c"), ("id", "val")]
    norms = {(name, *where): np.full(64, 4 if "read" in name else i, np.float32) for name in [*figures._FEATURES, "norm read by the head"]
             for i, where in enumerate(places)}
    made.scores = lambda run_id: read(run_id)._replace(quantiles=read(run_id).quantiles | norms)
    yield made
    plt.close("all")


def dots(axis, size):
    "Positions [n,2] of the dots of one size."
    return np.concatenate([np.asarray(m.get_offsets()) for m in axis.collections if m.get_sizes()[0] == size])


def test_scores_and_roc_by_hand():
    known, unknown = np.array([0.0, 1, 2, 3]), {"near OOD": np.array([2.5, 3.5]), "far OOD": np.array([9.0])}
    figure = figures.plot_scores(known, unknown, bins=np.array([0.0, 2, 4]))
    shares = {stairs.get_label(): stairs.get_data().values.tolist() for stairs in figure.axes[0].patches[1::2]}
    assert shares == {"ID": [50, 50], "near OOD": [0, 100], "far OOD": [0, 100]}, "what lies beyond is in the last bin"
    near, far = figures.plot_roc(known, unknown).axes[0].get_lines()[:2]
    assert (near.get_label(), far.get_label()) == ("near OOD, AUROC 87.5 %", "far OOD, AUROC 100.0 %")
    assert [25, 100] in near.get_xydata().tolist(), "both are detected where one of four is rejected"
    with pytest.raises(Missing, match="no scores of OOD"):
        figures.plot_roc(known, np.array([]))


def test_summary_draws_both_models_and_fills_what_is_decided(results):
    figure = figures.figure_summary(results)
    axis, rows = figure.axes[0], figures.summary_rows(results).query("benchmark == @ONE")
    near = rows[(rows["group"] == "near") & (rows["detector"] == "MSP")]
    assert dots(axis, 22)[:2, 0] == pytest.approx([near["auroc_baseline"].mean(), near["auroc"].mean()])
    assert dots(axis, 5)[3:6, 0] == pytest.approx(near["auroc"].tolist()) and len(near) == 3
    known = differences(results).query("a_method == 'ascood' and b_method == 'cross_entropy' and metric == 'auroc'")
    known = known[(known["a_variant"] == "") & (known["a_detector"] == known["b_detector"])]
    gains = (excludes_zero(known) & (known["difference"] > 0)).sum()
    assert 0 < gains and figure.get_label().startswith(f"Of 20 differences, {gains} are gains and 0 are losses")
    decided = known.assign(decided=excludes_zero(known)).set_index(["benchmark", "group", "a_detector"])["decided"]
    large = [marks for marks in axis.collections if marks.get_sizes()[0] == 22]
    filled = [tuple(marks.get_facecolors()[0, :3]) != (1, 1, 1) for marks in large[1::2]]
    assert filled == [decided[ONE, group, name] for group in ("near", "far") for name in rows["detector"].unique()]


def test_compared_is_sorted_and_knows_what_did_not_learn(results):
    accuracy = results.metrics["accuracy"].where(results.metrics["method"] != "logit_norm", 10.0)
    changed = SimpleNamespace(**vars(results) | {"metrics": results.metrics.assign(accuracy=accuracy)})
    rows, axis = figures.compared_rows(changed, ONE), figures.figure_compared(changed, ONE).axes[0]
    means = rows[rows["group"] == "near"].groupby("name", sort=False)["auroc"].mean()
    assert [t.get_text() for t in axis.get_yticklabels()] == [*means.index] and means.is_monotonic_decreasing
    assert {name.split(",")[0] for name in means.index} > {"MSP", "LogitNorm", "ASCOOD (gradient)", "ASCOOD (subtract)"}
    assert sorted(dots(axis, 22)[:, 0]) == pytest.approx(sorted(means))
    assert set(rows.loc[~rows["learned"], "name"]) == {"LogitNorm, MSP"}


def test_distributions_are_those_of_the_quantiles(results):
    groups = figures.quantile_groups(results, ONE, "ascood", "maximum logit")
    assert {name: ({*values}, len(values)) for name, values in groups.items()} == {
        "ID": ({0}, 1920), "near OOD": ({1}, 1920), "far OOD": ({2}, 1920)}
    assert figures.common_detector(results, ONE) == "MSP", "LogitNorm has no other"
    titles = [axis.get_title(loc="left").split(";")[0] for axis in figures.figure_scores(results, ONE).axes]
    assert titles == ["Cross-entropy", "LogitNorm", "ASCOOD (gradient)", "ASCOOD (subtract)"]
    figure = figures.figure_features(results, ONE)
    assert len(figure.axes) == 4 and all(axis.get_xlim()[0] <= 0 for axis in figure.axes)
    assert "between 4.00 and 4.00" in figure.get_label()


def test_lines_have_panels_for_what_was_measured_only(results):
    axes = figures.figure_diagnostics(results).axes
    assert [axis.get_ylabel() for axis in axes][:3] == ["$G_{inv}$ inside / area"] + 2 * ["step / $x$, touched"]
    assert len(axes) == 7 and axes[-1].get_lines()[0].get_xydata().tolist() == [[0, 0], [3, 3]]
    assert figures.figure_training(results).axes[2].get_lines()[0].get_ydata().tolist() == [11, 21], "means over seeds"
    (panel,) = figures.figure_sensitivity(results).axes
    rows = figures.sensitivity_rows(results).query("quantity == 'far' and x == 2")
    far, own = (next(line for line in panel.get_lines() if mark(line)) for mark in (
        lambda line: line.get_marker() == "s", lambda line: line.get_linestyle() == ":"))
    assert far.get_xydata()[1].tolist() == [2, pytest.approx(rows["value"].mean())] and len(rows) == 3
    assert own.get_xdata()[0] == 0.5, "the profile's value"
    left, right = figures.figure_reliance(results, ONE).axes
    assert {*dots(left, 22)[:, 0]} == {60, 90} and {*dots(right, 22)[:, 0]} == {50}


def test_rows_of_the_problem_follow_the_environments():
    "Grey value 10 * label + environment; environment 0 goes with class 0, 1 with class 1."
    labels, environments = torch.tensor([1, 0, 1, 0]), torch.tensor([1, 0, 0, 1])
    grey = (10 * labels + environments).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    some = ImageSet(grey, labels, lambda x: x.float(), environments)
    benchmark = SimpleNamespace(
        train=some, test=some, ood={"near": {"x-y": some}}, class_names=("a-b", "c"), num_classes=2, setting="spurious",
        majority={0: {0}, 1: {1}}, pixels=lambda x: x[:, 0, 0, 0].tolist())
    assert figures._problem_rows(benchmark, 2) == {
        "ID, majority": {"a-b, c": [0, 11]}, "ID, minority": {"a-b, c": [1, 10]},
        "near OOD:\nspurious": {"x y": [11, 1]}}


def test_an_older_picture_stays_where_the_model_is_missing(results):
    stem, run = f"gallery_{ONE}", figures._ascood(results.profile, ONE)[0]
    missing = "the model of ASCOOD (gradient) on scene-digits is not on this machine."
    assert draw(stem, results) == (None, f"Not drawn: {missing}")
    files = [run.folder(results.results) / file for file in ("model.safetensors", "snapshot-0001.safetensors")]
    for file in files:
        save_classifier(untrained_model(run, run.load_benchmark()), file)
    texts = [text.get_text() for text in figures.figure_gallery(results, ONE, images=2).axes[0].texts]
    assert len([text for text in texts if text.endswith(" %")]) == 8, "of x, of two syntheses, and of epoch 1"
    assert [text.split("\n")[0] for text in texts if "x$" in text or "epoch" in text][::3] == [
        "image $x$", "model of epoch 1:"], texts
    path, _ = draw(stem, results)
    with Image.open(path) as picture:
        assert (picture.width, picture.mode) == (1400, "P") and path.with_suffix(".pdf").is_file()
    before = path.read_bytes()
    files[0].unlink()
    path, text = draw(stem, results)
    assert path.read_bytes() == before and text.endswith(f"An earlier picture: {missing}")


@pytest.mark.parametrize("name", list_profiles())
def test_figures_follow_from_the_profile(name):
    profile = load_profile(name)
    stems = {*list_figures(profile)}
    each = {f"{figure}_{benchmark}" for figure in ("problem", "compared", "scores") for benchmark in profile.chosen}
    assert each <= stems if not profile.validation_only else not stems
    assert ("sensitivity" in stems) == (len(figures.numeric_points(profile)) > 0 and not profile.validation_only)
