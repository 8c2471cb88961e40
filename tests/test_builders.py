"""Benchmarks built from tiny raw data sets in the real layouts: exact, repeatable, resumable, strict about input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision.datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from trees import (WNIDS, make_aircraft, make_cars, make_celeba, make_cub, make_imagenet, make_places, make_samples,
                   make_textures,
                   save_image)

from ascood.benchmarks import build
from ascood.benchmarks.build import (BUILDERS, build_aircraft, build_cars, build_cars_small, build_celeba,
                                     build_imagenet100,
                                     build_imagenet_samples, build_waterbirds, fit_background,
                                     is_waterbird,
                                     list_folder, main, paste_bird, subsample)
from ascood.benchmarks.scenes import exact_environments
from ascood.data import holdout_split, load_benchmark

QUIET = {"progress": False}


def lists(root, benchmark) -> dict[str, pd.DataFrame]:
    "Every list of a benchmark, read with nothing of the builders."
    found = {}
    for path in sorted(Path(root, "benchmark_imglist", benchmark).glob("*_*.txt")):
        rows = [line.split(" ") for line in path.read_text().splitlines()]
        found[path.stem] = pd.DataFrame({"path": [p for p, _ in rows], "label": [int(y) for _, y in rows]})
    return found


def bytes_of(root, benchmark) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(root, "benchmark_imglist", benchmark).iterdir()}


def check_lists(root, benchmark) -> dict[str, pd.DataFrame]:
    "The lists; every path is inside the root, there, and in one list only."
    found = lists(root, benchmark)
    paths = [path for table in found.values() for path in table["path"]]
    assert len(paths) == len(set(paths)) > 0
    assert not [path for path in paths if path.startswith(("/", "..")) or not (Path(root) / path).is_file()]
    return found


def environments(root, benchmark) -> pd.Series:
    return pd.read_csv(Path(root, "benchmark_imglist", benchmark, "environments.csv")).set_index("path")["environment"]


def refuse(call, *words, error=(ValueError, FileNotFoundError)):
    with pytest.raises(error, match=".*".join(map(re.escape, words))) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    "Raw birds and places, and a build of them."
    root = tmp_path_factory.mktemp("birds")
    make_cub(root), make_places(root, 24)
    build_waterbirds(root, correlation=0.75, **QUIET)
    return root


@pytest.fixture
def raw(tmp_path):
    make_cub(tmp_path), make_places(tmp_path, 24)
    return tmp_path


# -- exact counts

@given(st.lists(st.integers(0, 1), min_size=1, max_size=400), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_environments_are_exact(labels, correlation, seed):
    labels = np.array(labels)
    environments = exact_environments(labels, correlation, np.random.RandomState(seed))
    for label in (0, 1):
        n = (labels == label).sum()
        assert (environments == labels)[labels == label].sum() == round(correlation * n)
    assert abs((environments == labels).mean() - correlation) <= 1 / len(labels) + 1e-9
    assert np.array_equal(environments, exact_environments(labels, correlation, np.random.RandomState(seed)))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=150), st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_subsample_is_exact_and_the_largest(people, correlation):
    labels, environments = np.array(people).T
    kept = subsample(labels, environments, correlation, np.random.RandomState(0))
    assert len(set(kept.tolist())) == len(kept) and (np.diff(kept) > 0).all()
    for label in (0, 1):
        own = (environments[kept] == label)[labels[kept] == label]
        assert own.sum() == round(correlation * len(own))
        there, matching = (labels == label).sum(), ((labels == label) & (environments == label)).sum()
        fits = [n for n in range(there + 1) if round(correlation * n) <= matching
                and n - round(correlation * n) <= there - matching]
        assert len(own) == max(fits)


# -- Waterbirds

def test_waterbird_species_are_whole_words():
    assert all(map(is_waterbird, ("001.Black_footed_Albatross", "086.Pacific_Loon", "146.Forsters_Tern",
                                  "052.Pied_billed_Grebe")))
    land = ("021.Eastern_Towhee", "088.Western_Meadowlark", "102.Western_Wood_Pewee")
    assert not any(map(is_waterbird, land)) and all(is_waterbird(name, published=True) for name in land)


def test_waterbirds_has_the_correlation_asked_for(tmp_path):
    make_cub(tmp_path, per_species=100, size=(10, 8)), make_places(tmp_path, 160, size=(8, 8))
    summary = build_waterbirds(tmp_path, n_spurious=20, correlation=0.8, **QUIET)
    found, known = check_lists(tmp_path, "waterbirds"), environments(tmp_path, "waterbirds")
    for name, wanted in (("train_waterbirds", 0.8), ("val_waterbirds", 0.5), ("test_waterbirds", 0.5)):
        own = known.loc[found[name]["path"]].to_numpy() == found[name]["label"].to_numpy()
        assert own.mean() == pytest.approx(wanted, abs=0.01) == summary.loc[name, "correlation"]
        for label in (0, 1):
            assert own[found[name]["label"] == label].mean() == pytest.approx(wanted, abs=0.01)
    assert known.loc[found["test_spurious"]["path"]].tolist() == [0] * 10 + [1] * 10
    assert summary.loc["test_spurious", ["images", "land", "water"]].tolist() == [20, 10, 10]


def test_waterbirds_labels_and_splits_are_those_of_cub(birds):
    rows = {name: dict(line.split() for line in (birds / "CUB_200_2011" / f"{name}.txt").read_text().splitlines())
            for name in ("images", "train_test_split")}
    train = {Path(file).stem: rows["train_test_split"][i] == "1" for i, file in rows["images"].items()}
    found = lists(birds, "waterbirds")
    assert {name: len(table) for name, table in found.items()} == {
        "train_waterbirds": 16, "val_waterbirds": 4, "test_waterbirds": 20, "test_spurious": 20}
    for name in ("train_waterbirds", "val_waterbirds", "test_waterbirds"):
        for path, label in found[name].itertuples(index=False):
            assert train[Path(path).stem] == (name != "test_waterbirds")
            assert label == (Path(path).parent.name in ("001.Black_footed_Albatross", "086.Pacific_Loon",
                                                        "146.Forsters_Tern"))
    assert (found["test_spurious"]["label"] == -1).all()
    assert (birds / "benchmark_imglist/waterbirds/classes.txt").read_text() == "landbird\nwaterbird\n"


@pytest.mark.parametrize("size", [None, 16])
def test_every_pixel_is_the_birds_or_the_backgrounds(raw, size):
    build_waterbirds(raw, correlation=0.75, size=size, n_spurious=6, **QUIET)
    sources = pd.read_csv(raw / "benchmark_imglist/waterbirds/sources.csv", keep_default_na=False)
    for row in sources.itertuples():
        result = Image.open(raw / row.path)
        scene = np.array(fit_background(Image.open(raw / row.background).convert("RGB"), result.size))
        assert min(result.size) == (size or 30)
        if not row.bird:
            assert np.array_equal(result, scene)
            continue
        mask = Image.open((raw / row.bird.replace("CUB_200_2011/images", "segmentations")).with_suffix(".png"))
        on = Image.fromarray(np.array(mask) >= 128).resize(result.size, Image.Resampling.NEAREST)
        bird = Image.open(raw / row.bird)
        bird = bird.resize(result.size, Image.Resampling.LANCZOS) if size else bird
        assert np.array_equal(result, np.where(np.array(on)[..., None], np.array(bird), scene)) and np.array(on).any()


def test_the_threshold_decides_exactly():
    mask = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    result = paste_bird(Image.new("RGB", (16, 16), "white"), mask, Image.new("RGB", (5, 7)))
    assert np.array_equal(np.array(result)[..., 0] == 255, np.array(mask) >= 128)


def test_each_background_is_used_once_and_shows_its_environment(birds):
    sources, known = pd.read_csv(birds / "benchmark_imglist/waterbirds/sources.csv"), environments(birds, "waterbirds")
    assert sources["background"].is_unique
    assert set(known.index) == {path for table in lists(birds, "waterbirds").values() for path in table["path"]}
    water = sources.set_index("path")["background"].str.contains("/ocean/|/lake/")
    assert (known == water.loc[known.index].astype(int)).all()


def test_builds_are_equal_byte_for_byte_and_differ_by_seed(birds, tmp_path):
    make_cub(tmp_path, masks="inside"), make_places(tmp_path, 24)
    shutil.move(tmp_path / "CUB_200_2011" / "segmentations", tmp_path)
    build_waterbirds(tmp_path, correlation=0.75, **QUIET)
    assert bytes_of(tmp_path, "waterbirds") == bytes_of(birds, "waterbirds")
    build_waterbirds(tmp_path, correlation=0.75, seed=1, overwrite=True, **QUIET)
    assert bytes_of(tmp_path, "waterbirds")["sources.csv"] != bytes_of(birds, "waterbirds")["sources.csv"]
    build_waterbirds(tmp_path, correlation=0.75, overwrite=True, **QUIET)
    assert bytes_of(tmp_path, "waterbirds") == bytes_of(birds, "waterbirds")


def test_second_call_only_verifies_and_other_arguments_are_refused(birds, monkeypatch):
    before = bytes_of(birds, "waterbirds")
    monkeypatch.setattr(build, "write_file", lambda *a: pytest.fail("wrote something"))
    monkeypatch.setattr(build, "_read_cub", lambda *a: pytest.fail("read the raw data again"))
    again = build_waterbirds(birds, correlation=0.75, cub="CUB_200_2011", **QUIET)
    assert again.loc["train_waterbirds", "images"] == 16
    refuse(lambda: build_waterbirds(birds, **QUIET), "correlation 0.75, not 0.9", "overwrite=True")
    refuse(lambda: build_waterbirds(birds, correlation=0.75, size=20, **QUIET), "size None, not 20")
    assert bytes_of(birds, "waterbirds") == before


def test_a_damaged_build_is_noticed_and_mended(raw):
    build_waterbirds(raw, n_spurious=4, **QUIET)
    before, folder = bytes_of(raw, "waterbirds"), raw / "benchmark_imglist/waterbirds"
    image = raw / lists(raw, "waterbirds")["test_waterbirds"]["path"][3]
    data = image.read_bytes()
    Image.open(image).convert("RGB").point(lambda v: 255 - v).save(image)
    refuse(lambda: build_waterbirds(raw, n_spurious=4, **QUIET), image.name, "not as it was built", "overwrite=True")
    build_waterbirds(raw, n_spurious=4, overwrite=True, **QUIET)
    assert image.read_bytes() == data and bytes_of(raw, "waterbirds") == before
    with open(folder / "val_waterbirds.txt", "a") as file:
        file.write("another.jpg 0\n")
    refuse(lambda: build_waterbirds(raw, n_spurious=4, **QUIET), "val_waterbirds.txt", "not as it was built")


def test_killed_build_is_not_complete_and_goes_on(tmp_path, birds):
    "SIGKILL while images are written; then one of them is cut short as well."
    make_cub(tmp_path, size=(400, 300)), make_places(tmp_path, 24)
    program = "import sys; from ascood.benchmarks.build import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "waterbirds", "--root", str(tmp_path), "--n-spurious", "4",
               "--no-progress"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    made, start = tmp_path / build._MADE, time.monotonic()
    while len(done := list(made.rglob("*.png"))) < 3:
        assert run.poll() is None and time.monotonic() - start < 60, run.communicate()
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    folder, done = tmp_path / "benchmark_imglist/waterbirds", sorted(made.rglob("*.png"))
    assert 3 <= len(done) < 44 and not (folder / "build.json").exists() and (folder / "build.unfinished").exists()
    done[0].write_bytes(done[0].read_bytes()[:500])
    times = {path: path.stat().st_mtime_ns for path in done}
    build_waterbirds(tmp_path, n_spurious=4, **QUIET)
    assert [path for path in done if path.stat().st_mtime_ns != times[path]] == [done[0]]
    resumed = bytes_of(tmp_path, "waterbirds")
    shutil.rmtree(made), shutil.rmtree(folder)
    build_waterbirds(tmp_path, n_spurious=4, **QUIET)
    assert bytes_of(tmp_path, "waterbirds") == resumed


# Each fault: what is done to the raw data, and what the message must name.
def first_bird(root) -> str:
    return (root / "CUB_200_2011/images.txt").read_text().split()[1]


def cut(path: Path):
    path.write_bytes(path.read_bytes()[:-30])


def edit(path: Path, before: str, after: str):
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))


BIRD_FAULTS = {
    "missing mask": (lambda r: (r / "segmentations" / first_bird(r)).with_suffix(".png").unlink(),
                     [".png is missing", "segmentations.tgz"]),
    "truncated bird": (lambda r: cut(r / "CUB_200_2011/images" / first_bird(r)),
                       ["_0000_", "cannot be decoded", "CUB_200_2011.tgz"]),
    "images.txt names a missing file": (lambda r: edit(r / "CUB_200_2011/images.txt", "_0001_", "_x_"),
                                        ["images.txt:2 names", "not there"]),
    "no CUB": (lambda r: shutil.rmtree(r / "CUB_200_2011"), ["CUB_200_2011 is missing"]),
    "few backgrounds": (lambda r: shutil.rmtree(r / "places365/data_256/o"),
                        ["backgrounds of water are needed", "under birds", "0 of ocean", "24 of lake/natural"]),
    "empty mask": (lambda r: Image.new("L", (40, 30)).save((r / "segmentations" / first_bird(r)).with_suffix(".png")),
                   ["shows no bird"]),
    "small mask": (lambda r: Image.new("L", (4, 3)).save((r / "segmentations" / first_bird(r)).with_suffix(".png")),
                   ["(4, 3) pixels, but its bird is (40, 30)"]),
    "columns": (lambda r: edit(r / "CUB_200_2011/classes.txt", "1 ", "1 x "), ["classes.txt:1 has not two columns"]),
}


@pytest.mark.parametrize("fault", BIRD_FAULTS)
def test_bad_birds_are_refused_before_any_work(raw, fault):
    harm, words = BIRD_FAULTS[fault]
    harm(raw)
    refuse(lambda: build_waterbirds(raw, n_spurious=10, **QUIET), *words)
    assert not (raw / "benchmark_imglist").exists() and not (raw / "images_classic").exists()


# -- CelebA

def people(root) -> pd.DataFrame:
    lines = (root / "celeba/list_attr_celeba.txt").read_text().splitlines()
    table = pd.DataFrame([line.split() for line in lines[2:]], columns=["file", *lines[1].split()])
    table = table.set_index("file").astype(int)
    partition = dict(line.split() for line in (root / "celeba/list_eval_partition.txt").read_text().splitlines())
    return table.assign(partition=table.index.map(partition))


def test_celeba(tmp_path):
    make_celeba(tmp_path, 1200, size=(4, 4))
    summary = build_celeba(tmp_path, **QUIET)
    truth, found, known = people(tmp_path), check_lists(tmp_path, "celeba"), environments(tmp_path, "celeba")
    for name, partition in (("train_celeba", "0"), ("val_celeba", "1"), ("test_celeba", "2"), ("test_spurious", "2")):
        rows = truth.loc[found[name]["path"].str.rsplit("/", n=1).str[-1]]
        assert (rows["partition"] == partition).all()
        assert (known.loc[found[name]["path"]].to_numpy() == (rows["Male"] == 1).to_numpy()).all()
        if name == "test_spurious":
            assert (rows["Bald"] == 1).all() and (rows["Male"] == 1).all() and (found[name]["label"] == -1).all()
        else:
            assert (rows["Bald"] == -1).all() and (found[name]["label"].to_numpy() == (rows["Gray_Hair"] == 1)).all()
    assert summary.loc["train_celeba", "correlation"] == pytest.approx(0.8, abs=0.01)
    hair = truth[truth["Bald"] == -1]
    bald_men = truth[(truth["Bald"] == 1) & (truth["Male"] == 1) & (truth["partition"] == "2")]
    for name, partition in (("val_celeba", "1"), ("test_celeba", "2")):
        assert len(found[name]) == (hair["partition"] == partition).sum()
    assert len(found["test_spurious"]) == len(bald_men)
    first = bytes_of(tmp_path, "celeba")
    build_celeba(tmp_path, overwrite=True, **QUIET)
    assert bytes_of(tmp_path, "celeba") == first


@pytest.mark.parametrize("before, after, words", [
    ("60\n", "61\n", "list_attr_celeba.txt:1 promises '61' images, but 60 follow"),
    ("Bald", "Bold", "names no attribute Bald"), ("000003.jpg", "3.jpg", "no partition"),
    ("000003.jpg -1", "000003.jpg  7", "000003.jpg has a value other than -1 and 1"),
    ("000003.jpg", "000003.jpg 1 1", "list_attr_celeba.txt: ")])
def test_bad_celeba(tmp_path, before, after, words):
    file = make_celeba(tmp_path, 60, size=(4, 4), seed=3) / "list_attr_celeba.txt"
    file.write_text(file.read_text().replace("000003.jpg  1", "000003.jpg -1"))
    edit(file, before, after)
    refuse(lambda: build_celeba(tmp_path, **QUIET), words)
    assert not (tmp_path / "benchmark_imglist").exists()


# -- Cars and Aircraft

@pytest.mark.parametrize("name, make, builder, num_classes, num_id", [
    ("cars", make_cars, build_cars, 196, 150), ("aircraft", make_aircraft, build_aircraft, 100, 90)])
def test_held_out_classes(tmp_path, name, make, builder, num_classes, num_id):
    make(tmp_path)
    summary = builder(tmp_path, **QUIET)
    known, held_out = holdout_split(num_classes, num_id)
    per_class = 3 if name == "cars" else 4
    assert summary["images"].to_dict() == {f"train_{name}": (per_class - 1) * num_id, f"val_{name}": num_id,
                                           f"test_{name}": num_id,
                                           "test_held_out": num_classes - num_id}
    reader, training = {"cars": ("StanfordCars", "train"), "aircraft": ("FGVCAircraft", "trainval")}[name]
    parts = [getattr(torchvision.datasets, reader)(tmp_path, part, loader=str) for part in (training, "test")]
    truth = {Path(path).relative_to(tmp_path).as_posix(): c for part in parts for path,
             c in (part[i] for i in range(len(part)))}
    for which, table in check_lists(tmp_path, name).items():
        for path, label in table.itertuples(index=False):
            assert label == (known.index(truth[path]) if truth[path] in known else -1)
        assert set(table["label"]) == ({-1} if which == "test_held_out" else set(range(num_id)))
    folder = tmp_path / "benchmark_imglist" / name
    assert (folder / "classes.txt").read_text().splitlines() == [parts[0].classes[c] for c in known]
    assert json.loads((folder / "build.json").read_text())["held_out"] == [parts[0].classes[c] for c in held_out]
    before = bytes_of(tmp_path, name)
    builder(tmp_path, overwrite=True, **QUIET)
    assert bytes_of(tmp_path, name) == before
    refuse(lambda: builder(tmp_path, split=1, **QUIET), "split 0, not 1")


def test_bad_cars(tmp_path):
    refuse(lambda: build_cars(tmp_path, **QUIET), "stanford_cars cannot be read (RuntimeError", "issues/7545")
    cars = make_cars(tmp_path, num_classes=20)
    refuse(lambda: build_cars(tmp_path, **QUIET), "has 20 classes, not 196")
    (cars / "devkit/cars_train_annos.mat").write_bytes(b"nothing")
    refuse(lambda: build_cars(tmp_path, **QUIET), "stanford_cars cannot be read")


@pytest.fixture(scope="module")
def small_cars(tmp_path_factory):
    "Cars, samples and textures of another size each."
    root = tmp_path_factory.mktemp("small_cars")
    make_cars(root), make_samples(root, 30), make_textures(root)
    return root


DEAL = {"n_val": 5, "n_far": 14, **QUIET}


def test_cars_small_is_cars_with_outliers_of_its_own_that_show_none(small_cars):
    summary = build_cars_small(small_cars, **DEAL)
    build_cars(small_cars, **QUIET)
    small, whole = check_lists(small_cars, "cars-small"), lists(small_cars, "cars")
    for which, table in whole.items():
        assert table.equals(small[which.replace("_cars", "_cars-small")])
    assert {name: len(small[name]) for name in ("val_imagenet", "test_imagenet", "train_imagenet",
                                                "test_textures")} == {
        "val_imagenet": 5, "test_imagenet": 14, "train_imagenet": 11, "test_textures": 6}
    dealt = pd.concat([small[f"{part}_imagenet"] for part in ("val", "test", "train")])
    names = sorted(Path(path).name for path in dealt["path"])
    assert (dealt["label"] == -1).all() and dealt["path"].is_unique
    assert summary["images"].sum() == sum(map(len, small.values()))
    samples = small_cars / "images_largescale/imagenet_samples"
    assert names == sorted(path.name for path in samples.iterdir() if "_thing_" in path.name)
    left_out = json.loads((small_cars / "benchmark_imglist/cars-small/build.json").read_text())["left_out"]
    assert len(set(left_out)) == 46 and {"cab", "Model_T", "sports_car", "tow_truck", "car_wheel",
                                         "parking_meter"} < set(left_out)
    next(samples.glob("*_cab.jpg")).rename(samples / "n00000999_taxi.jpg")
    refuse(lambda: build_cars_small(small_cars, overwrite=True, **DEAL), "no sample is of the class cab")
    next(samples.glob("*_taxi.jpg")).rename(samples / "cab.jpg")
    refuse(lambda: build_cars_small(small_cars, overwrite=True, **DEAL), "cab.jpg is not named by its WordNet ID")


def test_red_and_blue_are_exchanged_in_cars_alone(tmp_path):
    make_cars(tmp_path, train=2), make_samples(tmp_path, 30), make_textures(tmp_path)
    build_cars_small(tmp_path, **DEAL)
    plain = lists(tmp_path, "cars-small")
    refuse(lambda: build_cars_small(tmp_path, **DEAL, swap_red_blue=True), "swap_red_blue False, not True")
    build_cars_small(tmp_path, **DEAL, swap_red_blue=True, overwrite=True)
    for name, table in check_lists(tmp_path, "cars-small").items():
        if "imagenet" in name or "textures" in name:
            assert table.equals(plain[name])
            continue
        assert table["label"].equals(plain[name]["label"]) and len(table) > 0
        for new, old in zip(table["path"], plain[name]["path"]):
            new, old = (np.array(Image.open(tmp_path / path).convert("RGB")) for path in (new, old))
            assert (new == old[..., ::-1]).all() and (new != old).any()
    image = tmp_path / "images_classic/cars_small_made/cars_train/00001.png"
    before = image.read_bytes()
    Image.new("RGB", Image.open(image).size).save(image)
    refuse(lambda: build_cars_small(tmp_path, **DEAL, swap_red_blue=True), "00001.png is not as it was built")
    build_cars_small(tmp_path, **DEAL, swap_red_blue=True, overwrite=True)
    assert image.read_bytes() == before


# -- ImageNet

def test_imagenet_folders(tmp_path):
    make_imagenet(tmp_path)
    wnids = [f"{wnid} name {i}" for i, wnid in enumerate(WNIDS[::-1])]
    (tmp_path / "classes.txt").write_text("\n".join(wnids))
    build_imagenet100(tmp_path, tmp_path / "classes.txt", **QUIET)
    found = check_lists(tmp_path, "imagenet100")
    for name, per_class, part in (("train_imagenet100", 2, "train"), ("val_imagenet100", 1, "val"),
                                  ("test_imagenet100", 2, "val")):
        assert set(found[name]["label"].value_counts()) == {per_class} and set(found[name]["label"]) == set(range(100))
        assert all(f"imagenet_1k/{part}/{WNIDS[99 - label]}/" in path for path,
                   label in found[name].itertuples(index=False))
    assert (tmp_path / "benchmark_imglist/imagenet100/classes.txt").read_text().splitlines()[:2] == ["name 0", "name 1"]
    refuse(lambda: build_imagenet100(tmp_path, wnids[::-1], **QUIET), "was built with classes")
    refuse(lambda: build_imagenet100(tmp_path, wnids[:-1], **QUIET),
           "must name 100 different classes, not 99 in 99 lines")
    refuse(lambda: build_imagenet100(tmp_path, ["tench", *wnids[1:]], **QUIET),
           "'tench' is no WordNet ID such as n01440764")
    refuse(lambda: build_imagenet100(tmp_path, [f"n9{i:07d}" for i in range(100)], overwrite=True, **QUIET),
           "n90000000 is missing")


def test_imagenet_flat_validation_by_openoods_lists(tmp_path):
    make_imagenet(tmp_path, flat=True)
    build_imagenet100(tmp_path, WNIDS[::-1], **QUIET)
    found = check_lists(tmp_path, "imagenet100")
    assert {name: len(table) for name, table in found.items()} == {"train_imagenet100": 200, "val_imagenet100": 100,
                                                                   "test_imagenet100": 200}
    numbers = found["test_imagenet100"]["path"].str.extract(r"(\d{8})\.JPEG")[0].astype(int)
    shown = [99 - (number - 1) // 3 for number in numbers]  # the tree numbers 3 images of each class in turn
    assert shown == found["test_imagenet100"]["label"].tolist()
    shutil.rmtree(tmp_path / "images_largescale/imagenet_1k/train/n90000007")
    refuse(lambda: build_imagenet100(tmp_path, WNIDS, overwrite=True, **QUIET), "has 999 of 1000")


def test_imagenet_samples(tmp_path):
    for i in np.random.RandomState(1).permutation(1000):
        save_image(tmp_path / f"images_largescale/imagenet_samples/n{10_000_000 + 37 * i:08d}_thing_{i}.jpg",
                   (90, 90, 90), (9, 8),
                   np.random.RandomState(i))
    make_textures(tmp_path, ("banded", "blotchy", "bubbly", "cracked"))
    refuse(lambda: build_imagenet_samples(tmp_path, **QUIET), "textures has 3 kinds of texture, three for validation")
    make_textures(tmp_path, ("dotted",))
    build_imagenet_samples(tmp_path, **QUIET)
    found = check_lists(tmp_path, "imagenet-samples")
    known = pd.concat([found["val_imagenet-samples"], found["test_imagenet-samples"]])
    assert len(found["val_imagenet-samples"]) == 300 and sorted(known["label"]) == list(range(1000))
    assert all(f"_thing_{label}.jpg" in path for path,
               label in known.itertuples(index=False))  # the place among sorted WordNet IDs
    kinds = {part: set(found[f"{part}_textures"]["path"].str.split("/").str[2]) for part in ("val", "test")}
    assert len(kinds["val"]) == 3 and not kinds["val"] & kinds["test"]
    assert kinds["val"] | kinds["test"] == {"banded", "blotchy", "cracked", "dotted"}
    assert (tmp_path / "benchmark_imglist/imagenet-samples/classes.txt").read_text().startswith("thing 0\nthing 1\n")
    full = load_benchmark("imagenet-samples", root=tmp_path, workers=0)
    assert full.ood["near"] == {} and [*full.ood["far"]] == [*full.ood_val] == ["textures"]
    assert torch.equal(full.train.labels, full.val.labels)
    next((tmp_path / "images_largescale/imagenet_samples").iterdir()).unlink()
    refuse(lambda: build_imagenet_samples(tmp_path, overwrite=True, **QUIET), "has 999 images of 999 of 1000 classes")


# -- plain folders, files, command line

def test_list_folder(birds):
    places, target = birds / "places365", "ood/test_places.txt"
    assert list_folder(birds, places, target, **QUIET)["images"].tolist() == [96]
    table = lists(birds, "ood")["test_places"]
    assert table["path"].is_monotonic_increasing and (table["label"] == -1).all()
    list_folder(birds, "places365", target, **QUIET)
    refuse(lambda: list_folder(birds, places, target, limit=7, **QUIET), "there already", "overwrite=True")
    list_folder(birds, places, target, limit=7, overwrite=True, **QUIET)
    seven = lists(birds, "ood")["test_places"]["path"]
    assert len(seven) == 7 and seven.is_monotonic_increasing and set(seven) < set(table["path"])
    list_folder(birds, places, "ood/test_other.txt", limit=7, seed=1, **QUIET)
    assert set(lists(birds, "ood")["test_other"]["path"]) != set(seven)
    refuse(lambda: list_folder(birds, places, "../escape.txt", **QUIET), "below benchmark_imglist")
    refuse(lambda: list_folder(birds, places, "waterbirds/test_spurious.txt", overwrite=True, **QUIET),
           "part of a build")
    refuse(lambda: list_folder(birds, "benchmark_imglist", "ood/x.txt", **QUIET), "has no image")
    refuse(lambda: list_folder(birds, "nowhere", "ood/x.txt", **QUIET), "nowhere is missing")
    refuse(lambda: list_folder(birds, "/usr", "ood/x.txt", **QUIET), "outside the data root")


def test_no_list_names_a_link_that_leaves_the_root(tmp_path):
    root, secret = tmp_path / "root", tmp_path / "secret.jpg"
    save_image(secret, (9, 9, 9), (8, 8), np.random.RandomState(0))
    (root / "sun").mkdir(parents=True)
    (root / "sun/0.jpg").symlink_to(secret)
    refuse(lambda: list_folder(root, "sun", "ood/x.txt", **QUIET), "sun/0.jpg' is a link that leaves the data root")
    for image in (make_celeba(root, 60, seed=3) / "img_align_celeba").iterdir():
        image.unlink(), image.symlink_to(secret)
    refuse(lambda: build_celeba(root, **QUIET), ".jpg' is a link that leaves the data root")
    assert not (root / "benchmark_imglist").exists()


def test_command_line(raw, capsys):
    call = ["waterbirds", "--root", str(raw), "--cub", str(raw / "CUB_200_2011"), "--places", str(raw / "places365"),
            "--no-progress"]
    assert main([*call, "--n-spurious", "4"]) == 0
    assert "train_waterbirds" in capsys.readouterr().out
    assert main(call) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "n_spurious 4, not None" in error
    assert main(["celeba", "--root", str(raw / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert set(BUILDERS) == {"waterbirds", "celeba", "cars", "aircraft", "imagenet100", "cars-small",
                             "imagenet-samples"}
    for name in (*BUILDERS, "list"):
        assert main([name, "--help"]) == 0 and "--root" in capsys.readouterr().out
