import itertools

import numpy as np
import pytest
import torch

from ascood import data
from ascood.data import ImageSet, LazyImages, RandomShift, batches, holdout_split, list_benchmarks, load_benchmark


def fingerprints(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("name", list_benchmarks(on_disk=False))
def test_no_image_serves_two_sets(name, monkeypatch):
    "Backgrounds are left out, so that one digit on two colours would be found."
    real = data._on_backgrounds
    monkeypatch.setattr(data, "_on_backgrounds", lambda ink, colors, rng: real(ink, colors, rng) if ink is None else data._as_images(ink))
    benchmark = load_benchmark(name)
    sets = {("id", "train"): benchmark.train, ("auxiliary", ""): benchmark.auxiliary, **benchmark.sets()}
    found = {key: fingerprints(images.images) for key, images in sets.items()}
    for first, second in itertools.combinations(found, 2):
        assert not found[first] & found[second], f"{first} and {second} share images"


def test_shares_of_digits_are_disjoint_and_use_each_digit_once():
    shares = data._deal(range(10), seed=3)
    everything = np.concatenate(list(shares.values()))
    assert len(everything) == len(set(everything.tolist())) == 5000
    for name, index in shares.items():
        assert np.bincount(data._mnist()[1][index]).tolist() == [data._SHARES[name]] * 10


def test_validation_outliers_are_of_kinds_that_no_test_uses():
    assert not set(data._SYMBOLS) & set(data._LETTERS) and not set(data._OTHER_SCRIPTS) & set(data._LETTERS + data._SYMBOLS)
    for name in list_benchmarks(on_disk=False):
        benchmark = load_benchmark(name)
        tests = {which for group in benchmark.ood.values() for which in group}
        assert not tests & set(benchmark.ood_val)


@pytest.mark.parametrize("name", list_benchmarks(on_disk=False))
def test_benchmark_is_deterministic_and_well_formed(name):
    first, again, other = load_benchmark(name), load_benchmark(name), load_benchmark(name, seed=1)
    for key, images in first.sets().items():
        assert torch.equal(images.images, again.sets()[key].images) and len(images) > 0
        assert images.images.shape[1:] == (3, 32, 32)
        assert (images.labels == -1).all() if key[0] != "id" else set(images.labels.tolist()) == set(range(first.num_classes))
    assert not torch.equal(first.train.images, other.train.images)
    assert torch.equal(first.auxiliary.images, again.auxiliary.images) and (first.auxiliary.labels == -1).all()
    assert first.setting in ("spurious", "fine-grained", "conventional") and name in list_benchmarks(first.setting)


def test_held_out_digits_are_in_no_id_set():
    known, held_out = holdout_split(10, 8)
    benchmark = load_benchmark("mnist-holdout")
    strokes, digit = data._mnist()
    unseen = fingerprints(data._as_images(strokes[np.isin(digit, held_out)]))
    assert len(known) == 8 and len(benchmark.ood["near"]["held-out-digits"]) == 1000
    assert fingerprints(benchmark.ood["near"]["held-out-digits"].images) == unseen
    for images in (benchmark.train, benchmark.val, benchmark.test):
        assert not fingerprints(images.images) & unseen


def test_holdout_rule_is_the_one_of_the_paper():
    known = np.random.RandomState(0).choice(range(196), 150, replace=False)
    assert holdout_split(196, 150, 0) == (sorted(known), sorted(set(range(196)) - set(known)))


@pytest.mark.parametrize("correlation", [0.5, 0.9, 1.0])
def test_correlation_of_digits_and_colours(correlation):
    benchmark = load_benchmark("colored-digits", correlation=correlation)

    def share(images: ImageSet) -> float:
        return np.mean([e in benchmark.majority[y] for y, e in zip(images.labels.tolist(), images.environments.tolist())])

    assert share(benchmark.train) == pytest.approx(correlation, abs=0.02)
    assert share(benchmark.test) == pytest.approx(0.5, abs=0.05)


def test_colours_on_screen_are_the_environments():
    benchmark = load_benchmark("colored-digits")
    corners = benchmark.test.images[:, :, :2, :2].float().mean((2, 3))
    nearest = torch.cdist(corners, torch.tensor(data._TRAINING_COLORS).float()).argmin(1)
    assert (nearest == benchmark.test.environments).float().mean() > 0.98


def test_random_shift_equals_a_slow_loop():
    images = torch.randint(0, 255, (6, 3, 5, 7), dtype=torch.uint8)
    torch.manual_seed(4)
    moved = RandomShift(2)(images)
    torch.manual_seed(4)
    dy, dx = torch.randint(-2, 3, (2, 6, 1))
    for b, i, j in itertools.product(range(6), range(5), range(7)):
        row, column = min(max(i + int(dy[b]), 0), 4), min(max(j + int(dx[b]), 0), 6)
        assert torch.equal(moved[b, :, i, j], images[b, :, row, column])


def test_batches_cover_the_set_once_and_in_a_repeatable_order(digits):
    def order(seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([y for _, y in batches(digits.val, 64, shuffle=True, generator=generator)])

    assert torch.equal(order(0), order(0)) and not torch.equal(order(0), order(1))
    assert sorted(order(0).tolist()) == sorted(digits.val.labels.tolist())
    assert torch.equal(torch.cat([x for x, _ in batches(digits.val, 64)]), digits.val[range(len(digits.val))][0])


@pytest.mark.parametrize("lazy", [False, True])
def test_views_are_the_same_images_augmented_anew(digits, lazy):
    pixels, labels = digits.train.images[:10], torch.arange(10)
    images = LazyImages(pixels, labels, digits.train.transform) if lazy else ImageSet(pixels, labels, digits.train.transform)

    def rounds(views, workers=0):
        torch.manual_seed(0)
        images.workers = workers
        loader = batches(images, 4, shuffle=True, generator=torch.Generator().manual_seed(1), drop_last=True, views=views)
        return list(loader)

    once, twice = rounds(1), rounds(2)
    for (x, y), (both, labels) in zip(once, twice, strict=True):
        assert torch.equal(labels, y.repeat(2)) and both.shape == (8, 3, 32, 32)
        first, second = both.split(4)
        assert not torch.equal(first, second)
        if lazy:  # the first view does not depend on the number of views or workers
            assert torch.equal(first, x)
    if lazy:
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(twice, rounds(2, workers=1)))


def test_a_plain_data_loader_works_too(digits):
    x, y = next(iter(torch.utils.data.DataLoader(digits.val, batch_size=8)))
    torch.testing.assert_close(x, digits.val[range(8)][0])
    assert torch.equal(y, digits.val.labels[:8])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: load_benchmark("cifar"), "choose one of colored-digits"),
        (lambda: load_benchmark("mnist", root="/no/such/folder"), "does not exist"),
        (lambda: load_benchmark("mnist", corelation=1), "no such option"),
        (lambda: ImageSet(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3), None), "2 images but 3 labels"),
    ],
)
def test_errors_are_one_line(call, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
