import functools
import itertools

import numpy as np
import pytest
import torch

from ascood.benchmarks import embedded
from ascood.data import (ImageSet, LazyImages, RandomShift, batches, default_options, holdout_split, list_benchmarks,
                         load_benchmark, registered)

EMBEDDED = list_benchmarks(on_disk=False)
built = functools.cache(load_benchmark)  # nothing here changes what was built


def drawn_anew(name):
    "The benchmark, whatever has been built before."
    return registered()[name].build.__wrapped__()


def fingerprints(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def all_sets(benchmark) -> dict:
    return {("id", "train"): benchmark.train, ("auxiliary", ""): benchmark.auxiliary, **benchmark.sets()}


@pytest.fixture
def only_ink(monkeypatch):
    "Without photographs and without chance in placing, so that one digit on two backgrounds would be found."
    monkeypatch.setattr(embedded, "_scenes", lambda photos, opacity, ink, rng:
                        rng.normal(100, 50, photos.shape)
                        if opacity is None else 255 * np.repeat(opacity[..., None], 3, -1))
    monkeypatch.setattr(embedded, "_opacity", lambda strokes, ink, rng: np.pad(strokes / 255, ((0, 0), (18, 18), (18, 18))))
    monkeypatch.setattr(embedded, "match_statistics", lambda images, reference, rng: images)


@pytest.mark.parametrize("name", EMBEDDED)
def test_no_digit_or_glyph_serves_two_sets(name, only_ink):
    found = {key: fingerprints(images.images) for key, images in all_sets(drawn_anew(name)).items()}
    for first, second in itertools.combinations(found, 2):
        assert not found[first] & found[second], f"{first} and {second} share images"


@pytest.mark.parametrize("name", EMBEDDED)
def test_no_image_serves_two_sets(name):
    found = {key: fingerprints(images.images) for key, images in all_sets(built(name)).items()}
    for first, second in itertools.combinations(found, 2):
        assert not found[first] & found[second], f"{first} and {second} share images"


def test_each_photograph_has_one_use_and_is_installed():
    files = [file for by_name in embedded.PHOTOGRAPHS.values() for file in by_name.values()]
    assert len(files) == len(set(files)) and all(embedded._file(file).is_file() for file in files)


def test_areas_of_a_background_do_not_overlap():
    assert {"train", "val", "test", "ood"} == set(embedded._AREAS)
    for (a, b, c, d), (e, f, g, h) in itertools.combinations(embedded._AREAS.values(), 2):
        assert min(c, g) <= max(a, e) or min(d, h) <= max(b, f)


@pytest.mark.parametrize("share", list(embedded._AREAS))
def test_patches_stay_in_their_area(share):
    "Every pixel outside the area is marked; no patch shows a mark."
    photo = np.full((512, 512, 3), 255, np.uint8)
    left, top, right, bottom = (round(512 * f) for f in embedded._AREAS[share])
    photo[top:bottom, left:right] = 7
    rng, photo = np.random.RandomState(0), embedded.Image.fromarray(photo)
    assert all((embedded._patch(photo, embedded._AREAS[share], (80, 128), rng) == 7).all() for _ in range(200))


def test_shares_of_digits_are_disjoint():
    shares = embedded._deal(range(10), 80, seed=3)
    everything = np.concatenate(list(shares.values()))
    assert len(everything) == len(set(everything.tolist()))
    for name, each in {"train": 80, "val": 20, "test": 40, "chimeras": 30}.items():
        assert np.bincount(embedded._mnist()[1][shares[name]]).tolist() == [each] * 10


def test_validation_outliers_are_of_kinds_that_no_test_uses():
    kinds = embedded._SYMBOLS, embedded._LETTERS, embedded._OTHER_SCRIPTS
    assert all(not set(a) & set(b) for a, b in itertools.combinations(kinds, 2))
    for name in EMBEDDED:
        benchmark = built(name)
        tests = {which for group in benchmark.ood.values() for which in group}
        assert not tests & set(benchmark.ood_val)


@pytest.mark.parametrize("name", EMBEDDED)
def test_benchmark_is_deterministic_and_well_formed(name):
    first, again, other = built(name), drawn_anew(name), load_benchmark(name, seed=1)
    for key, images in first.sets().items():
        assert torch.equal(images.images, again.sets()[key].images) and len(images) > 0
        assert images.images.shape[1:] == (3, 64, 64)
        assert set(images.labels.tolist()) == (set(range(first.num_classes)) if key[0] == "id" else {-1})
    assert not torch.equal(first.train.images, other.train.images)
    assert torch.equal(first.auxiliary.images, again.auxiliary.images) and (first.auxiliary.labels == -1).all()
    assert first.setting in ("spurious", "fine-grained", "conventional") and name in list_benchmarks(first.setting)
    assert len(first.class_names) == first.num_classes


def test_a_benchmark_that_was_taken_apart_is_whole_the_next_time():
    load_benchmark("scene-digits", n_train=8, n_ood=4).ood.pop("far")
    again = load_benchmark("scene-digits", n_train=8, n_ood=4)
    assert "far" in again.ood and again.train.images is load_benchmark("scene-digits", n_train=8, n_ood=4).train.images


def test_masks_lie_where_the_ink_is():
    test = built("scene-digits-all").test
    luminance = test.images.float().mean(1)
    assert test.masks.dtype == torch.bool and test.masks.shape == luminance.shape
    on, off = luminance[test.masks].mean(), luminance[~test.masks].mean()
    assert on > 1.2 * off and 0.02 < test.masks.float().mean() < 0.3 and test.masks.flatten(1).any(1).all()


@pytest.mark.parametrize("name", EMBEDDED)
def test_far_outliers_have_the_statistics_of_known_images(name):
    "Each channel's mean over a set lies where the known ones' does, but for what clipping to 0..255 takes."
    benchmark = built(name)
    known = benchmark.test.images.float()
    for images in benchmark.ood["far"].values():
        for statistic in (lambda x: x.mean((2, 3)), lambda x: x.std((2, 3))):
            torch.testing.assert_close(statistic(images.images.float()).mean(0), statistic(known).mean(0), atol=6,
                                       rtol=0)


def test_matched_images_have_a_reference_images_statistics_exactly():
    rng = np.random.RandomState(0)
    images, reference = rng.normal(100, 30, (20, 6, 5, 3)), rng.normal(60, 10, (4, 6, 5, 3))
    matched = embedded.match_statistics(images, reference, rng)
    wanted = {tuple(np.round([*r.mean((0, 1)), *r.std((0, 1))], 6)) for r in reference}
    assert {tuple(np.round([*m.mean((0, 1)), *m.std((0, 1))], 6)) for m in matched} == wanted
    flat = embedded.match_statistics(np.full((2, 6, 5, 3), 9.0), reference, rng)
    assert np.isfinite(flat).all() and np.allclose(flat.std((1, 2)), 0)


def test_held_out_digits_are_in_no_id_set(only_ink):
    _, held_out = holdout_split(10, 8)
    benchmark = drawn_anew("scene-digits-holdout")
    strokes, digit = embedded._mnist()
    ink = embedded._opacity(strokes[np.isin(digit, held_out)], None, None)
    unseen = fingerprints(embedded._as_images(embedded._scenes(np.zeros((len(ink), 64, 64, 3)), ink, None, None)))
    assert benchmark.num_classes == 8 and fingerprints(benchmark.ood["near"]["held-out-digits"].images) < unseen
    for images in (benchmark.train, benchmark.val, benchmark.test):
        assert not fingerprints(images.images) & unseen


def test_holdout_rule_is_the_one_of_the_paper():
    known = np.random.RandomState(0).choice(range(196), 150, replace=False)
    assert holdout_split(196, 150, 0) == (sorted(known), sorted(set(range(196)) - set(known)))


@pytest.mark.parametrize("correlation", [0.5, 0.9, 1.0])
def test_correlation_of_digits_and_backgrounds(correlation):
    benchmark = built("scene-digits", correlation=correlation)

    def share(images: ImageSet) -> float:
        return np.mean([e in benchmark.majority[y] for y,
                        e in zip(images.labels.tolist(), images.environments.tolist())])

    assert share(benchmark.train) == pytest.approx(correlation, abs=0.03)
    assert share(benchmark.test) == pytest.approx(0.5, abs=0.06)


def test_backgrounds_on_screen_are_the_environments():
    "Tissue is brown, the three others are grey."
    test = built("scene-digits").test
    colour = (test.images[:, 0].float() - test.images[:, 2].float()).abs().mean((1, 2))
    assert torch.equal(colour > 3, test.environments == embedded.ENVIRONMENTS.index("tissue"))


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
    images = (LazyImages if lazy else ImageSet)(pixels, labels, digits.train.transform)

    def rounds(views, workers=0):
        torch.manual_seed(0)
        images.workers = workers
        loader = batches(images, 4, shuffle=True, generator=torch.Generator().manual_seed(1), drop_last=True,
                         views=views)
        return list(loader)

    once, twice = rounds(1), rounds(2)
    for (x, y), (both, labels) in zip(once, twice, strict=True):
        assert torch.equal(labels, y.repeat(2)) and both.shape == (8, 3, 64, 64)
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


def test_options_of_embedded_and_of_disk_are_found_alike():
    assert default_options("scene-digits")["correlation"] == 0.9
    assert "correlation" not in default_options("scene-digits-all")
    on_disk = list_benchmarks(on_disk=True)
    assert set(EMBEDDED).isdisjoint(on_disk) and list_benchmarks() == EMBEDDED + on_disk
