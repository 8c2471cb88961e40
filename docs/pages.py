"""What Sphinx reads: notebooks without their hidden cells, and modules with nbdev's comments beside the parameters."""

import inspect
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path

from fastcore.docments import docments

HERE = Path(__file__).parent
ROOT = HERE.parent
HIDDEN = ("#| hide", "#| default_exp")
PAGES = (".ipynb", "/README.md", ".png")  # and pictures; a link to any other file leads to the repository


def write_api_pages(app, config):
    "A page for each module, in docs/api, with a link to the notebook that it comes from."
    folder = HERE / "api"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if found := re.search(r'"#\| default_exp ([\w.]+)', notebook.read_text(encoding="utf-8")):
            name, link = f"{config.project}.{found[1]}", notebook.relative_to(ROOT).as_posix()
            import_module(name)  # all before autodoc starts, which changes annotations of pydantic
            (folder / f"{found[1]}.md").write_text(
                f"# {name}\n\nEquations, examples and pictures: [the notebook](/{link}).\n\n"
                f"```{{eval-rst}}\n.. automodule:: {name}\n```\n", encoding="utf-8")


def web_links(text: str, folder: Path, repository: str) -> str:
    "Markdown whose links hold on the pages: to other pages, to headings as Sphinx names them, or to the repository."
    def target(found: re.Match) -> str:
        path = os.path.normpath(folder / found[1])
        is_page = path.endswith(PAGES) or not (ROOT / path).exists()  # Sphinx reports a file that does not exist
        return found[0] if is_page else f"]({repository}/{path})"
    text = re.sub(r"!\[([^]]*)\]\(https?:[^)]*\)", r"\1", text)  # a badge comes from the network
    text = re.sub(r"\]\(#([^)]+)\)", lambda found: f"](#{re.sub(r'[^a-z0-9-]', '', found[1].lower())})", text)
    return re.sub(r"\]\(([^):#]+)\)", target, text)


def read_page(app, docname: str, source: list[str]):
    "Leaves out hidden cells and nbdev's directives, and adds the table of contents to the first page."
    links = partial(web_links, folder=Path(docname).parent, repository=app.config.repository)
    if app.env.doc2path(docname).suffix != ".ipynb":
        source[0] = links(source[0])
        return
    notebook = json.loads(source[0])
    notebook["cells"] = [cell for cell in notebook["cells"] if not "".join(cell["source"]).startswith(HIDDEN)]
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if text.startswith("#| echo: false") or docname == app.config.root_doc:  # which is the README too, without code
            cell["metadata"]["tags"] = ["remove-input"]
        cell["source"] = links(text) if cell["cell_type"] == "markdown" else re.sub(r"\A(#\|.*\n)+", "", text)
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output["data"]["text/markdown"] = links("".join(output["data"]["text/markdown"]))
    if docname == app.config.root_doc:
        contents = (HERE / "contents.md").read_text(encoding="utf-8")
        notebook["cells"].append({"cell_type": "markdown", "id": "contents", "metadata": {}, "source": contents})
    source[0] = json.dumps(notebook)


def as_rst(text: str) -> str:
    "A docstring's or comment's `code` and $formulas$ as reStructuredText."
    def piece(found: re.Match) -> str:
        code, formula, special = found.groups()
        return f"\\ ``{code}``\\ " if code else f"\\ :math:`{formula}`\\ " if formula else "\\" + special
    return re.sub(r"`+([^`]+)`+|\$([^$\n]+)\$|([\\*_|])", piece, text)


def type_name(annotation) -> str:
    "As short as in the source: `Tensor | None`, without modules."
    if annotation is inspect.Parameter.empty:
        return ""
    return as_rst(re.sub(r"~|\b[a-z_][\w.]*\.(?=\w)", "", inspect.formatannotation(annotation)).strip("'"))


def parameter_lines(function) -> Iterator[str]:
    "A field for each parameter, with type, default and the comment beside it; then one for what is returned."
    for name, found in docments(function, full=True).items():
        kind, comment = type_name(found.anno), as_rst(found.docment or "")
        if name == "return" and kind not in ("", "None"):
            yield f":returns: *{kind}*" + (f" – {comment}" if comment else "")
        elif name not in ("self", "cls", "return"):
            default = "" if found.default is inspect.Parameter.empty else f"default {as_rst(repr(found.default))}"
            yield from (f":param {name}: {comment}", f":type {name}: {', '.join(filter(None, (kind, default)))}")


def field_lines(cls: type) -> Iterator[str]:
    "The same for the annotated fields of a class, as they stand in its source."
    field = re.compile(r"^    (\w+): (.+?)(?: = (.+?))?(?:  # (?!type:|noqa)(.*)|  #.*)?$", re.M)
    for name, kind, default, comment in field.findall(inspect.getsource(cls)):
        if name in vars(cls).get("__annotations__", {}):
            default = re.sub(r"^Field\((.*)\)$", r"\1", default)  # pydantic's: the default, then the range
            shown = ", default ".join(filter(None, (kind, default)))
            yield from (f":param {name}: {as_rst(comment)}", f":type {name}: {as_rst(shown)}")


def add_comments(app, what, name, obj, options, lines: list[str]):
    "Parameters and fields have comments beside them, which a docstring does not repeat."
    lines[:] = [*as_rst("\n".join(lines)).splitlines(), ""]
    if what in ("function", "method"):
        lines += parameter_lines(obj)
    elif what in ("class", "exception"):
        lines += field_lines(obj) if vars(obj).get("__annotations__") else ()
        lines += parameter_lines(obj) if "__init__" in vars(obj) and not is_dataclass(obj) else ()


def skip_field(app, what, name, obj, skip, options) -> bool | None:
    "Fields of a class stand in its own entry."
    is_member = inspect.isroutine(obj) or isinstance(obj, (property, cached_property))
    return True if what == "class" and not is_member else None


def setup(app) -> dict:
    app.add_config_value("repository", "", "env")
    app.connect("config-inited", write_api_pages)
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", add_comments)
    app.connect("autodoc-skip-member", skip_field)
    return {"parallel_read_safe": True}
