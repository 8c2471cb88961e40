"Every bad input of the list in bad_inputs.py."

import pytest
from bad_inputs import CASES, furnish, give


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.given[:60]!r}")
def test_it_is_answered_in_one_line_before_any_work(case, tmp_path):
    found = give(case, tmp_path)
    assert not found.faults, found.said


def test_what_is_given_with_them_is_valid(tmp_path, monkeypatch):
    "Else any of them would be refused for another reason."
    from ascood.own.folder import read_folder, read_outliers
    from ascood.study.profiles import load_profile

    monkeypatch.chdir(tmp_path)
    furnish()
    assert len(load_profile("tiny.yaml").runs) == 4 and len(read_folder("photos/train", 32)) == 12 and len(read_outliers("photos/other", 32)) == 2
