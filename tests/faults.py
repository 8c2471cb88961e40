"""SIGKILL at random moments, adverse surroundings and damaged files; `make faults` writes what happened to results/faults.json and results/faults.md.

Each trial is a copy (fork) of this process, which has imported everything and computed nothing; the workflow is a group of processes. A command that was
killed or failed is repeated as it was, and what it leaves is compared, bit by bit, with what an uninterrupted one leaves.
"""
import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import pandas as pd
import torch
import torch.onnx
import trees
import yaml

from ascood.benchmarks.builders.waterbirds import build_waterbirds
from ascood.command import run_app
from ascood.own.command import app as own
from ascood.own.images import example_folders
from ascood.study.cli import main as ascood
from ascood.study.runs import code_version

ROOT = Path(__file__).parents[1]
TINY = {"description": "for faults", "seeds": [0], "train": {"epochs": 2}, "detectors": {"MSP": {}, "KNN": {"k": [1, 5]}},
        "methods": {"cross_entropy": {}, "ascood": {"alpha_max": 3.0, "alpha_min": 0.3, "weight": 0.1}},
        "benchmarks": {"scene-digits": {"options": {"n_train": 40, "n_ood": 40}}}}
ON_DISK = {"description": "for faults", "seeds": [0], "train": {"epochs": 1, "batch_size": 8}, "detectors": {"MSP": {}},
           "methods": {"cross_entropy": {}}, "benchmarks": {"cifar10": {"options": {"any_count": True}}}}
NOT_COMPARED = {"seconds", "images_per_second"}  # time, which no two runs share


class Bench:
    "A folder with a profile of one's own, its results, and the commands that are tried."

    def __init__(self, folder: Path, plan: dict = TINY):
        self.folder, self.profile, self.results = folder, str(folder / "tiny.yaml"), folder / "results"
        Path(self.profile).write_text(yaml.safe_dump(plan, sort_keys=False))
        self.out, (self.benchmark,), self.methods = self.results / "tiny", plan["benchmarks"], [*plan["methods"]]

    def command(self, *words: str) -> int:  # Exit status
        return ascood(["--results", str(self.results), "--figures", str(self.results / "figures"), *words])

    def train(self):
        return self.command("train", self.profile, self.benchmark, self.methods[-1], "0")

    def evaluate(self):
        return self.command("evaluate", self.profile, self.benchmark, self.methods[-1], "0")

    def most(self):
        "Every run, and one table: what `run` does, without the other tables and figures."
        for call in ("train", "evaluate"):
            for method in self.methods:
                if status := self.command(call, self.profile, self.benchmark, method, "0"):
                    return status
        return self.collect() or self.report("table_main")

    def run(self):
        return self.command("run", self.profile)

    def collect(self):
        return self.command("collect", self.profile)

    def page(self):
        return self.command("page", self.profile)

    def report(self, name: str):
        return self.command("report", self.profile, name)

    def build(self):
        build_waterbirds(self.folder, correlation=0.75, progress=False)
        return 0

    def fit(self):
        words = f"--ood-val {self.folder}/images/ood-val --out {self.folder}/detector --backbone tiny_resnet --pixels 32 --epochs 2 --batch-size 4"
        return run_app(own, ["fit", "--train", f"{self.folder}/images/train", *words.split(), *"--alpha 10 --weight 0.1 --no-flip --no-progress".split()])

    def predict(self):
        return run_app(own, ["predict", f"{self.folder}/detector", f"{self.folder}/images/ood-val"])


class Process:
    "A copy of this process that makes one call, or, for a list of words, a group of processes that runs that command."

    def __init__(self, call: Callable[[], int] | list[str], folder: Path | None = None):
        self.said, self.start, self.group = tempfile.TemporaryFile("w+"), time.perf_counter(), isinstance(call, list)
        if isinstance(call, list):
            self.pid = subprocess.Popen(call, cwd=folder, stdout=self.said, stderr=self.said, start_new_session=True).pid
            return
        self.pid = os.fork()
        if self.pid == 0:
            status = 99
            with contextlib.suppress(BaseException):
                os.dup2(self.said.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                torch.set_num_threads(1)
                status = call() or 0
            os._exit(status)

    def end(self, kill_after: float | None = None) -> tuple[int, float, str]:
        "Exit status (-9: killed), seconds, and what was said on stderr."
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if self.group else os.kill)(self.pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.said.seek(0)
        return status, time.perf_counter() - self.start, self.said.read().replace("\r", "\n")


def in_a_copy(call: Callable[[], int], kill_after: float | None = None) -> tuple[int, float, str]:
    return Process(call).end(kill_after)


TIMES = ("README.md", "run.json", "evaluation.json", "runs.csv", "table_cost.csv", "table_cost.md", "table_cost.tex", "sha256.json")


def content(folder: Path) -> dict[str, str]:
    "A digest of every file in a folder, times left out; names of temporary files too, so that a stray one is a difference."
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        with contextlib.suppress(Exception):  # damaged: as it is
            if path.name in TIMES or path.suffix in (".html", ".md", ".ipynb"):  # the last line of .md names a time
                data = b""
            elif path.name.startswith("history"):
                data = pd.read_csv(path).drop(columns=[*NOT_COMPARED]).to_csv().encode()
            elif path.suffix == ".npz":
                with np.load(path) as arrays:
                    data = b"".join(key.encode() + arrays[key].tobytes() for key in sorted(arrays.files))
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def differences(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    return sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))


def made_birds(folder: Path):
    trees.make_cub(folder), trees.make_places(folder, 24)


def workflow_folder(folder: Path):
    for name in ("ascood", "nbs", "Snakefile", "settings.ini"):
        (folder / name).symlink_to(ROOT / name)


TARGETS = ["results/tiny/table_claims.md"]


def workflow(bench: Bench, *targets: str) -> list[str]:
    "The command of the Makefile."
    return ["flock", "lock", sys.executable, "-m", "snakemake", *(targets or TARGETS), "--nolock", "--cores", "1", "--rerun-incomplete", "--keep-going", "--quiet",
            "rules", "--config", "profile=tiny.yaml"]


class Job(NamedTuple):
    "What is killed."
    call: Callable[[Bench], Callable[[], int] | list[str]]
    before: tuple[Callable, ...]  # what comes before it: on the folder, or a method of Bench
    out: str  # the folder whose files are compared
    share: float  # of the trials


JOBS = {
    "training": Job(lambda b: b.train, (), "results/tiny", 0.3),
    "evaluation": Job(lambda b: b.evaluate, (Bench.train,), "results/tiny", 0.3),
    "a whole profile": Job(lambda b: b.run, (), "results/tiny", 0.06),
    "collecting": Job(lambda b: b.collect, (Bench.run,), "results/tiny", 0.1),
    "building a benchmark": Job(lambda b: b.build, (made_birds,), ".", 0.14),
    "ascood own fit": Job(lambda b: b.fit, (lambda folder: example_folders(folder / "images", classes=2, images=12),), "detector", 0.06),
    "the workflow": Job(workflow, (workflow_folder,), "results/tiny", 0.05),
}


def prepare(start: Path, before: tuple[Callable, ...], plan: dict = TINY) -> Path:
    "A folder in the state before a job."
    start.mkdir()
    for call in before:
        if getattr(Bench, call.__name__, None) is call:
            status, _, said = in_a_copy(partial(call, Bench(start, plan)))
            assert status == 0, said
        else:
            call(start)
    return start


def kill_trials(name: str, trials: int, rng: random.Random, measured: int = 3) -> list[dict]:
    "Kill one job at so many random moments, each time from the state before it, and repeat it."
    job, rows = JOBS[name], []
    with tempfile.TemporaryDirectory() as scratch:
        start, times = prepare(Path(scratch, "start"), job.before), []
        folder = Path(scratch, "trial")

        def attempt(kill_after: float | None = None) -> tuple[int, float, str]:
            return Process(job.call(Bench(folder)), folder).end(kill_after)

        for _ in range(1 if name == "the workflow" else measured):  # the first one may be slower, as it fills the caches of the system
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(start, folder, symlinks=True)
            status, seconds, said = attempt()
            assert status == 0, said
            times.append(seconds)
        wanted, killed = content(folder / job.out), 0
        for _ in range(trials):
            for _ in range(3):  # one that ended before its moment came is tried again
                shutil.rmtree(folder)
                shutil.copytree(start, folder, symlinks=True)
                moment = rng.uniform(0, seconds := statistics.median(times[-5:]))
                if (killed := attempt(moment)[0]) == -9:
                    break
            status, _, said = attempt()
            wrong = differences(wanted, content(folder / job.out))
            rows.append({"job": name, "moment": round(moment, 3), "of": round(seconds, 3), "killed": killed == -9, "status": status, "wrong": wrong,
                         "said": said[-300:] if status else ""})
    return rows


# -- surroundings

@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    "A disk of its own for a folder, of 64 MiB."
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={2**26}", "faults", folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def resize(folder: Path, size: int):
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True, capture_output=True)


def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError, subprocess.CalledProcessError), small_disk(Path(folder)):
        return True
    return False


class Trial:
    "A bench in a folder of its own, what was said while its surroundings were adverse, and what a plain repeat gives."

    def __init__(self, scratch: Path, start: Path, out: str = "results/tiny", plan: dict = TINY):
        self.folder = scratch / "trial"
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(start, self.folder, symlinks=True)
        self.bench, self.out, self.said, self.statuses, self.faults = Bench(self.folder, plan), out, "", [], []

    def attempt(self, call, how: Callable[[], None] = lambda: None, ends: bool = False):
        "Make a call that must end with an error in one line that names a file of this folder; or, if `ends`, that must end well."
        status, _, said = Process(call if isinstance(call, list) else lambda: (how(), call())[1], self.folder).end()
        lines = [line for line in said.splitlines() if "error:" in line or "failed:" in line]
        self.said = (lines[0] if lines else "").replace(str(self.folder), "…")
        self.statuses.append(status)
        if ends and status:
            self.faults.append(f"status {status}: {said[-200:]}")
        if not ends and (not status or not lines or "…" not in self.said or "Traceback" in said):
            self.faults.append(f"status {status}, no line that names a file: {said[-300:]}")
        self.faults += [f"left {path.name}" for path in self.folder.rglob("*unfinished*") if path.name != "build.unfinished"]

    def row(self, what: str, again, wanted: dict[str, str]) -> dict:
        status, _, said = Process(again, self.folder).end()
        wrong = differences(wanted, content(self.folder / self.out))
        return {"surroundings": what, "said": self.said, "faults": self.faults, "repeated": "equal" if not status and not wrong else f"DIFFERENT: {said[-200:]} {wrong}"}


def full_disks(scratch: Path, start: Path, wanted: dict[str, str], job: str, call: str, out: str, parts: int) -> Iterator[dict]:
    "The disk is full when so much of the result is written."
    size = 0
    for i in range(parts):
        trial = Trial(scratch, start, out)
        place = trial.folder / Path(out).parts[0]
        kept = scratch / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        if place.exists():
            shutil.move(place, kept)
        with small_disk(place):
            if kept.exists():
                shutil.copytree(kept, place, dirs_exist_ok=True)
            if not size:  # by a first uninterrupted one
                used = shutil.disk_usage(place).used
                assert Process(getattr(trial.bench, call), trial.folder).end()[0] == 0
                size = shutil.disk_usage(place).used - used
                for path in place.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                if kept.exists():
                    shutil.copytree(kept, place, dirs_exist_ok=True)
            before, free = content(place), int(size * (i + 0.5) / parts)
            resize(place, shutil.disk_usage(place).used + free)
            trial.attempt(getattr(trial.bench, call))
            resize(place, 2**26)
            if not trial.statuses[-1]:  # sizes are whole pages, and vary a little
                trial.said, trial.faults = "(all of it fitted)", [f"differs: {name}" for name in differences(wanted, content(trial.folder / out))]
            after = content(place)
            trial.faults += [f"lost {name}" for name in before if name not in after]
            yield trial.row(f"{job}: disk full after {(i + 0.5) / parts:.0%} of what it writes", getattr(trial.bench, call), wanted)


def after_training(scratch: Path, trained: Path, done: Path) -> Iterator[dict]:
    "The disk is full when a run is evaluated, when runs are collected, and when a table is written."
    evaluated = Path(shutil.copytree(done, scratch / "evaluated"))
    for path in [*(evaluated / "results/tiny").glob("*.*")]:
        path.unlink()
    for job, call, state, parts in (("evaluation", Bench.evaluate, trained, 4), ("collecting", Bench.collect, evaluated, 4)):
        after = Path(shutil.copytree(state, scratch / f"after {job}"))
        assert in_a_copy(partial(call, Bench(after)))[0] == 0
        yield from full_disks(scratch, state, content(after / "results/tiny"), job, call.__name__, "results/tiny", parts)


def limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def set_times(folder: Path, when: Callable[[], float]):
    for path in folder.rglob("*"):
        os.utime(path, (time.time(), when()))


def surroundings(rng: random.Random) -> list[dict]:
    "Each of the adverse surroundings, and a plain repeat afterwards."
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        new, trained, done = prepare(scratch / "new", ()), prepare(scratch / "trained", (Bench.train,)), prepare(scratch / "done", (Bench.most,))
        photos = prepare(scratch / "photos", JOBS["ascood own fit"].before)
        fitted = prepare(scratch / "fitted", (*JOBS["ascood own fit"].before, Bench.fit))
        wanted, detector = content(done / "results/tiny"), content(fitted / "detector")
        here = partial(Trial, scratch)

        if can_mount():
            rows += full_disks(scratch, new, wanted, "a profile", "most", "results/tiny", 6)
            rows += full_disks(scratch, trained, wanted, "a profile, one run trained", "most", "results/tiny", 3)
            rows += full_disks(scratch, photos, detector, "ascood own fit", "fit", "detector", 4)
            rows += after_training(scratch, trained, done)
            for what, state in (("nothing done", new), ("all done", done)):
                trial = here(state)
                trial.bench.results.mkdir(exist_ok=True)
                subprocess.run(["mount", "--bind", trial.bench.results, trial.bench.results], check=True)
                subprocess.run(["mount", "-o", "remount,ro,bind", trial.bench.results], check=True)
                trial.attempt(trial.bench.most)
                subprocess.run(["umount", "--lazy", trial.bench.results], check=True)
                rows.append(trial.row(f"a profile, {what}: results folder read-only", trial.bench.most, wanted))
        else:
            rows.append({"surroundings": "disk full, results folder read-only", "said": "skipped: this user cannot mount a file system", "faults": [], "repeated": "skipped"})
        for what, state, call, out, equal in (("a profile", new, "most", "results/tiny", wanted), ("ascood own fit", photos, "fit", "detector", detector)):
            for size in (3_000, 60_000, 250_000):
                trial = here(state, out)
                trial.attempt(getattr(trial.bench, call), limited(size))
                rows.append(trial.row(f"{what}: no file larger than {size / 1000:.0f} kB", getattr(trial.bench, call), equal))

        rows += vanished_data(scratch)
        for what, when in (("tomorrow", lambda: time.time() + 86400), ("1970", lambda: 0.0), ("drawn at random", lambda: rng.uniform(0, 2e9))):
            trial = here(done)
            set_times(trial.folder, when)
            next(trial.bench.out.glob("runs/*-ascood-*/evaluation.json")).unlink()
            weights = next(trial.bench.out.glob("runs/*-ascood-*/model.safetensors")).stat().st_mtime_ns
            trial.attempt(trial.bench.most, ends=True)
            if next(trial.bench.out.glob("runs/*-ascood-*/model.safetensors")).stat().st_mtime_ns != weights:
                trial.faults.append("trained again")
            rows.append(trial.row(f"a profile, one evaluation missing: the times of all files are {what}", trial.bench.most, wanted))
        rows += clock_of_the_workflow(scratch)
        rows += two_at_once(scratch, {"train": new, "evaluate": trained, "collect": done, "run": new})
    return rows


def two_at_once(scratch: Path, states: dict[str, Path]) -> list[dict]:
    "Each call by two processes that begin at the same time, compared with one."
    rows = []
    for call, state in states.items():
        trial = Trial(scratch, state)
        assert Process(getattr(trial.bench, call)).end()[0] == 0
        wanted = content(trial.bench.out)
        trial = Trial(scratch, state)
        for status, _, said in [process.end() for process in [Process(getattr(trial.bench, call)) for _ in range(2)]]:
            trial.said += " ".join(line for line in said.splitlines() if "error" in line or "failed" in line)[:200]
            trial.faults += [f"status {status}: {said[-300:]}"] if status else []
        trial.faults += [f"differs: {name}" for name in differences(wanted, content(trial.bench.out))]
        rows.append(trial.row(f"two processes at once: {call}", getattr(trial.bench, call), wanted))
    return rows


def listed(scratch: Path) -> Path:
    "A data root with lists of a few images."
    from test_disk import fill_lists

    start = scratch / "listed"
    (start / "data").mkdir(parents=True)
    fill_lists(start / "data", "cifar10", n=4)
    return start


def brief_surroundings() -> list[dict]:
    "The cheapest of them, for `make test`: one run on a few images, and no table."
    with tempfile.TemporaryDirectory() as name, with_root(Path(name, "trial", "data")):
        scratch, rows = Path(name), []
        new = listed(scratch)
        trained = Trial(scratch, new, plan=ON_DISK)
        trained.attempt(trained.bench.train, ends=True)
        wanted, trained = content(trained.bench.out), Path(shutil.copytree(trained.folder, scratch / "kept"))
        trial = Trial(scratch, new, plan=ON_DISK)
        trial.attempt(trial.bench.train, limited(60_000))
        rows.append(trial.row("training: no file larger than 60 kB", trial.bench.train, wanted))
        trial = Trial(scratch, new, plan=ON_DISK)
        trial.faults += [said[-300:] for status, _, said in [process.end() for process in [Process(trial.bench.train) for _ in range(2)]] if status]
        return [*rows, trial.row("two processes at once: train", trial.bench.train, wanted), *vanished_data(scratch, trained)]


@contextlib.contextmanager
def with_root(root: Path) -> Iterator[None]:
    before, os.environ["ASCOOD_DATA"] = os.environ.get("ASCOOD_DATA"), str(root)
    try:
        yield
    finally:
        os.environ.pop("ASCOOD_DATA") if before is None else os.environ.update(ASCOOD_DATA=before)


def vanished_data(scratch: Path, trained: Path | None = None) -> list[dict]:
    "The data root is gone when a trained run is evaluated."
    with with_root(scratch / "trial" / "data"):
        if trained is None:
            trial = Trial(scratch, listed(scratch), plan=ON_DISK)
            trial.attempt(trial.bench.train, ends=True)
            trained = Path(shutil.copytree(trial.folder, scratch / "trained on disk"))
        trial = Trial(scratch, trained, plan=ON_DISK)
        trial.attempt(trial.bench.evaluate, ends=True)
        wanted = content(trial.bench.out)
        trial = Trial(scratch, trained, plan=ON_DISK)
        (trial.folder / "data").rename(trial.folder / "elsewhere")
        trial.attempt(trial.bench.evaluate)
        (trial.folder / "elsewhere").rename(trial.folder / "data")
        return [trial.row("evaluation: the data root has vanished since training", trial.bench.evaluate, wanted)]


def clock_of_the_workflow(scratch: Path) -> list[dict]:
    "All was made while the clock was a day ahead; then a detector is added, and the workflow stops after the evaluations."
    start, plan = prepare(scratch / "workflow", (workflow_folder,)), TINY | {"detectors": TINY["detectors"] | {"EBO": {}}}
    trial = Trial(scratch, start, plan=plan)
    trial.attempt(workflow(trial.bench), ends=True)
    wanted = content(trial.bench.out)
    trial = Trial(scratch, start)
    trial.attempt(workflow(trial.bench), ends=True)
    set_times(trial.bench.results, lambda: time.time() + 86400)
    trial.bench = Bench(trial.folder, plan)
    runs = [f"results/tiny/runs/{folder.name}/evaluation.json" for folder in trial.bench.out.glob("runs/*")]
    trial.attempt(workflow(trial.bench, *runs), ends=True)
    return [trial.row("the workflow, made while the clock was a day ahead; a detector is added, stopped after the evaluations", workflow(trial.bench), wanted)]


# -- damaged files

def flipped(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a flipped bit": flipped,
    "another flipped bit": flipped,
    "cut in half": lambda data, rng: data[: len(data) // 2],
    "emptied": lambda data, rng: b"",
    "replaced by text": lambda data, rng: b"hello world\n" * 20,
}
READERS = {  # {file of a run, of the results folder or of a detector: the command that reads it again}
    "runs/*-ascood-*/settings.json": "train", "runs/*-ascood-*/model.safetensors": "evaluate", "runs/*-ascood-*/run.json": "collect",
    "runs/*-ascood-*/history.csv": "collect", "runs/*-ascood-*/metrics.csv": "collect", "runs/*-ascood-*/groups.csv": "collect",
    "runs/*-ascood-*/scores.npz": "collect", "runs/*-ascood-*/evaluation.json": "run",
    "metrics.csv": "report table_main", "groups.csv": "report table_spurious", "history.csv": "report figure_training", "runs.csv": "report table_cost",
    "differences.csv": "report table_claims", "premises.csv": "report table_premises", "table_claims.csv": "page", "table_paired.md": "page",
    "sha256.json": "report table_main",
    "detector.safetensors": "predict",
}

THOROUGH = [file for file in READERS if file.startswith("runs/") and not file.endswith("evaluation.json")] + ["metrics.csv", "detector.safetensors"]


def damage_trials(rng: random.Random) -> list[dict]:
    "Damage each file of a finished profile and a detector in each way, and call what reads it: refused by name, or made again with the same content."
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        whole = prepare(Path(scratch, "whole"), (*JOBS["ascood own fit"].before, Bench.run, Bench.fit))
        wanted = content(whole / "results/tiny")
        for file, reader in READERS.items():
            for damage, change in [*DAMAGES.items()][:: 1 if file in THOROUGH else 2]:
                shutil.copytree(whole, folder := Path(scratch, "trial"))
                bench = Bench(folder)
                path = next((folder / "detector" if reader == "predict" else bench.out).glob(file))
                path.write_bytes(change(path.read_bytes(), rng))
                call, *words = reader.split()
                status, _, said = in_a_copy(partial(getattr(bench, call), *words))
                found = content(bench.out)
                lines = [line for line in said.splitlines() if "error:" in line or "failed:" in line]
                what = (lines[0] if lines else said[-200:]).replace(str(bench.out), "…").replace(str(folder), "…")
                result = "made again" if not status and found == wanted and reader == "run" else "refused" if status and lines and (path.name in what or path.parent.name in what) else "WRONG"
                rows.append({"file": file.replace("*-ascood-*", "<run>"), "damage": damage, "command": f"ascood {'own ' * (reader == 'predict')}{reader}",
                             "result": result, "said": what if status else ""})
                shutil.rmtree(folder)
    return rows


def report(kills: list[dict], around: list[dict], damages: list[dict], seed: int) -> dict:
    losses = [row for row in kills if row["status"] or row["wrong"]]
    return {"seed": seed, "trials": len(kills), "killed": sum(row["killed"] for row in kills), "losses": len(losses),
            "surroundings": len(around), "surroundings with faults": sum(bool(row["faults"]) or row["repeated"] not in ("equal", "skipped") for row in around),
            "damaged files": len(damages), "silently accepted": sum(row["result"] == "WRONG" for row in damages),
            "code": code_version(), "torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine(),
            "kills": kills, "around": around, "damages": damages}


def as_markdown(found: dict) -> str:
    kills, around, damages = pd.DataFrame(found["kills"]), pd.DataFrame(found["around"]), pd.DataFrame(found["damages"])
    counts = kills.assign(lost=(kills["status"] != 0) | kills["wrong"].map(bool)).groupby("job", sort=False).agg(
        seconds=("of", "median"), trials=("job", "size"), killed=("killed", "sum"), lost=("lost", "sum"))
    return "\n\n".join([
        "# Faults",
        f"Made by `make faults` (seed {found['seed']}, code {found['code']}, torch {found['torch']}, Python {found['python']}, {found['machine']}).",
        "A job is killed (SIGKILL) at a random moment of its duration, then the same command is given again. *Lost*: weights, scores, metrics, tables or the "
        "list of files differ from those of an uninterrupted job, or the command failed. A job that ended before its moment came is tried again, twice at most. The workflow "
        "is the whole group of Snakemake's processes.",
        counts.reset_index().to_markdown(index=False),
        "A command is given in adverse surroundings, and again when they are as usual. *Said*: its first error. *Faults*: it ended without an error in one line "
        "that names a file, left a temporary file, or lost one that was complete. *Repeated*: everything is as if nothing had happened.",
        around.assign(faults=around["faults"].map("; ".join)).to_markdown(index=False),
        "A file of a finished profile or of a detector is damaged, and the command that reads it is given. *Refused*: it ends with an error that names the file "
        "or its folder. *Made again*: it ends well, and everything is as it was.",
        damages[["file", "damage", "command", "result", "said"]].to_markdown(index=False)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, help="kills in all")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and bits")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of faults.json and faults.md")
    args = parser.parse_args()
    if args.trials < 20:
        parser.error("--trials must be at least 20, so that each kind of job is killed")
    args.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as two:  # copies of this process
        around, damages = (two.submit(part, random.Random(args.seed)) for part in (surroundings, damage_trials))  # noqa: S311 (no secret)
        kills = [two.submit(kill_trials, name, round(JOBS[name].share * args.trials), random.Random(f"{args.seed} {name}")) for name in JOBS]  # noqa: S311
        found = report([row for part in kills for row in part.result()], around.result(), damages.result(), args.seed)
    (args.out / "faults.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "faults.md").write_text(as_markdown(found))
    print(f"{found['trials']} trials, {found['losses']} lost; {found['surroundings']} adverse surroundings, {found['surroundings with faults']} with faults; "
          f"{found['damaged files']} damaged files, {found['silently accepted']} silently accepted")
    return int(found["losses"] + found["surroundings with faults"] + found["silently accepted"] > 0)


if __name__ == "__main__":
    sys.exit(main())
