"""Results of made-up runs: every file that a profile's results consist of, without training anything."""

import json

import numpy as np
import pandas as pd
import yaml

from ascood.evaluation import ood_metrics
from ascood.study.profiles import load_profile
from ascood.study.results import Results
from ascood.study.runs import RunScores, csv_text

SETS = {("id", "val"): 30, ("id", "test"): 60, ("val", "v"): 30, ("near", "a"): 40, ("near", "b"): 40, ("far", "c"): 50}
PLAN = {
    "description": "Made up.", "seeds": [0, 1, 2], "train": {"epochs": 1},
    "detectors": ["MSP", "EBO", "KNN", "ODIN", "i-ODIN"],
    "methods": {"cross_entropy": {}, "logit_norm": {}, "ascood": {"synthesis": "gradient"},
                "ascood_subtract": {"kind": "ascood", "synthesis": "subtract"}},
    "more_detectors": {"cross_entropy": {"i-ODIN@k=10": {"k": 10}}},
    "studies": {"space": {"vary": {"normalization": ["zscore", "none"]}}},
    "benchmarks": {"scene-digits": {}, "scene-digits-holdout": {}},
}


def arrays(scores: RunScores) -> dict:
    "As scores.npz holds them."
    found = {"correct": scores.correct}
    found |= {"|".join(("ranks", *row, *where)): values for row, sets in scores.ranks.items() for where, values in sets.items()}
    return found | {"|".join(("quantiles", *key)): values for key, values in scores.quantiles.items()}


def made_results(folder, shifts=None, plan=None, missing=()) -> Results:
    """`shifts`: {(method, variant): by how much its OOD scores lie above the ID ones}; a seed adds noise of 0.1. Runs of
    the methods in `missing` are not there."""
    path = folder / "made.yaml"
    path.write_text(yaml.safe_dump(PLAN | (plan or {}), sort_keys=False))
    profile, rows, runs, groups = load_profile(str(path)), [], [], []
    for run in [run for run in profile.runs if run.method not in missing]:
        rng, setting = np.random.default_rng(run.config.seed), {"scene-digits": "spurious"}.get(run.benchmark, "fine-grained")
        names = {"run_id": run.run_id, "benchmark": run.benchmark, "setting": setting, "method": run.method, "variant": run.variant,
                 "kind": run.declared["kind"], "seed": run.config.seed}
        shift = (shifts or {}).get((run.method, run.variant), 1.0) + 0.1 * rng.normal()
        scores = RunScores({}, {}, rng.random(SETS["id", "test"]) < 0.8)
        for label, given in run.detectors.items():
            key = label.partition("@")[0], json.dumps(given) if "@" in label else "", "released"
            values = {where: np.round(20 * (rng.normal(size=n) + shift * (where[0] != "id"))) for where, n in SETS.items()}
            scores.ranks[key] = {where: (v + 500).astype(np.uint16) for where, v in values.items()}
            scores.quantiles.update({(label, *where): np.quantile(v, np.linspace(0, 1, 64)).astype(np.float32)
                                         for where, v in values.items()})
            for (group, name), v in values.items():
                if group != "id":
                    known = values["id", "val" if group == "val" else "test"]
                    rows.append(names | dict(zip(("detector", "params", "reads"), key)) | {"ood_group": group, "ood_set": name}
                                | ood_metrics(known, v) | {"fpr95_id_positive": 50.0, "accuracy": 100 * scores.correct.mean(), "n_id": len(known),
                                                           "n_ood": len(v), "hyperparameters": json.dumps({"k": 5} if label == "KNN" else given), "gap": "", "needs_outliers": False})
        runs.append(names | {"code": "0+x", "evaluation_code": "0+x", "device": "none", "libraries": '{"torch": "2", "pytorch-ood": "0.4"}',
                             "training_seconds": 1.0, "wall_seconds": 2.0, "evaluation_wall_seconds": 1.0, "evaluation_seconds": '{"MSP": 1}',
                             "training_peak_mib": 1.0, "evaluation_peak_mib": 1.0})
        groups += [names | {"image_group": group, "set": name, "part": part, "n": 10, "accuracy": accuracy, "confidence": 0.5}
                   for group, name, part, accuracy in (("id", "test", "all", 80.0), ("id", "test", "majority", 90.0),
                                                       ("id", "test", "minority", 60.0), ("near", "a", "all", np.nan))]
        target = folder / "results" / "made" / "scores"
        target.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(target / f"{run.run_id}.npz", **arrays(scores))
    for name, lines in (("metrics", rows), ("runs", runs), ("groups", groups)):
        (folder / "results" / "made" / f"{name}.csv").write_text(csv_text(pd.DataFrame(lines)))
    return Results(profile, folder / "results", folder / "figures")
