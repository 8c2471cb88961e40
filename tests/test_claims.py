"""Verdicts follow from intervals by rule."""

import pandas as pd
import pytest

from ascood.study import claims, reporting
from ascood.study.collected import Collected
from ascood.study.profiles import load_profile

ROW = dict(run_id="r", detector="MSP", seed=0, ood_group="val", ood_set="o", fpr95=1, auroc=1, aupr_in=1, aupr_out=1, accuracy=90)


def line(
    setting="fine-grained",
    study="",
    group="near",
    metric="auroc",
    a="ascood",
    b="cross_entropy",
    difference=1.0,
    half=0.5,
    b_detector="MSP",
    a_detector="MSP",
    benchmark="x",
    by_seed="+0.9 +1.0 +1.1",
):
    return dict(
        study=study,
        benchmark=benchmark,
        setting=setting,
        group=group,
        metric=metric,
        a_method=a,
        a_detector=a_detector,
        b_method=b,
        b_detector=b_detector,
        difference=difference,
        half_width=half,
        by_seed=by_seed,
        seeds=len(by_seed.split()),
        n_id=1,
        n_ood=1,
    )


CHOSEN = {("x", method): "MSP" for method in ("cross_entropy", "ascood", "mine_shuffled", "mine_noisy")}
KINDS = {
    "cross_entropy": "post-hoc",
    "pretrained": "post-hoc",
    "vos": "training",
    "cider": "training",
    "oe": "with outlier data",
    "ascood": "ASCOOD",
    "mine_shuffled": "ASCOOD",
    "mine_noisy": "ASCOOD",
    "mine_subtracted": "ASCOOD",
}
SYNTHESES = {
    (b, synthesis): method
    for b in "xy"
    for synthesis, method in (
        ("gradient", "ascood"),
        ("shuffle", "mine_shuffled"),
        ("gaussian", "mine_noisy"),
        ("subtract", "mine_subtracted"),
    )
}


def found(name, *lines, chosen=CHOSEN):
    claim = next(c for c in claims.CLAIMS if name in c)
    return claims.CLAIMS[claim].evidence(claims.described(pd.DataFrame(list(lines)), chosen, KINDS, SYNTHESES))


def test_lower_fpr_is_evidence_for_a_claim():
    evidence = found(
        "Fine-grained OOD: ASCOOD detects it better than a plain",
        line(metric="fpr95", difference=-10, half=2, by_seed="-9.0 -10.0 -11.0"),
    )
    assert [(e.difference, e.half_width, e.by_seed, e.says) for e in evidence] == [(10, 2, "+9.0 +10.0 +11.0", "for")]


def test_only_the_group_the_setting_is_about_and_the_chosen_score_count():
    name = "Fine-grained OOD: ASCOOD detects it better than a plain"
    assert (
        not found(name, line(group="far"))
        and not found(name, line(b_detector="EBO"))
        and not found(name, line(setting="spurious"))
    )
    assert not found(name, line(a="mine_shuffled")), "the paper adds the gradient in this setting"
    assert not found(name, line(a_detector="EBO")), "a pair by the same detector is none of this claim"
    assert found(name, line()) and found(name, line(b="pretrained"), chosen=CHOSEN | {("x", "pretrained"): "MSP"})


def test_pairs_of_the_same_detector_by_group():
    near, far = (f"Fine-grained OOD, {group} sets: the same detector" for group in ("near", "far"))
    same = [line(a_detector=d, b_detector=d) for d in ("MSP", "EBO", "Relation", "SCALE")]
    assert len(found(near, *same)) == 3, "SCALE is not the paper's detector in this setting"
    assert not found(
        near, line(b_detector="EBO"), line(group="far"), line(group="animals"), line(setting="spurious"), line(b="oe")
    )
    lost = line(group="far", metric="fpr95", difference=4, half=1)
    assert [(e.says, e.where) for e in found(far, lost)] == [("against", "x, far FPR@95, both models with MSP")]
    assert [
        e.says
        for e in found(
            "Spurious OOD, near sets: the same detector", line(setting="spurious", a_detector="ODIN", b_detector="ODIN")
        )
    ] == ["for"]
    assert [
        e.says
        for e in found(
            "Conventional OOD, far sets: the same detector",
            line(setting="conventional", group="far", a="mine_shuffled"),
        )
    ] == ["for"]


def test_the_best_rival_is_the_one_that_counts():
    "Against two methods, one worse by 5 and one better by 2, the claim 'better than every method' is contradicted."
    assert not found("Fine-grained OOD: ASCOOD is better than every method", line(b="vos", a_detector="EBO"))
    lines = (
        line(b="vos", difference=5, half=1),
        line(b="cider", difference=-2, half=1),
        line(b="oe", difference=-9, half=0),
    )
    evidence = found("Fine-grained OOD: ASCOOD is better than every method", *lines)
    assert [e.difference for e in evidence] == [-2] and claims.verdict(evidence) == "contradicted"
    assert [
        e.difference for e in found("Fine-grained OOD: ASCOOD is better than methods that train on real", *lines)
    ] == [-9]


def test_accuracy_may_fall_by_one_point():
    kept = found("keeps the ID accuracy", line(group="id", metric="accuracy", difference=-0.4, half=0.2))
    lost = found("keeps the ID accuracy", line(group="id", metric="accuracy", difference=-2, half=0.5))
    open_ = found("keeps the ID accuracy", line(group="id", metric="accuracy", difference=-0.4, half=0.7))
    assert [e.says for e in (*kept, *lost, *open_)] == ["for", "against", "undecided"] and kept[0].difference == -0.4, (
        "the difference itself is shown"
    )


def test_feature_space_claims_read_the_study():
    lines = [
        line(study="feature_space", b=f"ascood@normalization={n},uncertainty={u}", difference=d, half=1)
        for n, u, d in (("none", "kl", 3), ("l2", "kl", -4), ("zscore", "energy", 0.5))
    ]
    assert [e.says for e in found("better than none", *lines)] == ["for"]
    assert [e.says for e in found("better than L2", *lines)] == ["against"]
    assert [e.says for e in found("better than the energy", *lines)] == ["undecided"]


def test_iodin_is_compared_with_rows_of_the_same_temperature():
    fixed, one = "i-ODIN@T=1000,eps=0.0014", dict(a="cross_entropy", setting="conventional", group="far")
    lines = [
        line(**one, a_detector=a, b_detector=b, difference=d, half=0.5)
        for a, b, d in (
            ("i-ODIN", "ODIN", 1),
            (fixed, "ODIN@T=1000,eps=0.0014", 2),
            ("i-ODIN@k=10", "ODIN", 3),
            (fixed, "ODIN", 4),
            ("i-ODIN", "i-ODIN@k=10", 5),
            (fixed, f"{fixed},k=10", 6),
            ("i-ODIN", fixed, 7),
            ("i-ODIN", f"{fixed},k=10", 8),
        )
    ]
    assert [e.difference for e in found("better than ODIN", *lines)] == [1, 2]
    assert [e.difference for e in found("best with one element", *lines)] == [5, 6]


def test_what_was_not_run_is_not_tested(tmp_path):
    profile = load_profile("smoke")
    with pytest.raises(FileNotFoundError, match="collect smoke"):
        claims.judge(profile, tmp_path)
    folder = tmp_path / "smoke"
    folder.mkdir()
    pd.DataFrame([line()]).iloc[:0].to_csv(folder / "differences.csv", index=False)
    metrics = ROW | dict(benchmark="x", setting="s", method="cross_entropy")
    pd.DataFrame([metrics]).to_csv(folder / "metrics.csv", index=False)
    table = claims.judge(profile, tmp_path)
    assert set(table["verdict"]) == {"incomplete", "not tested"} and len(table) == len(claims.CLAIMS)
    said = table.set_index("claim")["verdict"]
    assert said["ASCOOD keeps the ID accuracy (loses less than one point)"] == "incomplete", "planned, and not there"
    assert said["ASCOOD is better than Dream-OOD on ImageNet-100"] == "not tested", "not planned"
    assert said["Adding the gradient makes better outliers than subtracting it"] == "not tested", (
        "the profile adds, and does not subtract"
    )




def test_the_paper_chooses_the_synthesis_by_benchmark():
    chosen = {
        b: reporting.paper_synthesis(b, s)
        for b, s in (
            ("waterbirds", "spurious"),
            ("celeba", "spurious"),
            ("cars", "fine-grained"),
            ("cifar10", "conventional"),
            ("imagenet100", "conventional"),
        )
    }
    assert chosen == {
        "waterbirds": "gradient",
        "celeba": "gaussian",
        "cars": "gradient",
        "cifar10": "shuffle",
        "imagenet100": "gradient",
    }
    noise = found(
        "Spurious OOD, noise as on CelebA: ASCOOD detects",
        line(setting="spurious", a="mine_noisy"),
        line(setting="spurious"),
    )
    assert len(noise) == 1 and noise[0].pair["a_method"] == "mine_noisy"


def test_a_missing_rival_leaves_a_claim_open(tmp_path):
    "Ours beats all that is there, but one planned rival lacks a seed: that must not read as support."
    profile, folder = load_profile("smoke"), tmp_path / "smoke"
    folder.mkdir()
    here = dict(benchmark="scene-digits-holdout", setting="fine-grained")
    rivals = [m for m in profile.methods if m != "ascood"]
    metrics = ROW
    pd.DataFrame([metrics | here | {"method": m} for m in ("cross_entropy", "ascood")]).to_csv(
        folder / "metrics.csv", index=False
    )
    name = "Fine-grained OOD: ASCOOD is better than every method without outlier data"

    def judged(there):
        pd.DataFrame([line(b=m) | here for m in there]).to_csv(folder / "differences.csv", index=False)
        table = claims.judge(profile, tmp_path)
        return table[table["claim"].str.startswith(name)]

    assert set(judged(rivals)["verdict"]) == {"supported"}
    lost = next(m for m in rivals if m != "cross_entropy" and profile.kinds[m] in claims.NO_OUTLIERS)
    table = judged([m for m in rivals if m != lost])
    assert set(table["verdict"]) == {"incomplete"} and claims.method_label(lost) in table["evidence"].iloc[-1]


@pytest.mark.parametrize("by_seed, word", [("+1.0", "one seed"), ("+1.0 +1.0", "two seeds")])
def test_one_or_two_seeds_are_not_judged(by_seed, word):
    evidence = found(
        "Fine-grained OOD: ASCOOD detects it better than a plain",
        line(by_seed=by_seed, difference=50, half=float("nan")),
    )
    assert [e.says for e in evidence] == [word] and claims.verdict(evidence) == word
    assert (
        claims.verdict(
            evidence + found("Fine-grained OOD: ASCOOD detects it better than a plain", line(difference=0.1))
        )
        == "undecided"
    )


def test_syntheses_are_compared_on_every_benchmark_that_has_both():
    lines = [
        line(benchmark=b, setting=s, group=g, b=m)
        for b, s, g in (("x", "spurious", "near"), ("y", "conventional", "far"))
        for m in ("mine_subtracted", "mine_shuffled")
    ]
    assert [e.pair["benchmark"] for e in found("better outliers than subtracting", *lines)] == ["x", "y"]
    assert [e.pair["b_method"] for e in found("better outliers than shuffling", *lines)] == ["mine_shuffled"] * 2


@pytest.mark.parametrize("accuracy, verdict", [(86.9, "supported"), (87.1, "contradicted")])
def test_a_rival_that_did_not_learn_the_task_is_no_rival(tmp_path, accuracy, verdict):
    "LogitNorm beats ours; it counts if it lost at most three points of accuracy."
    profile, folder = load_profile("smoke"), tmp_path / "smoke"
    folder.mkdir()
    here = dict(benchmark="scene-digits-holdout", setting="fine-grained")
    metrics = dict(
        run_id="r", detector="MSP", seed=0, ood_group="val", ood_set="o", fpr95=1, auroc=1, aupr_in=1, aupr_out=1
    )
    methods = {"cross_entropy": 90, "ascood": 90, "logit_norm": accuracy}
    pd.DataFrame([metrics | here | dict(method=m, accuracy=a) for m, a in methods.items()]).to_csv(
        folder / "metrics.csv", index=False
    )
    lines = [line(), line(b="logit_norm", difference=-9, half=1)]
    pd.DataFrame([row | here for row in lines]).to_csv(folder / "differences.csv", index=False)
    table = claims.judge(profile, tmp_path)
    assert set(
        table[table["claim"].str.startswith("Fine-grained OOD: ASCOOD is better than every method")]["verdict"]
    ) == {verdict}
    assert ("did not learn" in reporting.say_left_out(claims._left_out(Collected(profile, tmp_path)))) == (
        verdict == "supported"
    )


def test_a_claim_in_short_is_its_largest_decided_difference(tmp_path):
    rows = [
        ("A", "supported", 9.0, 10.0, "undecided"),
        ("A", "supported", 2.0, 1.0, "for"),
        ("A", "supported", 4.0, 1.0, "for"),
        ("B", "undecided", -3.0, 4.0, "undecided"),
        ("B", "undecided", 1.0, 2.0, "undecided"),
        ("C", "not tested", None, None, None),
        ("D", "incomplete", None, None, None),
        ("E", "one seed", 7.0, None, "one seed"),
    ]
    table = pd.DataFrame(rows, columns=["claim", "verdict", "difference", "half_width", "says"]).assign(
        paper="Table 1", by_seed="+1.0"
    )
    (tmp_path / "quick").mkdir()
    table.to_csv(tmp_path / "quick" / "table_claims.csv", index=False)
    short = claims.verdicts(load_profile("quick"), tmp_path).set_index("claim")
    assert list(short.index) == ["A", "B", "D", "E"]
    assert list(short.loc["A"]) == ["Table 1", "supported", 2, 0, 1, "+4.0 [+3.0, +5.0]"]
    assert [*short.loc[["B", "D", "E"], "largest difference"]] == ["-3.0 [-7.0, +1.0] (needs 4.0)", "", "+7.0 one seed"]
    table.drop(columns="by_seed").to_csv(tmp_path / "quick" / "table_claims.csv", index=False)
    assert claims.verdicts(load_profile("quick"), tmp_path).empty, "verdicts of an older rule are not repeated"
