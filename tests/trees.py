"""Tiny data in the layouts of the real ones, drawn by a seed: raw data sets, OpenOOD's lists, the authors' root."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy.io import savemat

from ascood.benchmarks import disk

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


def make_cub(root, per_species: int = 8, size=(40, 30)):
    "CUB_200_2011/ and segmentations/; every other image is for training."
    cub, rng, rows = Path(root, "CUB_200_2011"), np.random.RandomState(0), []
    for number, name in enumerate(SPECIES, 1):
        color = rng.randint(30, 225, 3)
        for i in range(per_species):
            rows.append((f"{name}/{name[4:]}_{i:04d}_{rng.randint(9999)}.jpg", number, (i + 1) % 2))
            save_image(cub / "images" / rows[-1][0], color, size, rng)
            mask = Image.new("L", size, 0)
            left, top = rng.randint(size[0] // 3), rng.randint(size[1] // 3)
            ImageDraw.Draw(mask).ellipse([left, top, left + size[0] // 2, top + size[1] // 2], fill=255)
            path = Path(root, "segmentations", rows[-1][0]).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            mask.filter(ImageFilter.GaussianBlur(1.5)).save(path)
    for name, column in (("images", 0), ("image_class_labels", 1), ("train_test_split", 2)):
        _text(cub / f"{name}.txt", (f"{i} {row[column]}" for i, row in enumerate(rows, 1)))
    _text(cub / "classes.txt", (f"{i} {name}" for i, name in enumerate(SPECIES, 1)))


def make_places(root, per_category: int, size=(32, 32)):
    "places365/data_256/, as the training archive has it."
    rng = np.random.RandomState(0)
    for category, color in PLACES.items():
        for i in range(per_category):
            save_image(Path(root, "places365/data_256", category[0], category, f"{i + 1:08d}.jpg"), color, size, rng)


def make_celeba(root, n: int, size=(18, 22)) -> Path:
    "celeba/ with half of the images for training and a quarter each for validation and test. Returns the folder."
    celeba, rng = Path(root, "celeba"), np.random.RandomState(0)
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


def make_cars(root, num_classes: int = 196, size=(12, 9)) -> Path:
    "stanford_cars/ as torchvision reads it, with 3 training and 1 test image of each class. Returns the folder."
    cars, rng = Path(root, "stanford_cars"), np.random.RandomState(0)
    (cars / "devkit").mkdir(parents=True)
    colors = rng.randint(20, 235, (num_classes, 3))
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    for part, count, file in (("train", 3, "devkit/cars_train_annos.mat"),
                              ("test", 1, "cars_test_annos_withlabels.mat")):
        order = rng.permutation(np.repeat(np.arange(num_classes), count))
        rows = [(1, 1, *size, c + 1, f"{i:05d}.jpg") for i, c in enumerate(order, 1)]
        rows = np.array(rows, dtype=[(name, "O") for name in fields])
        savemat(cars / file, {"annotations": rows[None]})
        for row in rows:
            save_image(cars / f"cars_{part}" / row["fname"], colors[row["class"] - 1], size, rng)
    names = np.array([f"Maker Model {c} Sedan {1990 + c % 20}" for c in range(num_classes)], dtype=object)
    savemat(cars / "devkit" / "cars_meta.mat", {"class_names": names[None]})
    return cars


def make_aircraft(root, size=(12, 9)):
    "fgvc-aircraft-2013b/ as torchvision reads it: of each variant 2 images for training, 2 for validation, 1 for test."
    data, rng = Path(root, "fgvc-aircraft-2013b", "data"), np.random.RandomState(0)
    variants, parts = [f"Model {c:03d}-A" for c in range(100)], {"train": [], "val": [], "test": []}
    _text(data / "variants.txt", variants)
    colors = rng.randint(20, 235, (100, 3))
    for i, (c, part) in enumerate((c, part) for c in range(100) for part in ("train", "train", "val", "val", "test")):
        save_image(data / "images" / f"{i:07d}.jpg", colors[c], size, rng)
        parts[part].append(f"{i:07d} {variants[c]}")
    for part, lines in (parts | {"trainval": sorted(parts["train"] + parts["val"])}).items():
        _text(data / f"images_variant_{part}.txt", lines)


def make_imagenet(root, train: int = 2, val: int = 3, size=(16, 12)):
    "images_largescale/imagenet_1k/{train,val}/<wnid>/."
    rng = np.random.RandomState(0)
    for wnid in WNIDS:
        for part, n in (("train", train), ("val", val)):
            for i in range(n):
                path = Path(root, "images_largescale/imagenet_1k", part, wnid, f"{wnid}_{i}.JPEG")
                save_image(path, rng.randint(20, 235, 3), size, rng)


def listed(root: Path, folder: str, file: str, n: int, classes: int | None = None, size=(36, 32), relative_to=""):
    "`n` images in a folder of the root, and the list that names them; its paths start at `relative_to`."
    rng, lines = np.random.RandomState(len(file) + n), []
    for i in range(n):
        path = root / folder / f"{i}.jpg"
        save_image(path, rng.randint(20, 235, 3), size, rng)
        lines.append(f"{path.relative_to(root / relative_to).as_posix()} {i % classes if classes else -1}")
    _text(root / "benchmark_imglist" / file, lines)


def fill_lists(root: Path, name: str, n: int = 10):
    "For every set of a benchmark that has no images yet: a list, in OpenOOD's names or in the builders', or folders."
    spec = disk.SPECS[name]
    classes = sum(map(len, spec.split()))
    for (group, which), one in spec.sets().items():
        if disk.find_place(spec, root, group, which) is not None:
            continue
        place = next(iter(one.where.values()))[-1]
        if place.list:
            known = classes if group == "id" else None
            listed(root, f"images_classic/{which}-{group}", place.list, 2 * classes if known else n, known)
            continue
        for folder in place.paths(root):
            rng = np.random.RandomState(len(folder.name))
            for kind in [f"class{c:03}" for c in range(classes)] if group == "id" or one.held_out else [""]:
                for i in range(n):
                    save_image(folder / kind / f"{i}.jpg", rng.randint(20, 235, 3), (36, 32), rng)


def make_released(root: Path, n: int = 3) -> list[dict]:
    "The authors' data root: each list, with its own folder, of the CSV file; returns its rows."
    with open(Path(__file__).parent / "reference" / "released_data_root.csv") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if not (root / row["list"]).exists():
            classes = disk.SPECS[released_name(row)].classes if row["group"] == "id" else None
            listed(root, f"{row['data_dir']}{Path(row['list']).stem}", row["list"].removeprefix("benchmark_imglist/"),
                   classes or n, classes, (9, 8), relative_to=row["data_dir"])
    return rows


def released_name(row: dict) -> str:
    return {"imagenet": "imagenet1k"}.get(row["benchmark"], row["benchmark"])
