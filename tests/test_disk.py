"""Benchmarks on disk: declarations, trees that are true to layout, from files to metrics, and how files go wrong."""

import functools
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trees
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from trees import fill_lists, listed

from ascood.benchmarks import build, disk
from ascood.benchmarks.disk import SPECS, DataError, check, decode, load_from_disk, read_declaration, read_list
from ascood.data import ImageSet, LazyImages, holdout_split, list_benchmarks, load_benchmark
from ascood.evaluation import evaluate
from ascood.models import Classifier, create_backbone, load_classifier
from ascood.training import ASCOOD, TrainConfig, train

RNG = np.random.RandomState(0)
OWN = {"setting": "conventional", "classes": 3, "pixels": 16, "mean": [0.5] * 3, "std": [0.5] * 3, "get": "draw them",
       "id": {part: f"mine/{part}.txt" for part in ("train", "val", "test")},
       "val": {"other": "mine/other.txt"}, "near": {"near": "mine/near.txt"},
       "far": {"noise": {"folder": "images_classic/noise", "at_most": 2, "seed": 1}}}


@pytest.fixture(scope="module")
def cifar_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cifar")
    for name in ("cifar10", "cifar10-jpeg"):
        fill_lists(root, name)
    return root


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> tuple[Path, list[dict]]:
    root = tmp_path_factory.mktemp("released")
    return root, trees.make_released(root)


def a_few(images, n: int):
    "Images of a set, evenly spread."
    pick = np.linspace(0, len(images) - 1, min(n, len(images))).astype(int)
    environments = None if images.environments is None else images.environments[pick]
    return ImageSet(images.images[pick], images.labels[pick], images.transform, environments)


def small(full, n: int = 4):
    return replace(full, train=a_few(full.train, 12), val=a_few(full.val, 6), test=a_few(full.test, 6),
                   ood_val={name: a_few(images, n) for name, images in full.ood_val.items()},
                   ood={group: {name: a_few(images, n) for name, images in sets.items()}
                        for group, sets in full.ood.items()})


def make_waterbirds(root: Path):
    "Raw data, and what the builder makes of them."
    trees.make_cub(root), trees.make_places(root, per_category=40)
    build.build_waterbirds(root, progress=False)


def all_sets(benchmark) -> dict:
    return benchmark.sets() | {("id", "train"): benchmark.train, ("auxiliary", ""): benchmark.auxiliary}


# Declarations


def declared(folder: Path, name: str = "mine", **changes) -> Path:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(OWN | changes))
    return folder / f"{name}.yaml"


def fill_own(root: Path):
    for part in ("train", "val", "test"):
        listed(root, f"images_classic/{part}", f"mine/{part}.txt", 6, 3)
    for name in ("other", "near"):
        listed(root, f"images_classic/{name}", f"mine/{name}.txt", 4)
    for i in range(5):
        trees.save_image(root / f"images_classic/noise/{i}.png", (40 * i, 9, 9), (20, 20), RNG)


def test_a_benchmark_of_ones_own_is_one_file(tmp_path):
    fill_own(tmp_path)
    (tmp_path / "benchmark_imglist/mine/classes.txt").write_text("a\nb\nc\n")
    mine = load_benchmark(declared(tmp_path), root=tmp_path)
    assert (mine.name, mine.class_names, len(mine.ood["far"]["noise"])) == ("mine", ("a", "b", "c"), 2)
    drawn = sorted(np.random.RandomState(1).permutation(5)[:2])
    assert [round(float(image[0].float().mean()) / 40) for image in mine.ood["far"]["noise"].images] == drawn
    assert mine.sources["far/noise"].endswith("of which 2 drawn by seed 1")
    assert "mine" in list_benchmarks("conventional", on_disk=True)
    again = load_benchmark(str(declared(tmp_path, pixels=24)), root=tmp_path)  # an edited file is read anew
    assert again.test[0][0].shape == load_benchmark("mine", root=tmp_path).test[0][0].shape == (3, 24, 24)
    with pytest.raises(ValueError, match="cifar10.yaml: there is another benchmark cifar10; rename the file"):
        load_benchmark(declared(tmp_path, "cifar10"), root=tmp_path)
    assert set(check([str(tmp_path / "mine.yaml")], tmp_path)["state"]) == {"complete"}


def test_folders_of_classes(tmp_path):
    for part, kinds in (("train", "abc"), ("val", "abc"), ("test", "abcd")):
        for kind in kinds:
            trees.save_image(tmp_path / f"pets/{part}/{kind}/0.png", (9, 9, 9), (20, 20), RNG)
    fill_own(tmp_path)
    file = declared(tmp_path, id={part: {"folder": f"pets/{part}"} for part in ("train", "val", "test")})
    with pytest.raises(DataError, match="test must have 3 folders of images, .* it has 4 images in 4"):
        load_benchmark(file, root=tmp_path)
    (tmp_path / "pets/test/d/0.png").unlink()
    pets = load_benchmark(file, root=tmp_path)
    assert pets.class_names == ("a", "b", "c") and pets.test.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("changes", "complaint"), [
    ({"clases": 3}, "unknown setting 'clases'; did you mean 'classes'?"),
    ({"setting": "odd"}, "setting: Input should be 'spurious', 'fine-grained' or 'conventional'"),
    ({"pixels": 4}, "pixels: Input should be greater than or equal to 8"),
    ({"std": [1, 0, 1]}, "std.1: Input should be greater than 0"),
    ({"id": {"train": "a.txt", "val": "b.txt"}}, "id needs train, val and test"),
    ({"val": {}}, "val: Dictionary should have at least 1 item"),
    ({"near": {}, "far": {}}, "near or far needs a set"),
    ({"near": {"x": "../x.txt"}}, "near.x.where.own.0: ../x.txt leaves the data root"),
    ({"near": {"x": {"folder": "/etc"}}}, "/etc leaves the data root"),
    ({"near": {"x/y": "x.txt"}}, "String should match pattern"),
    ({"near": {"x": {"lst": "x.txt"}}}, "near.x.lst: Extra inputs are not permitted"),
    ({"near": {"x": {"share": [0, 1]}}}, "give a list or a folder of images"),
    ({"near": {"x": {"folder": "x", "share": [0.5, 0.2]}}}, "share is two ascending numbers in [0, 1]"),
    ({"near": {"x": {"list": "x.txt", "share": [0, 1]}}}, "share and without are of a folder of images"),
    ({"near": {"x": {"count": 3}}}, "near.x.where.own.0"),
    ({"near": {"x": {"list": "x.txt", "held_out": True}}}, "hold_out must say"),
    ({"auxiliary": {"a": "a.txt", "b": "b.txt"}}, "auxiliary: Dictionary should have at most 1 item"),
])
def test_a_bad_declaration(tmp_path, changes, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)) as error:
        load_benchmark(declared(tmp_path, **changes), root=tmp_path)
    assert "\n" not in str(error.value) and "mine.yaml: " in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "- a", "\x00"])
def test_what_is_no_declaration(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match="mine.yaml (is no YAML file|declares no benchmark)"):
        read_declaration(tmp_path / "mine.yaml")


def test_declarations_fit_the_registry():
    assert set(SPECS) == set(list_benchmarks(on_disk=True)) - set(disk.COMPOSED)
    assert set(SPECS) == {path.stem for path in disk.declarations().glob("*.yaml")}
    for name, spec in SPECS.items():
        assert name in list_benchmarks(spec.setting) and all(one.get or spec.get for one in spec.sets().values())
    assert SPECS["cars-small"].mean == (127 / 255,) * 3 and SPECS["cars-small"].std == (128 / 255,) * 3


# Layouts


def test_the_authors_data_root(released):
    "All eight benchmarks: each set from its own list, with its own folder; one of each setting is evaluated."
    root, rows = released
    for name in dict.fromkeys(map(trees.released_name, rows)):
        found = disk.find_sets(SPECS[name], root, any_count=True)
        mine = [row for row in rows if trees.released_name(row) == name]
        assert sorted(one.source.partition(":")[0] for one in found.values()) == sorted(row["list"] for row in mine)
        folders = {path.parent.as_posix() for one in found.values() for path in one.images.items}
        assert folders == {(root / row["data_dir"] / Path(row["list"]).stem).as_posix() for row in mine}
        assert found["id", "train"].environments is None
        if name in ("waterbirds", "cars", "cifar100"):
            full = load_benchmark(name, root=root, any_count=True, pixels=32, workers=0)
            assert len(full.train) == full.num_classes
            torch.manual_seed(0)
            metrics = evaluate(Classifier(create_backbone("tiny_resnet"), full.num_classes), small(full), ["MSP"])
            assert set(zip(metrics["ood_group"], metrics["ood_set"])) == {key for key in full.sets() if key[0] != "id"}
    table = check(root=root, decode=False).set_index("benchmark")
    states = table.loc[[*set(map(trees.released_name, rows))]]
    auxiliary = states["set"].str.startswith("auxiliary")
    assert set(states[~auxiliary]["state"]) <= {"complete", "incomplete"}
    assert set(states[auxiliary]["state"]) == {"missing"}
    assert set(states[~auxiliary].loc["cars", "layout"]) == {"released"}


def test_the_layout_of_the_training_list_comes_first(released, tmp_path):
    shutil.copytree(released[0] / "benchmark_imglist", tmp_path / "benchmark_imglist")
    for folder in ("images_classic", "images_largescale"):
        (tmp_path / folder).symlink_to(released[0] / folder)

    def found(group, name):
        layout, place = disk.find_place(SPECS["cars"], tmp_path, group, name)
        return layout, place.list

    assert found("far", "textures") == ("released", "cifar100/test_texture.txt")
    listed(tmp_path, "own", "cars/train_cars.txt", 150, 150)
    assert found("id", "train")[0] == "built" and found("far", "textures") == ("openood", "imagenet/test_textures.txt")
    with pytest.raises(DataError, match="id: the lists are of different layouts"):
        load_benchmark("cars", root=tmp_path, any_count=True)


@pytest.mark.parametrize("name", ["waterbirds", "cub-small", "cifar10-jpeg-holdout"])
def test_from_files_to_metrics(name, tmp_path):
    "Load, one epoch of a few steps, every metric, from raw files where the benchmark has a builder."
    if name == "waterbirds":
        make_waterbirds(tmp_path)
    fill_lists(tmp_path, name)
    full, spec = load_benchmark(name, root=tmp_path, workers=0, any_count=True, pixels=32), SPECS[name]
    assert (full.setting, full.num_classes, len(full.class_names)) == (spec.setting, spec.classes, spec.classes)
    assert set(full.train.labels.tolist()) == set(range(spec.classes))
    assert all((images.labels == -1).all() for (group, _), images in full.sets().items() if group != "id")
    assert set(full.sources) == {"/".join(key) for key in spec.sets()}
    assert (full.train.environments is not None) == (full.test.environments is not None) == (spec.setting == "spurious")
    run = train(ASCOOD(synthesis="gradient"), small(full), TrainConfig(epochs=1, batch_size=6), tmp_path / "run",
                progress=False)
    metrics = evaluate(load_classifier(run.checkpoint), small(full), ["MSP"])
    assert set(zip(metrics["ood_group"], metrics["ood_set"])) == {key for key in full.sets() if key[0] != "id"}


def test_environments(tmp_path):
    make_waterbirds(tmp_path)
    fill_lists(tmp_path, "waterbirds", n=2)
    load = functools.partial(load_benchmark, "waterbirds", root=tmp_path, workers=0, any_count=True)
    full, table = load(), tmp_path / "benchmark_imglist" / "waterbirds" / "environments.csv"
    own = [e in full.majority[y] for y, e in zip(full.train.labels.tolist(), full.train.environments.tolist())]
    assert abs(np.mean(own) - 0.9) < 0.05 and full.majority == {0: {0}, 1: {1}}
    assert full.ood["near"]["spurious"].environments is not None and full.ood["far"]["sun"].environments is None
    table.write_text("\n".join(table.read_text().splitlines()[:-3]) + "\n")
    with pytest.raises(DataError, match="environments.csv lacks"):
        load()
    assert (check(["waterbirds"], tmp_path, decode=False).set_index("set").loc["near/spurious", "state"]) == "broken"
    table.unlink()
    assert load().train.environments is None


# Lists


@pytest.mark.parametrize(("line", "complaint"), [
    ("images_classic/a/0.png", "no label after the path"),
    ("images_classic/a/0.png x", "'x' is no whole number"),
    ("images_classic/a/0.png 3", "label 3 is out of range: classes are numbered 0 to 2"),
    ("images_classic/a/0.png -1", "label -1 is out of range"),
    ("images_classic/a/9.png 1", "there is no image images_classic/a/9.png"),
    ("../a/0.png 1", "leaves the data root"), ("/a/0.png 1", "leaves the data root"),
])
def test_a_mistake_in_a_list_is_named_by_file_and_line(tmp_path, line, complaint):
    trees.save_image(tmp_path / "images_classic" / "a" / "0.png", (1, 2, 3), (32, 32), RNG)
    file = tmp_path / "list.txt"
    file.write_text(f"a/0.png 0\nimages_classic/a/0.png 1\n\n{line}\n")
    with pytest.raises(DataError) as error:
        read_list(file, tmp_path, 3)
    assert str(error.value).startswith(f"{file}, line 4: ") and complaint in str(error.value)
    file.write_text("a/0.png 0\nimages_classic/a/0.png 1\n\n")
    assert read_list(file, tmp_path, 3)["label"].tolist() == [0, 1]
    with pytest.raises(DataError, match="line 1: there is no image a/0.png in"):
        read_list(file, tmp_path, 3, folders=("images_largescale",))
    (tmp_path / "a folder").symlink_to(tmp_path / "images_classic")  # data sets often live behind a link
    file.write_text("a folder/a/0.png 2\n")
    assert read_list(file, tmp_path, 3)[["path", "label"]].values.tolist() == [[tmp_path / "a folder/a/0.png", 2]]


# Images


def test_broken_images_are_named(tmp_path):
    trees.save_image(tmp_path / "whole.jpg", (9, 90, 90), (36, 32), RNG)
    whole = (tmp_path / "whole.jpg").read_bytes()
    for name, content in (("cut.jpg", whole[:-200]), ("empty.jpg", b""), ("text.jpg", b"no image"),
                          ("head.jpg", whole[:40])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} is a broken image .*; get it again"):
            decode(disk.Pictures([tmp_path / name]), 32)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_every_kind_of_image_becomes_rgb_of_the_right_size(tmp_path, mode):
    Image.new("RGB", (50, 40), (200, 0, 0)).convert(mode).save(tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}")
    (path,) = tmp_path.iterdir()
    assert decode(disk.Pictures([path]), 32).shape == (1, 3, 32, 32)


# Whole benchmarks


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    with pytest.raises(DataError) as error:
        load_benchmark("cifar10", root=tmp_path)
    for what in ("id/train", "near/tin", "far/isun: no list benchmark_imglist/cifar10/test_isun.txt or folder",
                 "images_classic/iSUN", "benchmark_imglist/cifar10/test_svhn.txt", "github.com/Jingkang50/OpenOOD"):
        assert what in str(error.value)
    assert "tin597" not in str(error.value)  # a benchmark runs without auxiliary outliers
    with pytest.raises(DataError, match="auxiliary/tin597: no list .*cifar10/train_tin597.txt") as error:
        disk.check_available("cifar10", {"root": tmp_path}, needs_outliers=True)
    assert "id/train" in str(error.value)
    with pytest.raises(DataError, match="auxiliary: no set of outliers is declared, and a method learns from some"):
        disk.check_available("imagenet-samples", {"root": tmp_path}, needs_outliers=True)
    with pytest.raises(DataError, match="texture-animals cannot be loaded"):
        disk.check_available("texture-animals", {"root": tmp_path})
    disk.check_available("scene-digits", {}, needs_outliers=True)  # nothing to look for


def test_what_is_available_and_in_which_lists(cifar_root, tmp_path, monkeypatch):
    disk.check_available("cifar10", {"root": cifar_root, "any_count": True, "pixels": 64}, needs_outliers=True)
    with pytest.raises(DataError, match="cut off"):
        disk.check_available("cifar10", {"root": cifar_root})
    digests = disk.list_digests("cifar10", {"root": cifar_root})
    full = load_benchmark("cifar10", root=cifar_root, any_count=True)
    declaration = digests.pop("declaration")
    assert {key: source.rpartition(" ")[2] for key, source in full.sources.items()} == digests
    spec = SPECS["cifar10"]
    for changes, same in (({"pixels": 48}, False), ({"get": "elsewhere"}, True)):
        monkeypatch.setitem(disk.SPECS, "cifar10", spec.model_copy(update=changes))
        assert (disk.list_digests("cifar10", {"root": cifar_root})["declaration"] == declaration) == same
    monkeypatch.setenv("ASCOOD_DATA", str(tmp_path / "nowhere"))
    assert disk.list_digests("cifar10") == disk.list_digests("scene-digits", {"root": cifar_root}) == {}


@pytest.mark.parametrize(("options", "complaint"), [
    ({"wokers": 1}, "no option 'wokers'; did you mean 'workers'"),
    ({"pixels": 7}, "pixels of cifar10 must be a whole number from 8 to 1024, not 7"),
    ({"known_classes": 11}, "from 2 to 10, not 11"), ({"workers": True}, "workers of cifar10 must be a whole number"),
    ({"any_count": 1}, "any_count must be true or false"),
])
def test_impossible_options(cifar_root, monkeypatch, options, complaint):
    monkeypatch.setattr(disk, "find_sets", lambda *given: pytest.fail("looked at the disk"))
    with pytest.raises(ValueError, match=complaint):
        load_benchmark("cifar10", root=cifar_root, **options)


def test_hold_out_benchmark_never_shows_the_held_out_classes(cifar_root):
    everything = load_benchmark("cifar10-jpeg", root=cifar_root, any_count=True)
    part = load_benchmark("cifar10-jpeg-holdout", root=cifar_root, any_count=True)
    known, held_out = holdout_split(10, 8)

    def pixels(images, classes):
        return {i.numpy().tobytes() for i, y in zip(images.images, images.labels.tolist()) if y in classes}

    for which in ("train", "val", "test"):
        assert pixels(getattr(part, which), range(8)) == pixels(getattr(everything, which), known)
    assert pixels(part.ood["near"]["held-out-classes"], [-1]) == pixels(everything.test, held_out)
    for new, old in enumerate(known):
        assert pixels(part.test, [new]) == pixels(everything.test, [old])


# Pixels, classes and memory


@pytest.fixture(scope="module")
def cars_root(tmp_path_factory) -> Path:
    "cars and its OOD sets: photographs wider than high."
    root = tmp_path_factory.mktemp("cars")
    trees.make_cars(root, size=(37, 26))
    build.build_cars(root)
    fill_lists(root, "cars", n=3)
    return root


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 70), st.integers(8, 90), st.integers(8, 90))
def test_memory_and_files_give_the_same_pixels(pixels, width, height):
    photo = Image.fromarray(np.random.RandomState(0).randint(256, size=(height, width, 3), dtype=np.uint8))
    spec = SPECS["waterbirds"].model_copy(update={"pixels": pixels})
    square = decode([photo], disk._side(spec))
    assert square.shape[-1] == round(pixels * 8 / 7)
    kept, fresh = disk._transforms(spec, in_memory=True), disk._transforms(spec, in_memory=False)
    assert torch.equal(kept[False](square)[0], fresh[False](photo)) and fresh[False](photo).shape == (3, pixels, pixels)
    for x in (kept[True](square), fresh[True](photo)[None]):
        assert x.shape == (1, 3, pixels, pixels) and x.dtype == torch.float32


def test_every_set_is_the_same_from_memory_if_it_fits_and_from_files(cars_root, monkeypatch):
    load = functools.partial(load_benchmark, "cars", root=cars_root, pixels=21, any_count=True, workers=0)
    kept = load()
    total = sum(map(len, all_sets(kept).values())) * 3 * 24**2
    monkeypatch.setattr(disk, "_MEMORY", total)
    assert isinstance(load().train, ImageSet)
    monkeypatch.setattr(disk, "_MEMORY", total - 1)
    fresh = load()
    assert all(isinstance(images, ImageSet) for images in all_sets(kept).values())
    assert all(isinstance(images, LazyImages) for images in all_sets(fresh).values())
    assert isinstance(load(known_classes=149).train, ImageSet), "what is not kept needs no memory"
    for key, images in kept.sets().items():
        index = np.linspace(0, len(images) - 1, min(7, len(images))).astype(int)
        (x, y), (again, labels) = images[index], fresh.sets()[key][index]
        assert torch.equal(x, again) and torch.equal(y, labels) and x.shape[1:] == (3, 21, 21)
    assert kept.sources == fresh.sources


def test_training_images_are_cropped_each_in_its_own_way_and_normalised_as_declared(tmp_path):
    fill_lists(tmp_path, "cub-small")
    benchmark = load_benchmark("cub-small", root=tmp_path)
    torch.manual_seed(0)
    for images in (benchmark.train, benchmark.auxiliary):
        x, _ = images[[0] * 32]
        assert x.shape == (32, 3, 96, 96) and len({one.numpy().tobytes() for one in x}) == 32
    inner = benchmark.test.images[:5, :, 7:-7, 7:-7].float()
    assert torch.allclose(benchmark.test[range(5)][0], (inner - 127) / 128, atol=1e-6)


@pytest.mark.parametrize(("name", "n"), [("cars", 7), ("cifar10-jpeg-holdout", 3)])
def test_fewer_known_classes(cars_root, cifar_root, name, n):
    options = {"root": cifar_root if name.startswith("cifar") else cars_root, "pixels": 16, "any_count": True}
    full, part = load_benchmark(name, **options), load_benchmark(name, known_classes=n, **options)
    kept, _ = holdout_split(full.num_classes, n)
    assert part.num_classes == n and part.class_names == tuple(full.class_names[c] for c in kept)
    for which in ("train", "val", "test"):
        every, some = getattr(full, which), getattr(part, which)
        rows = [i for i, y in enumerate(every.labels.tolist()) if y in kept]
        assert some.labels.tolist() == [kept.index(every.labels[i]) for i in rows]
        assert torch.equal(some.images, every.images[rows])
    for key, images in full.sets().items():
        assert key[0] == "id" or torch.equal(part.sets()[key].images, images.images)
    assert "of which" in part.sources["id/train"]


@pytest.mark.parametrize("pixels", [32, 48])
def test_cifar_is_shifted_by_an_eighth_whatever_its_size(cifar_root, pixels):
    train = load_benchmark("cifar10-jpeg", root=cifar_root, any_count=True, pixels=pixels).train
    assert isinstance(train, ImageSet) and train.images.shape[-1] == pixels
    white = torch.full((64, 3, pixels, pixels), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    black = (train.transform(white) < 0).all(1)  # where the image was moved away
    for side in (1, 2):
        assert black.all(side).sum(-1).max() == pixels // 8  # of 64 images, one at least is moved all the way


# check


def test_check_says_what_is_there_and_whether_it_can_run(cifar_root, tmp_path, capsys, monkeypatch):
    assert disk.main(["check", "cifar10-jpeg", "--root", str(cifar_root)]) == 1
    done = capsys.readouterr()
    assert "cifar10-jpeg: cannot run" in done.out and done.err == ""
    assert "id/train: incomplete" in done.out and "50000" in done.out
    with pytest.raises(DataError, match="id/train: .*train_cifar10.txt: 20 images.*but it has 50,000; .* is cut off"):
        load_benchmark("cifar10-jpeg", root=cifar_root)
    spec = SPECS["cifar10-jpeg"]
    twenty = {part: one.model_copy(update={"count": 20}) for part, one in spec.id.items()}
    monkeypatch.setitem(disk.SPECS, spec.name, spec.model_copy(update={"id": twenty}))
    monkeypatch.setenv("ASCOOD_DATA", str(cifar_root))
    assert disk.main(["check", "cifar10-jpeg"]) == 0
    assert disk.main(["check", "waterbirds", "cifar10-jpeg"]) == 1
    printed = capsys.readouterr().out
    assert "waterbirds: cannot run" in printed and "cifar10-jpeg: can run" in printed
    assert "python -m ascood build waterbirds" in printed and "github.com/j-cb/NINCO" in printed
    assert disk.main(["check", "waterbird"]) == 2 and "did you mean 'waterbirds'" in capsys.readouterr().err
    assert disk.main(["check", "--root", str(tmp_path / "none")]) == 2 and "no data folder" in capsys.readouterr().err
    assert load_from_disk.__defaults__[1] == 0


# Folders that serve several sets


def painted(folder: Path, names: list[str]):
    "An image of its own colour for each name."
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (2 * i, 255 - i, 7 * i % 256)).save(folder / f"{name}.png")


def test_a_folder_is_dealt_and_the_seed_decides_classes(tmp_path):
    painted(tmp_path / "birds", [f"{kind}/{i}" for kind in "abcdef" for i in range(20)])
    painted(tmp_path / "odd", ["x/cat1", "x/cat2", "x/dog1", "y/dog2"])
    told = OWN | {"classes": 4, "hold_out": 2, "near": {"held-out": {"folder": "birds", "held_out": True}},
                  "id": {part: {"folder": "birds", "share": share}
                         for part, share in (("train", [0, 0.6]), ("val", [0.6, 0.7]), ("test", [0.7, 1]))},
                  "val": {"odd": {"folder": ["odd/x", "odd/y"], "without": ["cat*"]}},
                  "far": {"odd": {"folder": "odd"}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(told))
    load = functools.partial(load_benchmark, str(tmp_path / "own.yaml"), root=tmp_path)
    first = load()
    assert [len(images) for images in (first.train, first.val, first.test)] == [48, 8, 24]
    assert first.train.labels.bincount().tolist() == [12] * 4 and len(first.ood_val["odd"]) == 2
    parts = [{tuple(image.flatten()[:3].tolist()) for image in images.images}
             for images in (first.train, first.val, first.test, first.ood["near"]["held-out"])]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 120  # every image has its colour, and one place
    assert any(load(seed=seed).class_names != first.class_names for seed in (1, 2, 3))
    assert load(seed=1).class_names == load(seed=1).class_names
