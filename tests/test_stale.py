"After a change of any kind, exactly the results that depend on it are made again."

import ast
import json
from pathlib import Path

import ascood
import pytest
import yaml
from test_disk import fill_lists

from ascood.benchmarks import disk
from ascood.study import runs
from ascood.study.profiles import load_profile
from ascood.study.cli import run_state
from ascood.study.runs import code_version, lists_now, lists_read

PLAN = {"description": "for tests", "seeds": [0, 1], "train": {"epochs": 1}, "detectors": {"MSP": {}, "KNN": {"k": [1, 5]}},
        "methods": {"cross_entropy": {}, "logit_norm": {}, "godin": {}, "ascood": {"alpha_max": 3.0}},
        "benchmarks": {"scene-digits": {}, "cifar10": {}}}
ALL = {(b, m, s) for b in PLAN["benchmarks"] for m in PLAN["methods"] for s in PLAN["seeds"]}


def only(benchmark=None, method=None, seed=None) -> set:
    return {key for key in ALL if all(asked in (None, there) for asked, there in zip((benchmark, method, seed), key))}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("listed") / "data"
    fill_lists(root, "cifar10", n=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASCOOD_DATA", str(root))
        yield root


@pytest.fixture
def planned(tmp_path, root):
    "A function: the plan with changes, as a profile."
    def load(**changes):
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(PLAN | changes, sort_keys=False))
        return load_profile(tmp_path / "tiny.yaml")
    return load


@pytest.fixture
def results(tmp_path, planned):
    "All runs, as if they were evaluated: what `evaluate_run` records, without numbers."
    for run in planned().runs:
        (folder := run.folder(tmp_path)).mkdir(parents=True)
        sources = {key: f"a list: 3 images, sha256 {digest}" for key, digest in lists_now(run).items()}
        (folder / "evaluation.json").write_text(json.dumps({"detectors": run.detectors, "sources": sources}))
        for file in ("run.json", "settings.json", "metrics.csv", "groups.csv", "scores.npz", "model.safetensors"):
            (folder / file).touch()
        assert run_state(run, tmp_path) == "evaluated" and bool(lists_read(run, tmp_path)) == (run.benchmark == "cifar10")
    return tmp_path


def states(profile, results, state) -> set:
    return {(run.benchmark, run.method, run.config.seed) for run in profile.runs if run_state(run, results) == state}


TRAINED, NOT_BEGUN = "trained", "not begun"
GIVEN = only(method="cross_entropy") | only(method="ascood")  # the others have scores of their own


@pytest.mark.parametrize("changes, stale, state", [
    ({}, set(), NOT_BEGUN),
    ({"description": "in other words", "shown": ["ascood"]}, set(), NOT_BEGUN),
    ({"train": {"epochs": 2}}, ALL, NOT_BEGUN),
    ({"train": {"epochs": 1, "lr": 0.2}}, ALL, NOT_BEGUN),
    ({"data_seed": 1}, ALL, NOT_BEGUN),
    ({"methods": PLAN["methods"] | {"ascood": {"alpha_max": 2.0}}}, only(method="ascood"), NOT_BEGUN),
    ({"methods": PLAN["methods"] | {"ascood": {"alpha_max": 3.0, "train": {"lr": 0.2}}}}, only(method="ascood"), NOT_BEGUN),
    ({"methods": PLAN["methods"] | {"ascood": {"alpha_max": 3.0, "detectors": ["MSP"]}}}, only(method="ascood"), TRAINED),
    ({"seeds": [0, 2]}, {(b, m, 2) for b, m, s in ALL}, NOT_BEGUN),
    ({"detectors": {"MSP": {}, "KNN": {"k": [1, 5, 10]}}}, GIVEN, TRAINED),
    ({"detectors": ["MSP"]}, GIVEN, TRAINED),
    ({"more_detectors": {"cross_entropy": {"ODIN": {}}}}, only(method="cross_entropy"), TRAINED),
    ({"benchmarks": {"scene-digits": {"options": {"n_train": 300}}, "cifar10": {}}}, only("scene-digits"), NOT_BEGUN),
    ({"benchmarks": {"scene-digits": {"train": {"lr": 0.2}}, "cifar10": {}}}, only("scene-digits"), NOT_BEGUN),
    ({"benchmarks": {"scene-digits": {"methods": {"ascood": {"weight": 0.5}}}, "cifar10": {}}}, only("scene-digits", "ascood"), NOT_BEGUN),
])
def test_a_changed_profile(planned, results, changes, stale, state):
    profile = planned(**changes)
    assert states(profile, results, state) == stale
    assert states(profile, results, "evaluated") == {(run.benchmark, run.method, run.config.seed) for run in profile.runs} - stale


def test_a_changed_list_of_images(planned, results, root, monkeypatch):
    profile = planned()
    spec = disk.SPECS["cifar10"]
    file = disk.find_list(spec.far[0], root)
    before = file.read_text()
    file.write_text("\n".join(before.splitlines()[:-1]) + "\n")
    assert states(profile, results, TRAINED) == only("cifar10") and states(profile, results, "evaluated") == only("scene-digits")
    file.write_text(before)
    assert states(profile, results, "evaluated") == ALL
    monkeypatch.setenv("ASCOOD_DATA", str(root / "nowhere"))  # without the data, nothing is known to have changed
    assert states(profile, results, "evaluated") == ALL


@pytest.mark.parametrize("module, change, counts", [
    ("training", lambda source: source + "\nMORE = 1\n", True), ("detectors", lambda source: source + "\nMORE = 1\n", True),
    ("benchmarks/disk", lambda source: source + "\nMORE = 1\n", True), ("losses", lambda source: source.replace("softplus(-known)", "softplus(known)"), True),
    ("training", lambda source: source + "\n# a remark\n", False), ("losses", lambda source: source.replace('"""', '"""Also: ', 1), False),
    ("study/tables", lambda source: source + "\nMORE = 1\n", False), ("own/command", lambda source: source + "\nMORE = 1\n", False)])
def test_code_that_decides_numbers_is_another_version(tmp_path, monkeypatch, module, change, counts):
    package = Path(ascood.__file__).parent
    before = code_version()
    for path in package.rglob("*.py"):
        (copy := tmp_path / path.relative_to(package)).parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    source = (tmp_path / f"{module}.py").read_text()
    (tmp_path / f"{module}.py").write_text(changed := change(source))
    ast.parse(changed)
    monkeypatch.setattr(runs.ascood, "__file__", str(tmp_path / "__init__.py"))
    assert changed != source and (code_version() != before) == counts
