"""The package inside other projects, and on systems that are not POSIX."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ascood.study.names import project_root, under_root

ROOT = Path(__file__).parents[1]
EVERY_MODULE = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(("fcntl", "resource", "pwd", "grp", "termios")))  # as on Windows
import ascood
for module in pkgutil.walk_packages(ascood.__path__, "ascood."):
    if module.name != "ascood.__main__":  # it runs a command
        importlib.import_module(module.name)
from pathlib import Path
from ascood.files import write_file
write_file(Path("a.txt"), "a")
"""


@pytest.mark.parametrize("text, ours", [
    ("[DEFAULT]\nlib_name = other\nrepo = ascood\n", False), ("[DEFAULT]\nrepo = ascood\n", False),
    ("\xff", False),
    ("[DEFAULT]\nlib_name = ascood\ntitle = %(lib_name)s\n", True)])
def test_another_project_is_not_this_ones_root(tmp_path, monkeypatch, text, ours):
    inside = tmp_path / "work"
    inside.mkdir(), (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_bytes(text.encode("latin1"))
    monkeypatch.chdir(inside)
    assert project_root() == (tmp_path if ours else inside)
    assert under_root("results") == Path("../results" if ours else "results")


def test_the_root_is_found_from_within(monkeypatch):
    monkeypatch.chdir(ROOT / "nbs" / "study")
    assert project_root() == ROOT


def test_every_module_can_be_imported_without_what_only_posix_has(tmp_path):
    done = subprocess.run([sys.executable, "-c", EVERY_MODULE], cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt"]
