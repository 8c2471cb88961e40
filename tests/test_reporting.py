"""Gaps, the wide table and the chosen hyperparameters, by hand."""
import numpy as np
import pandas as pd

from ascood.study import reporting
from ascood.study.page import _table_part

NAN = float("nan")


KINDS = {"cross_entropy": "post-hoc", "pretrained": "post-hoc", "oe": "with outlier data", "ascood": "ASCOOD"}


def rows(method, detector, group, values, benchmark="b", setting="spurious", hyperparameters="{}", gap=""):
    "A row for each seed; a NaN is a gap."
    return pd.DataFrame([dict(benchmark=benchmark, setting=setting, method=method, detector=detector, seed=seed, ood_group=group, ood_set="o",
                              fpr95=100 - v, auroc=v, aupr_in=v, aupr_out=v, accuracy=90.0, hyperparameters=hyperparameters,
                              gap=gap if np.isnan(v) else "", kind=KINDS.get(method, "training")) for seed, v in enumerate(values)])


def test_a_gap_is_a_dash_and_fewer_seeds_are_said():
    metrics = pd.concat([rows("cross_entropy", "MSP", "near", (80, 90)), rows("cross_entropy", "MDS", "near", (NAN, 70), gap="singular"),
                         rows("cross_entropy", "RMDS", "near", (NAN, NAN), gap="singular")])
    table = reporting.cells(reporting.summarize(metrics).query("quantity == 'near_auroc'"), ["detector"], ["quantity"])
    assert table["near AUROC ↑"].to_dict() == {"MSP": "85.00 ± 5.00", "MDS": "70.00 (1 of 2 seeds)", "RMDS": "–"}, "nothing complete to rank with"
    assert reporting.gap_notes(metrics) == ["- MDS on b (Cross-entropy, seed 0): singular", "- RMDS on b (Cross-entropy, seed 0, 1): singular"]


def test_a_score_with_a_gap_does_not_speak_for_a_method():
    metrics = pd.concat([rows("ascood", "MDS", "val", (99, NAN)), rows("ascood", "MSP", "val", (60, 60))])
    assert reporting.choose_detectors(metrics) == {("b", "ascood"): "MSP"}
    assert reporting.choose_detectors(rows("cider", "KNN", "val", (NAN, 70))) == {("b", "cider"): "KNN"}  # it has no other


def test_a_method_whose_only_score_failed_keeps_its_row():
    metrics = pd.concat([rows("cider", "KNN", group, (NAN, 70), gap="x") for group in ("val", "near")])
    table = reporting.cells(reporting.compared(metrics), ["kind", "method"], ["quantity"])
    assert table.loc[("training", "CIDER"), "AUROC ↑"] == "70.00 (1 of 2 seeds)"


def wide():
    parts = []
    for setting, name in (("spurious", "b"), ("conventional", "c")):
        for method, detector, good in (("ascood", "KNN", 95), ("ascood", "MSP", 50), ("oe", "MSP", 90), ("vos", "EBO", 70), ("godin", "G-ODIN", 60),
                                       ("cross_entropy", "KNN", 40), ("cross_entropy", "MSP", 30)):
            for group, offset in (("val", 0), ("near", 1), ("far", 2)):
                parts.append(rows(method, detector, group, (good + offset, good + offset), name, setting))
    return pd.concat(parts)


def test_wide_table_has_the_papers_order_and_each_settings_own_outliers():
    table = reporting.compared(wide())
    names = table.drop_duplicates(["kind", "method"])
    assert list(zip(names["kind"], names["method"])) == [("post-hoc", "MSP"), ("post-hoc", "KNN"), ("training", "godin"), ("training", "vos"),
                                                        ("with outlier data", "oe"), ("ASCOOD", "ascood")]
    auroc = table[table.quantity == "auroc"].set_index(["benchmark", "method"])["mean"]
    assert (auroc["b", "ascood"], auroc["c", "ascood"]) == (96, 97)  # near where spurious, far where conventional
    assert (auroc["b", "MSP"], auroc["c", "MSP"]) == (31, 32)


def test_columns_of_a_benchmark_stand_together_and_latex_has_a_rule_between_kinds():
    cells = reporting.cells(reporting.compared(wide()), ["kind", "method"], ["benchmark", "quantity"], "latex")
    assert [c for c, _ in cells.columns] == ["b", "b", "b", "c", "c", "c"]
    latex = reporting.to_latex(cells, "x")
    assert latex.count(r"\midrule") == 4
    body = latex.split("\\midrule\n")
    assert body[1].startswith("post-hoc & MSP") and body[2].startswith("training & G-ODIN") and body[4].startswith("ASCOOD")


def test_chosen_hyperparameters_by_seed():
    metrics = pd.concat([rows("cross_entropy", "KNN", "near", (1,), hyperparameters='{"k": 50}'), rows("cross_entropy", "MSP", "near", (1,)),
                         rows("cross_entropy", "KNN", "near", (1,), hyperparameters='{"k": 100}').assign(seed=1),
                         rows("cross_entropy", "KNN", "near", (1,), "c", hyperparameters='{"k": 200}')])
    table = reporting.hyperparameter_table(metrics)
    assert table.to_dict("records") == [{"method": "cross_entropy", "detector": "KNN", "hyperparameter": "k", "b": "50, 100", "c": "200"}]
    named = reporting.hyperparameter_table(metrics.assign(run_id="run" + metrics["seed"].astype(str) + metrics["benchmark"]))
    assert named["runs"].tolist() == ["run0b run1b run0c"]
    assert reporting.hyperparameter_table(rows("cross_entropy", "MSP", "near", (1,))).empty
    odd = rows("cross_entropy", "ASH", "near", (1,), hyperparameters='{"variant": "ash-b", "percentile": 0.9}')
    assert reporting.hyperparameter_table(odd)["b"].tolist() == ["ash-b", "0.9"]


def test_blocks_are_printed_in_turn_and_the_csv_has_all_their_rows(tmp_path):
    summary = reporting.summarize(pd.concat([rows("ascood", "MSP", "near", (80,)), rows("oe", "MSP", "near", (70,))]))
    summary = summary.query("quantity == 'near_auroc'").assign(source="here", published_on="")
    published = summary.assign(source="published", mean=99.0)
    blocks = [reporting.Block(summary, ["method"], ["quantity"]), reporting.Block(published, ["method"], ["quantity"], "Published, elsewhere:")]
    text = reporting.write_blocks(blocks, tmp_path / "t", "A caption of 100 %.", "A note.")
    ours, theirs = text.split("Published, elsewhere:")
    assert "**80.00**" in ours and "<u>70.00</u>" in ours and "99.00" in theirs and "**" not in theirs and theirs.strip().endswith("A note.")
    assert pd.read_csv(tmp_path / "t.csv")["source"].tolist() == ["here", "here", "published", "published"]
    latex = (tmp_path / "t.tex").read_text()
    assert latex.count(r"\begin{table}") == 2 and latex.count(r"A caption of 100 \%.") == 1
    assert reporting.write_blocks([reporting.Block(summary[:0], [], [], "None of these."), *blocks], tmp_path / "t", "A caption of 100 %.", "A note.") == text


def test_the_plain_model_is_found_in_a_profile_in_rows_and_in_names():
    metrics = pd.concat([rows("pretrained", "MSP", "near", (1,)), rows("vos", "MSP", "near", (1,))])
    assert reporting.plain_method(reporting.kinds_of(metrics)) == "pretrained" and reporting.plain_methods(metrics) == {"b": "pretrained"}
    both = pd.concat([metrics, rows("cross_entropy", "MSP", "near", (1,)), rows("pretrained", "MSP", "val", (1,)), rows("vos", "MSP", "val", (1,))])
    assert reporting.plain_method(reporting.kinds_of(both)) == "pretrained", "the first of them"
    kinds = reporting.compared(both).drop_duplicates("method")
    assert dict(zip(kinds["method"], kinds["kind"])) == {"MSP": "post-hoc", "vos": "training"}, "the other has no validation rows, so no detector"
    assert reporting.plain_method({}) == "cross_entropy" and reporting.plain_method({"mine": "training", "base": "post-hoc"}) == "base"


def test_three_points_of_accuracy_decide():
    metrics = pd.concat([rows("cross_entropy", "MSP", "near", (1, 1)), rows("vos", "MSP", "near", (1, 1)).assign(accuracy=[86.5, 87.5]),
                         rows("oe", "MSP", "near", (1, 1)).assign(accuracy=[86, 87.5]), rows("ascood", "MSP", "near", (1,), "c").assign(accuracy=5)])
    assert reporting.did_not_learn(metrics) == {("b", "oe")}, "three points are not more than three; benchmark c has no plain model"
    assert reporting.say_left_out(set()) == ""


BAD = "<script>alert(1)</script>|_&%"


def test_names_are_printed_as_they_are_in_every_format(tmp_path):
    metrics = pd.concat([rows(method, "MSP", group, (80, 90)) for method in ("cross_entropy", BAD) for group in ("val", "near")])
    reporting.write_blocks([reporting.Block(reporting.compared(metrics), ["kind", "method"], ["quantity"])], tmp_path / "t", "x")
    reporting.write_plain_table(pd.DataFrame({"method": [BAD], "value": [1.0]}), tmp_path / "plain", "x")
    for name in ("t", "plain"):
        markdown, latex = ((tmp_path / f"{name}.{kind}").read_text() for kind in ("md", "tex"))
        (line,) = [line for line in markdown.splitlines() if "script" in line]
        assert r"\<script\>alert(1)\</script\>\|\_&%" in line and line.replace("\\|", "").count("|") == markdown.splitlines()[2].count("|")
        assert r"\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{}|\_\&\%" in latex
        html = _table_part(name, tmp_path).body
        assert "&lt;script&gt;alert(1)&lt;/script&gt;|_&amp;%" in html and "<script" not in html
    assert r"\<script\>" in reporting.gap_notes(rows("cross_entropy", BAD, "near", (NAN,), gap=BAD))[0]
