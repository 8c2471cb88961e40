"""Tables and claims, by hand and on made-up results."""

import json

import numpy as np
import pandas as pd
import pytest
from made import PLAN, made_results

from ascood.study import tables
from ascood.study.claims import CLAIMS, judge, verdicts
from ascood.study.runs import csv_text
from ascood.study.statistics import differences
from ascood.study.tables import TABLES, main_rows, printed, read_published, to_latex, to_markdown, write_table

SAME = "Spurious OOD: the same detector is better on the ASCOOD model than on the baseline's"
RIVALS = "Spurious OOD: ASCOOD is better than training methods without outlier data"
SHIFTS = {("ascood", ""): 3.0, ("ascood", "normalization=none"): 0.5, ("ascood_subtract", ""): 0.5}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return made_results(tmp_path_factory.mktemp("made"), SHIFTS)


def cells(*rows):
    names = ["name", "column", "mean", "std", "seeds", "gaps", "half_width"]
    return pd.DataFrame([dict(zip(names, row)) for row in rows])


def test_cells_by_hand():
    "Two methods with AUROC (higher is better) and FPR@95 (lower is better), a gap, a missing seed, and differences."
    numbers = cells(("a", "near_auroc", 90.0, 1.5, 3, 0, np.nan), ("a", "near_fpr95", 20.0, 1.0, 3, 0, np.nan), ("a", "Δ near AUROC", 4.0, np.nan, 3, 0, 1.0),
                    ("b", "near_auroc", 80.0, 0.0, 1, 0, np.nan), ("b", "near_fpr95", 10.0, 2.0, 2, 1, np.nan), ("b", "Δ near AUROC", -4.0, np.nan, 3, 0, 5.0),
                    ("c", "near_auroc", np.nan, np.nan, 0, 3, np.nan), ("c", "Δ near AUROC", 2.0, np.nan, 1, 0, np.nan))
    texts, marks = printed(numbers, ["name"], 3, [])
    assert texts.columns.tolist() == ["near_auroc", "Δ near AUROC", "near_fpr95"], "a difference stands beside its quantity"
    assert texts.loc["a"].tolist() == ["90.00 ± 1.50", "+4.0 [+3.0, +5.0]", "20.00 ± 1.00"]
    assert texts.loc["b"].tolist() == ["80.00 (1 of 3 seeds)", "-4.0 [-9.0, +1.0]", "10.00 ± 2.00 (2 of 3 seeds)"]
    assert texts.loc["c"].tolist() == ["–", "+2.0", ""]
    assert marks["Δ near AUROC"].tolist() == ["best", "", ""], "bold is what excludes zero"
    within = numbers.assign(benchmark="x")
    marks = printed(within, ["name"], 3, ["benchmark"])[1]
    assert marks["near_auroc"].tolist() == ["best", "second", ""] and marks["near_fpr95"].tolist() == ["second", "best", ""]
    marks = printed(within.assign(rival=within["name"] != "a"), ["name"], 3, ["benchmark"])[1]
    assert marks["near_fpr95"].tolist() == ["", "", ""], "one that did not learn does not compete, and one alone is not the best"


def test_markdown_and_latex_have_the_same_cells_and_no_sign_of_a_name_is_markup():
    numbers = cells(("my_method|*x*", "near_auroc", 90.0, 1.0, 3, 0, np.nan), ("b_1 & 50 %", "near_auroc", 80.0, 1.0, 3, 0, np.nan)).assign(benchmark="x")
    texts, marks = printed(numbers, ["name"], 3, ["benchmark"])
    assert r"my_method\|\*x\*" in (markdown := to_markdown(texts, marks)) and "**90.00 ± 1.00**" in markdown and "<u>80.00 ± 1.00</u>" in markdown
    latex = to_latex(texts, marks, "50 % of near_a")
    assert r"\bfseries 90.00 $\pm$ 1.00" in latex and r"b\_1 \& 50 \%" in latex and r"\caption{50 \% of near\_a}" in latex
    assert r"near AUROC $\uparrow$" in latex and r"\toprule" in latex


def test_a_label_is_printed_once():
    index = pd.MultiIndex.from_tuples([("a", "x", "1"), ("a", "x", "2"), ("a", "y", "2"), ("b", "y", "2")], names=["p", "q", "r"])
    texts = pd.DataFrame({"v": list("1234")}, index)
    shown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in to_markdown(texts, texts.map(lambda _: "")).splitlines()[2:]]
    assert shown == [["a", "x", "1", "1"], ["", "", "2", "2"], ["", "y", "2", "3"], ["b", "y", "2", "4"]]


def test_the_main_table_has_every_detector_on_the_baseline_and_the_judged_ones_on_ascood(results):
    rows = main_rows(results).query("benchmark == 'scene-digits'")
    of = rows.groupby("method")["detector"].agg(set)
    assert of["cross_entropy"] == of["ascood"] == {*PLAN["detectors"]} and len(of["ascood_subtract"]) == len(of["logit_norm"]) == 1
    assert not rows["variant"].any() and rows["kind"].drop_duplicates().tolist() == ["post-hoc", "training", "ASCOOD"]
    gain = rows.query("method == 'ascood' and detector == 'MSP' and column == 'Δ near AUROC'").iloc[0]
    means = rows.query("detector == 'MSP' and column == 'near_auroc'").set_index("method")["mean"]
    seeds = results.metrics.query("benchmark == 'scene-digits' and method == 'ascood' and variant == '' and detector == 'MSP' and ood_group == 'near'")
    seeds, row = seeds.groupby("seed")["auroc"].mean(), rows.query("method == 'ascood' and detector == 'MSP' and column == 'near_auroc'")
    assert row[["mean", "std"]].values[0] == pytest.approx([seeds.mean(), seeds.std(ddof=0)]), "the mean over sets, then over seeds"
    assert gain["mean"] == pytest.approx(means["ascood"] - means["cross_entropy"], abs=1e-3) and gain["half_width"] > 0


def test_the_papers_numbers_stand_beside_ours_where_the_images_are_the_same(results, monkeypatch):
    "Its ASCOOD beside ours with the paper's synthesis and detector only; no remark on seeds."
    assert not main_rows(results)["column"].str.startswith("published").any()
    monkeypatch.setitem(tables._PRINTED_AS, "scene-digits", "waterbirds")
    rows = main_rows(results)
    found = rows[rows["column"] == "published near AUROC"].set_index(["method", "detector"])["mean"]
    told = read_published("table1_main").query("benchmark == 'waterbirds' and metric == 'auroc'").set_index("method")["mean"]
    assert found["cross_entropy", "MSP"] == told["MSP"] and found["ascood", "ODIN"] == told["ASCOOD"]
    assert found.xs("ascood").index.tolist() == ["ODIN"] and "ascood_subtract" not in found.index.get_level_values(0)


def test_every_table_is_written_in_three_forms_and_says_where_it_comes_from(results):
    for name in TABLES.keys() - {"table_tuning", "table_diagnostics"}:
        text, markdown = write_table(name, results), (results.folder / f"{name}.md").read_text()
        assert text and text in markdown and "Profile `made`: 30 of 30 runs, seeds [0, 1, 2]" in markdown, name
        assert r"\begin{tabular}" in (results.folder / f"{name}.tex").read_text() and len(pd.read_csv(results.folder / f"{name}.csv"))


def test_a_table_without_rows_is_not_written(results, tmp_path):
    assert write_table("table_tuning", results) == "" and not (results.folder / "table_tuning.csv").exists()
    methods = {"cross_entropy": {}, "ascood": {}}
    few = made_results(tmp_path, plan={"detectors": ["MSP"], "more_detectors": {}, "studies": {}, "methods": methods})
    assert write_table("table_iodin", few) == write_table("table_components", few) == "", "one model of ASCOOD stands in the main table"


def test_components_compare_variants_with_ascood_by_one_detector(results):
    rows = tables.component_rows(results).query("benchmark == 'scene-digits-holdout'")
    assert rows["detector"].nunique() == 1 and "ASCOOD (gradient), normalization=none" in {*rows["name"]}
    change = rows.query("variant != '' and column == 'Δ near AUROC (from ASCOOD)'")
    assert change["mean"].item() < -5 and rows.query("method == 'ascood' and variant == '' and column == 'Δ near AUROC (from ASCOOD)'").empty


def test_one_with_lost_accuracy_is_marked_and_does_not_compete(tmp_path):
    results = made_results(tmp_path, SHIFTS)
    path = results.folder / "metrics.csv"
    weak = results.metrics.assign(accuracy=results.metrics["accuracy"].where(results.metrics["method"] != "logit_norm", 40.0))
    path.write_text(csv_text(weak))
    text = write_table("table_main", type(results)(results.profile, results.results))
    assert "LogitNorm †" in text and "†: did not learn the task" in text


def test_iodin_by_how_much_it_moves(results):
    rows = tables.iodin_rows(results).query("benchmark == 'scene-digits-holdout'")
    assert rows.drop_duplicates(["detector", "params"])[["detector", "elements"]].values.tolist() == [
        ["MSP", "none"], ["ODIN", "all"], ["i-ODIN", "1"], ["i-ODIN", "10"]]
    assert (rows["column"] == "Δ near AUROC (from ODIN)").sum() == 2


def test_reliance_by_hand(results):
    rows = tables.reliance_rows(results).query("method == 'ascood' and variant == '' and benchmark == 'scene-digits'")
    means = rows.set_index("column")["mean"]
    assert (means["accuracy, majority"], means["accuracy, minority"], means["accuracy, gap"], means["confidence, a"]) == (90, 60, 30, 50)


def test_tuning_chooses_the_best_of_those_that_keep_their_accuracy(tmp_path):
    shifts = {("weak", ""): 3.0, ("good", ""): 2.0}
    plan = {"methods": {"cross_entropy": {}, "weak": {"kind": "ascood"}, "good": {"kind": "ascood", "weight": 0.5}}, "studies": {}, "more_detectors": {},
            "benchmarks": {"scene-digits": {}}, "validation_only": True}
    results = made_results(tmp_path, shifts, plan)
    metrics = results.metrics.assign(accuracy=results.metrics["accuracy"].where(results.metrics["method"] != "weak", 20.0))
    results.metrics = pd.concat([metrics, metrics.assign(reads="standardised", auroc=1.0)], ignore_index=True)  # must not be read
    table = tables.tuning_rows(results).set_index("method")
    assert table["chosen"].to_dict() == {"Cross-entropy": "", "weak": "", "good": "yes"}
    assert table.loc["weak", "auroc"] > table.loc["good", "auroc"] > 50


def test_hyperparameters_are_one_value_or_one_for_each_seed(results):
    changed = results.metrics.assign(hyperparameters=[json.dumps({"k": 5 + (row.seed if row.method == "ascood" else 0)} if row.detector == "KNN" else {})
                                                      for row in results.metrics.itertuples()])
    copy = type(results)(results.profile, results.results)
    copy.metrics = changed
    table = tables.hyperparameter_rows(copy).set_index("method")["scene-digits"]
    assert table["Cross-entropy"] == "5" and table["ASCOOD (gradient)"] == "5, 6, 7"


@pytest.fixture(scope="module")
def judged(results):
    return judge(differences(results, draws=50), results)


def test_claims_find_their_evidence(judged):
    verdicts_of = judged.drop_duplicates("claim").set_index("claim")["verdict"]
    assert {*verdicts_of.index} == {*CLAIMS}
    found = {name for name, said in verdicts_of.items() if said == "supported"}
    assert found >= {SAME, "z-score standardisation is better than none", "Adding the gradient makes better outliers than subtracting it"}
    assert verdicts_of[SAME.replace("Spurious", "Conventional")] == verdicts_of[RIVALS.replace("training methods without outlier data",
                                                                                              "methods that train on real outliers")] == "not tested"
    lines, name = verdicts(judged).set_index("claim"), "z-score standardisation is better than none"
    decided = judged[(judged["claim"] == name) & (judged["says"] == "for")]
    assert lines.loc[name, "largest difference"].startswith(f"{decided['difference'].max():+.1f}") and lines.loc[name, "for"] == str(len(decided))


def test_lower_fpr_is_evidence_for_a_claim_and_each_pair_counts_once(judged):
    rows = judged[judged["claim"] == SAME]
    assert len(rows) == len(rows["evidence"].unique()) == 2 * 3 and (rows["difference"] > 0).all()  # MSP, EBO, ODIN by AUROC and FPR@95
    assert rows["evidence"].str.contains("near FPR@95").sum() == 3
    for row in judged.dropna(subset="difference").itertuples():
        assert np.mean([float(text) for text in row.by_seed.split()]) == pytest.approx(row.difference, abs=0.06)


def test_a_claim_can_fail_and_a_rival_that_did_not_learn_is_no_rival(tmp_path):
    results = made_results(tmp_path, {("ascood", ""): 0.2, ("cross_entropy", ""): 2.0, ("logit_norm", ""): 3.0})
    table = differences(results, draws=20)
    verdicts_of = judge(table, results).drop_duplicates("claim").set_index("claim")["verdict"]
    assert verdicts_of[SAME] == verdicts_of[RIVALS] == "contradicted"
    results.metrics = results.metrics.assign(accuracy=results.metrics["accuracy"].where(results.metrics["method"] != "logit_norm", 40.0))
    assert judge(table, results).set_index("claim")["verdict"][RIVALS] == "not tested"


def test_one_seed_judges_nothing_from_scores_to_claims(tmp_path):
    results = made_results(tmp_path, SHIFTS, {"seeds": [0]})
    table = differences(results)
    assert table["half_width"].isna().all() and {*judge(table, results)["verdict"]} == {"not judged", "not tested"}
    text = write_table("table_main", results)
    assert "With one seed the noise of training is not known" in text and " [" not in text.split("**scene-digits**")[1]


def test_half_a_profile_has_a_report(tmp_path):
    "Without one whole seed there is no difference; tables and claims are written all the same."
    results = made_results(tmp_path, SHIFTS)
    for name in ("metrics", "runs", "groups"):
        setattr(results, name, getattr(results, name).query("seed != 2"))
    for path in (results.folder / "scores").glob("*seed2*"):
        path.unlink()
    assert differences(results).empty and "MSP" in write_table("table_main", results)
    assert write_table("table_claims", results) == "" and {*judge(differences(results), results)["verdict"]} == {"not tested"}
