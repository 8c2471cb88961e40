"""The web pages: two notebooks and a module, built as `make docs` builds them."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("myst_nb", reason="needs the extra `docs`")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The built pages, and what Sphinx said of those that were chosen."
    method = next(path for path in sorted(ROOT.glob("nbs/[0-9]*.ipynb")) if "default_exp synthesis" in path.read_text())
    chosen = ["nbs/index.ipynb", f"nbs/{method.name}", "docs/api/synthesis.md"]
    out = tmp_path_factory.mktemp("site")
    options = ["-q", "-E", "-c", ROOT / "docs", "-D", f"include_patterns={','.join(chosen)}"]
    command = [sys.executable, "-m", "sphinx", *options, ROOT, out]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return out, f"nbs/{method.stem}.html"


def test_a_notebook_is_shown_as_it_was_run(site):
    out, method = site
    page = (out / method).read_text()
    assert r"\[x' = x + \alpha\, G_{inv}\]" in page and "_static/mathjax/" in page
    assert "data:image" in page or re.search(r'<img[^>]* src="\.\./_images/', page), "no picture"
    assert "tensor([[[[1.3000, 0.6000]" in page, "no printed output"
    assert "#|" not in re.sub(r"<[^>]+>", "", page), "a directive of nbdev is shown"
    assert "find_spec" not in page, "the set-up cell is shown"


def test_a_module_has_its_comments(site):
    page = re.sub(r"<[^>]+>", "", (site[0] / "docs/api/synthesis.html").read_text())
    assert "alpha (float) – Step size, in units of the normalised input per unit of gradient" in page
    assert "Generator | None, default None" in page
    assert "Tensor – Outliers x’, shape and dtype of x, detached" in page


def test_nothing_is_loaded_from_the_network(site):
    for page in site[0].rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img|iframe)\b[^>]*\s(?:src|href)="(?:https?:)?//[^"]+', page.read_text())
        assert not loaded, f"{page.name} loads {loaded}"
    for sheet in site[0].rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text()), sheet.name
