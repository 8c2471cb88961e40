"""Objects on surroundings: what is dealt where, how an image is composed, and how files and options go wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trees
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ascood.benchmarks import disk, scenes
from ascood.benchmarks.disk import DataError
from ascood.benchmarks.scenes import COMPOSED, Composition, composed, deal, environments_of, paste_object, plan
from ascood.data import list_benchmarks, load_benchmark

SPEC = Composition.model_validate(yaml.safe_load("""
name: made
get: draw it
pixels: 48
mean: [0.5, 0.5, 0.5]
std: [0.5, 0.5, 0.5]
objects: {cat: [cat], dog: [dog, puppy]}
surroundings: {cat: [sea], dog: [wood, bamboo]}
unseen: [deer]
side: [0.5, 0.5]
sizes: {train: 48, val: 16, test: 24, ood: 12}
val: {things: {folder: things, share: [0, 0.4]}}
far: {things: {folder: things, share: [0.4, 1], without: [retriever*]}, sky: {folder: [sky, night], at_most: 5}}
"""))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    "Black objects, bright photographs."
    root, rng = tmp_path_factory.mktemp("scenes"), np.random.RandomState(0)
    for name, n in (("cat", 60), ("dog", 30), ("puppy", 30), ("deer", 20)):
        for i in range(n):
            trees.save_image(root / name / f"{i:02d}.png", (0, 0, 0), (32, 32), rng)
            Image.new("RGB", (32, 32)).save(root / name / f"{i:02d}.png")
    for name, n in (("sea", 14), ("wood", 12), ("bamboo", 12), ("things", 20), ("sky", 4), ("night", 4)):
        for i in range(n):
            trees.save_image(root / name / f"{i:02d}.jpg", rng.randint(170, 220, 3), (80, 70), rng)
    shutil.copy(root / "things" / "00.jpg", root / "things" / "retriever.jpg")
    return root


@pytest.fixture(scope="module")
def benchmark(root):
    return composed(SPEC, root)


@given(st.lists(st.integers(0, 1), max_size=60), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_correlation_is_a_count_and_environments_of_a_side_are_used_equally(labels, correlation, seed):
    labels = np.array(labels, dtype=np.int64)
    sides = {0: {0}, 1: {1, 2}}
    environments = environments_of(labels, sides, correlation, np.random.RandomState(seed))
    for label in (0, 1):
        here = environments[labels == label]
        assert np.isin(here, [*sides[label]]).sum() == round(correlation * len(here))
        assert abs(int((here == 1).sum()) - int((here == 2).sum())) <= 1


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


def test_no_file_serves_two_sets_and_rows_name_the_files_that_their_labels_say(root):
    rows, owner = plan(SPEC, root, seed=3), {}
    for row in rows.itertuples():
        for file in {row.photograph, row.object} - {None}:
            assert owner.setdefault(file, row.set) == row.set
        group = row.set.split("/")[0]
        kinds = {-1: {"deer"}, 0: {"cat"}, 1: {"dog", "puppy"}}[row.label]
        assert (row.object is None) == (group == "near") and (row.object is None or row.object.parent.name in kinds)
        assert row.photograph.parent.name == ["sea", "wood", "bamboo"][row.environment]
    assert rows["object"].dropna().is_unique
    others = [set(found.images.items) for found in scenes.find_sources(SPEC, root)[1].values()]
    assert not set.intersection(*others[:2]) and not set.union(*others) & set(owner)
    assert not any(path.name == "retriever.jpg" for path in others[1])


def test_evaluation_sets_do_not_depend_on_the_training_set(root):
    more = scenes.with_options(SPEC, correlation=0.5, n_train=30)
    one, other, third = plan(SPEC, root), plan(more, root), plan(SPEC, root, seed=1)
    for share in set(one["set"]) - {"id/train"}:
        first, second, last = (rows[rows["set"] == share].reset_index(drop=True) for rows in (one, other, third))
        assert first["environment"].equals(second["environment"]) and not first.equals(last)


@given(st.integers(8, 30), st.integers(0, 12), st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_pasting_against_a_loop_over_pixels(side, spare, seed):
    length = side + spare
    scene = np.random.RandomState(seed).randint(0, 256, (length, length, 3)).astype(np.uint8)
    before, black = scene.copy(), Image.new("RGB", (32, 32), (9, 90, 200))
    image, mask = paste_object(scene, black, side, (0.8, 1), np.random.RandomState(seed))
    assert (scene == before).all() and image.dtype == np.uint8 and mask.dtype == bool
    rng = np.random.RandomState(seed)
    tall, wide = rng.uniform(0.8, 1, 2)
    top, left = rng.randint(spare + 1), rng.randint(spare + 1)
    for y in range(length):
        for x in range(length):
            v, u = (2 * (y - top) + 1) / side - 1, (2 * (x - left) + 1) / side - 1
            inside = 0 <= y - top < side and 0 <= x - left < side
            opacity = min(max((1 - ((v / tall) ** 2 + (u / wide) ** 2) ** 0.5) / 0.2, 0), 1) if inside else 0
            for c, color in enumerate((9, 90, 200)):
                assert abs(image[y, x, c] - ((1 - opacity) * before[y, x, c] + opacity * color)) <= 0.5 + 1e-9
            assert mask[y, x] == (opacity >= 0.5) or abs(opacity - 0.5) < 1e-9


def test_a_background_is_a_square_of_the_photograph():
    y, x = np.mgrid[:90, :150]
    photograph = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    for seed in range(20):
        square = scenes._square(photograph, 45, np.random.RandomState(seed)).astype(float)
        assert square.shape == (45, 45, 3)
        zoom = [np.diff(square[..., 0], axis=1)[:, 5:-5].mean(), np.diff(square[..., 1], axis=0)[5:-5].mean()]
        assert abs(zoom[0] - zoom[1]) < 0.1 and 0.9 < zoom[0] < 2.1  # as wide as tall, from 45 to 90 pixels


def test_a_benchmark_as_the_others(benchmark, root):
    assert {"/".join(key): len(images) for key, images in benchmark.sets().items()} == {
        "id/val": 16, "id/test": 24, "val/things": 8, "near/surroundings": 12, "unseen/other-objects": 12,
        "far/things": 13, "far/sky": 5}
    assert (len(benchmark.train), benchmark.auxiliary, benchmark.class_names) == (48, None, ("cat", "dog"))
    pairs = zip(benchmark.train.labels.tolist(), benchmark.train.environments.tolist())
    assert sum(e in benchmark.majority[y] for y, e in pairs) == 2 * round(0.9 * 24)
    assert not any(str(root) in source for source in benchmark.sources.values()) and len(benchmark.sources) == 8
    x, y = benchmark.train[list(range(8))]
    assert x.shape == (8, 3, 48, 48) and y.tolist() == [0, 1] * 4
    stored = benchmark.test.images[:4].float() / 255
    assert torch.allclose(benchmark.pixels(benchmark.test[[0, 1, 2, 3]][0]), stored, atol=1e-5)
    again, other = composed(SPEC, root), composed(SPEC, root, seed=1)
    for key, images in benchmark.sets().items():
        assert torch.equal(images.images, again.sets()[key].images)
        assert key == ("far", "sky") or not torch.equal(images.images, other.sets()[key].images)


def test_masks_are_where_the_object_is(benchmark):
    for images in (benchmark.train, benchmark.val, benchmark.test, benchmark.ood["unseen"]["other-objects"]):
        dark = images.images.float().mean(1)  # objects are black, photographs brighter than 130
        assert images.masks.shape == dark.shape and images.masks.dtype == torch.bool
        assert (dark[images.masks] <= 120).all() and (dark[~images.masks] >= 70).all()
        assert (images.masks.flatten(1).float().mean(1) > 0.9**2 * 0.8**2 * np.pi / 4 * 24**2 / 48**2 * 0.95).all()
    assert benchmark.ood["near"]["surroundings"].masks is None


@pytest.mark.parametrize("options, message", [
    ({"correlation": -0.1}, "correlation: Input should be greater than or equal to 0"),
    ({"n_train": 2}, "n_train: Input should be greater than or equal to 4"),
    ({"animals": 3}, "no option"),
])
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        load_benchmark("texture-animals", **options)
    assert "\n" not in str(error.value)


def test_everything_that_is_missing_is_named(root, tmp_path):
    part = shutil.copytree(root, tmp_path / "part")
    shutil.rmtree(part / "puppy"), shutil.rmtree(part / "sky")
    for text in ("no images in puppy; draw it", "far/sky: no images in sky; draw it"):
        with pytest.raises(DataError, match=text):
            composed(SPEC, part)
    with pytest.raises(DataError, match="pictures of cat: 90 are needed, but there are 60"):
        composed(SPEC, root, n_train=140)


def test_the_projects_own_are_declared(monkeypatch, root):
    assert {*COMPOSED} == {path.stem for path in (disk.declarations() / "composed").glob("*.yaml")} <= {*list_benchmarks("spurious")}
    for name, one in COMPOSED.items():
        assert one.spec.majority[0] | one.spec.majority[1] == {*range(len(one.spec.environments))}
    monkeypatch.setitem(COMPOSED, "made", scenes._Digested(SPEC))
    before = disk.list_digests("made", {"root": root})
    (root / "deer" / "19.png").unlink()
    after = disk.list_digests("made", {"root": root})
    assert {name for name in before if before[name] != after[name]} == {"deer"}
