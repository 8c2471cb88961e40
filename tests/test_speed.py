"The benchmark notebook, run small."
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]


def test_the_benchmark_runs_and_writes_its_tables(tmp_path):
    "The notebook itself checks that both steps give the same loss, and that ours needs one forward pass less."
    values = {"networks": "{tiny_resnet: [16, 4]}", "seconds": 0.01, "detectors": "[MSP, KNN]", "images": 20, "results": tmp_path}
    words = ["nbs/experiments/benchmark.ipynb", tmp_path / "out.ipynb", *(w for name, v in values.items() for w in ("-p", f"{name}={v}"))]
    done = subprocess.run([sys.executable, "-m", "ascood", "notebook", *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = pd.read_csv(next((tmp_path / "benchmarks").glob("step_*.csv")))
    assert steps["precision"].tolist() == ["fp32", "bf16"] and (steps[["textbook (s)", "ours (s)"]] > 0).all(axis=None)
    assert len(pd.read_csv(next((tmp_path / "benchmarks").glob("scoring_*.csv")))) == 2
