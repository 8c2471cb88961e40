"""The wings: a module imports only from the wings before its own, and in its wing only from the rooms before its own."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from importlinter.cli import lint_imports

from ascood import data
from ascood.data import default_options, list_benchmarks, load_benchmark, register

ROOT = Path(__file__).parents[1]
CONTRACTS = {c["id"]: c for c in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]}
FOLDERS = {"wings": "nbs", "benchmarks": "nbs/benchmarks", "builders": "nbs/benchmarks/builders", "study": "nbs/study", "own": "nbs/own"}


def test_imports_lead_backwards_only():
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize("module, line", [
    ("data", "from ascood.benchmarks import disk"), ("attribution", "from ascood.evaluation import METRICS"), ("benchmarks/disk", "import ascood.study.profiles"),
    ("study/reporting", "from ascood.study import runs"), ("own/detector", "from ascood.study.bootstrap import draw_weights"), ("own/images", "import ascood.own.command"), ("benchmarks/builders/lists", "from ascood.benchmarks.scenes import NAME")])
def test_an_import_that_leads_forwards_is_found(tmp_path, module, line):
    shutil.copytree(ROOT / "ascood", tmp_path / "ascood", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with open(tmp_path / "ascood" / f"{module}.py", "a") as file:
        file.write(f"\n\ndef late():\n    {line}\n")
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1 and "BROKEN" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("contract, folder", FOLDERS.items())
def test_rooms_are_numbered_in_the_order_of_their_imports(contract, folder):
    rooms = []
    for path in sorted((ROOT / folder).glob("[0-9]*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.source.startswith("#| default_exp")]
        rooms += [cell.split()[-1].split(".")[-1] for cell in cells]
    layers = [name for name in reversed(CONTRACTS[contract]["layers"]) if not (ROOT / "ascood" / name).is_dir() and name not in ("__main__", "builders")]
    assert rooms == layers


def test_links_between_notebooks_lead_somewhere():
    for path in (ROOT / "nbs").rglob("*.ipynb"):
        for cell in nbformat.read(path, 4).cells:
            for link in re.findall(r"\]\(([^)#:]+\.ipynb)\)", cell.source) if cell.cell_type == "markdown" else ():
                assert (path.parent / link).is_file(), f"{path.relative_to(ROOT)}: {link}"


def test_a_benchmark_of_ones_own_is_found_by_its_name(monkeypatch, digits):
    monkeypatch.setattr(data, "_REGISTER", dict(data._REGISTER))
    with pytest.raises(ValueError, match="choose one of spurious"):
        register("mine", "odd", lambda seed=0: digits)
    assert "mine" not in list_benchmarks()
    register("mine", "fine-grained", lambda seed=0, size=3: (digits, seed, size))
    assert default_options("mine") == {"size": 3} and "mine" in list_benchmarks("fine-grained", on_disk=False)
    assert "mine" not in list_benchmarks("spurious") + list_benchmarks(on_disk=True)
    assert load_benchmark("mine", seed=4, size=5) == (digits, 4, 5)


def test_no_errors_likely_bugs_or_unsafe_calls():
    "The rules are in pyproject.toml."
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "ascood", "tests", "setup.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


METHOD = [name for name in CONTRACTS["wings"]["layers"] if name not in ("__main__", "study", "own", "benchmarks", "data")] + [
    "own/images", "own/detector", "own/command"]


@pytest.mark.parametrize("module", METHOD)
def test_lines_end_at_120_columns(module):
    "Those of nbdev's list of names excepted."
    lines = (ROOT / "ascood" / f"{module}.py").read_text().splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("__all__")] == []


def test_types_fit():
    "The rules are in pyproject.toml. Without mypy, as in Colab, there is nothing to run."
    pytest.importorskip("mypy", reason="pip install mypy types-PyYAML to check types")
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
