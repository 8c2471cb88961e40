"""Bad inputs: what was given, what was said, and the exit status. `make faults` writes the table to results/inputs.json and results/inputs.md.

tests/test_bad_inputs.py checks every case of the same list. Each is given in this process, in a folder that holds a valid profile and a few images.
"""
import argparse
import contextlib
import importlib
import io
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image

from ascood.__main__ import app
from ascood.command import run_app
from ascood.models import Classifier, create_backbone
from ascood.study import notebooks

ROOT = Path(__file__).parents[1]
TINY = {"description": "for tests", "seeds": [0, 1], "train": {"epochs": 1}, "methods": {"cross_entropy": {}, "ascood": {"alpha_max": 3.0, "weight": 0.1}},
        "benchmarks": {"scene-digits": {"options": {"n_train": 40, "n_ood": 40}}}, "detectors": {"MSP": {}, "KNN": {"k": [1, 2]}}}


NAMES: dict[str, Any] = {name.rpartition(".")[2]: importlib.import_module(f"ascood.{name}") for name in (  # for calls in Python
    "attribution", "data", "detectors", "evaluation", "models", "normalization", "own.detector", "study.profiles", "synthesis", "training")}
NAMES |= {"torch": torch, "x": torch.zeros(2, 3, 4, 4), "y": torch.tensor([0, 1]), "net": Classifier(create_backbone("tiny_resnet"), 2).eval()}


class Case(NamedTuple):
    "Something wrong, and what must be said about it."
    kind: str  # one of KINDS
    given: str
    says: tuple[str, ...]  # parts of the message: where the fault is, and what to do
    prepare: Callable[[], Any] = lambda: None  # changes to the folder, before


def cases(kind: str, rows: list[tuple[str, ...]]) -> list[Case]:  # Of (given, what must be said...)
    return [Case(kind, given, tuple(says)) for given, *says in rows]


class Outcome(NamedTuple):
    status: int | str | None  # exit status, or the exception's type
    said: str
    faults: list[str]  # what the message, or what happened, lacks


# how each kind of input is given; the current folder is as `furnish` leaves it


def file(text: str) -> int:
    Path("mine.yaml").write_text(text)
    return run_app(app, ["--results", "results", "run", "mine.yaml"])


def key(text: str) -> int:
    return file("extends: tiny.yaml\n" + text)


def call(text: str) -> int:
    return run_app(app, shlex.split(text)[1:])


def parameter(text: str) -> int:
    train = "train out/train.ipynb -p profile tiny.yaml -p benchmark scene-digits -p method ascood -p seed 0"
    return notebooks.main(shlex.split(train) + shlex.split(text))


def fit(text: str) -> int:
    line = ("own fit --train photos/train --ood-val photos/other --ood-test photos/more --out out --backbone tiny_resnet --pixels 32 --epochs 1 "
            "--batch-size 4 --no-progress")
    return run_app(app, shlex.split(line) + shlex.split(text))


def images(text: str) -> int:
    return fit("")  # the fault is in the folder


def python(text: str) -> str | int:
    try:
        eval(text, NAMES)  # noqa: S307 (a constant of this file)
    except Exception as error:
        print(error, file=sys.stderr)
        return type(error).__name__
    return 0


def make(text: str) -> int:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # `make test` is a make too
    done = subprocess.run(["make", "-f", ROOT / "Makefile", "reproduce", "VENV=/nonexistent", f"PROFILE={text}"], env=env, capture_output=True, text=True)
    print(done.stdout, end="")
    print(done.stderr.partition("*** ")[2] or done.stderr, file=sys.stderr, end="")  # without the line of the Makefile
    return done.returncode


KINDS: dict[str, tuple[str, Callable[[str], int | str]]] = {
    "profile file": ("`ascood run mine.yaml`; the file is what is given", file),
    "profile key": ("the same; what is given is added to a valid profile", key),
    "command": ("the command", call),
    "parameter": ("`python -m ascood.study.notebooks train out.ipynb`, with valid parameters before", parameter),
    "own images": ("`ascood own fit` on folders of images, one of which has this fault", images),
    "own command": ("`ascood own fit`, with valid options before", fit),
    "Python": ("the call", python),
    "make": ("`make reproduce PROFILE=…`", make),
}


def furnish():
    "A valid profile, and images of two classes and of two sets of outliers, in the current folder."
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY, sort_keys=False))
    rng = np.random.default_rng(0)
    for folder, n in (("train/cat", 6), ("train/dog", 6), ("other", 2), ("more", 2)):
        Path("photos", folder).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(f"photos/{folder}/{i}.png")


def state() -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns if path.is_file() else 0 for path in Path().rglob("*")}


def give(case: Case, folder: Path) -> Outcome:
    "Give one bad input in an empty folder, and see what comes of it."
    with contextlib.chdir(folder):
        furnish()
        case.prepare()
        if case.kind.startswith("profile"):
            Path("mine.yaml").touch()
        before, out, err = state(), io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = KINDS[case.kind][1](case.given)
            except SystemExit as end:
                status = end.code
            except Exception as error:  # a user would see a stack trace
                status = f"uncaught {type(error).__name__}"
                print(error, file=sys.stderr)
        after = state() | ({"mine.yaml": before["mine.yaml"]} if "mine.yaml" in before else {})
    said = err.getvalue().removesuffix("\n").removeprefix("error: ")
    faults = [f"does not say {part!r}" for part in case.says if part not in said]
    faults += [f"status {status}"] * (status != 2 and not (case.kind == "Python" and status in ("ValueError", "TypeError", "FileNotFoundError")))
    faults += ["more than one line"] * (not said or not said.isprintable()) + [f"{len(said)} characters"] * (len(said) >= 200)
    faults += [f"written: {sorted(after.items() ^ before.items())[:3]}"] * (after != before) + ["something on stdout"] * bool(out.getvalue())
    return Outcome(status, said, faults)


def rewrite(path: str, change: Callable[[bytes], bytes]) -> Callable[[], Any]:
    return lambda: Path(path).write_bytes(change(Path(path).read_bytes()))


def save(path: str, mode: str = "RGB", size: tuple[int, int] = (20, 20), **more) -> Callable[[], Any]:
    return lambda: Image.effect_noise(size, 50).convert(mode).save(path, **more)


def link(path: str, to: str) -> Callable[[], Any]:
    return lambda: Path(path).symlink_to(to)


def move(path: str, to: str) -> Callable[[], Any]:
    return lambda: (Path(to).parent.mkdir(parents=True, exist_ok=True), Path(path).rename(to))


def copy(path: str, to: str) -> Callable[[], Any]:
    return lambda: Path(to).write_bytes(Path(path).read_bytes())


MINE = "profile mine.yaml: "

CASES = [
    # a profile, as a whole
    *(Case("profile file", text, (MINE, *says)) for text, *says in [
        ("", "description: Field required"),
        ("[]", "description: Field required"),
        ("- extends", "no mapping of settings to values"),
        ("x", "no mapping of settings to values"),
        ("3", "no mapping of settings to values"),
        ("{", "not valid YAML in line 1"),
        ("a: b: c", "not valid YAML in line 1"),
        ("methods: {a: [", "not valid YAML in line 1"),
        ("\t", "not valid YAML in line 1"),
        ("\x00", "not valid YAML"),
        ("? [a]\n: 1", "not valid YAML in line 1"),
        ("!!python/object/apply:os.system ['touch pwned']", "not valid YAML", "could not determine a constructor"),
        ("&a [*a]", "a value holds itself; write it out"),
        ("methods: {a: &a {b: *a}}", "a value holds itself; write it out"),
        ("[" * 3000, "values lie too deep in one another; write it flatter"),
        ("a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(12)), "values, those repeated by * included; 100000 are the most"),
        ("1: 2", "the key 1 is not text; put it in quotes"),
        ("yes: 2", "the key True is not text; put it in quotes"),
        ("extends: nothing", "extends: no profile 'nothing'; did you mean"),
        ("extends: smok", "extends: no profile 'smok'; did you mean 'smoke'?"),
        ("extends: [smoke]", "extends: give the name of one profile"),
        ("extends: ../smoke", "extends: no profile '../smoke'; did you mean 'smoke'?"),
        ("extends: mine.yaml", "mine.yaml extends itself"),
        ("extends: smoke\nleave_out: [ascod]", "unknown method in `leave_out` 'ascod'; did you mean 'ascood'?"),
        ("extends: smoke\nleave_out: 3", "leave_out: give a list of methods, not 3"),
        ("extends: smoke\nleave_out: [3]", "leave_out: give a list of methods, not [3]"),
        ("extends: smoke\nleave_out: [[1]]", "leave_out: give a list of methods, not [[1]]"),
        ("extends: smoke\nleave_out: [ascood]\nmethods: [ascood]", "methods: Input should be a valid dictionary"),
        ("extends: smoke\nleave_out: [ascood]\nbenchmarks: 3", "benchmarks: Input should be a valid dictionary"),
        ("extends: smoke\nleave_out: [ascood]\nbenchmarks: {a: 3}", "benchmarks.a: Input should be a valid dictionary"),
        ("extends: smoke\nleave_out: [ascood]\nbenchmarks: [3]", "benchmarks: Input should be a valid dictionary"),
        ("extends: smoke\nleave_out: [ascood]\nshown: 3", "shown: Input should be a valid list"),
    ]),
    *(Case("profile file", yaml.safe_dump({k: v for k, v in TINY.items() if k != key}, default_flow_style=True, width=1000).strip(), (MINE, f"{key}: Field required"))
      for key in ("description", "seeds", "methods", "benchmarks")),
    # one of its keys
    *(Case("profile key", text, (MINE, *says)) for text, *says in [
        ("benchmarks: {scene-digit: {}}", "unknown benchmark 'scene-digit'; did you mean 'scene-digits'?"),
        ("benchmarks: {scene-digits: {option: {}}}", "benchmarks.scene-digits.option: Extra inputs are not permitted"),
        ("benchmarks: {scene-digits: {options: {n_trian: 40}}}", "benchmark scene-digits has no option 'n_trian'; did you mean 'n_train'?"),
        ("benchmarks: {cifar10: {options: {correlation: 0.5}}}", "benchmark cifar10 has no option 'correlation'"),
        ("benchmarks: {scene-digits: {methods: {ascod: {}}}}", "unknown method 'ascod'; did you mean 'ascood'?"),
        ("benchmarks: {scene-digits: {leave_out: [asood]}}", "unknown method in `leave_out` 'asood'; did you mean 'ascood'?"),
        ("benchmarks: {}", "benchmarks: ", "at least 1"),
        ("benchmarks: {scene-digits: {options: {n_train: many}}}", "benchmark scene-digits: n_train must be a whole number from 1 to 320, not 'many'"),
        ("benchmarks: {scene-digits: {options: {n_ood: 1000000000}}}", "benchmark scene-digits: n_ood must be a whole number from 2 to 2000, not 1000000000"),
        ("benchmarks: {scene-digits: {options: {correlation: .nan}}}", "benchmark scene-digits: correlation must lie in [0, 1], not nan"),
        ("benchmarks: {cifar10: {options: {pixels: 7}}}", "benchmark cifar10: pixels of cifar10 must be a whole number from 8 to 1024, not 7"),
        ("benchmarks: {cifar10: {options: {lists: {near/tiny: x}}}}", "benchmark cifar10: lists: there is no set near/tiny"),
        ("benchmarks: {texture-animals: {options: {animals: [cat, cow]}}}", "benchmark texture-animals: animals must be two of"),
        ("data_seed: -1", "data_seed: Input should be greater than or equal to 0"),
        ("seeds: [99999999999]", "seed: Input should be less than 4294967296"),
        ("detectors: [MPS]", "unknown detector 'MPS'; did you mean 'MSP'?"),
        ("detectors: [msp]", "unknown detector 'msp'; did you mean 'MSP'?"),
        ("detectors: {KNN: {kk: 5}}", "detector KNN has no hyperparameter 'kk'; did you mean 'k'?"),
        ("detectors: {KNN: {k: []}}", "detector KNN", "hyperparameter"),
        ("detectors: {i-ODIN: {k: 0}}", "i-ODIN", "k must be 1 or more, not 0"),
        ("detectors: {i-ODIN: {k: [1, 0]}}", "i-ODIN", "k must be 1 or more, not 0"),
        ("detectors: {KNN: {k: many}}", "detector KNN", "many"),
        ("train: {epoch: 3}", "scene-digits, cross_entropy: unknown setting 'epoch'; did you mean 'epochs'?"),
        ("train: {epochs: -1}", "epochs: Input should be greater than or equal to 0"),
        ("train: {epochs: " + str(list(range(100))) + "}", "epochs: Input should be a valid integer"),
        ("train: {lr: .nan}", "lr: Input should be a finite number"),
        ("train: {lr: .inf}", "lr: Input should be a finite number"),
        ("train: {lr: fast}", "lr: Input should be a valid number"),
        ("train: {backbone: resnet}", "backbone: Input should be 'tiny_resnet'"),
        ("train: {mixed_precision: half}", "mixed_precision: Input should be 'no', 'fp16' or 'bf16'"),
        ("methods: {oee: {}}", "unknown method 'oee'; did you mean 'oe'?"),
        ("methods: {ascood: {alpha: 3}}", "unknown setting 'alpha'; did you mean 'alpha_m"),
        ("methods: {ascood: {fraction: 10}}", "fraction: Input should be less than or equal to 1"),
        ("methods: {ascood: {synthesis: gradients}}", "synthesis: Input should be 'gradient'"),
        ("methods: {ascood: {detectors: [MPS]}}", "unknown detector 'MPS'; did you mean 'MSP'?"),
        ("methods: {ascood: {detectors: MSP}}", "detectors"),
        ("methods: {ascood: {train: 3}}", "train"),
        ("methods: {'a b': {kind: ascood}}", "methods: 'a b' is no name; use letters, digits"),
        ("methods: {'<b>x</b>': {kind: ascood}}", "methods: '<b>x</b>' is no name; use letters, digits"),
        ("methods: {ascood: 3, " + ", ".join(f"m{i}: {{}}" for i in range(99)) + "}", "methods.ascood: Input should be a valid dictionary"),
        ("shown: [ascod]", "unknown method in `shown` 'ascod'; did you mean 'ascood'?"),
        ("more_detectors: {ascod: {}}", "unknown method in `more_detectors` 'ascod'; did you mean 'ascood'?"),
        ("studies: {s: {vary: {}}}", "studies.s.vary: ", "at least 1"),
        ("studies: {s: {vary: {sigm: [1]}}}", "study s, scene-digits, ascood: unknown setting 'sigm'; did you mean 'sigma'?"),
        ("studies: {s: {vary: {sigma: [-1]}}}", "sigma: Input should be greater than 0"),
        ("studies: {s: {methods: [cross_entropy], vary: {alpha_factor: [2]}}}", "there is no alpha_max that alpha_factor could multiply"),
        ("studies: {s: {methods: [ascod], vary: {sigma: [1]}}}", "unknown method of a study 'ascod'; did you mean 'ascood'?"),
        ("studies: {s: {benchmarks: [cifar], vary: {sigma: [1]}}}", "unknown benchmark of a study 'cifar'; choose one of scene-digits"),
        ("studies: {s: {vary: {sigma: [1]}, detectors: [MPS]}}", "unknown detector 'MPS'; did you mean 'MSP'?"),
        ("more_detectors: {ascood: {i-ODIN@x: {kk: [1, 2]}}}", "detector i-ODIN@x has no hyperparameter 'kk'"),
        ("more_detectors: {ascood: {i-ODIN@x: {eps: []}}}", "detector i-ODIN@x has a hyperparameter without any value to try"),
        ("studies: {'../s': {vary: {sigma: [1]}}}", "studies: '../s' is no name; use letters, digits"),
        ("seed: [1]", "unknown setting 'seed'; did you mean 'seeds'?"),
        ("seeds: []", "seeds: ", "at least 1"),
        ("seeds: 1", "seeds: Input should be a valid list"),
        ("seeds:", "seeds: Input should be a valid list"),
        ("seeds: [0, 1, 0]", "seeds: Value error, a seed is one run, and 0 is there twice"),
        ("seeds: [-1]", "seed: Input should be greater than or equal to 0"),
        ("memory: -1", "memory: Input should be greater than or equal to 0"),
        ("only: [x]", "unknown benchmark 'x'; choose one of scene-digits"),
        ("name: ../x", "name: '../x' is no name; use letters, digits"),
        ("name: a b", "name: 'a b' is no name; use letters, digits"),
        ("name: ''", "name: '' is no name; use letters, digits"),
        ("name: $(touch pwned)", "name: '$(touch pwned)' is no name; use letters, digits"),
        ("name: 'yes'", "name: 'yes' is no name"),
        ("name: " + "x" * 300, "name: ", "is no name", "at most"),
    ]),
    # a command
    *cases("command", [
        ("ascood statu smoke", "No such command 'statu'", "Did you mean 'status'"),
        ("ascood status", "Missing argument 'profile'"),
        ("ascood status smoke --fast", "No such option: --fast"),
        ("ascood status embeded", "no profile 'embeded'; did you mean 'embedded'?"),
        ("ascood status ''", "no profile ''; choose one of"),
        ("ascood status no.yaml", "no profile 'no.yaml'"),
        ("ascood status photos", "no profile 'photos'; choose one of"),
        ("ascood status paper:boats", "profile paper.yaml: unknown benchmark 'boats'; choose one of waterbirds"),
        ("ascood train tiny.yaml scene-digits ascood 7", "profile tiny has no seed 7; choose one of [0, 1]"),
        ("ascood train tiny.yaml scene-digits ascood one", "Invalid value for 'seed': Input should be a valid integer"),
        ("ascood train tiny.yaml scene-digit ascood 0", "unknown benchmark in profile tiny: 'scene-digit'; did you mean 'scene-digits'?"),
        ("ascood train tiny.yaml scene-digits asood 0", "unknown method in profile tiny, scene-digits: 'asood'; did you mean 'ascood'?"),
        ("ascood evaluate tiny.yaml scene-digits ascood 0", "no checkpoint at results/tiny/runs/scene-digits-ascood-seed0-", "train the model first"),
        ("ascood collect tiny.yaml", "profile tiny has no finished run in results; ", "python -m ascood run"),
        ("ascood report tiny.yaml", "results/tiny/metrics.csv does not exist; write it with: python -m ascood collect"),
        ("ascood report smoke table_1", "unknown report 'table_1'; did you mean"),
        ("ascood trace tiny.yaml table_mian a=b", "unknown table 'table_mian'; did you mean 'table_main'?"),
        ("ascood trace tiny.yaml table_main method", "'method' is no column=value"),
        ("ascood trace tiny.yaml table_main method=x", "results/tiny/table_main.csv does not exist; write it with: python -m ascood report"),
        ("ascood verify tiny.yaml", "no runs of profile tiny are collected in results; "),
        ("ascood verify tiny.yaml --tolerance -1", "--tolerance", "Input should be greater than or equal to 0"),
        ("ascood verify tiny.yaml --method asood", "unknown method in profile tiny: 'asood'; did you mean 'ascood'?"),
        ("ascood --results photos/more/0.png run tiny.yaml", "--results photos/more/0.png", "0.png is a file; give a folder"),
        ("ascood data check boats", "'boats' is no benchmark on disk; choose one of"),
        ("ascood data check --root none", "there is no data folder none; give one as root, or set ASCOOD_DATA to it"),
        ("ascood build waterbird", "No such command 'waterbird'", "Did you mean"),
        ("ascood build waterbirds --root none", "the data root none does not exist; make the folder, or correct the path"),
        ("ascood build list --root photos --folder photos/train --target ../x.txt", "target must name a list below benchmark_imglist", "not '../x.txt'"),
        ("ascood own predict none photos/more/0.png", "none is not there; give the detector.safetensors"),
        ("ascood own predict photos photos/more/0.png", "photos/detector.safetensors is not there; give the detector.safetensors"),
        ("ascood own predict tiny.yaml photos/more/0.png", "tiny.yaml is damaged, or no detector; give the detector.safetensors"),
        ("ascood own example photos", "photos holds files; choose a new folder"),
        ("ascood own example tiny.yaml", "tiny.yaml is a file; give a folder"),
    ]),
    # a parameter of a notebook
    *cases("parameter", [
        ("-p profile smok", "no profile 'smok'; did you mean 'smoke'?"),
        ("-p profile 3", "no profile '3'"),
        ("-p profil smoke", "train.ipynb has no parameter 'profil'; did you mean 'profile'?"),
        ("-p benchmark scene-digit", "unknown benchmark in profile tiny: 'scene-digit'; did you mean 'scene-digits'?"),
        ("-p method asood", "unknown method in profile tiny, scene-digits: 'asood'; did you mean 'ascood'?"),
        ("-p seed 7", "profile tiny has no seed 7; choose one of [0, 1]"),
        ("-p seed one", "train.ipynb: seed must be a whole number, not 'one'"),
        ("-p seed true", "train.ipynb: seed must be a whole number, not True"),
        ("-p seed [1", "train.ipynb: seed", "not valid YAML"),
        ("-p progress 3", "train.ipynb: progress must be true or false, not 3"),
        ("-p seed", "argument -p: expected 2 arguments"),
        ("--seed 3", "unrecognized arguments: --seed 3"),
    ]),
    Case("parameter", "-p profile mine.yaml", (MINE, "unknown benchmark 'scene-digit'; did you mean 'scene-digits'?"),
         lambda: Path("mine.yaml").write_text("extends: tiny.yaml\nbenchmarks: {scene-digit: {}}")),
    # images of one's own
    *(Case("own images", given, tuple(says), prepare) for given, prepare, *says in [
        ("a text named .png", rewrite("photos/train/cat/0.png", lambda _: b"hello"), "train/cat/0.png is truncated or no image; get it again, or remove it"),
        ("a truncated JPEG", lambda: (save("photos/other/9.jpg", size=(64, 64))(), rewrite("photos/other/9.jpg", lambda content: content[:-200])()),
         "other/9.jpg is truncated or no image; get it again, or remove it"),
        ("a truncated image", rewrite("photos/train/cat/0.png", lambda content: content[:-200]), "train/cat/0.png is truncated or no image; get it again, or remove it"),
        ("an empty file", rewrite("photos/other/0.png", lambda _: b""), "other/0.png is truncated or no image; get it again, or remove it"),
        ("a link that leads nowhere", link("photos/train/cat/9.png", "nowhere"), "train/cat/9.png is a link that leads nowhere; remove it"),
        ("an image of 8 x 8 pixels", save("photos/train/cat/0.png", size=(8, 8)), "train/cat/0.png has 8 x 8 pixels; 16 a side are the least, remove it"),
        ("an image of 32 bits a pixel", save("photos/train/cat/0.tiff", "F"), "train/cat/0.tiff", "has pixels of kind F, not 8 bits a channel; save it as 8-bit RGB"),
        ("transparent pixels", lambda: Image.new("RGBA", (20, 20)).save("photos/train/cat/0.png"), "train/cat/0.png has transparent pixels; save it as RGB"),
        ("an animated image", lambda: Image.new("L", (20, 20)).save("photos/train/cat/0.gif", save_all=True, append_images=[Image.new("L", (20, 20), 9)]),
         "train/cat/0.gif has 2 frames; save the one you mean as JPEG or PNG"),
        ("a file that is no image", copy("tiny.yaml", "photos/train/cat/notes.txt"), "train/cat/notes.txt has no image's suffix; move it away, or save it as JPEG or PNG"),
        ("an image beside the class folders", copy("photos/train/cat/0.png", "photos/train/0.png"), "train/0.png lies beside the class folders; move it into one of them, or away"),
        ("a folder in a class folder", move("photos/train/cat/0.png", "photos/train/cat/more/0.png"), "train/cat/more is a folder inside a class folder", "move its images up"),
        ("one class only", move("photos/train/dog", "photos/dog"), "train", "two classes or more"),
        ("an empty class", lambda: Path("photos/train/empty").mkdir(), "photos/train/empty is empty; put images into it, or remove it"),
        ("a class of one image", move("photos/train/cat/0.png", "photos/train/new/0.png"), "train/new has 1 image(s), 5 are the least: add some, or remove the folder"),
        ("the same image in two classes", copy("photos/train/cat/0.png", "photos/train/dog/0.png"), "train/cat/0.png and train/dog/0.png are the same image, in two classes; remove one"),
        ("the same image twice", copy("photos/train/cat/0.png", "photos/train/cat/9.png"), "train/cat/0.png and train/cat/9.png are the same image, twice in one class; remove one"),
        ("a training image among the outliers", copy("photos/train/cat/0.png", "photos/other/9.png"), "train/cat/0.png and other/9.png are the same image", "remove one"),
        ("the same image in both sets of outliers", copy("photos/other/0.png", "photos/more/9.png"), "other/0.png and more/9.png are the same image, in ood_val and ood_test; remove one"),
        ("one outlier", lambda: Path("photos/other/0.png").unlink(), "the folder of outliers photos/other has 1 images; it needs 2 or more"),
        ("other files in the folder for results", lambda: (Path("out").mkdir(), Path("out/notes.txt").touch()), "--out out holds other files; choose a new folder, or an empty one"),
        ("a damaged record of an earlier run", lambda: (Path("out/runs").mkdir(parents=True), Path("out/own.json").write_text("{")), "out/own.json is damaged; delete that folder and run again"),
        ("a record that is no record", lambda: (Path("out/runs").mkdir(parents=True), Path("out/own.json").write_text("[]")), "out/own.json is damaged; delete that folder and run again"),
    ]),
    *cases("own command", [
        ("--train photos/nothing", "the folder of training images photos/nothing is not there; correct the path"),
        ("--train photos/other/0.png", "the folder of training images photos/other/0.png is a file; correct the path"),
        ("--train photos/other", "other/0.png lies in no class folder"),
        ("--test photos/train", "are the same image, in train and test; remove one"),
        ("--test photos", "photos/train/cat is a folder inside a class folder", "move its images up"),
        ("--ood-val photos/nothing", "the folder of outliers photos/nothing is not there; correct the path"),
        ("--ood-val photos/train", "are the same image, in train and ood_val; remove one"),
        ("--ood-test photos/other", "are the same image, in ood_val and ood_test; remove one"),
        ("--out photos/train/out", "--out photos/train/out and photos/train lie one in the other; choose a folder beside it"),
        ("--out photos", "--out photos and photos/train lie one in the other; choose a folder beside it"),
        ("--out photos/other/0.png", "--out photos/other/0.png", "0.png is a file; give a folder"),
        ("--out tiny.yaml/out", "--out tiny.yaml/out: tiny.yaml is a file; give a folder"),
        ("--backbone alexnet", "backbone: Input should be 'tiny_resnet'"),
        ("--backbone resnet-18", "backbone: Input should be 'tiny_resnet'"),
        ("--pixels 8", "pixels must lie in [32, 1024], not 8"),
        ("--pixels 34", "pixels must be a multiple of 4, not 34"),
        ("--epochs 0", "epochs must lie in [1, 10000], not 0"),
        ("--epochs ten", "Invalid value for '--epochs'", "Input should be a valid integer"),
        ("--batch-size 1", "batch_size: Input should be greater than or equal to 2"),
        ("--batch-size 900", "batch_size 900 exceeds the", "images that are left for training; lower it"),
        ("--lr 0", "lr: Input should be greater than 0"),
        ("--lr nan", "lr: Input should be a finite number"),
        ("--alpha -1", "alpha_max: Input should be greater than or equal to 0"),
        ("--alpha nan", "alpha_max: Input should be a finite number"),
        ("--weight inf", "weight: Input should be a finite number"),
        ("--crop 2", "crop must lie in [0.05, 1], not 2"),
        ("--use both", "use must be one of best, cross_entropy, ascood, not 'both'"),
        ("--seed -1", "seed: Input should be greater than or equal to 0"),
        ("--colour red", "No such option: --colour"),
    ]),
    # a call
    *(Case("Python", text, tuple(says)) for text, *says in [
        ("data.load_benchmark('scene-digit')", "unknown benchmark 'scene-digit'; did you mean 'scene-digits'?"),
        ("data.load_benchmark('scene-digits', n_trian=3)", "benchmark scene-digits has no option 'n_trian'; did you mean 'n_train'?"),
        ("data.load_benchmark('scene-digits', correlation=2)", "correlation must lie in [0, 1], not 2"),
        ("data.load_benchmark('scene-digits', n_train=0)", "n_train must be a whole number from 1 to 320, not 0"),
        ("data.load_benchmark('cifar10', root='none')", "the data folder none does not exist; correct the path"),
        ("data.ImageSet(x.byte(), torch.zeros(3), None)", "2 images but 3 labels"),
        ("data.ImageSet(x, 0, None)", "images must be uint8 [N,3,H,W], but are torch.float32 (2, 3, 4, 4)"),
        ("profiles.load_profile('smok')", "no profile 'smok'; did you mean 'smoke'?"),
        ("profiles.find_run(profiles.load_profile('tiny.yaml'), 'scene-digits', 'ascood', 7)", "profile tiny has no seed 7; choose one of [0, 1]"),
        ("training.create_method('asood')", "unknown method 'asood'; did you mean 'ascood'?"),
        ("training.create_method('ascood', alpha=3)", "method ascood: unknown setting 'alpha'; did you mean 'alpha_m"),
        ("models.create_backbone('resnet')", "unknown backbone 'resnet'; did you mean"),
        ("models.create_backbone('tiny_resnet', pretrained=True)", "tiny_resnet has no ImageNet weights; use pretrained=False or one of"),
        ("models.Classifier(models.create_backbone('tiny_resnet'), 1)", "a classifier needs at least 2 classes, not 1"),
        ("models.Classifier(models.create_backbone('tiny_resnet'), 2, 'zscores')", "unknown normalization 'zscores'; did you mean 'zscore'?"),
        ("models.load_classifier('none')", "no checkpoint at none; train the model first, or correct the path"),
        ("models.load_classifier('tiny.yaml')", "checkpoint tiny.yaml is damaged or is no ascood checkpoint"),
        ("detectors.create_detector('MPS', net)", "unknown detector 'MPS'; did you mean 'MSP'?"),
        ("detectors.create_detector('KNN', net, kk=3)", "detector KNN has no hyperparameter 'kk'; did you mean 'k'?"),
        ("detectors.create_detector('i-ODIN', net, k=0)", "i-ODIN moves at least one element; k must be 1 or more, not 0"),
        ("evaluation.ood_metrics([], [1.0])", "there are no ID scores; a metric needs both sides"),
        ("evaluation.ood_metrics([1.0], [float('nan')])", "1 of 1 OOD scores are NaN; check the detector"),
        ("evaluation.ood_metrics(['a'], [1.0])", "ID scores must be numbers"),
        ("evaluation.ood_metrics([1j], [1.0])", "ID scores must be numbers"),
        ("attribution.true_class_gradient(net, x.byte(), y)", "x needs a floating-point dtype, but has torch.uint8; normalise the images first"),
        ("attribution.true_class_gradient(net, x, y.float())", "y holds class indices and needs an integer dtype, but has torch.float32; use y.long()"),
        ("attribution.true_class_gradient(net, x, y, mode='test')", "mode is 'eval' or 'train', not 'test'"),
        ("attribution.top_fraction_mask(x, 1.5)", "the fraction p_inv must lie in [0, 1], not 1.5"),
        ("synthesis.add_gradient(x, x[:1], 1, 0.1)", "x and g need one shape [B,C,H,W], but are (2, 3, 4, 4) and (1, 3, 4, 4)"),
        ("synthesis.OutlierSynthesizer('gradients')", "unknown synthesis 'gradients'; choose one of gradient, subtract, shuffle, gaussian"),
        ("synthesis.alpha_at(0, 5, 1, 1)", "epoch must lie in 1..5, not 0"),
        ("normalization.standardize(torch.zeros(3, 1))", "standardising needs at least 2 features per sample, but h has shape (3, 1)"),
        ("detector.OutlierDetector(pixels=8).fit('photos/train')", "pixels must lie in [32, 1024], not 8"),
        ("detector.OutlierDetector('tiny_resnet', 32).fit([(x[0], 0)] * 3)", "3 images need as many class numbers: 2 classes or more"),
        ("detector.OutlierDetector.load('none')", "none is not there; give the detector.safetensors"),
    ]),
    # the profile of make, which both make and a shell read
    *(Case("make", text, ("PROFILE", says)) for text, says in [
        *((text, "is a name of letters, digits") for text in ("a b", "$(shell touch pwned)", "$(touch pwned)", "`touch pwned`", "a'b", 'a"b', "-x", "a;b", "a|b",
                                                             "a\\b", "a#b", "*", "ä", "", "a\nb")),
        ("../quick", "PROFILE=../quick is neither a name nor the path of a .yaml file"),
    ]),
]


def table(seed: int = 0) -> list[dict]:
    "Every case, in an order of its own, so that none depends on one before it."
    found: list[dict | None] = [None] * len(CASES)
    for i in random.Random(seed).sample(range(len(CASES)), len(CASES)):  # noqa: S311 (no secret)
        with tempfile.TemporaryDirectory() as folder:
            found[i] = {"kind": CASES[i].kind, "given": CASES[i].given} | give(CASES[i], Path(folder))._asdict()
    return [row for row in found if row]


def as_markdown(rows: list[dict]) -> str:
    def cell(text: str) -> str:
        shown = text if len(text) <= 150 else f"{text[:70]} … {text[-70:]}"
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown).replace("|", "\\|")
        return f"`` {shown} ``" if shown else ""

    parts = ["# Bad inputs", f"Made by `make faults`: {len(rows)} bad inputs. Each must end with one line of fewer than 200 characters, which says where the fault is and what to do, "
             "before anything is written or printed. *Status*: exit status, or the exception of a call. Test of the same list: `tests/test_bad_inputs.py`."]
    for kind, (how, _) in KINDS.items():
        shown = pd.DataFrame([{"given": cell(row["given"]) if kind != "own images" else row["given"], "said": cell(row["said"]), "status": row["status"]}
                              for row in rows if row["kind"] == kind])
        parts += [f"## {kind[0].upper()}{kind[1:]}", f"Given by: {how}.", shown.to_markdown(index=False)]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder of inputs.json and inputs.md")
    args = parser.parse_args()
    rows = table()
    faulty = [row for row in rows if row["faults"]]
    for row in faulty:
        print(f"{row['kind']}: {row['given'][:90]!r}\n  {', '.join(row['faults'])}\n  {row['said'][:400]!r}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "inputs.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    (args.out / "inputs.md").write_text(as_markdown(rows))
    print(f"{len(rows)} bad inputs, {len(faulty)} not answered as they should be")
    return int(bool(faulty))


if __name__ == "__main__":
    sys.exit(main())
