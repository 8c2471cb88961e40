"""The tables of a profile on invented runs: gaps, marks, published numbers beside ours, and the way back to the runs."""

import json
import re
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from ascood.study import reporting, tables
from ascood.study.claims import report_table_claims
from ascood.study.page import profile_readme, remove_stale_tables
from ascood.study.profiles import Profile
from ascood.study.collected import DIFFERENCE, Collected, with_kinds
from ascood.study.differences import compare
from ascood.study.runs import packed_scores
from ascood import training
from ascood.training import ASCOOD, CrossEntropy, checked

STUDY = {"methods": ["ascood"], "benchmarks": ["scene-digits-all"], "vary": {"sigma": [0.5, 2]}, "detectors": ["MSP"]}
SPACE = STUDY | {"vary": {"normalization": ["l2", "zscore"], "uncertainty": ["kl", "energy"]}}


def a_profile(**more):
    "Two seeds of cross-entropy and ASCOOD, scored by two detectors."
    settings = dict(name="t", description="for tests", seeds=[0, 1], detectors=["MSP", "KNN"], benchmarks={"scene-digits-all": {}},
                    methods={"cross_entropy": {}, "ascood": {}})
    return checked(Profile, "t", **(settings | more))


def metrics_of(run, auroc, accuracy=90.0, sets=(("val", "v"), ("near", "n"), ("far", "f"), ("far", "g"))):
    "One run's rows: KNN is 10 points better than MSP, set g ten points easier than the others."
    return pd.DataFrame([dict(run_id=run.run_id, benchmark=run.benchmark, setting="conventional", method=run.method, seed=run.config.seed,
                              detector=detector, ood_group=group, ood_set=name, fpr95=100 - value, auroc=value, aupr_in=value, aupr_out=value,
                              accuracy=accuracy, n_id=10, n_ood=10, hyperparameters='{"k": 50}' if detector.startswith("KNN") else "{}", gap="")
                         for detector in run.detectors for group, name in sets
                         for value in [auroc + 10 * detector.startswith("KNN") + 10 * (name == "g")]])


def run_row(run, **more):
    record = dict(run_id=run.run_id, benchmark=run.benchmark, method=run.method, settings=json.dumps(run.settings),
                  config=run.config.model_dump_json(), detectors=json.dumps(run.detectors), code="c1", evaluation_code="c2", python="3",
                  device="a machine", finished="today", libraries=json.dumps({"torch": "9", "pytorch-ood": "8"}), training_seconds=60.0,
                  training_peak_mib=1000.0, evaluation_peak_mib=900.0,
                  evaluation_seconds=json.dumps({"forward pass": 4.0} | dict.fromkeys(run.detectors, 2.0)))
    return record | more


def written(profile, folder, auroc, keep=lambda run: True):
    "What `collect` would have written of the runs that are kept; `auroc(run)` is that of MSP on set n."
    runs = [run for run in profile.runs if keep(run)]
    out = folder / profile.name
    out.mkdir(parents=True, exist_ok=True)
    pd.concat([metrics_of(run, auroc(run)) for run in runs]).to_csv(out / "metrics.csv", index=False)
    pd.DataFrame([run_row(run) for run in runs]).to_csv(out / "runs.csv", index=False)
    groups = [dict(run_id=run.run_id, benchmark=run.benchmark, method=run.method, seed=run.config.seed, kind="id", set=name, group=group,
                   n=n, accuracy=90, confidence=0.5) for run in runs for name, group, n in (("test", "all", 1500), ("n", "all", 500), ("test", "majority", 9))]
    pd.DataFrame(groups).to_csv(out / "groups.csv", index=False)
    return runs


def by_seed(run):
    return {"cross_entropy": 60, "ascood": 80}.get(run.method, 70) + 2 * run.config.seed


def cell(folder, table, **where):
    rows = pd.read_csv(folder / "t" / f"{table}.csv", keep_default_na=False)
    for column, value in where.items():
        rows = rows[rows[column].astype(str) == value]
    return rows.to_dict("records")


def test_main_table_by_hand_and_its_gaps(tmp_path):
    profile = a_profile(methods={"cross_entropy": {}, "vos": {}, "ascood": {}})
    written(profile, tmp_path, by_seed, lambda run: run.method == "cross_entropy" or run.method == "ascood" and run.config.seed == 1)
    text = tables.TABLES["table_main"](profile, tmp_path)
    lines = {line.split("|")[2].strip(): [c.strip() for c in line.split("|")[3:-1]] for line in text.splitlines() if line.count("|") > 4}
    assert lines["Cross-entropy"] == ["KNN", "29.00 ± 1.00", "71.00 ± 1.00", "24.00 ± 1.00", "76.00 ± 1.00", "90.00 ± 0.00"]
    assert lines["ASCOOD (gradient)"][1] == "8.00 (1 of 2 seeds)", "a mean of fewer seeds is not ranked"
    assert lines["VOS"] == ["–"] * 6
    assert "vos on scene-digits-all" in text and "make reproduce PROFILE=t" in text
    assert "Nothing is marked ≈. With two seeds the noise of training is not known" in text


def difference(a, b, metric, decided, group="near"):
    values = dict(study="", benchmark="scene-digits-all", setting="conventional", group=group, metric=metric, a_method=a[0], a_detector=a[1], b_method=b[0],
                  b_detector=b[1], difference=1.0, half_width=0.5 if decided else 1.5, by_seed="+1.0 +0.9 +1.1", seeds=3, n_id=10, n_ood=10)
    return values


def test_an_entry_that_is_not_told_from_the_best_is_marked(tmp_path):
    profile = a_profile(seeds=[0, 1, 2])
    written(profile, tmp_path, by_seed)
    assert "nothing is marked ≈; `python -m ascood collect t`" in tables.TABLES["table_main"](profile, tmp_path)
    pairs = [difference(("ascood", "KNN"), ("cross_entropy", "KNN"), "auroc", False), difference(("cross_entropy", "KNN"), ("ascood", "KNN"), "fpr95", True),
             difference(("ascood", "KNN"), ("cross_entropy", "KNN"), "auroc", False, "far") | {"study": "sigma"}]
    pd.DataFrame(pairs).to_csv(tmp_path / "t" / "differences.csv", index=False)
    text = tables.TABLES["table_main"](profile, tmp_path)
    plain = next(line for line in text.splitlines() if "Cross-entropy" in line).split("|")
    assert plain[5].strip() == "<u>72.00 ± 1.63</u> ≈" and plain[4].strip() == "<u>28.00 ± 1.63</u>"
    assert "≈" not in next(line for line in text.splitlines() if "ASCOOD (gradient)" in line)
    assert "For 2 of 4 entries there is no comparison" in text  # the far ones: a pair of a study is none of this table
    assert "Student's t over the seeds" in text
    assert r"$\pm$ 1.63} $\approx$" in (tmp_path / "t" / "table_main.tex").read_text()


def test_the_best_is_never_marked_and_studies_pairs_do_not_count():
    summary = pd.DataFrame([dict(benchmark="b", setting="conventional", method=m, detector="MSP", quantity="far_auroc", mean=v, std=0.0, seeds=1, gaps=0)
                            for m, v in (("ascood", 90), ("oe", 95), ("vos", np.nan))])
    none, plain = pd.DataFrame(columns=DIFFERENCE), {"b": "cross_entropy"}
    assert reporting.mark_close(summary, none, plain)["close"].tolist() == ["unknown", "", ""]
    pair = pd.DataFrame([difference(("oe", "MSP"), ("ascood", "MSP"), "auroc", False, "far") | {"benchmark": "b"}])
    assert reporting.mark_close(summary, pair, plain)["close"].tolist() == ["yes", "", ""]
    assert reporting.mark_close(summary, pair.assign(half_width=np.nan), plain)["close"].tolist() == ["", "", ""], "one seed"
    assert reporting.mark_close(summary, pair.assign(study="alpha"), plain)["close"].tolist() == ["unknown", "", ""]


def test_published_numbers_stand_beside_ours_and_are_not_ranked(tmp_path):
    profile = a_profile(benchmarks={"cifar10": {}}, methods={"cross_entropy": {}, "ascood_shuffle": {"kind": "ascood", "synthesis": "shuffle"}})
    written(profile, tmp_path, lambda run: 20 if run.method == "cross_entropy" else 30)
    text = tables.TABLES["table_compared"](profile, tmp_path)
    row = [c.strip() for c in next(line for line in text.splitlines() if "ASCOOD (shuffle)" in line).split("|")]
    assert row[4] == "**45.00 ± 0.00**" and row[7] == "98.32 ± 0.07"  # the mean of 40 and 50; the published one is far better, and not bold
    assert "cifar10 AUROC ↑, published" in text
    published = cell(tmp_path, "table_compared", method="ascood_shuffle", source="published", quantity="auroc")
    assert [(p["mean"], p["file"]) for p in published] == [(98.32, "results/published/table1_main.csv")]


def test_accuracy_is_compared_seed_by_seed():
    runs = [("cross_entropy", 0, 90), ("cross_entropy", 1, 94), ("ascood", 0, 89), ("ascood", 1, 91), ("ascood", 2, 50)]
    kinds = {"cross_entropy": "post-hoc", "ascood": "ASCOOD"}
    metrics = pd.DataFrame([dict(benchmark="b", setting="s", method=m, seed=s, accuracy=a, run_id=f"{m}{s}", kind=kinds[m]) for m, s, a in runs])
    found = tables.accuracy_rows(metrics).set_index(["method", "quantity"])
    assert found.loc[("ascood", "difference"), ["mean", "std", "seeds"]].tolist() == [-2, 1, 2]  # -1 and -3; seed 2 has no partner
    assert found.loc[("ascood", "difference"), "runs"] == "ascood0 cross_entropy0 ascood1 cross_entropy1"


def test_a_study_treats_its_base_point_like_the_others(tmp_path):
    profile = a_profile(studies={"sigma": STUDY, "feature_space": SPACE})
    written(profile, tmp_path, by_seed, lambda run: "uncertainty=energy" not in run.method)
    tables.TABLES["table_studies"](profile, tmp_path)
    base, = cell(tmp_path, "table_studies", varied="σ = 0.5 (as elsewhere)", quantity="near_auroc")
    assert (base["detector"], float(base["mean"])) == ("MSP", 81)  # KNN would have been chosen, but the study asks for MSP alone
    other, = cell(tmp_path, "table_studies", method="ascood@sigma=2", quantity="near_auroc")
    assert float(other["mean"]) == 71
    text = tables.TABLES["table_feature_space"](profile, tmp_path)
    assert [line.split("|")[5].strip() for line in text.splitlines() if "| energy" in line][:2] == ["–", "–"]
    assert "Published, on the paper's benchmarks:" in text
    assert "| L2 " in tables.TABLES["table_normalization"](profile, tmp_path) and not cell(tmp_path, "table_normalization", uncertainty="energy")


def test_iodin_by_how_much_it_moves(tmp_path):
    profile = a_profile(detectors=["MSP", "ODIN", "i-ODIN"], more_detectors={"cross_entropy": {"i-ODIN@k=10": {"k": 10}}})
    written(profile, tmp_path, by_seed)
    text = tables.TABLES["table_iodin"](profile, tmp_path)
    assert [line.split("|")[3].strip() for line in text.splitlines() if "ODIN  " in line][:3] == ["1", "10", "all (3·H·W)"]
    assert {row["elements"] for row in cell(tmp_path, "table_iodin", detector="i-ODIN@k=10")} == {"10"}


def test_cost_by_hand_and_gaps_where_older_runs_say_nothing(tmp_path):
    profile = a_profile(detectors=["MSP", "KNN", "ODIN"])
    written(profile, tmp_path, by_seed)
    runs = pd.read_csv(tmp_path / "t" / "runs.csv").drop(columns="training_peak_mib")
    seconds = json.dumps({"forward pass": 4.0, "MSP": 0.0, "KNN": 3.0, "image sweep": 10.0})
    runs.assign(evaluation_seconds=seconds).to_csv(tmp_path / "t" / "runs.csv", index=False)
    text = tables.TABLES["table_cost"](profile, tmp_path)
    parts = {row["part"]: float(row["mean"]) for row in cell(tmp_path, "table_cost", quantity="per_1000")}
    assert parts == {"forward pass, shared by all": 2, "image sweep, for ODIN": 5, "MSP": 0, "KNN": 1.5}  # of 2,000 images
    assert [row["mean"] for row in cell(tmp_path, "table_cost", quantity="training_peak_mib")] == ["", ""]
    assert "60.0 ± 0.0" in text and "900 ± 0" in text


def test_every_set_and_the_means(tmp_path):
    profile = a_profile()
    written(profile, tmp_path, by_seed)
    tables.TABLES["table_sets"](profile, tmp_path)
    found = {row["ood"]: float(row["mean"]) for row in cell(tmp_path, "table_sets", method="ascood", quantity="aupr_in")}
    assert found == {"near: n (10)": 91, "near: mean": 91, "far: f (10)": 91, "far: g (10)": 101, "far: mean": 96}


def test_a_table_is_written_only_if_the_profile_plans_rows_for_it(tmp_path):
    profile = a_profile(methods={"cross_entropy": {}})
    written(profile, tmp_path, by_seed)
    assert tables.tables_of(profile) == ["table_compared", "table_main", "table_sets", "table_scores", "table_accuracy", "table_cost", "table_hyperparameters"]
    for name, table in tables.TABLES.items():
        if name in tables.tables_of(profile):
            assert table(profile, tmp_path) == (tmp_path / "t" / f"{name}.md").read_text() and cell(tmp_path, name)
        elif name != "table_tuning":
            assert table(profile, tmp_path) == f"Profile `t` has no rows for {name}; nothing is written." and not list((tmp_path / "t").glob(f"{name}.*"))


def test_tables_for_which_a_profile_no_longer_plans_rows_are_removed(tmp_path):
    profile = a_profile(methods={"cross_entropy": {}})
    written(profile, tmp_path, by_seed)
    stale = [tmp_path / "t" / f"table_iodin{suffix}" for suffix in (".csv", ".md", ".tex")]
    kept = [tmp_path / "t" / name for name in ("table_main.csv", "table_of_mine.csv", "table_claims.md")]
    for path in stale + kept:
        path.write_text("x")
    assert remove_stale_tables(profile, tmp_path) == stale and not any(path.exists() for path in stale) and all(path.exists() for path in kept)
    part = a_profile(benchmarks={"scene-digits-all": {}, "imagenet100": {}}, methods={"cross_entropy": {}}, only=["scene-digits-all"])
    assert "table_imagenet100" not in tables.tables_of(part) and remove_stale_tables(part, tmp_path) == []
    (tmp_path / "t" / "table_imagenet100.csv").write_text("x")
    assert remove_stale_tables(part, tmp_path) == [], "the whole profile plans it"


def scored(folder, row) -> pd.DataFrame:
    "The rows of metrics.csv behind a row of a table: those of the runs that it names, and of its detector."
    metrics = pd.read_csv(folder / "t" / "metrics.csv")
    return metrics[metrics["run_id"].isin(row["runs"].split()) & (metrics["detector"] == row["detector"])]


def test_a_cell_names_the_runs_whose_mean_it_is(tmp_path):
    profile = a_profile()
    written(profile, tmp_path, by_seed)
    tables.TABLES["table_main"](profile, tmp_path)
    row, = cell(tmp_path, "table_main", method="ascood", quantity="far_auroc")
    behind = scored(tmp_path, row).query("ood_group == 'far'")
    assert set(behind["method"]) == {"ascood"} and sorted(behind["auroc"]) == [90, 92, 100, 102] and behind["auroc"].mean() == float(row["mean"])


def same(metric, group, difference, half, method="ascood_shuffle", detector="MSP"):
    return dict(study="", benchmark="scene-digits-all", setting="conventional", group=group, metric=metric, a_method=method, a_detector=detector, b_method="cross_entropy",
                b_detector=detector, difference=difference, half_width=half, by_seed="+9.0 +11.0 +10.0", seeds=3, n_id=10, n_ood=10)


SHUFFLE = {"cross_entropy": {}, "ascood": {}, "ascood_shuffle": {"kind": "ascood", "synthesis": "shuffle"}}
THIRD = (("val", "v"), ("near", "n"), ("far", "f"), ("animals", "a"))


def test_the_same_detector_on_both_models_by_hand(tmp_path):
    profile = a_profile(methods=SHUFFLE, seeds=[0, 1, 2])
    written(profile, tmp_path, by_seed)
    pd.DataFrame([same("auroc", "near", 10, 2), same("fpr95", "near", -10, 2), same("auroc", "far", 10, 11),
                  same("auroc", "far", 5, 1, method="ascood")]).to_csv(tmp_path / "t" / "differences.csv", index=False)
    text = tables.TABLES["table_paired"](profile, tmp_path)
    lines = [[c.strip() for c in line.split("|")[2:-1]] for line in text.splitlines() if "ASCOOD (shuffle)" in line]
    assert [line[:3] for line in lines] == [["near", "MSP", "ASCOOD (shuffle)"], ["far", "MSP", "ASCOOD (shuffle)"]], "the paper shuffles; EBO and SCALE were not asked for"
    assert lines[0][3:6] == ["62.00 ± 1.63", "72.00 ± 1.63", "**+10.00 [+8.00, +12.00]**; +9.0 +11.0 +10.0"]
    assert lines[0][8] == "**-10.00 [-12.00, -8.00]**; +9.0 +11.0 +10.0" and lines[1][5] == "+10.00 [-1.00, +21.00] (needs 11.00); +9.0 +11.0 +10.0"
    assert lines[1][8] == "-10.00 ± 0.00" and "1 differences have no interval" in text
    assert r"\textbf{+10.00 [+8.00, +12.00]}" in (tmp_path / "t" / "table_paired.tex").read_text()
    change, = cell(tmp_path, "table_paired", model="difference", quantity="auroc", ood_group="near")
    assert float(change["mean"]) == 10 and len(change["runs"].split()) == 6 and float(change["half_width"]) == 2
    plain, = cell(tmp_path, "table_paired", model="plain", quantity="auroc", ood_group="near")
    assert sorted(scored(tmp_path, plain).query("ood_group == 'near'")["auroc"]) == [60, 62, 64]


def test_pairs_where_runs_are_missing_are_gaps(tmp_path):
    profile = a_profile(methods={"cross_entropy": {}, "ascood": {}})
    written(profile, tmp_path, by_seed, lambda run: run.method == "ascood" or run.config.seed == 0)
    text = tables.TABLES["table_paired"](profile, tmp_path)
    line = next(line for line in text.splitlines() if "ASCOOD (gradient)" in line)  # of what the profile has, where it lacks the paper's choice
    assert line.count("(1 of 2 seeds)") == 4


def write_scores(profile, folder, groups=("near", "far", "animals"), ours={"ascood", "ascood_shuffle"}):
    "Scores of 40 ID and 30 OOD images; those of `ours` separate better."
    for run in profile.runs:
        rng = np.random.default_rng(run.config.seed)
        shift = 2.0 if run.method in ours else 1.0
        scores = {d: {("id", "test"): rng.normal(size=40)} | {(g, "o"): rng.normal(size=30) + shift for g in groups} for d in run.detectors}
        run.folder(folder).mkdir(parents=True)
        (run.folder(folder) / "scores.npz").write_bytes(packed_scores(scores, np.ones(40, bool)))


def third_group(profile, folder, **values):
    out = folder / profile.name
    metrics = pd.concat([metrics_of(run, by_seed(run), sets=THIRD, accuracy=values.get(run.method, 90.0)) for run in profile.runs])
    metrics.to_csv(out / "metrics.csv", index=False)
    return metrics


def test_a_third_group_passes_from_scores_to_every_table(tmp_path):
    profile = a_profile(methods=SHUFFLE)
    written(profile, tmp_path, by_seed)
    third_group(profile, tmp_path)
    write_scores(profile, tmp_path)
    found = compare(Collected(profile, tmp_path), draws=20)
    assert set(found["group"]) == {"near", "far", "animals", "id"} and set(found.query("group == 'animals'")["n_ood"]) == {30}
    pairs = {*found.query("a_detector == b_detector and b_method == 'cross_entropy' and group == 'animals'")[["a_method", "a_detector"]].itertuples(index=False, name=None)}
    assert pairs >= {("ascood", "MSP"), ("ascood_shuffle", "MSP")}, "also where validation chose KNN"
    found.to_csv(tmp_path / "t" / "differences.csv", index=False)
    for name in tables.tables_of(profile):
        text = tables.TABLES[name](profile, tmp_path)
        assert ("animals" in text) == (name in ("table_sets", "table_paired")), name
    assert [row["ood"] for row in cell(tmp_path, "table_sets", method="ascood", quantity="auroc")][-2:] == ["animals: a (10)", "animals: mean"]


def test_both_readings_are_in_one_table_and_only_there(tmp_path):
    "Standardised features detect 5 points better here; tables that stand beside published numbers do not have them."
    profile = a_profile()
    written(profile, tmp_path, by_seed)
    path = tmp_path / "t" / "metrics.csv"
    rows = pd.read_csv(path).assign(reads="released", fpr95_id_positive=7.5)
    again = rows[(rows["method"] == "ascood") & (rows["detector"] == "KNN")]
    pd.concat([rows, again.assign(reads="standardised", auroc=again["auroc"] + 5)]).to_csv(path, index=False)
    texts = {name: tables.TABLES[name](profile, tmp_path) for name in tables.tables_of(profile)}
    assert [name for name, text in texts.items() if "standardised features" in text.split("|", 1)[-1]] == ["table_scores"]
    found = {row["detector"]: float(row["mean"]) for row in cell(tmp_path, "table_scores", method="ascood")}
    assert found["KNN, standardised features"] == found["KNN"] + 5
    assert "1 of 1 have a higher AUROC" in texts["table_scores"] and "KNN by 5.0 (ASCOOD (gradient) on scene-digits-all)" in texts["table_scores"]
    assert {row["mean"] for row in cell(tmp_path, "table_sets", method="ascood", quantity="fpr95_id_positive")} == {7.5}


def test_rows_of_the_earlier_reading_have_no_fpr_and_say_so(tmp_path):
    profile = a_profile()
    written(profile, tmp_path, by_seed)
    path = tmp_path / "t" / "metrics.csv"
    rows = pd.read_csv(path)
    rows.assign(reads="", fpr95_id_positive=rows["fpr95"], fpr95="").to_csv(path, index=False)
    text = tables.TABLES["table_main"](profile, tmp_path)
    assert "earlier reading" in text and {row["mean"] for row in cell(tmp_path, "table_main", quantity="near_fpr95")} == {""}


def test_a_method_that_did_not_learn_is_marked_and_not_ranked(tmp_path):
    profile = a_profile(methods={"cross_entropy": {}, "vos": {}, "oe": {}, "ascood": {}})
    written(profile, tmp_path, by_seed)
    metrics = third_group(profile, tmp_path, vos=86.9, oe=87.1)
    metrics.loc[metrics["method"] == "vos", "auroc"] = 99.0
    metrics.to_csv(tmp_path / "t" / "metrics.csv", index=False)
    text = tables.TABLES["table_compared"](profile, tmp_path)
    lines = {line.split("|")[2].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert lines["VOS"].count("†") == 3 and "**" not in lines["VOS"] and "†" not in lines["OE"]
    assert "**" in lines["ASCOOD (gradient)"] and "neither ranked nor counted as a rival: VOS on scene-digits-all." in text
    write_scores(profile, tmp_path)
    assert "vos" not in set(compare(Collected(profile, tmp_path), draws=20)["a_method"]), "never the best row that others are compared with"


def test_a_pretrained_classifier_is_a_plain_model(tmp_path):
    profile = a_profile(methods={"pretrained": {"kind": "cross_entropy"}}, detectors=["MSP", "ODIN", "i-ODIN"])
    written(profile, tmp_path, by_seed)
    write_scores(profile, tmp_path)
    found = compare(Collected(profile, tmp_path), draws=20)
    assert set(found["a_method"]) == {"pretrained"} and len(found.query("a_detector == 'i-ODIN' and b_detector == 'ODIN' and group == 'near'")) == 2
    found.to_csv(tmp_path / "t" / "differences.csv", index=False)
    texts = {name: tables.TABLES[name](profile, tmp_path) for name in tables.tables_of(profile)}
    rows = [line.split("|")[1:3] for line in texts["table_compared"].splitlines() if line.startswith("| ")][1:]
    assert [[c.strip() for c in row] for row in rows] == [["post-hoc", "MSP"], ["", "ODIN"], ["", "i-ODIN"]] and "Pretrained" in texts["table_compared"]
    assert texts["table_iodin"].count("ODIN ") >= 2 and "table_paired" not in texts
    assert "≈" in texts["table_compared"].split("Best per column")[1]


def test_the_readme_of_a_profile_lists_what_is_there_and_every_link_leads_to_a_file(tmp_path):
    profile = a_profile(methods=SHUFFLE)
    written(profile, tmp_path, by_seed)
    tables.TABLES["table_main"](profile, tmp_path)
    bare = profile_readme(profile, tmp_path, tmp_path / "figures").read_text()
    assert "(table_main.md)" in bare and "table_paired" not in bare and "protocol" not in bare and "![" not in bare
    write_scores(profile, tmp_path)
    compare(Collected(profile, tmp_path), draws=20).to_csv(tmp_path / "t" / "differences.csv", index=False)
    tables.TABLES["table_paired"](profile, tmp_path)
    report_table_claims(profile, tmp_path)
    (tmp_path / "t" / "protocol.md").write_text("# Hypotheses")
    (tmp_path / "figures" / "t").mkdir(parents=True)
    (tmp_path / "figures" / "t" / "summary.png").write_bytes(b"")
    text = profile_readme(profile, tmp_path, tmp_path / "figures").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert {"protocol.md", "table_paired.md", "table_claims.tex", "../figures/t/summary.png"} <= set(links)
    assert all((tmp_path / "t" / link).exists() for link in links)
    claims = {row["claim"]: row["verdict"] for row in cell(tmp_path, "table_claims")}
    for claim, verdict in claims.items():
        assert (f"| {claim} " in text) == (verdict != "not tested"), claim


# what a method is comes from what it declares


@pytest.fixture
def declared():
    "Two methods of somebody's own, with names that say nothing; forgotten afterwards."

    class Exposed(CrossEntropy):
        name: ClassVar[str] = "first"
        needs_outliers: ClassVar[bool] = True

    class Changed(ASCOOD):
        name: ClassVar[str] = "ours"

    class Smoothed(CrossEntropy):
        name: ClassVar[str] = "ascood_like"

    yield
    for method in (Exposed, Changed, Smoothed):
        del training._METHODS[method.name]


OWN = {
    "base": {"kind": "cross_entropy"},
    "mine": {"kind": "ascood"},
    "first": {},
    "ours": {"synthesis": "subtract"},
    "ascood_like": {},
}


def own_profile(**more):
    return a_profile(seeds=[0, 1, 2], methods=OWN, benchmarks={"scene-digits-holdout": {}}, **more)


def test_kinds_are_declared_and_not_guessed_from_names(declared, tmp_path):
    profile = own_profile()
    assert profile.kinds == {
        "base": "post-hoc",
        "mine": "ASCOOD",
        "first": "with outlier data",
        "ours": "ASCOOD",
        "ascood_like": "training",
    }
    assert profile.syntheses == {
        ("scene-digits-holdout", "gradient"): "mine",
        ("scene-digits-holdout", "subtract"): "ours",
    }
    written(profile, tmp_path, by_seed)
    pd.read_csv(tmp_path / "t" / "metrics.csv").assign(setting="fine-grained").to_csv(
        tmp_path / "t" / "metrics.csv", index=False
    )
    write_scores(profile, tmp_path, groups=("near", "far"), ours={"mine", "ours"})
    compare(Collected(profile, tmp_path), draws=20).to_csv(tmp_path / "t" / "differences.csv", index=False)
    for name in ("table_compared", "table_outlier_exposure", "table_paired", "table_synthesis"):
        tables.TABLES[name](profile, tmp_path)
    assert {(row["method"], row["kind"]) for row in cell(tmp_path, "table_compared", source="here")} == {
        ("MSP", "post-hoc"),
        ("KNN", "post-hoc"),
        ("mine", "ASCOOD"),
        ("ours", "ASCOOD"),
        ("first", "with outlier data"),
        ("ascood_like", "training"),
    }
    learns = {(row["method"], row["outliers"]) for row in cell(tmp_path, "table_outlier_exposure", source="here")}
    assert learns == {("base", "none"), ("mine", "synthesized"), ("ours", "synthesized"), ("first", "real")}
    assert {row["method"] for row in cell(tmp_path, "table_paired")} == {"mine"}, "its synthesis is the paper's"
    report_table_claims(profile, tmp_path)
    rows = {
        (row["claim"].partition(":")[0], row["a_method"], row["b_method"]) for row in cell(tmp_path, "table_claims")
    }
    assert ("Fine-grained OOD, near sets", "mine", "base") in rows and (
        "Adding the gradient makes better outliers than subtracting it",
        "mine",
        "ours",
    ) in rows
    real = "Fine-grained OOD: ASCOOD is better than methods that train on real outliers (each method with its best detector by validation)"
    assert {(row["a_method"], row["b_method"]) for row in cell(tmp_path, "table_claims", claim=real)} == {
        ("mine", "first")
    }


def test_rows_without_a_kind_get_what_the_profile_or_the_name_declares(tmp_path):
    profile = a_profile(methods={"base": {"kind": "cross_entropy"}, "mine": {"kind": "ascood"}})
    older = pd.DataFrame(
        {
            "method": ["base", "mine", "mine@sigma=2", "oe", "ascood_old", "mine"],
            "kind": [None] * 5 + ["training"],
            "needs_outliers": [None] * 5 + [False],
        }
    )
    for rows in (older, older.iloc[:5][["method"]]):
        found = with_kinds(profile, rows)
        assert [*found["kind"]][:5] == ["post-hoc", "ASCOOD", "ASCOOD", "with outlier data", "training"] and [
            *found["needs_outliers"]
        ][:5] == [False] * 3 + [True, False]
    assert with_kinds(profile, older)["kind"].iloc[5] == "training", "what a row says counts"


# what is judged


def test_differences_of_an_older_rule_judge_nothing(tmp_path):
    profile = a_profile(seeds=[0, 1, 2])
    written(profile, tmp_path, by_seed)
    older = pd.DataFrame(
        [
            difference(("ascood", "KNN"), ("cross_entropy", "KNN"), "auroc", True)
            | dict(low=0.5, high=1.5, survives=True, seeds_agree=True)
        ]
    )
    older.drop(columns=["by_seed", "half_width"]).to_csv(tmp_path / "t" / "differences.csv", index=False)
    assert Collected(profile, tmp_path).differences.empty
    text = tables.TABLES["table_main"](profile, tmp_path)
    assert (
        "Differences have not been computed, so nothing is marked" in text
        and "≈" not in text.partition("| ")[2].partition("Differences")[0]
    )
    judged = pd.DataFrame(cell(tmp_path, "table_claims") if report_table_claims(profile, tmp_path) else [])
    assert (
        set(judged["verdict"]) == {"incomplete", "not tested"}
        and "differences have not been computed" in judged["evidence"].str.cat()
    )
    both = pd.concat(
        [
            older.drop(columns=["by_seed", "half_width"]),
            pd.DataFrame([difference(("ascood", "KNN"), ("cross_entropy", "KNN"), "fpr95", True)]),
        ]
    )
    both.to_csv(tmp_path / "t" / "differences.csv", index=False)
    assert [*Collected(profile, tmp_path).differences["metric"]] == ["fpr95"]


def test_one_seed_judges_nothing_from_scores_to_claims(tmp_path):
    profile = a_profile(methods=SHUFFLE, seeds=[0])
    written(profile, tmp_path, by_seed)
    write_scores(profile, tmp_path, groups=("near", "far"))
    found = compare(Collected(profile, tmp_path), draws=20)
    found.to_csv(tmp_path / "t" / "differences.csv", index=False)
    assert (
        found["half_width"].isna().all()
        and set(found["seeds"]) == {1}
        and len(Collected(profile, tmp_path).differences) == len(found)
    )
    for name in ("table_main", "table_paired", "table_compared"):
        text = tables.TABLES[name](profile, tmp_path)
        assert "With one seed the noise of training is not known, so no difference is judged." in text
        assert (
            "needs" not in text
            and "no comparison" not in text
            and not {row.get("close", "") for row in cell(tmp_path, name)} - {""}
        )
    assert "one seed" in report_table_claims(profile, tmp_path)
    assert {row["verdict"] for row in cell(tmp_path, "table_claims")} == {"one seed", "not tested"}


def test_how_far_iodin_is_from_the_logits_is_computed_from_the_rows(tmp_path):
    profile = a_profile(detectors=["MSP", "MLS", "ODIN", "i-ODIN"])
    written(profile, tmp_path, by_seed)
    metrics = pd.read_csv(tmp_path / "t" / "metrics.csv")
    metrics.loc[(metrics["detector"] == "i-ODIN") & (metrics["ood_group"] == "near"), "auroc"] += 3.0
    metrics.loc[metrics["detector"] == "MLS", "auroc"] += 1.0
    metrics.to_csv(tmp_path / "t" / "metrics.csv", index=False)
    pd.DataFrame(columns=DIFFERENCE).to_csv(tmp_path / "t" / "differences.csv", index=False)
    said = "(k = 1) on the plain model, over seeds and OOD groups, in points: scene-digits-all 1.50 from MLS and 1.50 from MSP."  # 2 and 1; 3 and 0
    assert said in tables.TABLES["table_iodin"](profile, tmp_path) and said in report_table_claims(profile, tmp_path)
