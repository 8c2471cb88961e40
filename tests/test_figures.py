"""Figures: the numbers drawn are the numbers given, and what is missing is said."""
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made import made_results
from PIL import Image

from ascood.models import save_classifier
from ascood.study import figures
from ascood.study.diagnostics import HEADINGS, untrained_model
from ascood.study.figures import draw, list_figures
from ascood.study.profiles import load_profile

ONE = "scene-digits"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    "Made-up runs of three epochs: ASCOOD finds OOD images better; a study of sigma; the norm that a head reads is 4."
    studies = {"sigma": {"vary": {"sigma": [0.5, 2]}, "benchmarks": [ONE]}}
    plan, shifts = {"studies": studies, "train": {"epochs": 3}, "snapshots": [1]}, {("ascood", ""): 2.0}
    made = made_results(tmp_path_factory.mktemp("made"), shifts | {("cross_entropy", ""): 0.2}, plan)
    made.runs["kept_epoch"], read = 3, made.scores
    names = made.runs[["run_id", "benchmark", "setting", "method", "variant", "kind", "seed"]]
    measured = names[names["kind"].isin(["post-hoc", "ASCOOD"])].assign(**dict.fromkeys(HEADINGS, 0.5))
    measured.loc[measured["benchmark"] != ONE, "g_inv_inside_ratio"] = np.nan
    made.diagnostics = pd.concat([measured.assign(epoch=epoch, trained=epoch == 3, outlier_kl=epoch) for epoch in (0, 3)])
    places = [("id", "test"), ("near", "a"), ("far", "c"), ("id", "val")]
    norms = {(name, *where): np.full(64, 4 if "read" in name else i, np.float32) for name in [*figures._FEATURES, "norm read by the head"]
             for i, where in enumerate(places)}
    made.scores = lambda run_id: read(run_id)._replace(quantiles=read(run_id).quantiles | norms)
    yield made
    plt.close("all")


def test_scores_by_hand():
    groups = {"ID": np.array([0.0, 1, 2, 3]), "near OOD": np.array([2.5, 3.5]), "far OOD": np.array([9.0])}
    axis = plt.figure().add_subplot()
    figures.plot_scores(axis, groups, np.array([0.0, 2, 4]))
    shares = {stairs.get_label(): stairs.get_data().values.tolist() for stairs in axis.patches[1::2]}
    assert shares == {"ID": [50, 50], "near OOD": [0, 100], "far OOD": [0, 100]}, "what lies beyond is in the last bin"


def test_compared_is_sorted_and_knows_what_did_not_learn(results):
    accuracy = results.metrics["accuracy"].where(results.metrics["method"] != "logit_norm", 10.0)
    changed = SimpleNamespace(**vars(results) | {"metrics": results.metrics.assign(accuracy=accuracy)})
    rows, axis = figures.compared_rows(changed, ONE), figures.figure_compared(changed, ONE).axes[0]
    means = rows[rows["group"] == "near"].groupby("name", sort=False)["auroc"].mean()
    assert [t.get_text() for t in axis.get_yticklabels()] == [*means.index] and means.is_monotonic_decreasing
    assert {name.split(",")[0] for name in means.index} > {"MSP", "LogitNorm", "ASCOOD (gradient)", "ASCOOD (subtract)"}
    large = [dots.get_offsets()[0, 0] for dots in axis.collections if dots.get_sizes()[0] == 22]
    assert sorted(large) == pytest.approx(sorted(means))
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
    (panel,) = figures.figure_sensitivity(results).axes
    rows = figures.sensitivity_rows(results).query("quantity == 'far' and x == 2")
    far, own = (next(line for line in panel.get_lines() if mark(line)) for mark in (
        lambda line: line.get_marker() == "s", lambda line: line.get_linestyle() == ":"))
    assert far.get_xydata()[1].tolist() == [2, pytest.approx(rows["value"].mean())] and len(rows) == 3
    assert own.get_xdata()[0] == 0.5, "the profile's value"


def test_an_older_picture_stays_where_the_model_is_missing(results):
    stem, run = f"gallery_{ONE}", figures._ascood(results.profile, ONE)[0]
    missing = "the model of ASCOOD (gradient) on scene-digits is not on this machine."
    assert draw(stem, results) == (None, f"Not drawn: {missing}")
    files = [run.folder(results.results) / file for file in ("model.safetensors", "snapshot-0001.safetensors")]
    for file in files:
        save_classifier(untrained_model(run, run.load_benchmark()), file)
    axes = figures.figure_gallery(results, ONE, images=2).axes
    assert sum(axis.get_xlabel().endswith(" %") for axis in axes) == 8, "of x, of two syntheses, and of epoch 1"
    labels = [axis.get_ylabel() for axis in axes[::2]]
    assert labels[0].startswith("image $x$") and labels[-1].startswith("model of epoch 1:"), labels
    path, _ = draw(stem, results)
    with Image.open(path) as picture:
        assert (picture.width, picture.mode) == (1400, "P") and path.with_suffix(".pdf").is_file()
    before = path.read_bytes()
    files[0].unlink()
    path, text = draw(stem, results)
    assert path.read_bytes() == before and text.endswith(f"An earlier picture: {missing}")


@pytest.mark.parametrize("name, has", [("quick", {"gallery", "compared", "scores", "features"}), ("embedded", {"sensitivity"}), ("tuning", set())])
def test_figures_follow_from_the_profile(name, has):
    stems = {stem.partition("_")[0] for stem in list_figures(load_profile(name))}
    assert has <= stems and bool(has) == bool(stems) and ("sensitivity" in stems) == (name == "embedded")
