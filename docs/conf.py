"""Settings of Sphinx: a page for every notebook, as it was last run, and one for every module."""

import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
settings = ConfigParser(delimiters=["="])
settings.read(HERE.parent / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]

project, author, copyright, release = cfg["lib_name"], cfg["author"], cfg["copyright"], cfg["version"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx-mathjax-offline", "pages"]
repository = f"{cfg['git_url']}/blob/{cfg['branch']}"

# Sphinx reads the whole project, so that links between its folders hold.
root_doc = "nbs/index"
include_patterns = ["nbs/**.ipynb", "results/*/README.md", "docs/api.md", "docs/api/*.md"]
exclude_patterns = [".*", "_*", "**.ipynb_checkpoints", "results/*/*/*"]

nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}  # a page that was built has no widgets, and these scripts come from the network
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

add_module_names = False
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False
autodoc_typehints = "none"  # `pages` writes them beside the comments of the parameters
toc_object_entries_show_parents = "hide"

templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_extra_path = ["index.html"]
html_show_sourcelink = html_copy_source = False
html_sidebars = {"**": ["parts.html"]}
html_theme_options = {
    "navbar_center": [], "footer_end": [], "show_toc_level": 2, "secondary_sidebar_items": ["page-toc"],
}
