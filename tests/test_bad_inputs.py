"Every bad input of the list in bad_inputs.py, and the committed table of them."
import json
from pathlib import Path

import pytest
from bad_inputs import CASES, KINDS, as_markdown, furnish, give

ROOT = Path(__file__).parents[1]
FOUND = {}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.given[:60]!r}")
def test_it_is_answered_in_one_line_before_any_work(case, tmp_path):
    found = give(case, tmp_path)
    FOUND[case.kind, case.given] = found
    assert not found.faults, found.said


def test_the_committed_table_says_the_same():
    rows = json.loads((ROOT / "results" / "inputs.json").read_text())
    assert [(row["kind"], row["given"]) for row in rows] == [(case.kind, case.given) for case in CASES], "python tests/bad_inputs.py writes it"
    assert not any(row["faults"] for row in rows) and {row["kind"] for row in rows} == {*KINDS}
    changed = [row["given"] for row in rows if (found := FOUND.get((row["kind"], row["given"]))) and [row["status"], row["said"]] != [found.status, found.said]]
    assert not changed, "python tests/bad_inputs.py writes it"
    assert (ROOT / "results" / "inputs.md").read_text() == as_markdown(rows)


def test_what_is_given_with_them_is_valid(tmp_path, monkeypatch):
    "Else any of them would be refused for another reason."
    from ascood.own.images import read_folder, read_outliers
    from ascood.study.profiles import load_profile

    monkeypatch.chdir(tmp_path)
    furnish()
    assert len(load_profile("tiny.yaml").runs) == 4 and len(read_folder("photos/train", 32)) == 12 and len(read_outliers("photos/other", 32)) == 2
