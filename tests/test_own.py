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
import torch
from PIL import Image
from sklearn.base import clone
from typer.testing import CliRunner

from ascood.own.command import app, read_all
from ascood.own.detector import FAMILIES, QUICK, OutlierDetector
from ascood.own.export import export_torch
from ascood.own.folder import as_image, check_apart, class_folders, example_folders, read_folder

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
    "A finished run. Without ODIN, so that the exported files hold the score of the Python object."
    out = tmp_path_factory.mktemp("fitted") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(QUICK, "ODIN")
        code, stdout, stderr = run(*line(images, out))
    assert code == 0, stdout + stderr
    return out


SCRIPTS = [("predict_torch.py", "detector.pt2", "ascood,pytorch_ood"), ("predict_onnx.py", "detector.onnx", "ascood,pytorch_ood,torch")]


def in_process(script: Path, file: Path, paths: list[Path], without: str) -> tuple[int, str, str]:
    command = [sys.executable, "-I", "-c", BLOCKED, without, script, file, *paths]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def rows_of(stdout: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(stdout), keep_default_na=False)


@pytest.mark.parametrize("script, file, without", SCRIPTS)
def test_exported_scores_are_the_same_without_this_package(fitted, images, script, file, without):
    detector = OutlierDetector.load(fitted / "detector.safetensors")
    paths = [*sorted((images / "ood-test").iterdir())[:5], *sorted((images / "train" / CLASSES[0]).iterdir())[:5]]
    code, stdout, stderr = in_process(fitted / script, fitted / file, paths, without)
    assert (code, stderr) == (0, "")
    found, (probabilities, scores) = rows_of(stdout), detector.judge(paths)
    np.testing.assert_allclose(found["score"], scores, atol=1e-4)
    np.testing.assert_allclose(found["probability"], probabilities.max(1), atol=1e-4)
    assert (found["verdict"] == "known").tolist() == (detector.predict(paths) >= 0).tolist()
    assert found["class"].tolist() == [detector.classes_[c] for c in probabilities.argmax(1)]


def png(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    "A PNG file with a black image, or with the beginning of one."
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = bytes(min((1 + width * depth * (3 if colour else 1) // 8) * height, 99_999))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6
TWO_FRAMES = [{"save_all": True, "append_images": [PHOTO.rotate(90)]} for _ in range(4)]  # saving changes the images
FINE = {  # {name: image, options of its file}
    "grey.png": (PHOTO.convert("L"), {}), "palette.png": (PHOTO.quantize(32), {}), "cmyk.jpg": (PHOTO.convert("CMYK"), {}), "bits.png": (PHOTO.convert("1"), {}),
    "opaque.png": (PHOTO.convert("RGBA"), {}), "still.gif": (PHOTO.quantize(16), {}), "turned.jpg": (PHOTO, {"exif": TURNED}), "wide.jpg": (PHOTO.resize((333, 77)), {}),
    "least.png": (PHOTO.resize((16, 16)), {}), "phone.jpg": (PHOTO, {"format": "MPO", **TWO_FRAMES[0]}), 'a "comma", or two.png': (PHOTO, {}), "a\nline.png": (PHOTO, {}),
    os.fsdecode(b"\xff.png"): (PHOTO, {})}
BAD = {  # {name: content, or image and options; message}
    "animated.gif": ((PHOTO.quantize(16), TWO_FRAMES[1]), "2 frames"), "animated.png": ((PHOTO, TWO_FRAMES[2]), "2 frames"), "pages.tif": ((PHOTO, TWO_FRAMES[3]), "2 frames"),
    "16 bits.png": ((Image.fromarray(np.full((40, 40), 40_000, np.uint16)), {}), "pixels of kind I;16"), "lab.tif": ((PHOTO.convert("LAB"), {}), "pixels of kind LAB"),
    "transparent.png": ((Image.new("RGBA", (40, 40), (9, 9, 9, 100)), {}), "transparent pixels"), "one.png": ((Image.new("RGB", (1, 1)), {}), "1 x 1 pixels"),
    "palette with holes.png": ((PHOTO.quantize(16), {"transparency": 0}), "transparent pixels"), "long.png": ((Image.new("L", (32_769, 16)), {}), "32769 x 16 pixels"),
    "bomb.png": (png(20_000, 20_000), "too many pixels"), "large.png": (png(11_000, 11_000), "truncated or no image"), "text.jpg": (b"hello", "truncated or no image"),
    "empty.png": (b"", "truncated or no image"), "cut.png": (png(40, 40)[:-30], "truncated or no image"), "cut.tif": (b"II*\0" + bytes(range(60)), "truncated or no image")}


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


@pytest.mark.parametrize("script, file, without", SCRIPTS)
def test_scripts_accept_and_refuse_what_predict_does(fitted, odd, script, file, without):
    given = [odd, odd / "empty", odd / "missing.png"]
    code, stdout, stderr = run("predict", fitted, *given)
    again = in_process(fitted / script, fitted / file, given, without)
    assert (again[0], again[2]) == (code, stderr)
    ours, theirs = rows_of(stdout), rows_of(again[1])
    assert len(ours) == len(FINE) and ours[["path", "class", "verdict"]].equals(theirs[["path", "class", "verdict"]])
    np.testing.assert_allclose(ours[["probability", "score"]], theirs[["probability", "score"]], atol=1e-4)


def test_rows_are_printed_as_they_are_computed(fitted, images, monkeypatch):
    def judge(self, image, calls=iter([None, None]), judge=OutlierDetector.judge):
        return next(calls) or judge(self, image)

    monkeypatch.setattr(OutlierDetector, "judge", judge)  # ends at the third image
    done = CliRunner().invoke(app, ["predict", str(fitted), str(images / "ood-test")])
    assert isinstance(done.exception, StopIteration) and len(rows_of(done.stdout)) == 2


@pytest.mark.parametrize("command", [["-m", "ascood.own.command", "predict", "."], *([name, file] for name, file, _ in SCRIPTS)], ids=["predict", "torch", "onnx"])
def test_a_reader_may_have_enough_and_a_disk_may_be_full(fitted, images, command):
    line, settings = [sys.executable, *command, images / "ood-test"], {"cwd": fitted, "env": os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}}
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings) as process:
        assert process.stdout.readline() == "path,class,probability,score,verdict\n"
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 1
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, **settings)
    assert done.returncode and "No space left on device" in done.stderr and "Traceback" not in done.stderr


def test_a_score_that_needs_a_gradient_is_not_exported(images, tmp_path, monkeypatch):
    detector = OutlierDetector("tiny_resnet", pixels=32, epochs=1, alphas=[10], weights=[0.1])
    monkeypatch.setattr("ascood.own.detector.QUICK", {"ODIN": {"temperature": 1000, "eps": 0.0014}, "KNN": {"k": [1]}, "MSP": {}})
    monkeypatch.setattr("ascood.own.detector.validation_auroc", lambda scores, order=iter([90, 50, 60] * 2): next(order))
    detector.fit(images / "train")
    assert [(a.name, b.name) for a, b in zip(detector.scorers_.values(), detector.forward_scorers_.values())] == [("ODIN", "MSP")] * 2
    wanted = detector.score_samples([images / "ood-test" / "0000.png"])
    detector.save(tmp_path / "odin.safetensors")
    loaded = OutlierDetector.load(tmp_path / "odin.safetensors")
    np.testing.assert_allclose(loaded.score_samples(images / "ood-test" / "0000.png"), wanted, atol=1e-6)
    with pytest.raises(ValueError, match="ODIN needs the image's gradient"):
        export_torch(loaded, tmp_path / "odin.pt2")


def test_files_say_what_they_are(fitted):
    import onnxruntime

    about = json.loads(onnxruntime.InferenceSession(fitted / "detector.onnx").get_modelmeta().custom_metadata_map["detector"])
    extra = {"detector.json": ""}
    torch.export.load(fitted / "detector.pt2", extra_files=extra)
    assert about == json.loads(extra["detector.json"]) and about["classes"] == CLASSES
    card = (fitted / "README.md").read_text()
    assert "Use the" in card and "| detector.onnx" in card and all((fitted / name).is_file() for name in ("scores.png", "confusion.png", "ends.png"))


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
    rest = read_all(images / "train", images / "ood-val", None, images / "ood-test", straight, 0.25).rest
    straight.fit(rest, ood_val=images / "ood-val")
    resumed = OutlierDetector.load(tmp_path / "out" / "detector.safetensors")
    assert resumed.family_ == straight.family_
    some = sorted((images / "ood-test").iterdir())[:10]
    np.testing.assert_allclose(resumed.score_samples(some), straight.score_samples(some), atol=1e-5)


def test_a_call_with_other_settings_is_one_line_and_changes_nothing(images, fitted):
    before = sorted(fitted.rglob("*"))
    code, _, stderr = run(*line(images, fitted, "--epochs 3"))
    assert code == 2 and "holds another run (epochs 2 -> 3)" in stderr and stderr.count("\n") == 1 and sorted(fitted.rglob("*")) == before


def test_other_images_are_another_run(images, fitted, tmp_path):
    path = images / "train" / "digit-1" / "extra.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    try:
        code, _, stderr = run(*line(images, fitted))
    finally:
        path.unlink()
    assert code == 2 and "holds another run (images " in stderr


def test_a_mended_call_goes_on_and_a_call_without_its_outliers_does_not(images, tmp_path):
    out = tmp_path / "out"
    for fault in ("--epochs 0", "--use both", "--batch-size 900"):
        assert run(*line(images, out), *fault.split())[0] == 2
    assert run(*line(images, out))[0] == 0
    words = line(images, out)
    at = words.index("--ood-val")
    code, _, stderr = run(*words[:at], *words[at + 2 :])
    assert code == 2 and "holds another run (ood_val " in stderr and "-> stand-ins" in stderr


def test_damaged_detectors_are_one_line(fitted, images, tmp_path):
    (tmp_path / "torn.safetensors").write_bytes((fitted / "detector.safetensors").read_bytes()[:999])
    good = images / "ood-test" / "0000.png"
    for words, message in (((tmp_path, good), "detector.safetensors is not there"), ((tmp_path / "torn.safetensors", good), "is damaged")):
        code, stdout, stderr = run("predict", *words)
        assert code == 2 and stdout == "" and message in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize("at", [0.0, 0.02, 0.5, 0.999])
def test_a_flipped_bit_of_a_detector_is_refused(fitted, images, tmp_path, at):
    data = bytearray((fitted / "detector.safetensors").read_bytes())
    data[int(at * len(data))] ^= 4
    (tmp_path / "detector.safetensors").write_bytes(data)
    code, stdout, stderr = run("predict", tmp_path, images / "ood-test" / "0000.png")
    assert code == 2 and stdout == "" and "is damaged, or no detector" in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize("script, name", [("predict_torch.py", "detector.pt2"), ("predict_onnx.py", "detector.onnx")])
def test_a_flipped_bit_of_an_exported_file_is_refused(fitted, images, tmp_path, script, name):
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=fitted).returncode == 0
    for file in (script, name, "SHA256SUMS"):
        (tmp_path / file).write_bytes((fitted / file).read_bytes())
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    done = subprocess.run([sys.executable, "-I", tmp_path / script, tmp_path / name, images / "ood-test" / "0000.png"], capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout and "is not as it was exported" in done.stderr and done.stderr.count("\n") == 1
    (tmp_path / "SHA256SUMS").unlink()
    (tmp_path / name).write_bytes(data[:999])
    done = subprocess.run([sys.executable, "-I", tmp_path / script, tmp_path / name, images / "ood-test" / "0000.png"], capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout and "is damaged, or no detector" in done.stderr and done.stderr.count("\n") == 1


def test_a_file_that_may_not_be_read(images, tmp_path):
    path = tmp_path / "secret.png"
    Image.new("RGB", (20, 20)).save(path)
    path.chmod(0)
    tmp_path.chmod(0o755)
    if root := os.geteuid() == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ValueError, match="may not be read"):
            as_image(path)
    finally:
        if root:
            os.seteuid(0)


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
