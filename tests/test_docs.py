"""The pages that `make docs` writes: each notebook, each module, and no broken link."""

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

ROOT = Path(__file__).parents[1]


class Page(HTMLParser):
    "What a page links to, its anchors, and its text."

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.anchors, self.text = [], set(), ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[name] for name in ("href", "src") if tag in ("a", "img") and name in attributes]
        self.anchors.add(attributes.get("id") or attributes.get("name"))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "ascood.study.notebooks", "nbs/docs.ipynb", str(folder / "docs.ipynb"), "-p", "out", str(folder / "pages")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in (folder / "pages").rglob("*.html")}


def test_no_link_is_broken(pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if target.startswith(("https://", "http://", "mailto:", "data:")):
                repository = target.partition("/blob/main/")[2]
                if repository and not (ROOT / repository).exists():
                    broken.append((path.name, link))
                continue
            there = (path.parent / target).resolve() if target else path
            if there not in pages or (anchor and not {anchor, unquote(anchor)} & pages[there].anchors):
                broken.append((path.name, link))
    assert sum(len(page.links) for page in pages.values()) > 1000
    assert not broken, broken[:20]


def test_every_picture_has_one_description(pages):
    pictures = [tag for path in pages for tag in re.findall(r"<img [^>]*>", path.read_text())]
    assert len(pictures) > 50 and {len(re.findall(r'\balt="', tag)) for tag in pictures} == {1}
    assert any('alt="Open in Colab"' in tag for tag in pictures) and any('alt="figure"' in tag for tag in pictures)


def test_every_notebook_and_every_public_name_has_its_page(pages):
    (top,) = {path.parent for path in pages if path.name == "start_here.html"}
    for notebook in (ROOT / "nbs").rglob("*.ipynb"):
        if ".ipynb_checkpoints" not in notebook.parts:
            assert top / notebook.relative_to(ROOT / "nbs").with_suffix(".html") in pages
    for module in (ROOT / "ascood").rglob("*.py"):
        if not module.name.startswith("_"):
            page = pages[top / "api" / (".".join(module.relative_to(ROOT).with_suffix("").parts) + ".html")]
            (names,) = (node.value for node in ast.parse(module.read_text()).body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__")
            assert not [name for name in ast.literal_eval(names) if name not in page.text]
    assert "# Slope of the logistic regression on the negative energy" in pages[top / "api" / "ascood.losses.html"].text


def test_pages_are_read_in_the_order_of_the_rooms(pages):
    (home,) = (page for path, page in pages.items() if path.name == "start_here.html")
    rooms = [link for link in home.links if link.startswith(("0", "1", "benchmarks/", "study/"))]
    wings = [sorted((ROOT / "nbs").glob(f"{wing}[0-9]*.ipynb")) for wing in ("", "benchmarks/", "benchmarks/builders/", "study/")]
    expected = [path.relative_to(ROOT / "nbs").with_suffix(".html").as_posix() for wing in wings for path in wing]
    assert list(dict.fromkeys(link.partition("#")[0] for link in rooms if link in expected))[: len(expected)] == expected
    assert nbformat.read(ROOT / "nbs" / "docs.ipynb", 4).cells[0].source.startswith("# ")
