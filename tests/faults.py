"""SIGKILL at random moments and damaged files; `make faults` writes what happened to results/faults.json and results/faults.md.

Each trial is a copy (fork) of this process, which has imported everything and computed nothing. A killed command is repeated as it was, and what it
leaves is compared, bit by bit, with what an uninterrupted one leaves.
"""
import argparse
import contextlib
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import pandas as pd
import torch
import yaml

from ascood.study.cli import main as ascood
from ascood.study.runs import code_version

TINY = {"description": "for faults", "seeds": [0], "train": {"epochs": 2}, "detectors": {"MSP": {}, "KNN": {"k": [1, 5]}},
        "methods": {"cross_entropy": {}, "ascood": {"alpha_max": 3.0, "alpha_min": 0.3, "weight": 0.1}},
        "benchmarks": {"scene-digits": {"options": {"n_train": 40, "n_ood": 40}}}}
NOT_COMPARED = {"seconds", "images_per_second"}  # time, which no two runs share


class Bench:
    "A profile of one's own, with its results in a folder."

    def __init__(self, folder: Path):
        self.profile, self.results = str(folder / "tiny.yaml"), folder / "results"
        Path(self.profile).write_text(yaml.safe_dump(TINY, sort_keys=False))
        self.out = self.results / "tiny"

    def command(self, *words: str) -> int:  # Exit status
        return ascood(["--results", str(self.results), "--figures", str(self.results / "figures"), *words])

    def train(self):
        return self.command("train", self.profile, "scene-digits", "ascood", "0")

    def evaluate(self):
        return self.command("evaluate", self.profile, "scene-digits", "ascood", "0")

    def run(self):
        return self.command("run", self.profile)

    def collect(self):
        return self.command("collect", self.profile)


def in_a_copy(call: Callable[[], int], kill_after: float | None = None) -> tuple[int, float, str]:
    "Exit status (-9: killed), seconds, and what was said on stderr, of a call in a fork of this process."
    with tempfile.TemporaryFile("w+") as said:
        start, pid = time.perf_counter(), os.fork()
        if pid == 0:
            status = 99
            with contextlib.suppress(BaseException):
                os.dup2(said.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                torch.set_num_threads(1)
                status = call() or 0
            os._exit(status)
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        return status, time.perf_counter() - start, said.read().replace("\r", "\n")


def content(folder: Path) -> dict[str, str]:
    "A digest of every file that a profile leaves, times left out; names of temporary files too, so that a stray one is a difference."
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or "figures" in name or name.endswith((".html", ".pdf", "README.md", ".tex", "run.json", "evaluation.json", "runs.csv", "table_cost.csv", "table_cost.md")):
            continue
        data = path.read_bytes()
        with contextlib.suppress(Exception):  # damaged: as it is
            if path.name.startswith("history"):
                data = pd.read_csv(path).drop(columns=[*NOT_COMPARED]).to_csv().encode()
            elif path.suffix == ".npz":
                with np.load(path) as arrays:
                    data = b"".join(key.encode() + arrays[key].tobytes() for key in sorted(arrays.files))
            elif path.suffix == ".md":
                data = b""  # its last line names a time
        found[name] = hashlib.sha256(data).hexdigest()
    return found


JOBS: dict[str, tuple[str, list[str], float]] = {  # what is killed: (the call, what comes before it, its share of the trials)
    "training": ("train", [], 0.4),
    "evaluation": ("evaluate", ["train"], 0.4),
    "a whole profile": ("run", [], 0.1),
    "collecting": ("collect", ["run"], 0.1),
}


def kill_trials(name: str, trials: int, rng: random.Random) -> list[dict]:
    "Kill one job at so many random moments, each time from the state before it, and repeat it."
    job, before, _ = JOBS[name]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch, "start")
        start.mkdir()
        for call in before:
            assert in_a_copy(getattr(Bench(start), call))[0] == 0, call
        whole = Path(scratch, "whole")
        shutil.copytree(start, whole)
        status, seconds, said = in_a_copy(getattr(Bench(whole), job))
        assert status == 0, said
        wanted = content(Bench(whole).out)
        for _ in range(trials):
            shutil.copytree(start, folder := Path(scratch, "trial"))
            moment = rng.uniform(0, seconds)
            killed = in_a_copy(getattr(Bench(folder), job), moment)[0]
            status, _, said = in_a_copy(getattr(Bench(folder), job))
            found = content(Bench(folder).out)
            wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
            rows.append({"job": name, "moment": round(moment, 3), "killed": killed == -9, "status": status, "wrong": wrong, "said": said[-300:] if status else ""})
            shutil.rmtree(folder)
    return rows


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
READERS = {  # {file of a run: the command that reads it again}
    "settings.json": "train", "model.safetensors": "evaluate", "run.json": "collect", "history.csv": "collect", "metrics.csv": "collect",
    "groups.csv": "collect", "scores.npz": "collect", "evaluation.json": "run",
}


def damage_trials(rng: random.Random) -> list[dict]:
    "Damage each file of a finished run in each way, and call what reads it: refused by name, or made again with the same content."
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch, "whole")
        whole.mkdir()
        status, _, said = in_a_copy(Bench(whole).run)
        assert status == 0, said
        wanted = content(Bench(whole).out)
        for file, reader in READERS.items():
            for damage, change in DAMAGES.items():
                shutil.copytree(whole, folder := Path(scratch, "trial"))
                bench = Bench(folder)
                path = next(bench.out.glob(f"runs/*-ascood-*/{file}"))
                path.write_bytes(change(path.read_bytes(), rng))
                status, _, said = in_a_copy(getattr(bench, reader))
                found = content(bench.out)
                lines = [line for line in said.splitlines() if "error:" in line or "failed:" in line]
                same = {key: value for key, value in found.items() if not key.startswith("runs")} == {k: v for k, v in wanted.items() if not k.startswith("runs")}
                what = (lines[0] if lines else said[-200:]).replace(str(bench.out), "…")
                result = "made again" if not status and found == wanted else "refused" if status and lines and (file in what or path.parent.name in what) else "WRONG"
                rows.append({"file": file, "damage": damage, "command": f"ascood {reader}", "result": result, "said": what if status else "", "collected rows": same})
                shutil.rmtree(folder)
    return rows


def report(kills: list[dict], damages: list[dict], seed: int) -> dict:
    losses = [row for row in kills if row["status"] or row["wrong"]]
    return {"seed": seed, "trials": len(kills), "killed": sum(row["killed"] for row in kills), "losses": len(losses),
            "damaged files": len(damages), "silently accepted": sum(row["result"] == "WRONG" for row in damages),
            "code": code_version(), "torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine(), "kills": kills, "damages": damages}


def as_markdown(found: dict) -> str:
    kills, damages = pd.DataFrame(found["kills"]), pd.DataFrame(found["damages"])
    counts = kills.assign(lost=(kills["status"] != 0) | kills["wrong"].map(bool)).groupby("job", sort=False).agg(trials=("job", "size"), killed=("killed", "sum"), lost=("lost", "sum"))
    return "\n\n".join([
        "# Faults",
        f"Made by `make faults` (seed {found['seed']}, code {found['code']}, torch {found['torch']}, Python {found['python']}, {found['machine']}).",
        "A job is killed (SIGKILL) at a random moment of its duration, then the same command is given again. *Lost*: weights, scores, metrics, tables or the "
        "list of files differ from those of an uninterrupted job, or the command failed. A job that ended before its moment came was not killed.",
        counts.reset_index().to_markdown(index=False),
        "A file of a finished run is damaged, and the command that reads it is given. *Refused*: it ends with an error that names the file or its folder. *Made "
        "again*: it ends well, and everything is as it was.",
        damages[["file", "damage", "command", "result", "said"]].to_markdown(index=False)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, help="kills in all")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and bits")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of faults.json and faults.md")
    args = parser.parse_args()
    if args.trials < 10:
        parser.error("--trials must be at least 10, so that each kind of job is killed")
    args.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.seed)  # noqa: S311 (no secret)
    kills = []
    for name in JOBS:
        kills += kill_trials(name, trials := round(JOBS[name][2] * args.trials), rng)
        print(f"{name}: {trials} trials, {sum(bool(row['status'] or row['wrong']) for row in kills if row['job'] == name)} lost", flush=True)
    found = report(kills, damage_trials(rng), args.seed)
    (args.out / "faults.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "faults.md").write_text(as_markdown(found))
    print(f"{found['trials']} trials, {found['losses']} lost; {found['damaged files']} damaged files, {found['silently accepted']} silently accepted")
    return int(found["losses"] + found["silently accepted"] > 0)


if __name__ == "__main__":
    sys.exit(main())
