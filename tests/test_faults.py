"A few of the trials of `make faults`."
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_killed_training_and_evaluation_lose_nothing(tmp_path):
    program = ("import random, json, sys; sys.path.insert(0, 'tests'); from faults import kill_trials; rng = random.Random(7);"
               "print(json.dumps([row for job in ('training', 'evaluation') for row in kill_trials(job, 2, rng)]))")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)  # a process that has computed nothing
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout)
    assert len(rows) == 4 and any(row["killed"] for row in rows) and not any(row["status"] or row["wrong"] for row in rows), rows


def test_the_committed_counts_have_no_losses():
    found = json.loads((ROOT / "results" / "faults.json").read_text())
    assert found["trials"] >= 100 and found["killed"] > found["trials"] / 2 and found["damaged files"] >= 40
    assert found["losses"] == found["silently accepted"] == 0
