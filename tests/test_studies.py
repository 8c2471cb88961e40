"""Studies: which runs they add, what these runs differ in, and where they are shown."""

import pandas as pd
import pytest
import yaml

from ascood.study.profiles import find_run, load_profile
from ascood.study.collected import Collected
from ascood.study.differences import compare
from ascood.study.runs import packed_scores

PROFILE = {
    "description": "for tests",
    "seeds": [0, 1],
    "train": {"epochs": 2},
    "detectors": ["MSP", "ODIN", "i-ODIN"],
    "more_detectors": {"cross_entropy": {"i-ODIN@k=10": {"k": 10}}},
    "snapshots": [1],
    "methods": {"cross_entropy": {}, "ascood": {"alpha_max": 30, "alpha_min": 3, "weight": 0.1}, "vos": {}},
    "benchmarks": {"scene-digits": {}, "scene-digits-all": {"leave_out": ["vos"]}},
    "studies": {
        "alpha": {"benchmarks": ["scene-digits-all"], "vary": {"alpha_factor": [0.1, 1]}},
        "space": {"vary": {"normalization": ["none", "zscore"], "uncertainty": ["kl", "energy"]}, "detectors": ["EBO"]},
        "strength": {"benchmarks": ["scene-digits"], "methods": ["cross_entropy", "ascood"], "vary": {"correlation": [0.9, 0.5]}},
    },
}


def written(folder, **changes):
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(PROFILE | changes, sort_keys=False))
    return str(path)


def test_every_combination_is_a_run_unless_it_is_the_profile_s_own(tmp_path):
    profile = load_profile(written(tmp_path))
    plain = [run for run in profile.runs if run.method in profile.methods]
    varied = {(run.benchmark, run.method) for run in profile.runs if run not in plain}
    space = {f"ascood@normalization={n},uncertainty={u}" for n in ("none", "zscore") for u in ("kl", "energy")} - {
        "ascood@normalization=zscore,uncertainty=kl"}
    assert varied == {("scene-digits-all", "ascood@alpha_factor=0.1"), *((b, m) for b in ("scene-digits", "scene-digits-all") for m in space),
                      ("scene-digits", "cross_entropy@correlation=0.5"), ("scene-digits", "ascood@correlation=0.5")}
    assert len(plain) == 2 * (3 + 2) and len(profile.runs) == len(plain) + 2 * len(varied) == len({run.run_id for run in profile.runs})
    own = [point for point in profile.points if point.variant == point.method]
    assert [(p.study, p.benchmark, p.method) for p in own] == [
        ("alpha", "scene-digits-all", "ascood"), ("space", "scene-digits", "ascood"), ("space", "scene-digits-all", "ascood"),
        ("strength", "scene-digits", "cross_entropy"), ("strength", "scene-digits", "ascood")]


def test_a_variant_differs_in_what_it_says_and_in_nothing_else(tmp_path):
    profile = load_profile(written(tmp_path))
    base, weaker = (find_run(profile, "scene-digits-all", m, 1) for m in ("ascood", "ascood@alpha_factor=0.1"))
    assert weaker.settings == base.settings | {"alpha_max": 3.0, "alpha_min": 0.3} and weaker.config == base.config and weaker.options == {}
    half = find_run(profile, "scene-digits", "ascood@correlation=0.5", 0)
    assert half.options == {"correlation": 0.5} and half.settings == find_run(profile, "scene-digits", "ascood", 0).settings
    assert find_run(profile, "scene-digits-all", "ascood@normalization=none,uncertainty=kl", 0).detectors == {"EBO": {}}
    assert find_run(profile, "scene-digits-all", "cross_entropy", 0).detectors == {"MSP": {}, "ODIN": {}, "i-ODIN": {}, "i-ODIN@k=10": {"k": 10}}
    kept = {(run.method, run.config.seed) for run in profile.runs if run.snapshots}
    assert kept == {("cross_entropy", 0), ("ascood", 0)}, "of the first seed alone, and not of other methods"


def test_compared_rows_and_points_are_paired_with_what_they_are_measured_against(tmp_path):
    "Invented scores in the files that an evaluation leaves; which pairs, and their differences."
    import numpy as np

    profile = load_profile(written(tmp_path, seeds=[0, 1, 2], detectors=["MSP"], benchmarks={"scene-digits-all": {}}, more_detectors={}, methods={"cross_entropy": {}, "ascood": {}},
                                   studies={"sigma": {"vary": {"sigma": [0.5, 2]}}}))
    shift, rows = {"cross_entropy": 1.0, "ascood": 2.0, "ascood@sigma=2": 1.5}, []
    for run in profile.runs:
        rng = np.random.default_rng(run.config.seed)
        scores = {("id", "val"): rng.normal(0, 1, 9), ("id", "test"): rng.normal(0, 1, 300), ("val", "v"): rng.normal(1, 1, 9)}
        scores |= {("near", name): rng.normal(shift[run.method], 1, 200) for name in ("a", "b")}
        run.folder(tmp_path).mkdir(parents=True)
        (run.folder(tmp_path) / "scores.npz").write_bytes(packed_scores({"MSP": scores}, rng.random(300) < 0.9))
        rows += [dict(run_id=run.run_id, benchmark="scene-digits-all", setting="conventional", method=run.method, detector="MSP", seed=run.config.seed, ood_group=g,
                      ood_set="v", fpr95=1, auroc=90, aupr_in=1, aupr_out=1, accuracy=90) for g in ("val", "near")]
    pd.DataFrame(rows).to_csv(tmp_path / "tiny" / "metrics.csv", index=False)
    table = compare(Collected(profile, tmp_path), draws=100)
    pairs = set(zip(table.study, table.group, table.metric, table.a_method, table.b_method))
    assert ("", "near", "auroc", "ascood", "cross_entropy") in pairs and ("sigma", "near", "fpr95", "ascood", "ascood@sigma=2") in pairs
    assert not {p for p in pairs if p[0] == "" and "@" in p[3] + p[4]}, "variants stay out of the main comparison"
    main_row = table.query("study == '' and metric == 'auroc' and a_method == 'ascood'").iloc[0]
    assert 0 < main_row.half_width < main_row.difference and (main_row.n_id, main_row.n_ood, main_row.seeds) == (300, 400, 3)
    assert np.mean([float(value) for value in main_row.by_seed.split()]) == pytest.approx(main_row.difference, abs=0.06)
    assert set(Collected(profile, tmp_path).metrics.method) == {"cross_entropy", "ascood"}
    assert set(Collected(profile, tmp_path).all_metrics.method) == set(shift)
