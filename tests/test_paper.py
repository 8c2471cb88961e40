"""The profile `paper` against what the paper says and prints, row by row."""

import pandas as pd
import pytest

from ascood.study.names import METHOD_STYLE, paper_detector
from ascood.study.profiles import load_profile
from ascood.study.tables import read_published

KEYS = {label: key for key, (label, _) in METHOD_STYLE.items()}
SETTING = {"waterbirds": "spurious", "celeba": "spurious", "aircraft": "fine-grained", "cars": "fine-grained"}
UNKNOWN_OUTLIERS = "which outliers the paper trained with is not known"
UNPLANNED = {  # why a printed row has no run
    "Dream-OOD (EBO)": "needs generated images",
    **{("mixoe", name): UNKNOWN_OUTLIERS for name in SETTING}, **{("oe", name): UNKNOWN_OUTLIERS for name in SETTING},
    "adascale_a": "not among the detectors", "adascale_l": "not among the detectors", "t2fnorm": "not among the detectors",
    "full-spectrum": "a protocol that the tables of the paper do not use",
}


@pytest.fixture(scope="module")
def runs():
    "{(benchmark, method, variant): detectors} of both profiles."
    return {(run.benchmark, run.method, run.variant): run for name in ("paper", "paper-imagenet1k") for run in load_profile(name).runs}


def ours(runs, benchmark, synthesis=""):
    "The ASCOOD method of a benchmark with a synthesis, else any."
    found = [method for (name, method, variant), run in runs.items() if name == benchmark and not variant
             and run.settings.get("synthesis", "") in ([synthesis] if synthesis else ["gradient", "shuffle", "gaussian"])]
    return found[0] if found else ""


def wanted_of_table1(runs):
    printed = pd.concat([read_published("table1_main"), read_published("table2_odin_rows")]).drop_duplicates(["method", "benchmark"])
    for row in printed.itertuples():
        if row.method == "ASCOOD":
            yield row.benchmark, ours(runs, row.benchmark), "", paper_detector(row.benchmark, SETTING.get(row.benchmark, "conventional"))
        elif row.method in KEYS:
            yield row.benchmark, KEYS[row.method], "", None
        else:
            yield row.benchmark, "cross_entropy", "", row.method


def wanted_of_the_others(runs):
    for row in read_published("table3_imagenet100").drop_duplicates(["method"]).itertuples():
        yield "imagenet100", ours(runs, "imagenet100") if row.method.startswith("ASCOOD") else row.method, "", "EBO"
    for row in read_published("table5_synthesis").drop_duplicates(["benchmark", "synthesis"]).itertuples():
        yield row.benchmark, ours(runs, row.benchmark, "gradient" if row.synthesis == "add" else row.synthesis), "", None
    for row in read_published("table6_iodin").drop_duplicates(["id", "method"]).itertuples():
        yield row.id, "cross_entropy", "", row.method
    for row in read_published("table8_feature_space").drop_duplicates(["benchmark", "uncertainty_loss", "normalization"]).itertuples():
        own = (row.normalization, row.uncertainty_loss) == ("zscore", "kl")
        yield row.benchmark, "ascood", "" if own else f"normalization={row.normalization},uncertainty={row.uncertainty_loss}", None
    for row in read_published("normalization_cifar100").drop_duplicates("normalization").itertuples():
        yield "cifar100", "ascood_shuffle", "" if row.normalization == "zscore" else f"normalization={row.normalization}", None
    for row in read_published("id_accuracy").itertuples():
        yield row.benchmark, ours(runs, row.benchmark) if row.method == "ASCOOD" else row.method, "", None
    for row in read_published("openood_v1.5").drop_duplicates(["id", "protocol", "training", "postprocessor"]).itertuples():
        benchmark = "imagenet1k" if row.id == "imagenet" else row.id
        method = ours(runs, benchmark) if row.training == "ASCOOD" else "cross_entropy"
        detector = {"iodin": "i-ODIN", "msp": "MSP", "scale": "SCALE"}.get(row.postprocessor, row.postprocessor)
        yield benchmark, method, "", row.protocol if row.protocol == "full-spectrum" else detector


@pytest.mark.parametrize("wanted", [wanted_of_table1, wanted_of_the_others])
def test_every_printed_row_has_a_run_or_a_reason(runs, wanted):
    lacking, rows = {}, [*wanted(runs)]
    for benchmark, method, variant, detector in rows:
        run = runs.get((benchmark, method, variant))
        if run is None or detector not in (None, *run.detectors):
            lacking[benchmark, method, variant, detector] = next((UNPLANNED[key] for key in (detector, method, (method, benchmark)) if key in UNPLANNED), "")
    assert len(rows) > 20 and all(lacking.values()), [key for key, reason in lacking.items() if not reason]


def test_the_settings_are_the_papers():
    "The table of settings, written out once more."
    told = {  # benchmark: backbone, epochs, lr, batch, synthesis, fraction, alphas, lambda
        "waterbirds": ("resnet18", 30, 0.01, 128, "gradient", 0.1, (300, 30), 0.1),
        "celeba": ("resnet18", 30, 0.01, 128, "gaussian", None, (0.1, 0.1), 1),
        "aircraft": ("resnet50", 30, 0.01, 32, "gradient", 0.1, (0.1, 0.1), 1),
        "cars": ("resnet50", 30, 0.01, 32, "gradient", 0.1, (0.1, 0.1), 1),
        "cifar10": ("cifar_resnet18", 100, 0.1, 128, "shuffle", 0.15, None, 1),
        "cifar100": ("cifar_resnet18", 100, 0.1, 128, "shuffle", 0.1, None, 5),
    }
    profile = load_profile("paper")
    assert {*profile.benchmarks} == {*told, "imagenet100", "imagenet200"} and profile.seeds == [0, 1, 2]
    for name, (backbone, epochs, lr, batch, synthesis, fraction, alphas, weight) in told.items():
        (run,) = [r for r in profile.runs if (r.benchmark, r.variant, r.config.seed) == (name, "", 0) and r.settings.get("synthesis") == synthesis]
        config = run.config
        assert (config.backbone, config.epochs, config.lr, config.batch_size) == (backbone, epochs, lr, batch)
        assert config.pretrained == (not name.startswith("cifar")) and run.settings["weight"] == weight
        assert fraction in (None, run.settings["fraction"])
        assert alphas is None or (run.settings["alpha_max"], run.settings["alpha_min"]) == alphas
        assert config.head_lr_factor == (0.05 if name == "cifar100" else 1)


def test_a_part_of_a_profile_has_the_same_runs():
    part = load_profile("paper:cars,cifar10")
    assert part.chosen == ["cars", "cifar10"] and part.name == "paper"
    assert [r.run_id for r in part.runs] == [r.run_id for r in load_profile("paper").runs]
    with pytest.raises(ValueError, match="unknown benchmark 'car'; did you mean 'cars'"):
        load_profile("paper:car")
