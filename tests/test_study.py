"""Runs and their results: what is stale, what is damaged, what a command may not lose."""

import ast
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import ascood
from ascood.evaluation import ood_metrics
from ascood.files import NotWritten
from ascood.study import runs
from ascood.study.profiles import find_run, load_profile
from ascood.study.results import Results, collect, compare_numbers, pick_run, verify_run
from ascood.study.runs import EVALUATED, evaluate_run, is_fresh, is_trained, joint_ranks, load_scores, make_run, run_state

ROOT = Path(__file__).parents[1]
FEW = {"options": {"n_train": 40, "n_ood": 40}}
TINY = {"description": "For tests.", "seeds": [0], "train": {"epochs": 1}, "detectors": ["MSP", "KNN"], "snapshots": [1],
        "methods": {"cross_entropy": {}, "ascood": {"alpha_max": 3.0, "weight": 0.1}}, "benchmarks": {"scene-digits": FEW}}


def planned(folder, **changes):
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY | changes, sort_keys=False))
    return load_profile(str(folder / "tiny.yaml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "All runs of the tiny profile, made once."
    folder = tmp_path_factory.mktemp("finished")
    profile = planned(folder)
    for run in profile.runs:
        make_run(run, profile, folder / "results", progress=False)
    return folder


@pytest.fixture
def here(finished, tmp_path):
    "A copy of them: the profile, and the folder of results."
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return load_profile(str(tmp_path / "tiny.yaml")), tmp_path / "results"


def test_joint_ranks_keep_order_and_ties_and_grow_beyond_16_bits():
    rng = np.random.default_rng(0)
    scores = {("id", "test"): rng.integers(0, 30, 200) / 7, ("near", "a"): rng.integers(10, 40, 150) / 7}
    ranks = joint_ranks(scores)
    assert all(values.dtype == np.uint16 for values in ranks.values())
    exact, again = (ood_metrics(of["id", "test"], of["near", "a"]) for of in (scores, ranks))
    assert again == pytest.approx(exact, abs=1e-9)
    many = joint_ranks({("id", "test"): np.arange(2**16 + 1.0)})["id", "test"]
    assert many.dtype == np.uint32 and many[-1] == 2**16


def follow_from_scores(results):
    "How many rows of metrics were computed again from the kept scores; each must agree."
    checked = 0
    for row in results.metrics.itertuples():
        if ranks := results.scores(row.run_id).ranks.get((row.detector, row.params, row.reads)):
            again = ood_metrics(ranks["id", "val" if row.ood_group == "val" else "test"], ranks[row.ood_group, row.ood_set])
            assert again == pytest.approx({name: getattr(row, name) for name in again}, abs=1e-3)
            checked += 1
    return checked


def test_every_metric_follows_from_the_kept_scores(here):
    results = collect(*here)
    assert follow_from_scores(results) == len(results.metrics)
    assert {*results.diagnostics["epoch"]} == {0, 1} and results.diagnostics["trained"].any()


@pytest.mark.parametrize("folder", sorted(path.parent for path in ROOT.glob("results/*/scores")), ids=lambda path: path.name)
def test_committed_metrics_follow_from_committed_scores(folder):
    assert follow_from_scores(Results(load_profile(folder.name), ROOT / "results"))
    assert all(path.stat().st_size < 300_000 for path in (folder / "scores").iterdir())


CHANGES = [
    ({}, "done"), ({"description": "in other words"}, "done"), ({"train": {"epochs": 2}}, "not begun"), ({"data_seed": 1}, "not begun"),
    ({"methods": {"cross_entropy": {}, "ascood": {"alpha_max": 2.0, "weight": 0.1}}}, {"cross_entropy": "trained", "ascood": "not begun"}),
    ({"detectors": ["MSP"]}, "trained"), ({"detectors": {"MSP": {}, "KNN": {"k": [1, 5]}}}, "trained"), ({"judged": ["MSP"]}, "trained"),
    ({"more_detectors": {"cross_entropy": {"EBO": {}}}}, {"cross_entropy": "trained", "ascood": "done"}),
    ({"benchmarks": {"scene-digits": FEW | {"train": {"lr": 0.2}}}}, "not begun"),
    ({"benchmarks": {"scene-digits": {"options": FEW["options"] | {"n_train": 41}}}}, "not begun"),
]


@pytest.mark.parametrize("changes, state", CHANGES)
def test_what_a_changed_profile_makes_stale(here, changes, state):
    _, folder = here
    profile = planned(folder.parent, **changes)
    expected = state if isinstance(state, dict) else dict.fromkeys(profile.methods, state)
    assert {run.method: run_state(run, folder) for run in profile.runs} == expected


@pytest.mark.parametrize("module, change, state", [
    ("training", lambda source: source + "\nMORE = 1\n", "begun"), ("detectors", lambda source: source + "\nMORE = 1\n", "trained"),
    ("losses", lambda source: source.replace("softplus(-known)", "softplus(known)"), "begun"),
    ("training", lambda source: source + "\n# a remark\n", "done"), ("losses", lambda source: source.replace('"""', '"""Also: ', 1), "done"),
    ("study/tables", lambda source: source + "\nMORE = 1\n", "done")])
def test_what_changed_code_makes_stale(here, tmp_path, monkeypatch, module, change, state):
    (profile, folder), package, copy = here, Path(ascood.__file__).parent, tmp_path / "package"
    for path in package.rglob("*.py"):
        (target := copy / path.relative_to(package)).parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    source = (copy / f"{module}.py").read_text()
    (copy / f"{module}.py").write_text(changed := change(source))
    ast.parse(changed)
    assert changed != source
    runs.code_digest.cache_clear()
    monkeypatch.setattr(runs.ascood, "__file__", str(copy / "__init__.py"))
    try:
        assert {run_state(run, folder) for run in profile.runs} == {state}
    finally:
        monkeypatch.undo()
        runs.code_digest.cache_clear()


def test_stale_weights_are_made_again_and_fresh_ones_are_not_for_a_new_evaluation(here, monkeypatch):
    profile, folder = here
    run = find_run(profile, "scene-digits", "ascood", 0)
    weights = run.folder(folder) / "model.safetensors"
    before, record = weights.read_bytes(), json.loads((run.folder(folder) / "run.json").read_text())
    (run.folder(folder) / "metrics.csv").unlink()
    monkeypatch.setattr(runs, "train", lambda *given: pytest.fail("trained again"))
    make_run(run, profile, folder, progress=False)
    assert is_fresh(run, folder)
    monkeypatch.undo()
    (run.folder(folder) / "run.json").write_text(json.dumps(record | {"training_key": "of other code"}))
    weights.write_bytes(b"old")
    assert run_state(run, folder) == "begun"
    make_run(run, profile, folder, progress=False)
    assert weights.read_bytes() == before and is_fresh(run, folder)


def flip(data: bytes) -> bytes:
    place = int(len(data) * 0.6)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1:]


@pytest.mark.parametrize("damage", [flip, lambda data: data[: len(data) // 2], lambda data: b""])
def test_damaged_weights_are_refused_and_damaged_scores_are_named(here, damage):
    profile, folder = here
    run = profile.runs[0]
    weights, scores = run.folder(folder) / "model.safetensors", run.folder(folder) / "scores.npz"
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(ValueError, match="model.safetensors differs from its SHA-256 in run.json; delete its folder"):
        evaluate_run(run, folder)
    if damage is not flip:  # an archive checks its parts; where the flipped bit lies is chance
        scores.write_bytes(damage(scores.read_bytes()))
        with pytest.raises(ValueError, match=r"scores.npz is damaged \(.*\); delete it"):
            load_scores(scores)


def test_a_damaged_record_counts_as_stale(here):
    profile, folder = here
    (profile.runs[0].folder(folder) / "run.json").write_text('{"run_id":')
    assert not is_trained(profile.runs[0], folder)
    make_run(profile.runs[0], profile, folder, progress=False)
    assert is_fresh(profile.runs[0], folder)


def test_a_full_disk_is_one_line_and_a_repeat_ends_as_if_nothing_had_happened(here, finished, monkeypatch):
    profile, folder = here
    run, real = profile.runs[0], Path.write_bytes
    (run.folder(folder) / "metrics.csv").unlink()

    def full(path, content):
        real(path, content[: len(content) // 2])
        if path.name.startswith("metrics.csv"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(NotWritten, match=r"metrics.csv cannot be written \(No space left on device\)") as error:
        make_run(run, profile, folder, progress=False)
    assert "\n" not in str(error.value) and not [*run.folder(folder).glob("*.unfinished")] and not is_fresh(run, folder)
    monkeypatch.undo()
    make_run(run, profile, folder, progress=False)
    for name in EVALUATED:
        assert (run.folder(folder) / name).read_bytes() == (run.folder(finished / "results") / name).read_bytes(), name


def lines(path):
    return path.read_text().splitlines()[1:]


def test_collecting_loses_no_row_of_a_run_that_is_elsewhere_or_unplanned(here, capsys):
    profile, folder = here
    results = collect(profile, folder)
    before = {path.name: lines(path) for path in results.folder.glob("*.csv")}
    other = find_run(profile, "scene-digits", "cross_entropy", 0)
    shutil.rmtree(other.folder(folder))
    changed = planned(folder.parent, methods={"cross_entropy": {}, "ascood": {"alpha_max": 3.0, "weight": 0.2}})
    make_run(changed.runs[1], changed, folder, progress=False)
    capsys.readouterr()
    after = collect(changed, folder)
    said = capsys.readouterr().err
    assert "kept: 1 run not on this machine: cross_entropy on scene-digits" in said
    assert "kept: 1 run no longer planned by tiny (they are not shown): ascood on scene-digits" in said
    for name, rows in before.items():
        assert {*rows} <= {*lines(after.folder / name)}, name
    assert len(after.runs) == 2 and len(lines(after.folder / "runs.csv")) == 3, "what is not planned is kept, and not shown"
    assert len([*(after.folder / "scores").iterdir()]) == 3


def test_files_that_cannot_be_read_are_not_written_over(here):
    profile, folder = here
    path = folder / "tiny" / "metrics.csv"
    for content, said in (("run_id,method\na,b\n", "metrics.csv is of an earlier version"), ("", "metrics.csv is damaged")):
        path.write_text(content)
        with pytest.raises(ValueError, match=said):
            collect(profile, folder)
        assert path.read_text() == content


def test_a_run_is_verified_and_a_changed_number_is_found(here):
    profile, folder = here
    results = collect(profile, folder)
    run = pick_run(results, method="ascood")
    numbers, records = verify_run(results, run, progress=False)
    assert {*numbers["state"]} == {"exact"} and records.loc["torch"].nunique() == 1
    rows = results.metrics[results.metrics["run_id"] == run.run_id].reset_index(drop=True)
    changed = rows.assign(auroc=rows["auroc"] + [0.5, 2.0, *[0] * (len(rows) - 2)])
    counts = compare_numbers(rows, changed, 1.0)["state"].value_counts()
    assert (counts["close"], counts["differs"]) == (1, 1)
    assert (compare_numbers(rows, changed.iloc[1:], 1.0)["state"] == "differs").sum() >= 2, "what one side lacks differs"
    with pytest.raises(ValueError, match="none of the 2 runs collected of tiny"):
        pick_run(results, method="ascood", seed=5)


SMOOTH = """
import torch.nn.functional as F
from pytorch_ood.detector import MaxLogit
from ascood.detectors import DETECTORS, Recipe
from ascood.training import CrossEntropy

class Smooth(CrossEntropy):
    name = "smooth"
    smoothing: float = 0.1

    def loss(self, model, x, y, step):
        logits = model(x)
        return F.cross_entropy(logits, y, label_smoothing=self.smoothing), logits

class Margin(MaxLogit):
    def predict_features(self, logits):
        best, second = logits.topk(2).values.T
        return second - best

DETECTORS["Margin"] = Recipe(lambda model, norm_std: Margin(model), "logits")
"""


def test_a_profile_may_bring_code_of_its_own(tmp_path, monkeypatch):
    from ascood import detectors, training

    monkeypatch.setattr(training, "_METHODS", dict(training._METHODS))
    monkeypatch.setattr(detectors, "DETECTORS", detectors.DETECTORS)
    monkeypatch.delitem(detectors.DETECTORS, "Margin", raising=False)
    (tmp_path / "mine.py").write_text(SMOOTH)
    changes = {"code": ["mine.py"], "methods": {"cross_entropy": {}, "smooth": {"smoothing": 0.2}}, "detectors": ["MSP", "Margin"],
               "judged": ["MSP", "Margin"], "snapshots": []}
    profile = planned(tmp_path, **changes)
    run = find_run(profile, "scene-digits", "smooth", 0)
    metrics = make_run(run, profile, tmp_path / "results", progress=False)
    assert {*metrics["detector"]} == {"MSP", "Margin"} and run.declared["kind"] == "training" and is_fresh(run, tmp_path / "results")
    assert ("Margin", "", "released") in load_scores(run.folder(tmp_path / "results") / "scores.npz").ranks
    (tmp_path / "mine.py").write_text(SMOOTH + "\n# changed\n")
    assert run_state(find_run(planned(tmp_path, **changes), "scene-digits", "smooth", 0), tmp_path / "results") == "begun"
    del detectors.DETECTORS["Margin"]
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    with pytest.raises(ValueError, match=r"code: broken.py cannot be run \(ModuleNotFoundError.*mend it"):
        planned(tmp_path, code=["broken.py"])
    with pytest.raises(ValueError, match="code: there is no file"):
        planned(tmp_path, code=["other.py"])


def test_data_by_seed(tmp_path):
    runs_of = {offset: planned(tmp_path, seeds=[3, 4], data_by_seed=True, data_seed=offset).runs for offset in (0, -2)}
    assert {run.config.seed - run.data_seed for run in runs_of[0]} == {0} and {run.data_seed for run in runs_of[-2]} == {1, 2}
    with pytest.raises(ValueError, match="data_seed"):
        planned(tmp_path, seeds=[3], data_by_seed=True, data_seed=-4)


def test_a_profile_cannot_take_the_name_of_one_of_the_project(tmp_path):
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(TINY))
    with pytest.raises(ValueError, match="quick is a profile of this project"):
        load_profile(str(tmp_path / "quick.yaml"))


def test_images_of_a_folder_and_a_declaration_make_runs_stale(tmp_path, monkeypatch):
    from PIL import Image

    for i, place in enumerate(["train/a", "train/b", "val/a", "val/b", "test/a", "test/b", "odd", "far"]):
        (tmp_path / "data" / place).mkdir(parents=True)
        for k in range(8):
            Image.new("RGB", (8, 8), (30 * i, 10 * k, 0)).save(tmp_path / "data" / place / f"{k}.png")
    told = {"setting": "conventional", "classes": 2, "pixels": 8, "mean": [0.5] * 3, "std": [0.5] * 3,
            "id": {part: {"folder": part} for part in ("train", "val", "test")}, "val": {"odd": {"folder": "odd"}}, "far": {"far": {"folder": "far"}}}
    monkeypatch.setenv("ASCOOD_DATA", str(tmp_path / "data"))
    (tmp_path / "photos.yaml").write_text(yaml.safe_dump(told))
    keys = []
    for change in (lambda: None, lambda: (tmp_path / "data" / "far" / "7.png").unlink(),
                   lambda: (tmp_path / "photos.yaml").write_text(yaml.safe_dump(told | {"pixels": 9}))):
        change()
        profile = planned(tmp_path, benchmarks={"photos": {}}, methods={"cross_entropy": {}})
        keys.append(runs.run_keys(profile.runs[0], tmp_path).training)
    assert len({*keys}) == 3
