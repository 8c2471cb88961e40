"A few of the trials of `make faults`."
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def rows_of(calls: str) -> list[dict]:
    "What an expression gives in a process that has computed nothing."
    program = f"import random, json, sys; sys.path.insert(0, 'tests'); from faults import *; rng = random.Random(7); print(json.dumps({calls}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_a_killed_job_and_adverse_surroundings_lose_nothing():
    kills, around = rows_of("([row for job, n in (('training', 1), ('evaluation', 2), ('building a benchmark', 3)) for row in kill_trials(job, n, rng, 1)], brief_surroundings())")
    assert len(kills) == 6 and sum(row["killed"] for row in kills) > 3 and not any(row["status"] or row["wrong"] for row in kills), kills
    assert len(around) == 3 and all(row["faults"] == [] and row["repeated"] == "equal" for row in around), around
    assert "state-0001 cannot be written" in around[0]["said"] and "there is no data folder" in around[2]["said"]


def test_the_committed_counts_have_no_losses():
    found = json.loads((ROOT / "results" / "faults.json").read_text())
    assert found["trials"] >= 100 and found["killed"] > 0.9 * found["trials"] and found["damaged files"] >= 40 and found["surroundings"] >= 20
    assert found["losses"] == found["silently accepted"] == found["surroundings with faults"] == 0


def test_a_package_that_was_not_looked_up_is_no_pass():
    from audit import judge

    sound, bad = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "version": "2", "vulns": [{"id": "X-1", "fix_versions": ["3"]}]}
    assert judge({"dependencies": [sound]}) == (0, "1 of 1 packages looked up, 0 known vulnerabilities")
    assert judge({"dependencies": [sound, bad]})[0] == 1 and "b 2: X-1, mended in 3" in judge({"dependencies": [sound, bad]})[1]
    status, said = judge({"dependencies": [sound, {"name": "c", "skip_reason": "not found"}]})
    assert status == 2 and "1 of 2 packages looked up" in said and "no answer for c" in said and judge({})[0] == 2
