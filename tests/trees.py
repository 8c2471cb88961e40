"""Tiny data in the layouts of the real ones, drawn by a seed: raw data sets, OpenOOD's lists, the authors' root."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy.io import savemat

SPECIES = ("001.Black_footed_Albatross", "009.Brewer_Blackbird", "086.Pacific_Loon", "088.Western_Meadowlark",
           "146.Forsters_Tern")
PLACES = {"bamboo_forest": (90, 150, 60), "forest/broadleaf": (50, 110, 40), "ocean": (40, 90, 160),
          "lake/natural": (60, 130, 150)}
WNIDS = [f"n{10_000_000 + 37 * i:08d}" for i in range(100)]
# The 40 attributes in the official order.
ATTRIBUTES = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair
Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones
Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
Sideburns Smiling Straight_Hair Wavy_Hair
Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young""".split()


def save_image(path: Path, color, size: tuple[int, int], rng: np.random.RandomState):
    "A noisy image of one colour, as JPEG whatever the suffix says, unless that is .png."
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(rng.normal(color, 12, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, format="PNG" if path.suffix == ".png" else "JPEG")


def _text(path: Path, lines) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def make_cub(root, per_species: int = 8, species: Sequence[str] = SPECIES, size=(40, 30), masks: str = "beside",
             seed: int = 0) -> Path:
    "CUB_200_2011/ and its segmentations, `masks` = 'beside' or 'inside'; every other image is for training."
    cub, rng = Path(root, "CUB_200_2011"), np.random.RandomState(seed)
    segmentations = (cub if masks == "inside" else Path(root)) / "segmentations"
    rows = []
    for number, name in enumerate(species, 1):
        color = rng.randint(30, 225, 3)
        for i in range(per_species):
            rows.append((f"{name}/{name[4:]}_{i:04d}_{rng.randint(9999)}.jpg", number, (i + 1) % 2))
            save_image(cub / "images" / rows[-1][0], color, size, rng)
            mask = Image.new("L", size, 0)
            left, top = rng.randint(size[0] // 3), rng.randint(size[1] // 3)
            ImageDraw.Draw(mask).ellipse([left, top, left + size[0] // 2, top + size[1] // 2], fill=255)
            path = (segmentations / rows[-1][0]).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            mask.filter(ImageFilter.GaussianBlur(1.5)).save(path)
    for name, column in (("images", 0), ("image_class_labels", 1), ("train_test_split", 2)):
        _text(cub / f"{name}.txt", (f"{i} {row[column]}" for i, row in enumerate(rows, 1)))
    _text(cub / "classes.txt", (f"{i} {name}" for i, name in enumerate(species, 1)))
    return cub


def make_places(root, per_category: int = 20, layout: str = "data_256", size=(32, 32), seed: int = 0) -> Path:
    "places365/, `layout` = 'data_256' (the training archive) or 'plain' (a folder a category). Returns the folder."
    places, rng = Path(root, "places365"), np.random.RandomState(seed)
    for category, color in PLACES.items():
        for i in range(per_category):
            folder = f"data_256/{category[0]}/{category}" if layout == "data_256" else category
            save_image(places / folder / f"{i + 1:08d}.jpg", color, size, rng)
    return places


def make_celeba(root, n: int = 320, size=(18, 22), seed: int = 0) -> Path:
    "celeba/ with half of the images for training and a quarter each for validation and test. Returns the folder."
    celeba, rng = Path(root, "celeba"), np.random.RandomState(seed)
    lines = [str(n), " ".join(ATTRIBUTES) + " "]
    for i in range(n):
        person = dict(zip(ATTRIBUTES, rng.rand(len(ATTRIBUTES)) < 0.5))
        person |= {"Bald": rng.rand() < 0.15, "Gray_Hair": rng.rand() < 0.4, "Male": rng.rand() < 0.5}
        lines.append(f"{i + 1:06d}.jpg " + " ".join(f"{1 if person[name] else -1:2d}" for name in ATTRIBUTES))
        color = [150 if person[name] else 70 for name in ("Bald", "Gray_Hair", "Male")]
        save_image(celeba / "img_align_celeba" / f"{i + 1:06d}.jpg", color, size, rng)
    _text(celeba / "list_attr_celeba.txt", lines)
    _text(celeba / "list_eval_partition.txt",
          (f"{i + 1:06d}.jpg {0 if i < n // 2 else 1 if i < 3 * n // 4 else 2}" for i in range(n)))
    return celeba


def make_cars(root, train: int = 3, test: int = 1, num_classes: int = 196, size=(12, 9), seed: int = 0) -> Path:
    "stanford_cars/ as torchvision reads it, with `train` and `test` images of each class. Returns the folder."
    cars, rng = Path(root, "stanford_cars"), np.random.RandomState(seed)
    (cars / "devkit").mkdir(parents=True)
    colors = rng.randint(20, 235, (num_classes, 3))
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    for part, count, file in (("train", train, "devkit/cars_train_annos.mat"),
                              ("test", test, "cars_test_annos_withlabels.mat")):
        order = rng.permutation(np.repeat(np.arange(num_classes), count))
        rows = [(1, 1, *size, c + 1, f"{i:05d}.jpg") for i, c in enumerate(order, 1)]
        rows = np.array(rows, dtype=[(name, "O") for name in fields])
        savemat(cars / file, {"annotations": rows[None]})
        for row in rows:
            save_image(cars / f"cars_{part}" / row["fname"], colors[row["class"] - 1], size, rng)
    names = np.array([f"Maker Model {c} Sedan {1990 + c % 20}" for c in range(num_classes)], dtype=object)
    savemat(cars / "devkit" / "cars_meta.mat", {"class_names": names[None]})
    return cars


def make_aircraft(root, train: int = 2, val: int = 2, test: int = 1, num_classes: int = 100, size=(12, 9),
                  seed: int = 0) -> Path:
    "fgvc-aircraft-2013b/ as torchvision reads it, with so many images of each variant. Returns the folder."
    aircraft, rng = Path(root, "fgvc-aircraft-2013b"), np.random.RandomState(seed)
    data, parts = aircraft / "data", {"train": [], "val": [], "test": []}
    variants = [f"Model {c:03d}-A" for c in range(num_classes)]
    _text(data / "variants.txt", variants)
    colors = rng.randint(20, 235, (num_classes, 3))
    each = ["train"] * train + ["val"] * val + ["test"] * test
    for i, (c, part) in enumerate((c, part) for c in range(num_classes) for part in each):
        save_image(data / "images" / f"{i:07d}.jpg", colors[c], size, rng)
        parts[part].append(f"{i:07d} {variants[c]}")
    for part, lines in (parts | {"trainval": sorted(parts["train"] + parts["val"])}).items():
        _text(data / f"images_variant_{part}.txt", lines)
    return aircraft


def make_imagenet(root, wnids: Sequence[str] = WNIDS, train: int = 2, val: int = 3, flat: bool = False, size=(16, 12),
                  seed: int = 0) -> Path:
    """images_largescale/imagenet_1k/{train,val}/<wnid>/. Returns the folder.

    `flat`: validation images in one folder and OpenOOD's lists, and (empty) folders for the rest of the classes.
    """
    imagenet, rng = Path(root, "images_largescale", "imagenet_1k"), np.random.RandomState(seed)
    every = sorted({*wnids, *(f"n{90000000 + i}" for i in range(1000 - len(wnids)))}) if flat else sorted(wnids)
    for wnid in every:
        (imagenet / "train" / wnid).mkdir(parents=True)
    lists, number = {"val": [], "test": []}, 0
    for wnid in wnids:
        color = rng.randint(20, 235, 3)
        for i in range(train):
            save_image(imagenet / "train" / wnid / f"{wnid}_{i}.JPEG", color, size, rng)
        for i in range(val):
            number += 1
            name = f"ILSVRC2012_val_{number:08d}.JPEG"
            save_image(imagenet / "val" / ("" if flat else wnid) / name, color, size, rng)
            lists["val" if i < 1 else "test"].append(f"imagenet_1k/val/{name} {every.index(wnid)}")
    for part, lines in lists.items():
        if flat:
            _text(Path(root, "benchmark_imglist", "imagenet", f"{part}_imagenet.txt"), lines)
    return imagenet


def make_samples(root, others: int = 20, classes: Sequence[str] | None = None, size=(14, 10), seed: int = 0) -> Path:
    "images_largescale/imagenet_samples/<wnid>_<class>.jpg: classes (those with cars if None), `others`."
    from ascood.benchmarks.build import CAR_CLASSES, CARS_IN_VIEW

    samples, rng = Path(root, "images_largescale", "imagenet_samples"), np.random.RandomState(seed)
    names = [*(CAR_CLASSES + CARS_IN_VIEW if classes is None else classes), *(f"thing_{i}" for i in range(others))]
    for i, name in enumerate(rng.permutation(names)):
        save_image(samples / f"n{i:08d}_{name}.jpg", rng.randint(20, 235, 3), size, rng)
    return samples


def make_textures(root, names: Sequence[str] = ("banded", "dotted"), each=3, size=(14, 10), seed: int = 0) -> Path:
    "images_largescale/textures/<name>/<name>_<i>.jpg. Returns the folder."
    textures, rng = Path(root, "images_largescale", "textures"), np.random.RandomState(seed)
    for name in names:
        for i in range(each):
            save_image(textures / name / f"{name}_{i}.jpg", rng.randint(20, 235, 3), size, rng)
    return textures


def listed(root: Path, folder: str, file: str, n: int, classes: int | None = None, size=(36, 32), suffix="jpg",
           relative_to=""):
    "`n` images in a folder of the root, and the list that names them; its paths start at `relative_to`."
    rng, lines = np.random.RandomState(len(file) + n), []
    for i in range(n):
        path = root / folder / f"{i}.{suffix}"
        save_image(path, rng.randint(20, 235, 3), size, rng)
        lines.append(f"{path.relative_to(root / relative_to).as_posix()} {i % classes if classes else -1}")
    _text(root / "benchmark_imglist" / file, lines)


def fill_lists(root: Path, name: str, n: int = 10):
    "An image list for every set of a benchmark that has none yet, in OpenOOD's names or in the builders'."
    from ascood.benchmarks import disk

    spec = disk.SPECS[name]
    for (group, which), one in spec.sets().items():
        if disk.find_place(spec, root, group, which) is None:
            classes = len(sum(spec.split(), [])) if group == "id" else None
            place = next(iter(one.where.values()))[-1]
            if not place.list:
                in_folders(root, place, (n or 10) if classes is None and not one.held_out else None, spec)
                continue
            listed(root, f"images_classic/{which}-{group}", place.list, 2 * classes if classes else n, classes)


def in_folders(root: Path, place, n: int | None, spec):
    "Images for a set of folders: `n` each, or a folder for each class that the benchmark numbers."
    for folder in place.paths(root):
        kinds = [""] if n else [f"class{c:03}" for c in range(len(sum(spec.split(), [])))]
        for kind in kinds:
            rng = np.random.RandomState(len(kind) + len(folder.name))
            for i in range(n or 10):
                save_image(folder / kind / f"{i}.jpg", rng.randint(20, 235, 3), (36, 32), rng)


def make_released(root: Path, n: int = 3) -> list[dict]:
    "The authors' data root: each list, with its own folder, of the CSV file; returns its rows."
    from ascood.benchmarks import disk

    with open(Path(__file__).parent / "reference" / "released_data_root.csv") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if not (root / row["list"]).exists():
            known = row["group"] == "id"
            classes = disk.SPECS[released_name(row)].classes if known else None
            listed(root, f"{row['data_dir']}{Path(row['list']).stem}", row["list"].removeprefix("benchmark_imglist/"),
                   classes or n, classes, (9, 8), relative_to=row["data_dir"])
    return rows


def released_name(row: dict) -> str:
    return {"imagenet": "imagenet1k"}.get(row["benchmark"], row["benchmark"])
