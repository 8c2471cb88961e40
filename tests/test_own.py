"""The part for one's own images: bad files, a run that is killed, exported scores, and the commands."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from ascood.own.command import app
from ascood.own.detector import FAMILIES, OutlierDetector
from ascood.own.images import example_folders

SMALL = "--backbone tiny_resnet --pixels 32 --epochs 2 --alpha 10 --weight 0.1 --no-flip --no-progress"
CLASSES = ['digit "3", comma', "digit-1", "digit-2"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    "An example of three classes; the name of one is no plain CSV field."
    folder = example_folders(tmp_path_factory.mktemp("images") / "example", classes=3, images=20)
    (folder / "train" / "digit-3").rename(folder / "train" / CLASSES[0])
    return folder


def line(images: Path, out: Path, more: str = "") -> list[str]:
    folders = f"--train {images}/train --ood-val {images}/ood-val --ood-test {images}/ood-test --out {out}"
    return f"fit {folders} {SMALL} {more}".split()


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


def test_the_lines_of_the_report_use_the_exported_file_without_this_package(fitted, images):
    _, lines, _ = (fitted / "README.md").read_text().replace("```python", "```").split("```")
    detector, path = OutlierDetector.load(fitted / "detector.safetensors"), images / "ood-test" / "0000.png"
    alone = "import sys; sys.modules.update(dict.fromkeys(['ascood', 'pytorch_ood', 'torch'])); exec(sys.argv[1])"
    given = lines.replace("detector.onnx", str(fitted / "detector.onnx")).replace("image.jpg", str(path))
    done = subprocess.run([sys.executable, "-I", "-c", alone, given], capture_output=True, text=True)
    answer, score = done.stdout.rsplit(maxsplit=1)
    assert float(score) == pytest.approx(detector.score_samples(path)[0], abs=1e-4), done.stderr
    (label,) = detector.predict(path)
    assert answer == (detector.classes_[label] if label >= 0 else "unknown")


def test_the_exported_graph_takes_images_of_any_size(fitted):
    detector = OutlierDetector.load(fitted / "detector.safetensors")
    session = onnxruntime.InferenceSession(fitted / "detector.onnx")
    for size in ((40, 60), (200, 90), (32, 32)):
        batch = np.random.default_rng(0).integers(0, 255, (3, *size, 3), dtype=np.uint8)
        probabilities, scores, known = session.run(None, {"image": batch.transpose(0, 3, 1, 2)})
        given = [Image.fromarray(image) for image in batch]
        np.testing.assert_allclose(scores, detector.score_samples(given), atol=1e-4)
        assert (known == (detector.predict(given) >= 0)).all() and probabilities.shape == (3, 3)


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6
CUT = io.BytesIO()
PHOTO.save(CUT, "png")
FINE = {  # {name: image, options of its file}
    "grey.png": (PHOTO.convert("L"), {}), "palette.png": (PHOTO.quantize(32), {}),
    "cmyk.jpg": (PHOTO.convert("CMYK"), {}), "opaque.png": (PHOTO.convert("RGBA"), {}),
    "turned.jpg": (PHOTO, {"exif": TURNED}), "least.png": (PHOTO.resize((16, 16)), {}),
    'a "comma", or two.png': (PHOTO, {}), "a\nline.png": (PHOTO, {}), os.fsdecode(b"\xff.png"): (PHOTO, {})}
BAD = {  # {name: content, or image and options; message}
    "animated.gif": ((PHOTO.quantize(16), {"save_all": True, "append_images": [PHOTO.rotate(90)]}), "2 frames"),
    "16 bits.png": ((Image.fromarray(np.full((40, 40), 40_000, np.uint16)), {}), "pixels of kind I;16"),
    "transparent.png": ((Image.new("RGBA", (40, 40), (9, 9, 9, 100)), {}), "transparent pixels"),
    "one.png": ((Image.new("RGB", (1, 1)), {}), "1 x 1 pixels"),
    "text.jpg": (b"hello", "truncated or no image"),
    "cut.png": (CUT.getvalue()[:-30], "truncated or no image")}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    "A folder of odd images, and what else can stand in their place."
    folder = tmp_path_factory.mktemp("odd")
    for name, given in (FINE | {name: given for name, (given, _) in BAD.items()}).items():
        if isinstance(given, tuple):
            given[0].copy().save(folder / name, **given[1])
        else:
            (folder / name).write_bytes(given)
    (folder / "nowhere.png").symlink_to("nothing")
    (folder / "empty").mkdir()
    return folder


def test_predict_goes_on_after_a_bad_file_and_names_each(fitted, odd):
    code, stdout, stderr = run("predict", fitted, odd, odd / "empty", odd / "missing.png")
    assert code == 2
    shown = [str(odd / name).encode(errors="backslashreplace").decode() for name in FINE]
    assert sorted(pd.read_csv(io.StringIO(stdout))["path"]) == sorted(shown)
    words = {name: words for name, (_, words) in BAD.items()}
    words |= {"nowhere.png": "is not there", "empty": "is a folder", "missing.png": "is not there"}
    assert stderr.count("\n") == len(words)
    for name in words:
        (line,) = (line for line in stderr.splitlines() if line.startswith("error: ") and f"{name} " in line)
        assert words[name] in line and "; " in line  # what is wrong; what to do


def test_predict_writes_csv_with_the_object_own_answers(fitted, images):
    code, stdout, stderr = run("predict", fitted, images / "train" / "digit-2" / "0003.png", images / "ood-test")
    rows, detector = pd.read_csv(io.StringIO(stdout)), OutlierDetector.load(fitted / "detector.safetensors")
    assert (code, stderr) == (0, "")
    assert [*rows] == ["path", "class", "probability", "score", "verdict"] and len(rows) == 1 + 150
    np.testing.assert_allclose(rows["score"], detector.score_samples([*rows["path"]]), atol=1e-5)
    answers = detector.predict([*rows["path"]])
    assert rows["verdict"].tolist() == ["unknown" if answer < 0 else "known" for answer in answers]
    assert all(name == detector.classes_[answer] for name, answer in zip(rows["class"], answers) if answer >= 0)


def test_threshold_accepts_what_was_asked_of_validation(fitted, images):
    split, detector = pd.read_csv(fitted / "split.csv"), OutlierDetector.load(fitted / "detector.safetensors")
    assert split["path"].is_unique and set(split["share"]) == {"train", "val", "test", "ood_val", "ood_test"}
    assert (detector.predict(split.loc[split["share"] == "val", "path"].tolist()) >= 0).mean() >= 0.95
    assert split[split["share"] == "val"].groupby("class").size().tolist() == [3, 3, 3]


def test_the_same_command_trains_nothing_anew_use_changes_the_model_and_other_settings_are_refused(images, fitted):
    before = {path: path.stat().st_mtime_ns for path in (fitted / "runs").rglob("*.safetensors")}
    file = fitted / "detector.safetensors"
    (other,) = {*FAMILIES} - {OutlierDetector.load(file).family_}
    code, stdout, _ = run(*line(images, fitted, f"--use {other}"))
    assert code == 0 and OutlierDetector.load(file).family_ == other and f"hold the {other} model" in stdout
    code, _, stderr = run(*line(images, fitted, "--epochs 3"))
    assert code == 2 and "epochs 2 -> 3" in stderr and "choose another folder" in stderr and stderr.count("\n") == 1
    assert len(before) == 2 and before == {path: path.stat().st_mtime_ns for path in before}


def test_a_killed_run_goes_on_where_it_stopped(images, tmp_path):
    words = line(images, tmp_path / "out", "--epochs 4 --seed 3")
    process = subprocess.Popen(
        [sys.executable, "-m", "ascood.own.command", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
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
    straight.fit(images / "train", ood_val=images / "ood-val")
    resumed = OutlierDetector.load(tmp_path / "out" / "detector.safetensors")
    assert resumed.family_ == straight.family_
    some = sorted((images / "ood-test").iterdir())[:10]
    np.testing.assert_allclose(resumed.score_samples(some), straight.score_samples(some), atol=1e-5)


def test_a_torn_detector_is_refused(fitted, images, tmp_path):
    data = (fitted / "detector.safetensors").read_bytes()
    (tmp_path / "detector.safetensors").write_bytes(data[: len(data) // 2])
    code, stdout, stderr = run("predict", tmp_path, images / "ood-test" / "0000.png")
    assert code == 2 and stdout == "" and "is damaged, or no detector" in stderr and stderr.count("\n") == 1
