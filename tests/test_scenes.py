"""Animals on textured surroundings: what is dealt where, how an image is composed, and how files and options go wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trees
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ascood.benchmarks import scenes
from ascood.benchmarks.disk import DataError
from ascood.benchmarks.scenes import ANIMALS, ENVIRONMENTS, FAR_TEXTURES, VAL_TEXTURES, Sizes, deal, environments_of, find_sources, paste_animal, plan
from ascood.data import load_benchmark

SMALL = dict(n_train=48, n_val=16, n_test=24, n_ood=12, n_ood_val=8, n_auxiliary=10)
SIZES = Sizes(*SMALL.values())


def make_root(root: Path, photographs: int = 12) -> Path:
    "Black animals, bright textures and ImageNet images, in the layout of a real root."
    rng = np.random.RandomState(0)
    for part, n in (("train", 36), ("test", 16)):
        lines = [f"cifar10/{part}/{name}/{i:02d}.png {label}" for name, label in (("cat", 3), ("deer", 4), ("dog", 5), ("horse", 7)) for i in range(n)]
        for line in lines:
            path = root / "images_classic" / line.split()[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32)).save(path)
        trees._text(root / "benchmark_imglist" / "cifar10" / f"{part}_cifar10.txt", lines)
    for name in ENVIRONMENTS + FAR_TEXTURES + VAL_TEXTURES:
        for i in range(photographs):
            trees.save_image(root / "images_largescale" / "textures" / name / f"{name}_{i:03d}.jpg", rng.randint(170, 220, 3), (80, 70), rng)
    for i in range(40):
        trees.save_image(root / "images_largescale" / "imagenet_samples" / f"n0{3000000 + i}_thing.JPEG", (200, 200, 200), (60, 50), rng)
    trees.save_image(root / "images_largescale" / "imagenet_samples" / "n02099601_golden_retriever.JPEG", (0, 0, 0), (60, 50), rng)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_root(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def benchmark(root):
    return load_benchmark("texture-animals", root=root, pixels=48, object_pixels=24, **SMALL)


@given(st.lists(st.integers(0, 1), max_size=60), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_correlation_is_a_count_and_environments_of_a_side_are_used_equally(labels, correlation, seed):
    labels = np.array(labels, dtype=np.int64)
    environments = environments_of(labels, correlation, np.random.RandomState(seed))
    for label in (0, 1):
        counts = [int(((labels == label) & (environments == e)).sum()) for e in range(4)]
        own, other = counts[2 * label : 2 * label + 2], counts[2 - 2 * label : 4 - 2 * label]
        assert sum(own) == round(correlation * (labels == label).sum()) and sum(counts) == (labels == label).sum()
        assert abs(own[0] - own[1]) <= 1 and abs(other[0] - other[1]) <= 1


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(0, 5), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_shares_are_disjoint_and_repeatable(counts, spare, seed):
    items, sizes = [f"item {i}" for i in range(sum(counts) + spare)], {f"share {i}": n for i, n in enumerate(counts)}
    dealt = deal(items, sizes, "items", seed)
    everything = [item for share in dealt.values() for item in share]
    assert {name: len(share) for name, share in dealt.items()} == sizes and len(set(everything)) == len(everything)
    assert dealt == deal(items, sizes, "items", seed)
    with pytest.raises(DataError, match=f"items: {len(items) + 1} are needed, but there are {len(items)}"):
        deal(items, {"all": len(items) + 1}, "items", seed)


def test_no_file_serves_two_sets_and_no_animal_two_images(root):
    rows = plan(find_sources(root), SIZES, seed=3)
    owner = {}
    for row in rows.itertuples():
        for file in {row.photograph, row.animal} - {None}:
            assert owner.setdefault(file, row.set) == row.set
    animals = [row.animal for row in rows.itertuples() if row.animal is not None]
    assert len(set(animals)) == len(animals)
    assert not any("retriever" in path.name for path in rows["photograph"])


def test_rows_name_the_files_that_their_labels_say(root):
    rows = plan(find_sources(root), SIZES)
    for row in rows.itertuples():
        group = row.set.split("/")[0]
        if row.animal is not None:
            assert row.animal.parent.name == ("deer" if group == "animals" else ANIMALS[row.label])
        if row.environment >= 0:
            assert row.photograph.parent.name == ENVIRONMENTS[row.environment]
        assert (row.label >= 0) == (group == "id") and (row.environment >= 0) == (group in ("id", "near", "animals"))
    folders = rows[rows["set"].isin(["far/textures", "val/other-textures"])].groupby("set")["photograph"].agg(lambda p: {x.parent.name for x in p})
    assert folders["far/textures"] <= set(FAR_TEXTURES) and folders["val/other-textures"] <= set(VAL_TEXTURES)
    train = rows[rows["set"] == "id/train"]
    assert {p.parts[-3] for p in train["animal"]} == {"train"} and {p.parts[-3] for p in rows[rows["set"] == "id/test"]["animal"]} == {"test"}
    per_photograph = train.groupby(["environment", "photograph"]).size().groupby("environment").agg(np.ptp)
    assert per_photograph.max() <= 1


def test_evaluation_sets_do_not_depend_on_the_training_set(root):
    sources = find_sources(root)
    one, other, third = plan(sources, SIZES), plan(sources, SIZES._replace(train=30), correlation=0.5), plan(sources, SIZES, seed=1)
    for share in one["set"].unique():
        same = one[one["set"] == share].reset_index(drop=True).equals(other[other["set"] == share].reset_index(drop=True))
        assert same == (share != "id/train"), share
        assert not one[one["set"] == share].reset_index(drop=True).equals(third[third["set"] == share].reset_index(drop=True))


@pytest.mark.parametrize("wnid, stays", [("n02077923", True), ("n02085620", False), ("n02113978", False), ("n02119022", False), ("n02123045", False),
                                         ("n02130308", False), ("n02132136", True), ("n02389026", False), ("n02391049", False), ("n02395406", True), ("n07749582", True)])
def test_dogs_cats_horses_and_their_relatives_are_no_outliers(wnid, stays):
    path = Path(f"{wnid}_something.jpg")
    assert scenes._outliers_of_imagenet([path]) == ([path] if stays else [])


@given(st.integers(8, 30), st.integers(0, 12), st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_pasting_against_a_loop_over_pixels(side, spare, seed):
    length = side + spare
    scene = np.random.RandomState(seed).randint(0, 256, (length, length, 3)).astype(np.uint8)
    before = scene.copy()
    composed, mask = paste_animal(scene, Image.new("RGB", (32, 32), (9, 90, 200)), side, np.random.RandomState(seed))
    assert (scene == before).all() and composed.dtype == np.uint8 and mask.dtype == bool
    rng = np.random.RandomState(seed)
    tall, wide = rng.uniform(0.8, 1, 2)
    top, left = rng.randint(spare + 1), rng.randint(spare + 1)
    for y in range(length):
        for x in range(length):
            v, u = (2 * (y - top) + 1) / side - 1, (2 * (x - left) + 1) / side - 1
            inside = 0 <= y - top < side and 0 <= x - left < side
            opacity = min(max((1 - ((v / tall) ** 2 + (u / wide) ** 2) ** 0.5) / 0.2, 0), 1) if inside else 0
            for c, color in enumerate((9, 90, 200)):
                assert abs(composed[y, x, c] - ((1 - opacity) * before[y, x, c] + opacity * color)) <= 0.5 + 1e-9
            assert mask[y, x] == (opacity >= 0.5) or abs(opacity - 0.5) < 1e-9


def test_a_background_is_a_square_of_the_photograph():
    y, x = np.mgrid[:90, :150]
    photograph = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    for seed in range(20):
        square = scenes._square(photograph, 45, np.random.RandomState(seed)).astype(float)
        assert square.shape == (45, 45, 3)
        zoom = [np.diff(square[..., 0], axis=1)[:, 5:-5].mean(), np.diff(square[..., 1], axis=0)[5:-5].mean()]
        assert abs(zoom[0] - zoom[1]) < 0.1 and 0.9 < zoom[0] < 2.1  # as wide as tall, from 45 to 90 pixels
    middle = scenes._square(photograph, 90, None)
    assert (middle == np.array(photograph)[:, 30:120]).all()
    large = scenes._Photographs(45)
    large.known["x"] = photograph
    assert large["x"] is photograph


def test_a_benchmark_as_the_others(benchmark, root):
    assert {"/".join(key): len(images) for key, images in benchmark.sets().items()} == {
        "id/val": 16, "id/test": 24, "val/imagenet": 8, "val/other-textures": 8, "near/surroundings": 12, "animals/other-animal": 12,
        "far/imagenet": 12, "far/textures": 12}
    assert (len(benchmark.train), len(benchmark.auxiliary), benchmark.num_classes, benchmark.class_names) == (48, 10, 2, ANIMALS)
    own = [e in benchmark.majority[y] for y, e in zip(benchmark.train.labels.tolist(), benchmark.train.environments.tolist())]
    assert sum(own) == 2 * round(0.9 * 24)
    assert len(set(benchmark.sources.values())) == 10 and not any(str(root) in source for source in benchmark.sources.values())
    x, y = benchmark.train[list(range(8))]
    assert x.shape == (8, 3, 48, 48) and x.dtype == torch.float32 and y.tolist() == [0, 1] * 4
    stored = benchmark.test.images[:4].float() / 255
    assert torch.allclose(benchmark.pixels(benchmark.test[[0, 1, 2, 3]][0]), stored, atol=1e-5)
    white = torch.tensor([(255 / 255 - benchmark.mean[0]) / benchmark.std[0], (0 - benchmark.mean[0]) / benchmark.std[0]])
    assert torch.allclose(white, torch.tensor([1.0, -127 / 128]))


def test_masks_are_where_the_animal_is(benchmark):
    for images in (benchmark.train, benchmark.val, benchmark.test, benchmark.ood["animals"]["other-animal"]):
        dark = images.images.float().mean(1)  # animals are black, photographs brighter than 130
        assert images.masks.shape == dark.shape and images.masks.dtype == torch.bool
        assert (dark[images.masks] <= 120).all() and (dark[~images.masks] >= 70).all()
        assert (images.masks.flatten(1).float().mean(1) > 0.9**2 * 0.8**2 * np.pi / 4 * 24**2 / 48**2 * 0.95).all()
    for images in (benchmark.ood["near"]["surroundings"], *benchmark.ood["far"].values(), *benchmark.ood_val.values(), benchmark.auxiliary):
        assert images.masks is None and images.images.float().mean(1).min() > 90


def test_the_same_seed_gives_the_same_pixels_and_another_one_others(benchmark, root):
    again, other = (load_benchmark("texture-animals", root=root, pixels=48, object_pixels=24, seed=seed, **SMALL) for seed in (0, 1))
    for images, same, different in zip(*([b.train, *b.sets().values(), b.auxiliary] for b in (benchmark, again, other))):
        assert torch.equal(images.images, same.images) and not torch.equal(images.images, different.images)


@pytest.mark.parametrize("options, message", [
    ({"correlation": -0.1}, r"correlation must be a number in \[0, 1\], not -0.1"),
    ({"animals": ["cat", "deer"]}, "animals must be two of cat, dog, horse, not"),
    ({"pixels": 20}, r"pixels must lie in \[32, 256\], not 20"),
    ({"n_train": 100}, "pictures of a cat in benchmark_imglist/cifar10/train_cifar10.txt: 58 are needed, but there are 36"),
])
def test_wrong_options_are_one_line(root, options, message):
    with pytest.raises(ValueError, match=message) as error:
        load_benchmark("texture-animals", root=root, **SMALL | options)
    assert "\n" not in str(error.value)


def test_everything_that_is_missing_is_named(root, tmp_path):
    part = shutil.copytree(root, tmp_path / "part")
    (part / "benchmark_imglist" / "cifar10" / "test_cifar10.txt").unlink()
    shutil.rmtree(part / "images_largescale" / "textures" / "braided")
    shutil.rmtree(part / "images_largescale" / "imagenet_samples")
    with pytest.raises(DataError) as error:
        load_benchmark("texture-animals", root=part, **SMALL)
    for text in ("test_cifar10.txt", "no images of braided in", "imagenet_samples", "sample-images"):
        assert text in str(error.value)
    assert "banded" not in str(error.value) and "train_cifar10" not in str(error.value)
