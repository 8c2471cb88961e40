"""Benchmarks built from tiny raw data sets in the real layouts: exact, repeatable, safe when interrupted, strict."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torchvision.datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from trees import WNIDS, make_aircraft, make_cars, make_celeba, make_cub, make_imagenet, make_places

from ascood.benchmarks import build
from ascood.benchmarks.build import (BUILDERS, build_aircraft, build_cars, build_celeba, build_imagenet100,
                                     build_waterbirds, fit_background, is_waterbird, main, paste_bird, subsample)
from ascood.benchmarks.disk import DataError
from ascood.data import holdout_split, load_benchmark

MADE = "images_classic/waterbirds_made"


def lists(root, benchmark) -> dict[str, pd.DataFrame]:
    "Every list of a benchmark, read with nothing of the builders; each path is there, and in one list only."
    found = {}
    for path in sorted(Path(root, "benchmark_imglist", benchmark).glob("*_*.txt")):
        rows = [line.split(" ") for line in path.read_text().splitlines()]
        found[path.stem] = pd.DataFrame({"path": [p for p, _ in rows], "label": [int(y) for _, y in rows]})
    paths = [path for table in found.values() for path in table["path"]]
    assert len(paths) == len(set(paths)) > 0
    assert not [path for path in paths if path.startswith(("/", "..")) or not (Path(root) / path).is_file()]
    return found


def bytes_of(root, benchmark) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(root, "benchmark_imglist", benchmark).iterdir()}


def environments(root, benchmark) -> pd.Series:
    return pd.read_csv(Path(root, "benchmark_imglist", benchmark, "environments.csv")).set_index("path")["environment"]


def refuse(call, *words):
    with pytest.raises((ValueError, FileNotFoundError), match=".*".join(map(re.escape, words))) as caught:
        call()
    assert "\n" not in str(caught.value)


def edit(path: Path, before: str, after: str):
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    "Raw birds and places, and a build of them."
    root = tmp_path_factory.mktemp("birds")
    make_cub(root), make_places(root, 24)
    build_waterbirds(root, correlation=0.75, progress=False)
    return root


@pytest.fixture
def raw(tmp_path):
    make_cub(tmp_path), make_places(tmp_path, 24)
    return tmp_path


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
    water = ("001.Black_footed_Albatross", "086.Pacific_Loon", "146.Forsters_Tern", "052.Pied_billed_Grebe")
    land = ("021.Eastern_Towhee", "088.Western_Meadowlark", "102.Western_Wood_Pewee")
    assert all(map(is_waterbird, water)) and not any(map(is_waterbird, land))
    assert all(is_waterbird(name, published=True) for name in land)


def test_waterbirds_labels_and_splits_are_those_of_cub(birds):
    rows = {name: dict(line.split() for line in (birds / "CUB_200_2011" / f"{name}.txt").read_text().splitlines())
            for name in ("images", "train_test_split")}
    train = {Path(file).stem: rows["train_test_split"][i] == "1" for i, file in rows["images"].items()}
    found, known = lists(birds, "waterbirds"), environments(birds, "waterbirds")
    assert {name: len(table) for name, table in found.items()} == {
        "train_waterbirds": 16, "val_waterbirds": 4, "test_waterbirds": 20, "test_spurious": 20}
    for name in ("train_waterbirds", "val_waterbirds", "test_waterbirds"):
        for path, label in found[name].itertuples(index=False):
            assert train[Path(path).stem] == (name != "test_waterbirds")
            assert label == (Path(path).parent.name in ("001.Black_footed_Albatross", "086.Pacific_Loon",
                                                        "146.Forsters_Tern"))
        own = known.loc[found[name]["path"]].to_numpy() == found[name]["label"].to_numpy()
        assert own.mean() == (0.75 if name == "train_waterbirds" else 0.5)
    assert (found["test_spurious"]["label"] == -1).all()
    assert (birds / "benchmark_imglist/waterbirds/classes.txt").read_text() == "landbird\nwaterbird\n"


def test_every_pixel_is_the_birds_or_the_backgrounds(birds):
    sources = pd.read_csv(birds / "benchmark_imglist/waterbirds/sources.csv", keep_default_na=False)
    for row in sources.itertuples():
        result = Image.open(birds / row.path)
        scene = np.array(fit_background(Image.open(birds / row.background).convert("RGB"), result.size))
        if not row.bird:
            assert np.array_equal(result, scene)
            continue
        mask = Image.open((birds / row.bird.replace("CUB_200_2011/images", "segmentations")).with_suffix(".png"))
        on, bird = np.array(mask) >= 128, np.array(Image.open(birds / row.bird))
        assert np.array_equal(result, np.where(on[..., None], bird, scene)) and on.any()
    mask = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    result = paste_bird(Image.new("RGB", (16, 16), "white"), mask, Image.new("RGB", (5, 7)))
    assert np.array_equal(np.array(result)[..., 0] == 255, np.array(mask) >= 128)


def test_each_background_is_used_once_and_shows_its_environment(birds):
    sources, known = pd.read_csv(birds / "benchmark_imglist/waterbirds/sources.csv"), environments(birds, "waterbirds")
    assert sources["background"].is_unique
    assert set(known.index) == {path for table in lists(birds, "waterbirds").values() for path in table["path"]}
    water = sources.set_index("path")["background"].str.contains("/ocean/|/lake/")
    assert (known == water.loc[known.index].astype(int)).all()


def test_builds_are_equal_byte_for_byte_and_differ_by_seed(birds, raw):
    for seed, same in ((0, True), (1, False), (0, True)):
        build_waterbirds(raw, correlation=0.75, seed=seed, progress=False)
        assert (bytes_of(raw, "waterbirds") == bytes_of(birds, "waterbirds")) == same
    images = [path.relative_to(birds) for path in (birds / MADE).rglob("*.png")]
    assert images and all((raw / path).read_bytes() == (birds / path).read_bytes() for path in images)


@pytest.mark.parametrize("last", ["", "test_spurious.txt", "train_waterbirds.txt"])
def test_an_interrupted_build_is_not_loaded_and_the_same_call_makes_it_whole(raw, birds, monkeypatch, last):
    build_waterbirds(raw, seed=3, progress=False)
    last = last or sorted((birds / MADE).rglob("Pacific_Loon*.png"))[3].name
    write, folder = build.write_file, raw / "benchmark_imglist/waterbirds"

    def interrupted(path, content):
        if path.name == last:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(build, "write_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_waterbirds(raw, correlation=0.75, progress=False)
    assert not (folder / "train_waterbirds.txt").exists()
    with pytest.raises(DataError, match="id/train: no list benchmark_imglist/waterbirds/train_waterbirds.txt"):
        load_benchmark("waterbirds", root=raw)
    monkeypatch.undo()
    build_waterbirds(raw, correlation=0.75, progress=False)
    assert bytes_of(raw, "waterbirds") == bytes_of(birds, "waterbirds")


# Each fault: what is done to the raw data, and what the message must name.
def first(root) -> str:
    return (root / "CUB_200_2011/images.txt").read_text().split()[1]


BIRD_FAULTS = {
    "no CUB": (lambda r: shutil.rmtree(r / "CUB_200_2011"), ["CUB_200_2011 is missing"]),
    "no mask": (lambda r: (r / "segmentations" / first(r)).with_suffix(".png").unlink(),
                [".png is missing", "segmentations.tgz"]),
    "no bird": (lambda r: edit(r / "CUB_200_2011/images.txt", "_0001_", "_x_"),
                ["_x_", "is missing", "CUB_200_2011.tgz"]),
    "columns": (lambda r: edit(r / "CUB_200_2011/classes.txt", "1 ", "1 x "), ["classes.txt:1 has not two columns"]),
    "few backgrounds": (lambda r: [shutil.rmtree(r / "places365/data_256" / letter) for letter in "ol"],
                        ["backgrounds of water are needed", "under birds", "0 of ocean, 0 of lake/natural"]),
    "cut bird": (lambda r: (r / "CUB_200_2011/images" / first(r)).write_bytes(b"\xff\xd8\xff"),
                 ["_0000_", "cannot be decoded", "CUB_200_2011.tgz"]),
    "small mask": (lambda r: Image.new("L", (4, 3)).save((r / "segmentations" / first(r)).with_suffix(".png")),
                   ["(4, 3) pixels, but its bird is (40, 30)"]),
}


@pytest.mark.parametrize("fault", BIRD_FAULTS)
def test_bad_birds_are_refused_and_leave_no_list(raw, fault):
    harm, words = BIRD_FAULTS[fault]
    harm(raw)
    refuse(lambda: build_waterbirds(raw, progress=False), *words)
    assert not (raw / "benchmark_imglist").exists()


# -- CelebA

def people(root) -> pd.DataFrame:
    lines = (root / "celeba/list_attr_celeba.txt").read_text().splitlines()
    table = pd.DataFrame([line.split() for line in lines[2:]], columns=["file", *lines[1].split()])
    table = table.set_index("file").astype(int)
    partition = dict(line.split() for line in (root / "celeba/list_eval_partition.txt").read_text().splitlines())
    return table.assign(partition=table.index.map(partition))


def test_celeba(tmp_path):
    make_celeba(tmp_path, 1200, size=(4, 4))
    summary = build_celeba(tmp_path)
    truth, found, known = people(tmp_path), lists(tmp_path, "celeba"), environments(tmp_path, "celeba")
    hair, bald_men = truth["Bald"] == -1, (truth["Bald"] == 1) & (truth["Male"] == 1)
    for name, partition in (("train_celeba", "0"), ("val_celeba", "1"), ("test_celeba", "2"), ("test_spurious", "2")):
        rows = truth.loc[found[name]["path"].str.rsplit("/", n=1).str[-1]]
        assert (known.loc[found[name]["path"]].to_numpy() == (rows["Male"] == 1).to_numpy()).all()
        wanted = truth[(truth["partition"] == partition) & (bald_men if name == "test_spurious" else hair)]
        assert set(rows.index) <= set(wanted.index)
        assert name == "train_celeba" or len(rows) == len(wanted)
        assert (found[name]["label"].to_numpy() == (-1 if name == "test_spurious" else rows["Gray_Hair"] == 1)).all()
    assert summary.loc["train_celeba", "correlation"] == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("before, after, words", [
    ("60\n", "61\n", "list_attr_celeba.txt:1 promises '61' images, but 60 follow"),
    ("Bald", "Bold", "names no attribute Bald"), ("000003.jpg", "3.jpg", "3.jpg has no partition"),
    ("000003.jpg", "000003.jpg 1 1", "list_attr_celeba.txt: ")])
def test_bad_celeba(tmp_path, before, after, words):
    edit(make_celeba(tmp_path, 60, size=(4, 4)) / "list_attr_celeba.txt", before, after)
    refuse(lambda: build_celeba(tmp_path), words)
    assert not (tmp_path / "benchmark_imglist").exists()


# -- Cars, Aircraft and ImageNet

@pytest.mark.parametrize("name, make, builder, num_classes, num_id", [
    ("cars", make_cars, build_cars, 196, 150), ("aircraft", make_aircraft, build_aircraft, 100, 90)])
def test_held_out_classes(tmp_path, name, make, builder, num_classes, num_id):
    make(tmp_path)
    summary = builder(tmp_path)
    known, held_out = holdout_split(num_classes, num_id)
    per_class = 3 if name == "cars" else 4
    assert summary["images"].to_dict() == {f"train_{name}": (per_class - 1) * num_id, f"val_{name}": num_id,
                                           f"test_{name}": num_id, "test_held_out": num_classes - num_id}
    reader, training = {"cars": ("StanfordCars", "train"), "aircraft": ("FGVCAircraft", "trainval")}[name]
    parts = [getattr(torchvision.datasets, reader)(tmp_path, part, loader=str) for part in (training, "test")]
    every = [part[i] for part in parts for i in range(len(part))]
    truth = {Path(path).relative_to(tmp_path).as_posix(): c for path, c in every}
    for which, table in lists(tmp_path, name).items():
        for path, label in table.itertuples(index=False):
            assert label == (known.index(truth[path]) if truth[path] in known else -1)
        assert set(table["label"]) == ({-1} if which == "test_held_out" else set(range(num_id)))
    folder = tmp_path / "benchmark_imglist" / name
    assert (folder / "classes.txt").read_text().splitlines() == [parts[0].classes[c] for c in known]
    before = (folder / "test_held_out.txt").read_text()
    builder(tmp_path, split=1)
    assert (folder / "test_held_out.txt").read_text() != before


def test_bad_cars(tmp_path):
    refuse(lambda: build_cars(tmp_path), "cars cannot be read", "RuntimeError", "issues/7545")
    cars = make_cars(tmp_path, num_classes=20)
    refuse(lambda: build_cars(tmp_path), "has 20 classes", "not 196")
    (cars / "devkit/cars_train_annos.mat").write_bytes(b"nothing")
    refuse(lambda: build_cars(tmp_path), "cars cannot be read")


def test_imagenet100(tmp_path):
    make_imagenet(tmp_path)
    file, wnids = tmp_path / "classes.txt", [f"{wnid} name {i}" for i, wnid in enumerate(WNIDS[::-1])]
    file.write_text("\n".join(wnids))
    build_imagenet100(tmp_path, file)
    found = lists(tmp_path, "imagenet100")
    for name, per_class, part in (("train_imagenet100", 2, "train"), ("val_imagenet100", 1, "val"),
                                  ("test_imagenet100", 2, "val")):
        assert set(found[name]["label"].value_counts()) == {per_class} and set(found[name]["label"]) == set(range(100))
        assert all(f"imagenet_1k/{part}/{WNIDS[99 - label]}/" in path
                   for path, label in found[name].itertuples(index=False))
    assert (tmp_path / "benchmark_imglist/imagenet100/classes.txt").read_text().splitlines()[:2] == ["name 0", "name 1"]
    for lines, words in ((wnids[:-1], "must name 100 different classes, not 99 in 99 lines"),
                         (["tench", *wnids[1:]], "'tench' is no WordNet ID such as n01440764"),
                         ([f"n9{i:07d}" for i in range(100)], "n90000000 is missing")):
        file.write_text("\n".join(lines))
        refuse(lambda: build_imagenet100(tmp_path, file), words)


def test_command_line(raw, capsys):
    assert main(["waterbirds", "--root", str(raw), "--correlation", "0.75", "--no-progress"]) == 0
    assert "train_waterbirds" in capsys.readouterr().out
    assert main(["waterbirds", "--root", str(raw), "--correlation", "1.5"]) == 2
    assert capsys.readouterr().err == "error: correlation must be a number in [0, 1], not 1.5\n"
    assert main(["celeba", "--root", str(raw / "nowhere")]) == 2
    assert "there is no data folder" in capsys.readouterr().err
    for name in BUILDERS:
        assert main([name, "--help"]) == 0 and "--root" in capsys.readouterr().out
