"""A module imports only from those that come before it; lines, types and likely bugs."""

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
FOLDERS = {"method": "nbs", "benchmarks": "nbs/benchmarks", "study": "nbs/study", "own": "nbs/own"}


def test_imports_lead_backwards_only():
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize("module, line", [
    ("data", "from ascood.benchmarks import disk"), ("own/images", "import ascood.own.command")])
def test_an_import_that_leads_forwards_is_found(tmp_path, module, line):
    shutil.copytree(ROOT / "ascood", tmp_path / "ascood", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with open(tmp_path / "ascood" / f"{module}.py", "a") as file:
        file.write(f"\n\ndef late():\n    {line}\n")
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1 and "BROKEN" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("contract, folder", FOLDERS.items())
def test_notebooks_are_numbered_in_the_order_of_their_imports(contract, folder):
    modules = []
    for path in sorted((ROOT / folder).glob("[0-9]*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.source.startswith("#| default_exp")]
        modules += [cell.split()[-1].split(".")[-1] for cell in cells]
    layers = [name for name in reversed(CONTRACTS[contract]["layers"]) if not (ROOT / "ascood" / name).is_dir() and name != "__main__"]
    assert modules == layers


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


def test_lines_end_at_120_columns():
    "nbdev's own lists excepted."
    for path in (ROOT / "ascood").rglob("*.py"):
        lines = path.read_text().splitlines() if path.stem != "_modidx" else []
        assert [line for line in lines if len(line) > 120 and not line.startswith("__all__")] == [], path


def test_types_fit():
    "The rules are in pyproject.toml. Without mypy, as in Colab, there is nothing to run."
    pytest.importorskip("mypy", reason="pip install mypy types-PyYAML to check types")
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
