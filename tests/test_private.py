"""No private part of another library: no import of an underscored name, and no such attribute of its objects."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ascood"
PUBLIC = {"_replace", "_asdict", "_fields", "_field_defaults", "_make",
          "_exit"}  # of named tuples, and of os: documented


def private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def defined(tree: ast.AST) -> set[str]:
    "Names that a module itself gives to functions, classes, variables and attributes of its own objects."
    names = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    stored = [node for node in ast.walk(tree) if isinstance(getattr(node, "ctx", None), ast.Store)]
    return names | {getattr(node, "attr", getattr(node, "id", "")) for node in stored}


def private_parts(source: str, known: set[str] = frozenset()) -> list[str]:
    "Underscored parts of others that a module uses; attributes in `known`, or that the module defines, are our own."
    tree = ast.parse(source)
    ours, found = known | defined(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and not (node.module or "").startswith("ascood"):
            found += [f"{node.module}.{alias.name}" for alias in node.names
                      if any(map(private, f"{node.module}.{alias.name}".split(".")))]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if any(map(private, alias.name.split(".")))]
        elif isinstance(node, ast.Attribute) and private(node.attr) and (ast.unparse(node.value) == "super()"
                                                                         or node.attr not in ours | PUBLIC):
            found.append(ast.unparse(node))
    return found


def test_the_package_uses_no_private_part_of_another_library():
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "_modidx.py"]
    known = set().union(*(defined(ast.parse(path.read_text())) for path in files))
    assert {str(path): parts for path in files if (parts := private_parts(path.read_text(), known))} == {}


@pytest.mark.parametrize("line", [
    "from pydantic._internal._model_construction import ModelMetaclass", "import torch._dynamo",
    "from torch.nn import _reduction",
    "AcceleratorState._reset_state(True)", "class Mine(Gram):\n    def _score(self): return super()._score()",
    "x.untyped_storage()._cdata"])
def test_a_private_part_is_found(line):
    ours = "from ..data import _normalize\nself._known = 1\nself._known.a._replace(b=2).__class__"
    assert private_parts(line) and not private_parts(ours)
