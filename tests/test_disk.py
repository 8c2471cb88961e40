"""Benchmarks on disk: trees that are true to layout, from files to metrics; and every way in which files go wrong."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import trees
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from ascood import data
from ascood.benchmarks import disk
from ascood.benchmarks.builders import command as builders
from ascood.benchmarks.disk import SPECS, DataError, check, decode, load_from_disk, read_list
from ascood.data import ImageSet, LazyImages, list_benchmarks, load_benchmark
from ascood.evaluation import evaluate
from ascood.models import Classifier, create_backbone, load_classifier
from ascood.training import ASCOOD, TrainConfig, train

RNG = np.random.RandomState(0)


def listed(root: Path, folder: str, file: str, n: int, classes: int | None = None, size=(36, 32), suffix="jpg"):
    "`n` images in a folder of the root, and the list that names them."
    lines = []
    for i in range(n):
        trees.save_image(root / folder / f"{i}.{suffix}", RNG.randint(20, 235, 3), size, RNG)
        lines.append(f"{folder}/{i}.{suffix} {i % classes if classes else -1}")
    target = root / "benchmark_imglist" / file
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n")


def fill_lists(root: Path, name: str, n: int = 10):
    "An image list for every set of a benchmark that has none yet, in OpenOOD's names."
    spec = SPECS[name]
    for (group, which), one in spec.sets().items():
        if disk.find_list(one, root) is None:
            classes = spec.num_classes + spec.hold_out
            listed(root, f"images_classic/{which}-{group}", one.lists[-1], *((2 * classes, classes) if group == "id" else (n, None)))


@pytest.fixture(scope="module")
def cifar_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cifar")
    for name in ("cifar10", "cifar10-jpeg"):
        fill_lists(root, name)
    return root


def a_few(images, n: int):
    "Images of a set, evenly spread."
    pick = np.linspace(0, len(images) - 1, min(n, len(images))).astype(int)
    environments = None if images.environments is None else images.environments[pick]
    if isinstance(images, ImageSet):
        return ImageSet(images.images[pick], images.labels[pick], images.transform, environments)
    return LazyImages([images.source[i] for i in pick], images.labels[pick], images.transform, environments)


def build(root: Path, name: str):
    "The raw data of one of the five built benchmarks, and what the builder makes of them."
    if name == "waterbirds":
        builders.build_waterbirds(root, cub=trees.make_cub(root), places=trees.make_places(root, per_category=40), progress=False)
    elif name == "celeba":
        trees.make_celeba(root)
        builders.build_celeba(root, progress=False)
    elif name == "cars":
        trees.make_cars(root)
        builders.build_cars(root, progress=False)
    elif name == "cars-small":
        trees.make_cars(root), trees.make_samples(root, 12), trees.make_textures(root)
        builders.build_cars_small(root, n_val=3, n_far=4, progress=False)
    elif name == "aircraft":
        trees.make_aircraft(root)
        builders.build_aircraft(root, progress=False)
    elif name == "imagenet100":
        wnids = [f"n{i:08d}" for i in range(100)]
        trees.make_imagenet(root, wnids, train=3, val=3)
        builders.build_imagenet100(root, classes=wnids, progress=False)


@pytest.mark.parametrize("name", [name for name in SPECS if name != "imagenet-samples"])  # which trains nothing
def test_from_files_to_metrics(name, tmp_path):
    "Load, one epoch of a few steps, every metric: on each benchmark of the paper, from raw files where it has a builder."
    root = tmp_path / "data"
    root.mkdir()
    build(root, name)
    fill_lists(root, name)
    full = load_benchmark(name, root=root, workers=0, any_count=True)
    spec = SPECS[name]
    assert (full.setting, full.num_classes) == (spec.setting, spec.num_classes)
    assert set(full.train.labels.tolist()) == set(range(spec.num_classes))
    assert all((images.labels == -1).all() for (group, _), images in full.sets().items() if group != "id")
    assert set(full.sources) == {"/".join(key) for key in spec.sets()}
    assert tuple(full.test[0][0].shape) == tuple(full.train[0][0].shape) == (3, spec.pixels, spec.pixels)
    assert tuple(full.class_names) == tuple(full.class_names[: spec.num_classes]) and len(full.class_names) == spec.num_classes

    small = replace(full, train=a_few(full.train, 12), val=a_few(full.val, 6), test=a_few(full.test, 6),
                    ood_val={n: a_few(s, 4) for n, s in full.ood_val.items()},
                    ood={group: {n: a_few(s, 4) for n, s in sets.items()} for group, sets in full.ood.items()})
    run = train(ASCOOD(synthesis="gradient"), small, TrainConfig(epochs=1, batch_size=6), tmp_path / "run", progress=False)
    metrics = evaluate(load_classifier(run.checkpoint), small, ["MSP", "MDS", "KNN"])
    assert set(zip(metrics["ood_group"], metrics["ood_set"])) == {key for key in small.sets() if key[0] != "id"}
    finite = metrics[metrics["gap"] == ""]
    assert set(finite["detector"]) >= {"MSP"} and finite[["fpr95", "auroc"]].notna().all().all()


def test_a_benchmark_without_near_ood_and_training_images(tmp_path):
    root, rng = tmp_path / "data", np.random.RandomState(0)
    for i in range(1000):
        trees.save_image(root / f"images_largescale/imagenet_samples/n{i:08d}_thing.jpg", (90, 90, 90), (20, 16), rng)
    for kind in ("banded", "cracked"):
        for i in range(4):
            trees.save_image(root / f"images_largescale/textures/{kind}/{i}.jpg", (40, 90, 90), (20, 16), rng)
    with pytest.raises(DataError, match="python -m ascood build imagenet-samples"):
        load_benchmark("imagenet-samples", root=root)
    builders.build_imagenet_samples(root, val_textures=1, progress=False)
    full = load_benchmark("imagenet-samples", root=root, workers=0)
    assert full.ood["near"] == {} and [*full.ood["far"]] == ["textures"] and [*full.ood_val] == ["textures"]
    assert torch.equal(full.train.labels, full.val.labels) and sorted([*full.val.labels.tolist(), *full.test.labels.tolist()]) == [*range(1000)]
    assert full.mean == (127 / 255,) * 3 and full.std == (128 / 255,) * 3 and len(full.val) == 300 and full.test[0][0].shape == (3, 128, 128)
    small = replace(full, val=a_few(full.val, 6), test=a_few(full.test, 6), ood_val={"textures": a_few(full.ood_val["textures"], 4)})
    torch.manual_seed(0)
    model = Classifier(create_backbone("tiny_resnet"), 1000, normalization="none")
    metrics = evaluate(model, small, {"MSP": {}, "ODIN": {"temperature": [1, 1000], "eps": 0.0014}, "i-ODIN@k=7": {"temperature": 1000, "eps": 0.0014, "k": 7}})
    assert set(metrics["ood_group"]) == {"val", "far"} and metrics["auroc"].notna().all()


def test_environments_of_waterbirds_reach_the_group_accuracies(tmp_path):
    build(tmp_path, "waterbirds")
    fill_lists(tmp_path, "waterbirds", n=2)
    full = load_benchmark("waterbirds", root=tmp_path, workers=0, any_count=True)
    own = [e in full.majority[y] for y, e in zip(full.train.labels.tolist(), full.train.environments.tolist())]
    assert abs(np.mean(own) - 0.9) < 0.05  # of 24 or so birds; the builder's own tests measure it exactly
    assert full.test.environments is not None and full.majority == {0: {0}, 1: {1}}
    table = tmp_path / "benchmark_imglist" / "waterbirds" / "environments.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-3]) + "\n")
    with pytest.raises(DataError, match="environments.csv lacks"):
        load_benchmark("waterbirds", root=tmp_path, any_count=True)
    assert (check(["waterbirds"], tmp_path, decode=False).set_index("set").loc["near/spurious", "state"]) == "broken"
    table.unlink()
    with pytest.raises(DataError, match="environments.csv is not there"):
        load_benchmark("waterbirds", root=tmp_path, any_count=True)


def test_augmentation_does_not_depend_on_the_number_of_workers(tmp_path):
    for i in range(6):
        trees.save_image(tmp_path / f"{i}.jpg", (40 * i, 90, 120), (60, 50), RNG)
    source = disk._Listed([tmp_path / f"{i}.jpg" for i in range(6)])
    transform = disk._transforms(SPECS["waterbirds"])[True]

    def rounds(workers: int, seed: int = 0):
        loader = data.batches(LazyImages(source, torch.arange(6), transform, workers=workers), 4, shuffle=True,
                              generator=torch.Generator().manual_seed(seed))
        return [(torch.cat([x for x, _ in one]), torch.cat([y for _, y in one])) for one in ([*loader], [*loader])]

    alone, helped, other = rounds(0), rounds(2), rounds(0, seed=1)
    for (x, y), (again, labels) in zip(alone, helped):
        assert torch.equal(x, again) and torch.equal(y, labels) and sorted(y.tolist()) == list(range(6))
    assert not torch.equal(alone[0][0], alone[1][0]) and not torch.equal(alone[0][0], other[0][0])


# Lists


@pytest.mark.parametrize(("line", "complaint"), [
    ("images_classic/a/0.png", "no label after the path"),
    ("images_classic/a/0.png x", "'x' is no whole number"),
    ("images_classic/a/0.png 3", "label 3 is out of range: classes are numbered 0 to 2"),
    ("images_classic/a/9.png 1", "there is no image images_classic/a/9.png"),
    ("../a/0.png 1", "leaves the data root"),
])
def test_a_mistake_in_a_list_is_named_by_file_and_line(tmp_path, line, complaint):
    trees.save_image(tmp_path / "images_classic" / "a" / "0.png", (1, 2, 3), (32, 32), RNG)
    file = tmp_path / "list.txt"
    file.write_text(f"a/0.png 0\nimages_classic/a/0.png 1\n\n{line}\n")
    with pytest.raises(DataError) as error:
        read_list(file, tmp_path, 3)
    assert str(error.value).startswith(f"{file}, line 4: ") and complaint in str(error.value)
    file.write_text("a/0.png 0\nimages_classic/a/0.png 1\n\n")
    assert [len(read_list(file, tmp_path, 3)), read_list(file, tmp_path, 3).lines] == [2, [1, 2]]


def test_no_link_leads_a_list_out_of_the_root(tmp_path):
    "A folder may be linked in the root or one folder below it; no image and no deeper folder may."
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    trees.save_image(elsewhere / "deep" / "0.png", (1, 2, 3), (32, 32), RNG)
    (root / "images_classic" / "own").mkdir(parents=True)
    for link in ("images_classic/set", "images_classic/own/folder", "whole"):
        (root / link).symlink_to(elsewhere)
    for link in ("images_classic/own/0.png", "0.png", "images_classic/0.png"):
        (root / link).symlink_to(elsewhere / "deep" / "0.png")
    (root / "images_classic/own/same.png").symlink_to(root / "images_classic/own/real.png")
    trees.save_image(root / "images_classic/own/real.png", (1, 2, 3), (32, 32), RNG)
    (root / "list.txt").write_text("set/deep/0.png 0\nwhole/deep/0.png 0\nown/same.png 0\n")
    assert len(read_list(root / "list.txt", root, 1)) == 3
    for path in ("own/folder/deep/0.png", "own/0.png", "0.png", "images_classic/0.png"):
        (root / "list.txt").write_text(f"{path} 0\n")
        with pytest.raises(DataError, match=f"line 1: the path {path} leaves the data root by a link"):
            read_list(root / "list.txt", root, 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.from_regex(r"[a-z]{1,6}( [a-z]{1,3})?/[0-9]{1,3}\.png", fullmatch=True), st.integers(0, 9)), min_size=1, max_size=12))
def test_a_list_gives_back_what_was_written(rows):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for path, _ in rows:
            (Path(folder) / "images_largescale" / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / "images_largescale" / path).touch()
        file = Path(folder) / "list.txt"
        file.write_text("".join(f"{path} {label}\n" for path, label in rows))
        found = read_list(file, folder, 10)
        assert [p.relative_to(Path(folder) / "images_largescale").as_posix() for p in found.paths] == [path for path, _ in rows]
        assert found.labels.tolist() == [label for _, label in rows]


# Images


def test_broken_images_are_named(cifar_root, tmp_path):
    whole = (cifar_root / "images_classic/texture-far/0.jpg").read_bytes()
    for name, content in (("cut.jpg", whole[:-200]), ("empty.jpg", b""), ("text.jpg", b"no image"), ("head.jpg", whole[:40])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} is a broken image"):
            decode(disk._Listed([tmp_path / name]), 32)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_every_kind_of_image_becomes_rgb_of_the_right_size(tmp_path, mode):
    Image.new("RGB", (50, 40), (200, 0, 0)).convert(mode).save(tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}")
    (path,) = tmp_path.iterdir()
    assert decode(disk._Listed([path]), 32).shape == (1, 3, 32, 32)


def test_decoding_is_what_torchvision_does_one_by_one(cifar_root):
    from torchvision.transforms import v2

    paths = sorted((cifar_root / "images_classic/texture-far").iterdir())
    one = v2.Compose([v2.Resize(32), v2.CenterCrop(32), v2.PILToTensor()])
    assert torch.equal(decode(disk._Listed(paths), 32), torch.stack([one(Image.open(p).convert("RGB")) for p in paths]))


def test_decoded_images_are_kept_and_made_again_when_a_file_changes(cifar_root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(6):
        trees.save_image(tmp_path / f"{i}.png", (40 * i, 90, 120), (32, 32), RNG)
    source = disk._Listed([tmp_path / f"{i}.png" for i in range(6)])
    first = disk._decode_once(source, 32, at_least=5 * 3 * 32**2)
    (kept,) = (tmp_path / "cache" / "ascood" / "decoded").iterdir()
    monkeypatch.setattr(disk, "decode", lambda *a: pytest.fail("decoded again"))
    assert torch.equal(disk._decode_once(source, 32, at_least=5 * 3 * 32**2), first)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept.write_bytes(kept.read_bytes()[:500])  # a damaged cache is made again
    assert torch.equal(disk._decode_once(source, 32, at_least=5 * 3 * 32**2), first)
    trees.save_image(tmp_path / "0.png", (250, 0, 0), (32, 32), RNG)
    changed = disk._decode_once(source, 32, at_least=5 * 3 * 32**2)
    assert not torch.equal(changed[0], first[0]) and torch.equal(changed[1:], first[1:])


# Whole benchmarks


def test_openood_tree_as_it_is(cifar_root):
    benchmark = load_benchmark("cifar10", root=cifar_root, any_count=True)
    assert list(benchmark.ood["near"]) == ["cifar100", "tin"]
    assert list(benchmark.ood["far"]) == ["mnist", "svhn", "isun", "texture", "places365"]
    assert len(benchmark.auxiliary) == 10 and list(benchmark.ood_val) == ["tin"]
    torch.manual_seed(0)
    x, _ = benchmark.train[[0] * 64]
    assert len({image.numpy().tobytes() for image in x}) > 32  # each image its own shift and flip
    assert torch.equal(benchmark.test[0][0], benchmark.test[0][0])


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    with pytest.raises(DataError) as error:
        load_benchmark("cifar10", root=tmp_path)
    for what in ("id/train", "near/tin", "far/isun", "python -m ascood data download cifar10` fetches it", "benchmark_imglist/cifar10/test_svhn.txt", "ascood data check cifar10"):
        assert what in str(error.value)
    assert "tin597" not in str(error.value)  # a benchmark runs without auxiliary outliers


def test_missing_ood_sets_can_be_left_out_but_not_all_of_a_group(cifar_root, tmp_path):
    root = tmp_path / "some"
    (root / "benchmark_imglist").mkdir(parents=True)
    (root / "images_classic").symlink_to(cifar_root / "images_classic")  # data sets often live behind a link
    lists = root / "benchmark_imglist" / "cifar10"
    lists.mkdir()
    for name in ("train_cifar10", "val_cifar10", "test_cifar10", "val_tin", "test_tin"):
        (lists / f"{name}.txt").write_text((cifar_root / "benchmark_imglist/cifar10" / f"{name}.txt").read_text())
    with pytest.raises(DataError, match="far: no OOD set of this group is there"):
        load_benchmark("cifar10", root=root, leave_out_missing=True, any_count=True)
    (lists / "test_svhn.txt").write_text((cifar_root / "benchmark_imglist/cifar10/test_svhn.txt").read_text())
    benchmark = load_benchmark("cifar10", root=root, leave_out_missing=True, any_count=True)
    assert (list(benchmark.ood["near"]), list(benchmark.ood["far"]), benchmark.auxiliary) == (["tin"], ["svhn"], None)
    (lists / "test_isun.txt").write_text("isun/0.png\n")  # there, but wrong: not left out in silence
    with pytest.raises(DataError, match="test_isun.txt, line 1: no label"):
        load_benchmark("cifar10", root=root, leave_out_missing=True, any_count=True)


def test_lists_of_ones_own(cifar_root):
    (cifar_root / "benchmark_imglist" / "mine.txt").write_text("images_classic/texture-far/3.jpg 7\n")
    benchmark = load_benchmark("cifar10", root=cifar_root, lists={"near/tin": "mine.txt"}, any_count=True)
    assert len(benchmark.ood["near"]["tin"]) == 1 and benchmark.ood["near"]["tin"].labels.tolist() == [-1]
    assert "mine.txt" in benchmark.sources["near/tin"]
    with pytest.raises(DataError, match="no list benchmark_imglist/yours.txt"):
        load_benchmark("cifar10", root=cifar_root, lists={"near/tin": "yours.txt"})


@pytest.mark.parametrize(("options", "complaint"), [
    ({"lists": {"near/tiny": "x"}}, "there is no set near/tiny"), ({"wokers": 1}, "no option 'wokers'; did you mean 'workers'"),
    ({"pixels": 7}, "pixels of cifar10 must be a whole number from 8 to 1024, not 7"), ({"known_classes": 11}, "from 2 to 10, not 11"),
])
def test_impossible_options(cifar_root, monkeypatch, options, complaint):
    monkeypatch.setattr(disk, "_read_image", lambda path: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=complaint):
        load_benchmark("cifar10", root=cifar_root, **options)


def test_the_root_may_come_from_the_environment(cifar_root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASCOOD_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="ASCOOD_DATA"):
        load_benchmark("cifar10-jpeg")
    monkeypatch.setenv("ASCOOD_DATA", str(cifar_root))
    assert load_benchmark("cifar10-jpeg", any_count=True).num_classes == 10


def test_hold_out_benchmark_never_shows_the_held_out_classes(cifar_root):
    everything = load_benchmark("cifar10-jpeg", root=cifar_root, any_count=True)
    part = load_benchmark("cifar10-jpeg-holdout", root=cifar_root, any_count=True)
    known, held_out = data.holdout_split(10, 8)

    def pixels(images, classes):
        return {i.numpy().tobytes() for i, y in zip(images.images, images.labels.tolist()) if y in classes}

    for which in ("train", "val", "test"):
        assert pixels(getattr(part, which), range(8)) == pixels(getattr(everything, which), known)
    assert pixels(part.ood["near"]["held-out-classes"], [-1]) == pixels(everything.test, held_out)
    for new, old in enumerate(known):
        assert pixels(part.test, [new]) == pixels(everything.test, [old])


def test_what_a_builder_left_behind_decides(tmp_path):
    build(tmp_path, "celeba")
    fill_lists(tmp_path, "celeba", n=2)
    assert load_benchmark("celeba", root=tmp_path, workers=0, any_count=True).num_classes == 2
    file = tmp_path / "benchmark_imglist" / "celeba" / "train_celeba.txt"
    before = file.read_text()
    file.write_text("\n".join(before.splitlines()[:-2]) + "\n")  # cut off, yet each line is right
    with pytest.raises(DataError, match="train_celeba.txt is not as it was built"):
        load_benchmark("celeba", root=tmp_path)
    file.write_text(before)
    (file.parent / "build.unfinished").touch()
    with pytest.raises(DataError, match="interrupted; run the same `python -m ascood build` again"):
        load_benchmark("celeba", root=tmp_path)


# Pixels, classes and memory


@pytest.fixture(scope="module")
def cars_root(tmp_path_factory) -> Path:
    "cars-small, and OOD sets for cars: photographs wider than high, and higher than wide."
    root = tmp_path_factory.mktemp("cars")
    trees.make_cars(root, size=(37, 26)), trees.make_samples(root, 12, size=(26, 41)), trees.make_textures(root, size=(33, 33))
    builders.build_cars_small(root, n_val=3, n_far=4, progress=False)
    builders.build_cars(root, progress=False)
    fill_lists(root, "cars", n=3)
    return root


def all_sets(benchmark) -> dict:
    return benchmark.sets() | {("id", "train"): benchmark.train, ("auxiliary", ""): benchmark.auxiliary}


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 70), st.integers(8, 90), st.integers(8, 90), st.booleans())
def test_memory_and_files_give_the_same_pixels(pixels, width, height, shift):
    photo = Image.fromarray(np.random.RandomState(0).randint(256, size=(height, width, 3), dtype=np.uint8))
    spec = replace(SPECS["waterbirds"], pixels=pixels, shift=shift)
    square = decode([photo], disk._side(spec))
    assert square.shape[-1] == (pixels if shift else round(pixels * 8 / 7))
    kept, fresh = disk._transforms(spec, in_memory=True), disk._transforms(spec)
    assert torch.equal(kept[False](square)[0], fresh[False](photo)) and fresh[False](photo).shape == (3, pixels, pixels)
    for x in (kept[True](square), fresh[True](photo)[None]):
        assert x.shape == (1, 3, pixels, pixels) and x.dtype == torch.float32


@pytest.mark.parametrize(("name", "pixels"), [("cars-small", 24), ("cars", 40), ("waterbirds", 33)])
def test_every_set_is_the_same_from_memory_and_from_files(cars_root, tmp_path, name, pixels):
    root = cars_root
    if name == "waterbirds":
        build(root := tmp_path, name)
        fill_lists(root, name, n=3)
    options = {"root": root, "pixels": pixels, "any_count": True, "workers": 0}
    kept, fresh, chosen = (load_benchmark(name, in_memory=choice, **options) for choice in (True, False, None))
    assert all(isinstance(images, ImageSet) for images in [*all_sets(kept).values(), *all_sets(chosen).values()])
    assert all(isinstance(images, LazyImages) for images in all_sets(fresh).values())
    for key, images in kept.sets().items():
        index = np.linspace(0, len(images) - 1, min(7, len(images))).astype(int)
        (x, y), (again, labels) = images[index], fresh.sets()[key][index]
        assert torch.equal(x, again) and torch.equal(y, labels) and x.shape[1:] == (3, pixels, pixels)
        assert len(images) == len(fresh.sets()[key]) and torch.equal(images.images, chosen.sets()[key].images)
        assert (images.environments is None) == (fresh.sets()[key].environments is None)
    assert (kept.train.environments is None) == (name != "waterbirds") and kept.sources == fresh.sources


def test_images_are_held_in_memory_only_if_they_fit(cars_root, monkeypatch):
    load = disk.functools.partial(load_benchmark, "cars-small", root=cars_root, pixels=21)
    total = sum(map(len, all_sets(load()).values())) * 3 * 24**2
    monkeypatch.setattr(disk, "_MEMORY", total)
    assert isinstance(load().train, ImageSet)
    monkeypatch.setattr(disk, "_MEMORY", total - 1)
    assert isinstance(load().train, LazyImages) and isinstance(load(in_memory=True).train, ImageSet)
    assert isinstance(load(known_classes=149).train, ImageSet), "what is not kept needs no memory"


def test_training_images_are_cropped_each_in_its_own_way(cars_root):
    benchmark = load_benchmark("cars-small", root=cars_root)
    torch.manual_seed(0)
    for images in (benchmark.train, benchmark.auxiliary):
        x, _ = images[[0] * 32]
        assert x.shape == (32, 3, 96, 96) and len({one.numpy().tobytes() for one in x}) == 32
    assert torch.equal(benchmark.val[[0, 1]][0], benchmark.val[[0, 1]][0])


def test_cars_small_is_normalised_as_its_network_expects(cars_root):
    images = load_benchmark("cars-small", root=cars_root).test
    inner = images.images[:5, :, 7:-7, 7:-7].float()
    assert torch.allclose(images[range(5)][0], (inner - 127) / 128, atol=1e-6)


@pytest.mark.parametrize(("name", "n"), [("cars-small", 20), ("cars", 7), ("cifar10-jpeg-holdout", 3)])
def test_fewer_known_classes(cars_root, cifar_root, name, n):
    root = cifar_root if name.startswith("cifar") else cars_root
    options = {"root": root, "pixels": 16, "in_memory": True, "any_count": True}
    full, part = load_benchmark(name, **options), load_benchmark(name, known_classes=n, **options)
    kept, _ = data.holdout_split(full.num_classes, n)
    assert part.num_classes == len(part.class_names) == n and part.class_names == tuple(full.class_names[c] for c in kept)
    for which in ("train", "val", "test"):
        every, some = getattr(full, which), getattr(part, which)
        rows = [i for i, y in enumerate(every.labels.tolist()) if y in kept]
        assert some.labels.tolist() == [kept.index(every.labels[i]) for i in rows] and set(some.labels.tolist()) == set(range(n))
        assert torch.equal(some.images, every.images[rows])
    for key, images in full.sets().items():
        if key[0] != "id":
            assert torch.equal(part.sets()[key].images, images.images) and set(part.sets()[key].labels.tolist()) == {-1}
    assert "of which" in part.sources["id/train"] and part.sources["far/" + list(part.ood["far"])[0]] == full.sources["far/" + list(part.ood["far"])[0]]


@pytest.mark.parametrize("pixels", [32, 48])
def test_cifar_is_shifted_by_an_eighth_whatever_its_size(cifar_root, pixels):
    load = disk.functools.partial(load_benchmark, "cifar10-jpeg", root=cifar_root, any_count=True, pixels=pixels)
    kept, fresh = load(), load(in_memory=False, workers=0)
    assert isinstance(kept.train, ImageSet) and kept.train.images.shape[-1] == pixels
    assert torch.equal(kept.test[range(4)][0], fresh.test[range(4)][0]) and fresh.train[[0]][0].shape[-1] == pixels
    shift = next(step for step in kept.train.transform.transforms if isinstance(step, data.RandomShift))
    assert (shift.pixels, shift.black) == (pixels // 8, True)
    white = torch.full((64, 3, pixels, pixels), 255, dtype=torch.uint8)
    black = (kept.train.transform(white) < 0).all(1)  # where the image was moved away
    for side in (1, 2):
        assert black.all(side).sum(-1).max() == pixels // 8  # of 64 images, one at least is moved all the way


# torchvision's layouts


def cifar_archive(root: Path, name: str, monkeypatch):
    "CIFAR as torchvision stores it, with few images; their checksums are told to torchvision."
    folder, key = ("cifar-10-batches-py", "labels") if name == "CIFAR10" else ("cifar-100-python", "fine_labels")
    (root / folder).mkdir()
    make = getattr(torchvision.datasets, name)
    files = {}
    for kind, entries in (("train_list", make.train_list), ("test_list", make.test_list)):
        n = 600 if kind == "test_list" and len(entries) == 1 else 20
        n = 1100 if kind == "test_list" else n
        for file, _ in entries:
            content = {"data": RNG.randint(255, size=(n, 3072)).astype(np.uint8), key: [i % 10 for i in range(n)]}
            (root / folder / file).write_bytes(pickle.dumps(content))
            files.setdefault(kind, []).append([file, None])
    (root / folder / make.meta["filename"]).write_bytes(pickle.dumps({make.meta["key"]: [str(i) for i in range(10)]}))
    for kind, entries in files.items():
        monkeypatch.setattr(make, kind, entries)
    monkeypatch.setattr(make, "meta", make.meta | {"md5": None})


def torchvision_root(root: Path, monkeypatch):
    for name in ("CIFAR10", "CIFAR100"):
        cifar_archive(root, name, monkeypatch)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 5), ("t10k", 4)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(np.array([0x803, n, 28, 28], ">i4").tobytes() + bytes(n * 784))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x801, n], ">i4").tobytes() + bytes(n))
    savemat(root / "test_32x32.mat", {"X": RNG.randint(255, size=(32, 32, 3, 6)).astype(np.uint8), "y": np.ones((6, 1), np.uint8)})
    split = torchvision.datasets.SVHN.split_list
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", split | {"test": [*split["test"][:2], None]})
    for part in ("train", "val", "test"):
        trees.save_image(root / f"dtd/dtd/images/banded/{part}.jpg", (200, 10, 10), (60, 40), RNG)
        (root / "dtd/dtd/labels").mkdir(exist_ok=True)
        (root / f"dtd/dtd/labels/{part}1.txt").write_text(f"banded/{part}.jpg\n")


def test_torchvision_layouts_serve_where_no_list_exists(tmp_path, monkeypatch):
    torchvision_root(tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"val: no OOD set of this group is there \(it would be tin\)"):  # Tiny ImageNet is in no library
        load_benchmark("cifar10", root=tmp_path, leave_out_missing=True, any_count=True)
    listed(tmp_path, "images_classic/tin", "cifar10/val_tin.txt", 4)
    benchmark = load_benchmark("cifar10", root=tmp_path, leave_out_missing=True, any_count=True)
    assert (len(benchmark.train), len(benchmark.val), len(benchmark.test)) == (100, 1000, 100)
    assert {k: len(s) for k, s in benchmark.ood["near"].items()} == {"cifar100": 100}
    assert {k: len(s) for k, s in benchmark.ood["far"].items()} == {"mnist": 9, "svhn": 6, "texture": 3}
    test = torchvision.datasets.CIFAR10(tmp_path, train=False)
    dealt = {i.numpy().tobytes() for s in (benchmark.val, benchmark.test) for i in s.images}
    assert dealt == {np.ascontiguousarray(i.transpose(2, 0, 1)).tobytes() for i in test.data}  # each once, none lost
    assert benchmark.sources["far/svhn"] == "torchvision SVHN: 6 images"
    by_image = {np.ascontiguousarray(i.transpose(2, 0, 1)).tobytes(): y for i, y in zip(test.data, test.targets)}
    assert [by_image[i.numpy().tobytes()] for i in benchmark.test.images] == benchmark.test.labels.tolist()
    few = load_benchmark("cifar10", root=tmp_path, leave_out_missing=True, any_count=True, known_classes=4)
    kept, _ = data.holdout_split(10, 4)
    rows = [i for i, y in enumerate(benchmark.test.labels.tolist()) if y in kept]
    assert torch.equal(few.test.images, benchmark.test.images[rows]) and len(rows) > 4
    assert few.test.labels.tolist() == [kept.index(benchmark.test.labels[i]) for i in rows]


# check


def test_check_says_what_is_there_and_whether_it_can_run(cifar_root, tmp_path, capsys, monkeypatch):
    assert disk.main(["check", "cifar10-jpeg", "--root", str(cifar_root)]) == 1
    done = capsys.readouterr()
    assert "cifar10-jpeg: cannot run" in done.out and done.err == ""
    assert "id/train: incomplete, 20 images, expected 50000" in done.out
    with pytest.raises(DataError, match="id/train: .*train_cifar10.txt: 20 images.*but it has 50,000; the list or the copy is cut off"):
        load_benchmark("cifar10-jpeg", root=cifar_root)
    whole = replace(SPECS["cifar10-jpeg"], **{part: replace(getattr(SPECS["cifar10-jpeg"], part), count=20) for part in ("train", "val", "test")})
    monkeypatch.setitem(SPECS, "cifar10-jpeg", whole)
    assert disk.main(["check", "cifar10-jpeg", "--root", str(cifar_root)]) == 0
    monkeypatch.setenv("ASCOOD_DATA", str(cifar_root))
    assert disk.main(["check", "waterbirds", "cifar10-jpeg"]) == 1
    printed = capsys.readouterr().out
    assert "waterbirds: cannot run" in printed and "cifar10-jpeg: can run" in printed
    assert "python -m ascood build waterbirds" in printed and "github.com/j-cb/NINCO" in printed
    assert disk.main(["check", "waterbird"]) == 2 and "choose one of waterbirds" in capsys.readouterr().err
    assert disk.main(["check", "--root", str(tmp_path / "none")]) == 2 and "no data folder" in capsys.readouterr().err


def test_download_says_what_it_could_not_get(tmp_path, monkeypatch):
    class Nothing:
        def __init__(self, root, **given):
            assert given.pop("download") is True
            raise RuntimeError("no network here")

    for name in ("CIFAR10", "CIFAR100", "MNIST", "SVHN", "DTD", "Places365"):
        monkeypatch.setattr(torchvision.datasets, name, Nothing)
    failed = disk.download(["cifar10"], tmp_path)
    assert len(failed) == len(SPECS["cifar10"].sets()) and any("no network here" in line for line in failed)
    assert any("iSUN" in line for line in failed)
    monkeypatch.setattr(torchvision.datasets, "FGVCAircraft", Nothing)
    assert any(line.startswith("aircraft: ") and "no network here" in line for line in disk.download(["aircraft"], tmp_path))


def test_specs_fit_the_registry():
    assert set(SPECS) == set(list_benchmarks(on_disk=True)) - {"texture-animals"} and not set(SPECS) & set(list_benchmarks(on_disk=False))
    for name, spec in SPECS.items():
        assert name in list_benchmarks(spec.setting) and spec.pixels in (32, 96, 128, 224, 448)
        for one in spec.sets().values():
            assert one.get and one.lists
    assert load_from_disk.__defaults__[1] == 0
