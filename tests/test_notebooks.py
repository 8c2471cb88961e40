"""The notebooks are the source: package and README are what they say, and they are fit to be read."""

import ast
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbconvert import MarkdownExporter
from nbdev.export import nb_export

ROOT = Path(__file__).parents[1]
WINGS = [ROOT / "nbs" / folder for folder in ("", "benchmarks", "study", "own")]
NUMBERED = [room for wing in WINGS for room in sorted(wing.glob("[0-9]*.ipynb"))]
BY_HAND = ("__init__.py", "__main__.py", "_modidx.py")
TOURS = ("index", "start_here", "findings", "guide", "other_libraries")
SETUP = """#| hide
import importlib.util; importlib.util.find_spec("ascood") or get_ipython().run_line_magic("pip", "install -q 'ascood[colab] @ git+https://github.com/ascood/ascood'");"""
NOTEBOOKS = [*NUMBERED, *(ROOT / "nbs" / f"{name}.ipynb" for name in TOURS), *sorted((ROOT / "nbs" / "experiments").glob("*.ipynb"))]


def test_package_is_what_the_notebooks_export(tmp_path):
    for notebook in NUMBERED:  # copied, because each module names the place of its notebook
        copy = tmp_path / notebook.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        nb_export(shutil.copy(notebook, copy), lib_path=tmp_path / "ascood")
    exported, package = ({str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.py") if p.name not in BY_HAND}
                         for folder in (tmp_path / "ascood", ROOT / "ascood"))
    assert exported.keys() == package.keys()
    for name, text in package.items():
        assert text == exported[name], f"{name} is not what its notebook exports; run make export"


def test_readme_is_what_the_index_says():
    text, _ = MarkdownExporter(exclude_input=True).from_filename(str(ROOT / "nbs" / "index.ipynb"))
    text = re.sub(r"\n{3,}", "\n\n", text.replace("(../", "("))
    assert (ROOT / "README.md").read_text().strip() == text.strip(), "run make readme"
    assert text.count("\n") < 150, "a README of a screen and a half"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_files_that_a_page_names_exist(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (ROOT / link).exists(), link


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: "-".join(p.relative_to(ROOT / "nbs").with_suffix("").parts))
def test_notebook_is_clean_to_read(notebook):
    for cell in nbformat.read(notebook, 4).cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error", "a stack trace"
            assert output.get("name") != "stderr" or "error:" in output.text, f"stderr: {output.text[:200]}"
            text = json.dumps(output)
            assert "application/vnd.jupyter.widget" not in text
            assert not re.search(r"/(home|root|Users|tmp|work)/", text), f"a path of somebody's machine: {text[:300]}"


@pytest.mark.parametrize("notebook", [n for n in NOTEBOOKS if n.stem != "index"], ids=lambda p: "-".join(p.relative_to(ROOT / "nbs").with_suffix("").parts))
def test_notebook_opens_in_colab(notebook):
    "A badge that leads to this very notebook, then the cell that installs the package if it is missing."
    _, badge, setup = nbformat.read(notebook, 4).cells[:3]
    assert badge.source.endswith(f"/blob/main/{notebook.relative_to(ROOT).as_posix()})") and "colab-badge.svg" in badge.source
    assert setup.source == SETUP and not setup.outputs


@pytest.mark.parametrize("notebook", NUMBERED, ids=lambda p: "-".join(p.relative_to(ROOT / "nbs").with_suffix("").parts))
def test_notebook_shows_its_outputs(notebook):
    cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"]
    assert any(c.outputs for c in cells), "run make notebooks"


def lines_too_many(source: str) -> int:
    "How many lines an exported cell has, if it does not fit on a screen: more than 30, or 45 for one class of small methods."
    body, lines = ast.parse(source).body, source.count("\n")
    imports = all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)
    return lines if lines > (45 if len(body) == 1 and isinstance(body[0], ast.ClassDef) else 30) and not imports else 0


def test_exported_cells_fit_on_a_screen():
    long = [f"{notebook.stem}, cell {cell.id}: {lines} lines" for notebook in NUMBERED for cell in nbformat.read(notebook, 4).cells
            if re.match(r"#\| exports?\b", cell.source) and (lines := lines_too_many(cell.source))]
    assert not long, "cut these: " + "; ".join(long)


@pytest.mark.parametrize("notebook", NOTEBOOKS[len(NUMBERED) + len(TOURS) :], ids=lambda p: "-".join(p.relative_to(ROOT / "nbs").with_suffix("").parts))
def test_experiment_has_one_parameters_cell(notebook):
    cells = [c for c in nbformat.read(notebook, 4).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
