"""Figures: what is drawn is what was given, and what is missing is said."""
import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from ascood.data import load_benchmark
from ascood.models import Classifier, create_backbone, save_classifier
from ascood.study import figures, plots
from ascood.study.collected import Collected
from ascood.study.profiles import list_profiles, load_profile
from ascood.study.runs import packed_scores

STUDIES = """
seeds: [0, 1]
snapshots: [1]
train: {epochs: 2}
detectors: [MSP, EBO]
description: invented
methods:
  cross_entropy: {}
  vos: {}
  ascood: {kind: ascood, alpha_max: 4, alpha_min: 2}
benchmarks: {scene-digits-holdout: {}, scene-digits: {}}
studies:
  feature_space: {benchmarks: [scene-digits-holdout], vary: {normalization: [none, zscore]}}
  alpha: {benchmarks: [scene-digits-holdout], vary: {alpha_factor: [0.5, 1]}, detectors: [EBO]}
  sigma: {benchmarks: [scene-digits-holdout], vary: {sigma: [0.5, 2]}, detectors: [EBO]}
  correlation: {benchmarks: [scene-digits], methods: [cross_entropy, ascood], vary: {correlation: [0.5, 0.9]}}
"""


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def studies(tmp_path):
    (tmp_path / "studies.yaml").write_text(STUDIES)
    return load_profile(str(tmp_path / "studies.yaml"))


def collected(profile, folder, leave_out=()):
    "metrics.csv and groups.csv with invented numbers: AUROC rises with the seed; MSP beats EBO by far."
    rows, groups = [], []
    for i, run in enumerate(run for run in profile.runs if run.method not in leave_out):
        names = dict(run_id=run.run_id, benchmark=run.benchmark, setting="fine-grained", method=run.method, seed=run.config.seed)
        for detector, bonus in (("MSP", 20), ("EBO", 0)):
            for group in ("val", "near", "far"):
                auroc = 60 + bonus + 4 * run.config.seed + len(run.method) / 10
                rows.append(names | dict(detector=detector, ood_group=group, ood_set="o", fpr95=1, auroc=auroc, aupr_in=1, aupr_out=1,
                                         accuracy=90 + run.config.seed, hyperparameters="{}", gap=""))
        for part, accuracy in (("all", 95), ("majority", 99), ("minority", 70 + 2 * run.config.seed)):
            groups.append(names | dict(kind="id", set="test", group=part, n=9, accuracy=accuracy, confidence=0.5))
    folder = folder / profile.name
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    pd.DataFrame(groups).to_csv(folder / "groups.csv", index=False)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def words(figure):
    return " ".join(t.get_text() for axis in figure.axes for t in axis.texts).replace("\n", " ")


def band(axis, which):
    "x, lower and upper edge of a band."
    path = axis.collections[which].get_paths()[0].vertices
    x = np.unique(path[:, 0])
    return x, [path[path[:, 0] == v, 1].min() for v in x], [path[path[:, 0] == v, 1].max() for v in x]


# which files are expected


@pytest.mark.parametrize("name", list_profiles())
def test_stems_follow_from_the_profile_alone(name):
    profile = load_profile(name)
    stems = {figure: figures.figure_stems(profile, figure, "f") for figure in figures.FIGURES}
    if profile.validation_only:
        assert not any(stems.values())
        return
    paths = [path for by_name in stems.values() for path in by_name.values()]
    assert len(set(paths)) == len(paths)
    for figure in ("figure_compared", "figure_gallery", "figure_roc", "figure_scores"):
        assert [*stems[figure]] == profile.chosen
    assert [*stems["figure_training"]] == [name for name in profile.chosen if any(run.benchmark == name and run.config.epochs for run in profile.runs)]
    assert [*stems["figure_problem"]] == [profile.name]
    assert bool(stems["figure_sensitivity"]) == any({"alpha_factor", "fraction", "sigma"} & {*s.vary} for s in profile.studies.values())
    assert bool(stems["figure_gallery_training"]) == bool(profile.snapshots)


def test_studies_of_one_number_are_found(studies):
    assert figures.one_setting_studies(studies) == {"alpha": "alpha_factor", "sigma": "sigma", "correlation": "correlation"}
    assert figures.one_setting_studies(studies, "scene-digits") == {"correlation": "correlation"}


# studies


def test_points_are_means_over_seeds_by_the_studys_detector(studies, tmp_path):
    collected(studies, tmp_path)
    points, plain = figures.study_points(Collected(studies, tmp_path), "alpha")
    near = points.query("quantity == 'near_auroc'").set_index("value")
    assert near["own"].to_dict() == {0.5: False, 1.0: True}
    assert near.loc[1, ["mean", "std"]].tolist() == pytest.approx([62.6, 2])  # EBO, although MSP is better: the study says so
    assert near.loc[0.5, "mean"] == pytest.approx(62 + len("ascood@alpha_factor=0.5") / 10)
    assert plain.query("quantity == 'near_auroc'")["mean"].tolist() == pytest.approx([62 + 1.3])


def test_sensitivity_draws_the_means_the_spread_and_the_actual_values(studies, tmp_path):
    collected(studies, tmp_path)
    figure = figures.FIGURES["figure_sensitivity"].draw(Collected(studies, tmp_path), studies.name)
    alpha, sigma = figure.axes
    assert (alpha.get_xlabel(), sigma.get_xlabel()) == (r"$\alpha_{max}$", r"$\sigma$")
    line = alpha.get_lines()[0]
    assert line.get_xdata().tolist() == [2, 4]  # factors 0.5 and 1 of 4
    assert line.get_ydata().tolist() == pytest.approx([64.3, 62.6])
    x, low, high = band(alpha, 0)
    assert (low, high) == (pytest.approx([62.3, 60.6]), pytest.approx([66.3, 64.6]))
    dashed = [line for line in alpha.get_lines() if line.get_linestyle() == "--"]
    assert dashed[0].get_ydata()[0] == pytest.approx(63.3)
    assert [line.get_xdata()[0] for line in alpha.get_lines() if line.get_linestyle() == ":"] == [4]
    assert legend(figure) == ["near OOD, AUROC", "far OOD, AUROC", "ID accuracy", "cross-entropy", "the profile's value"]
    assert not figure.get_suptitle()


def test_correlation_draws_near_ood_and_the_minority(studies, tmp_path):
    collected(studies, tmp_path)
    figure = figures.FIGURES["figure_correlation"].draw(Collected(studies, tmp_path), studies.name)
    near, minority = figure.axes
    assert near.get_lines()[0].get_xdata().tolist() == [0.5, 0.9]
    assert near.get_lines()[0].get_ydata()[1] == pytest.approx(82 + 1.3)  # cross-entropy by MSP: this study restricts nothing
    assert minority.get_lines()[1].get_ydata().tolist() == [71, 71] and band(minority, 1)[1:] == ([70, 70], [72, 72])
    assert legend(figure) == ["Cross-entropy", "ASCOOD (gradient)", "the profile's value"]


# models


def saved(run, results, file="model.safetensors"):
    torch.manual_seed(0)
    run.folder(results).mkdir(parents=True, exist_ok=True)
    model = Classifier(create_backbone("tiny_resnet"), 8, run.settings.get("normalization", "none"), run.settings.get("sigma", 0.5))
    save_classifier(model, run.folder(results) / file, "tiny_resnet")


def test_gallery_of_training_shows_the_models_that_are_there(studies, tmp_path):
    draw, run = figures.FIGURES["figure_gallery_training"].draw, figures._ours(studies, "scene-digits-holdout")[0]
    assert "make reproduce PROFILE=studies" in words(draw(Collected(studies, tmp_path), "scene-digits-holdout"))
    saved(run, tmp_path)
    text = words(draw(Collected(studies, tmp_path), "scene-digits-holdout"))
    assert "epoch 2 of 2" in text and "epoch 1" not in text and "1 of 2 models are missing" in text
    assert r"$\alpha$ = 2" in text  # of the last epoch
    saved(run, tmp_path, "snapshot-0001.safetensors")
    text = words(draw(Collected(studies, tmp_path), "scene-digits-holdout"))
    assert "epoch 1 of 2" in text and "missing" not in text


def test_features_compare_with_the_same_method_not_standardised(studies, tmp_path):
    runs = figures._feature_runs(studies, "scene-digits-holdout")
    assert [run.method for run in runs.values()] == ["cross_entropy", "ascood@normalization=none", "ascood"]
    assert [*figures._feature_runs(studies, "scene-digits")] == ["Cross-entropy", "ASCOOD"]
    saved(runs["ASCOOD"], tmp_path)
    figure = figures._draw_features(Collected(studies, tmp_path), "scene-digits-holdout", images=20)
    assert "2 of 3 runs are missing" in figure.get_suptitle() and len(figure.axes) == 3
    line = next(line for axis in figure.axes for line in axis.get_lines() if line.get_linestyle() == "--")
    assert line.get_xdata()[0] == pytest.approx(0.5 * (create_backbone("tiny_resnet").num_features - 1) ** 0.5)


# the rest


def test_summary_pairs_the_two_models_by_the_same_detector(studies, tmp_path):
    collected(studies, tmp_path)
    rows = figures.summary_rows(Collected(studies, tmp_path))
    near = rows.query("group == 'near' and benchmark == 'scene-digits-holdout\\nfine-grained'").set_index("detector")
    assert [*near.index] == ["MSP", "EBO"] and set(rows["method"]) == {"ascood"} and set(rows["decided"]) == {""}, "Relation was not asked for; no interval"
    assert near.loc["MSP", ["plain", "plain_std", "mean", "std"]].tolist() == pytest.approx([83.3, 2, 82.6, 2])
    figure = figures.FIGURES["figure_summary"].draw(Collected(studies, tmp_path), studies.name)
    assert "make reproduce PROFILE=studies" in plots.what_lacks(figure), "no model, so an older picture is kept"
    panel = figure.axes[-1]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["MSP", "EBO", "MSP", "EBO"] and "far OOD" in words(figure)
    assert legend(figure) == ["Cross-entropy", "ASCOOD (gradient), not judged"]
    saved(figures._paper_run(studies, "scene-digits"), tmp_path)
    figure = figures.FIGURES["figure_summary"].draw(Collected(studies, tmp_path), studies.name)
    assert not plots.what_lacks(figure) and "scene-digits: ASCOOD (gradient), epoch 2 of 2" in words(figure), "spurious before digits"


def test_other_groups_are_shown_as_images_and_left_out_of_scores():
    scores = {"MSP": {("id", "test"): np.zeros(3), ("near", "a"): np.ones(2), ("animals", "b"): np.full(4, 9.0)}}
    groups = plots.by_group(scores, "MSP")
    assert {name: len(values) for name, values in groups.items()} == {"ID": 3, "near OOD": 2, "far OOD": 0}
    plots.plot_score_histograms({"ascood": ("MSP", scores)}, "t")
    assert len(plots.plot_roc({"ascood": ("MSP", scores)}, "t").axes[0].get_legend().get_texts()) == 1
    benchmark = load_benchmark("scene-digits-all")
    more = dataclasses.replace(benchmark, ood=benchmark.ood | {"animals": benchmark.ood["near"]})
    assert [*figures._problem_rows(more)] == ["in-distribution", "near OOD", "far OOD", "OOD:\nanimals"]


def test_a_method_that_did_not_learn_is_marked_in_the_figure_of_all_methods():
    wide = pd.DataFrame([("ASCOOD", "ascood", q, 60, 1.0, "") for q in ("fpr95", "auroc")] + [("training", "vos", q, 80, 1.0, "yes") for q in ("fpr95", "auroc")],
                        columns=["kind", "method", "quantity", "mean", "std", "left_out"])
    figure = plots.plot_compared(wide, "t")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["ASCOOD (gradient)", "VOS †"]
    assert figure.axes[0].collections[-1].get_facecolors()[1].tolist() == [1, 1, 1, 1]


def test_a_far_outlier_does_not_squeeze_a_histogram():
    groups = {"ID": np.linspace(0, 1, 100), "near OOD": np.linspace(1, 2, 100), "far OOD": np.r_[np.linspace(2, 3, 90), np.full(10, 1e6)]}
    figure, axis = plt.subplots()
    plots._draw_histograms(axis, groups)
    assert axis.get_xlim()[1] < 5 and axis.texts[0].get_text() == "10 % of far →"
    inside = [stairs for stairs in axis.patches if stairs.get_label() == "ID"][0].get_data().values
    assert inside.sum() == pytest.approx(1, abs=0.02)  # shares


def test_a_picture_stays_where_a_score_file_is_missing_and_a_chosen_part_does_not_narrow_one_of_the_whole(studies, tmp_path, capsys):
    collected(studies, tmp_path)
    runs = [run for run in studies.runs if run.benchmark == "scene-digits" and run.method in studies.methods and run.config.seed == 0]
    rng = np.random.default_rng(0)
    scores = {"MSP": {part: rng.random(9) for part in (("id", "test"), ("near", "o"), ("far", "o"))}}
    for run in runs:
        run.folder(tmp_path).mkdir(parents=True)
        (run.folder(tmp_path) / "scores.npz").write_bytes(packed_scores(scores, np.ones(9, bool)))
    part = studies.model_copy(update={"only": ["scene-digits"]})
    (picture,) = figures.report_figure("figure_roc", part, tmp_path, tmp_path / "f")
    (whole,) = figures.report_figure("figure_problem", studies, tmp_path, tmp_path / "f")
    before, drawn = picture.read_bytes(), whole.read_bytes()
    (runs[1].folder(tmp_path) / "scores.npz").unlink()
    assert figures.report_figure("figure_roc", part, tmp_path, tmp_path / "f") == [picture] and picture.read_bytes() == before
    assert f"{picture} stays as it is: 1 of 3 runs are missing: make reproduce PROFILE=studies" in capsys.readouterr().err
    assert figures.report_figure("figure_problem", part, tmp_path, tmp_path / "f") == [whole] and whole.read_bytes() == drawn
    picture.unlink()
    assert figures.report_figure("figure_roc", part, tmp_path, tmp_path / "f") == [picture] and picture.is_file(), "drawn with a note"
