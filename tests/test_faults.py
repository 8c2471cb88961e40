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


def test_a_package_that_was_not_looked_up_is_no_pass():
    from audit import judge

    sound, bad = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "version": "2", "vulns": [{"id": "X-1", "fix_versions": ["3"]}]}
    assert judge({"dependencies": [sound]}) == (0, "1 of 1 packages looked up, 0 known vulnerabilities")
    assert judge({"dependencies": [sound, bad]})[0] == 1 and "b 2: X-1, mended in 3" in judge({"dependencies": [sound, bad]})[1]
    status, said = judge({"dependencies": [sound, {"name": "c", "skip_reason": "not found"}]})
    assert status == 2 and "1 of 2 packages looked up" in said and "no answer for c" in said and judge({})[0] == 2
