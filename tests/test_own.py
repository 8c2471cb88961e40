"""The wing for one's own images: bad folders, a run that is killed, exported scores, and the commands, in fresh processes where that matters."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from typer.testing import CliRunner

from ascood.own.command import app, read_all
from ascood.own.detector import FAMILIES, OutlierDetector
from ascood.own.images import as_image, check_apart, class_folders, example_folders, read_folder

SMALL = "--backbone tiny_resnet --pixels 32 --epochs 2 --alpha 10 --weight 0.1 --no-flip --no-progress"
CLASSES = ['digit "3", comma', "digit-1", "digit-2"]
BLOCKED = "import runpy, sys; sys.modules.update(dict.fromkeys(sys.argv[1].split(','))); sys.argv[:] = sys.argv[2:]; runpy.run_path(sys.argv[0])"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    "An example of three classes; the name of one is no plain CSV field."
    folder = example_folders(tmp_path_factory.mktemp("images") / "example", classes=3, images=20)
    (folder / "train" / "digit-3").rename(folder / "train" / CLASSES[0])
    return folder


def line(images: Path, out: Path, more: str = "") -> list[str]:
    return f"fit --train {images}/train --ood-val {images}/ood-val --ood-test {images}/ood-test --out {out} {SMALL} {more}".split()


def run(*words) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(map(str, words)))
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def fitted(images, tmp_path_factory):
    "A finished run."
    out = tmp_path_factory.mktemp("fitted") / "out"
    code, stdout, stderr = run(*line(images, out))
    assert code == 0, stdout + stderr
    return out


def by_script(folder: Path, paths: list[Path]) -> tuple[int, str, str]:
    "The exported file, by its script, in a process without this package and without torch."
    command = [sys.executable, "-I", "-c", BLOCKED, "ascood,pytorch_ood,torch", folder / "predict_onnx.py", folder / "detector.onnx", *paths]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def rows_of(stdout: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(stdout), keep_default_na=False)


def test_exported_scores_are_the_same_without_this_package(fitted, images):
    detector = OutlierDetector.load(fitted / "detector.safetensors")
    paths = [*sorted((images / "ood-test").iterdir())[:5], *sorted((images / "train" / CLASSES[0]).iterdir())[:5]]
    code, stdout, stderr = by_script(fitted, paths)
    assert (code, stderr) == (0, "")
    found, (probabilities, scores) = rows_of(stdout), detector.judge(paths)
    np.testing.assert_allclose(found["score"], scores, atol=1e-4)
    np.testing.assert_allclose(found["probability"], probabilities.max(1), atol=1e-4)
    assert (found["verdict"] == "known").tolist() == (detector.predict(paths) >= 0).tolist()
    assert found["class"].tolist() == [detector.classes_[c] for c in probabilities.argmax(1)]


def png(width: int, height: int) -> bytes:
    "A PNG file with the beginning of a black image."
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head, data = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), zlib.compress(bytes(min((1 + width) * height, 99_999)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6
FINE = {  # {name: image, options of its file}
    "grey.png": (PHOTO.convert("L"), {}), "palette.png": (PHOTO.quantize(32), {}), "cmyk.jpg": (PHOTO.convert("CMYK"), {}),
    "opaque.png": (PHOTO.convert("RGBA"), {}), "turned.jpg": (PHOTO, {"exif": TURNED}), "least.png": (PHOTO.resize((16, 16)), {}),
    'a "comma", or two.png': (PHOTO, {}), "a\nline.png": (PHOTO, {}), os.fsdecode(b"\xff.png"): (PHOTO, {})}
BAD = {  # {name: content, or image and options; message}
    "animated.gif": ((PHOTO.quantize(16), {"save_all": True, "append_images": [PHOTO.rotate(90)]}), "2 frames"),
    "16 bits.png": ((Image.fromarray(np.full((40, 40), 40_000, np.uint16)), {}), "pixels of kind I;16"),
    "transparent.png": ((Image.new("RGBA", (40, 40), (9, 9, 9, 100)), {}), "transparent pixels"),
    "one.png": ((Image.new("RGB", (1, 1)), {}), "1 x 1 pixels"), "long.png": ((Image.new("L", (32_769, 16)), {}), "32769 x 16 pixels"),
    "bomb.png": (png(20_000, 20_000), "too many pixels"), "text.jpg": (b"hello", "truncated or no image"),
    "cut.png": (png(40, 40)[:-30], "truncated or no image")}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    "A folder of odd images, and what else can stand in their place."
    folder = tmp_path_factory.mktemp("odd")
    for name, given in (FINE | {name: given for name, (given, _) in BAD.items()}).items():
        given[0].copy().save(folder / name, **given[1]) if isinstance(given, tuple) else (folder / name).write_bytes(given)
    (folder / "nowhere.png").symlink_to("nothing")
    (folder / "empty").mkdir()
    return folder


def test_predict_goes_on_after_a_bad_file_and_names_each(fitted, odd):
    code, stdout, stderr = run("predict", fitted, odd, odd / "empty", odd / "missing.png")
    assert code == 2
    assert sorted(rows_of(stdout)["path"]) == sorted(str(odd / name).encode(errors="backslashreplace").decode() for name in FINE)
    words = {name: words for name, (_, words) in BAD.items()}
    words |= {"nowhere.png": "is a link that leads nowhere", "empty": "is a folder", "missing.png": "is not there"}
    assert stderr.count("\n") == len(words)
    for name in words:
        (line,) = (line for line in stderr.splitlines() if line.startswith(f"error: {odd / name} "))
        assert words[name] in line and "; " in line  # what is wrong; what to do


def test_the_script_accepts_and_refuses_what_predict_does(fitted, odd):
    given = [odd, odd / "empty", odd / "missing.png"]
    code, stdout, stderr = run("predict", fitted, *given)
    again = by_script(fitted, given)
    assert (again[0], again[2]) == (code, stderr)
    ours, theirs = rows_of(stdout), rows_of(again[1])
    assert len(ours) == len(FINE) and ours[["path", "class", "verdict"]].equals(theirs[["path", "class", "verdict"]])
    np.testing.assert_allclose(ours[["probability", "score"]], theirs[["probability", "score"]], atol=1e-4)


def test_files_say_what_they_are(fitted):
    import onnxruntime

    about = json.loads(onnxruntime.InferenceSession(fitted / "detector.onnx").get_modelmeta().custom_metadata_map["detector"])
    assert about["classes"] == CLASSES
    card = (fitted / "README.md").read_text()
    assert "Use the" in card and "detector.onnx" in card and "| accuracy " in card


def test_predict_writes_csv_with_the_object_own_answers(fitted, images):
    one = images / "train" / "digit-2" / "0003.png"
    code, stdout, stderr = run("predict", fitted, one, images / "ood-test")
    assert code == 0 and stderr == ""
    rows = rows_of(stdout)
    assert [*rows] == ["path", "class", "probability", "score", "verdict"] and len(rows) == 1 + 150
    detector = OutlierDetector.load(fitted / "detector.safetensors")
    np.testing.assert_allclose(rows["score"], detector.score_samples([*rows["path"]]), atol=1e-5)
    answers = detector.predict([*rows["path"]])
    assert rows["verdict"].tolist() == ["unknown" if answer < 0 else "known" for answer in answers]
    assert all(name == detector.classes_[answer] for name, answer in zip(rows["class"], answers) if answer >= 0)


def test_threshold_accepts_what_was_asked_of_validation(fitted, images):
    split, detector = pd.read_csv(fitted / "split.csv"), OutlierDetector.load(fitted / "detector.safetensors")
    assert split["path"].is_unique and set(split["share"]) == {"train", "val", "test", "ood_val", "ood_test"}
    val = [images / path for path in split.loc[split["share"] == "val", "path"]]
    assert (detector.predict(val) >= 0).mean() >= 0.95
    assert split[split["share"] == "val"].groupby("class").size().tolist() == [3, 3, 3]


def test_the_same_command_trains_nothing_anew_and_use_changes_the_model(images, fitted):
    before = {path: path.stat().st_mtime_ns for path in (fitted / "runs").rglob("*.safetensors")}
    assert len(before) == 2
    other = next(family for family in FAMILIES if family != OutlierDetector.load(fitted / "detector.safetensors").family_)
    code, stdout, _ = run(*line(images, fitted, f"--use {other}"))
    assert code == 0 and OutlierDetector.load(fitted / "detector.safetensors").family_ == other and "as `--use` asks" in stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_killed_run_goes_on_where_it_stopped(images, tmp_path):
    words = line(images, tmp_path / "out", "--epochs 4 --seed 3")
    process = subprocess.Popen([sys.executable, "-m", "ascood.own.command", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}, start_new_session=True)
    finished = tmp_path / "out" / "runs" / "cross_entropy" / "model.safetensors"
    end = time.monotonic() + 300
    while not finished.is_file() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert finished.is_file() and not (tmp_path / "out" / "detector.safetensors").exists()
    stamp = finished.stat().st_mtime_ns
    assert run(*words)[0] == 0 and finished.stat().st_mtime_ns == stamp
    straight = OutlierDetector("tiny_resnet", 32, 4, alphas=(10.0,), weights=(0.1,), flip=False, seed=3)
    rest = read_all(images / "train", images / "ood-val", None, images / "ood-test", straight).rest
    straight.fit(rest, ood_val=images / "ood-val")
    resumed = OutlierDetector.load(tmp_path / "out" / "detector.safetensors")
    assert resumed.family_ == straight.family_
    some = sorted((images / "ood-test").iterdir())[:10]
    np.testing.assert_allclose(resumed.score_samples(some), straight.score_samples(some), atol=1e-5)


def test_a_call_with_other_settings_is_one_line_and_changes_nothing(images, fitted):
    before = sorted(fitted.rglob("*"))
    code, _, stderr = run(*line(images, fitted, "--epochs 3"))
    assert code == 2 and "holds another run (epochs 2 -> 3)" in stderr and stderr.count("\n") == 1 and sorted(fitted.rglob("*")) == before


@pytest.mark.parametrize("at", [0.02, 0.5])
def test_a_flipped_bit_of_a_detector_is_refused(fitted, images, tmp_path, at):
    data = bytearray((fitted / "detector.safetensors").read_bytes())
    data[int(at * len(data))] ^= 4
    (tmp_path / "detector.safetensors").write_bytes(data)
    code, stdout, stderr = run("predict", tmp_path, images / "ood-test" / "0000.png")
    assert code == 2 and stdout == "" and "is damaged, or no detector" in stderr and stderr.count("\n") == 1


def test_a_flipped_bit_of_an_exported_file_is_refused(fitted, images, tmp_path):
    (tmp_path / "predict_onnx.py").write_bytes((fitted / "predict_onnx.py").read_bytes())
    data = bytearray((fitted / "detector.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "detector.onnx").write_bytes(data)
    code, stdout, stderr = by_script(tmp_path, [images / "ood-test" / "0000.png"])
    assert code == 2 and not stdout and "is not the one that was exported" in stderr and stderr.count("\n") == 1


def test_many_bad_files_are_counted(tmp_path):
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "train" / name / f"{i}.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"^train/a/0.jpg is truncated or no image; .* \(and 9 more such files\)$"):
        read_folder(tmp_path / "train", 32)
    assert list(class_folders(tmp_path / "train")) == ["a", "b"]


def test_settings_are_scikit_learns(images):
    detector = OutlierDetector("tiny_resnet", pixels=32, epochs=1, alphas=[1], weights=[1])
    twin = clone(detector)
    assert twin.get_params() == detector.get_params() and not hasattr(twin, "scorer_")
    pictures = read_folder(images / "train", 32)
    check_apart(train=pictures)
    by_pairs = detector.fit([(as_image(path), int(y)) for path, y in zip(pictures.images, pictures.labels)])
    by_folder = twin.fit(images / "train")
    some = [Image.open(path) for path in pictures.images[:4]]
    np.testing.assert_allclose(by_pairs.score_samples(some), by_folder.score_samples(some), atol=1e-5)
    assert by_pairs.classes_ == ("0", "1", "2") and by_folder.classes_ == tuple(CLASSES)
    assert set(by_folder.val_outliers_) == {"jigsaw", "photographs"}
