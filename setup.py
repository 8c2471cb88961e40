"""Installs the package as `settings.ini` describes it."""
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

SHIPPED = ("Snakefile", "nbs/experiments/*.ipynb", "nbs/experiments/profiles/*.yaml", "nbs/experiments/benchmarks/*.yaml",
           "results/*/*.csv", "results/*/*.md", "tests/reference/*")


class WithShippedFiles(build_py):
    "A wheel also holds the files of the repository that the package reads, below ascood/shipped."

    def run(self):
        super().run()
        for path in (path for pattern in SHIPPED for path in Path().glob(pattern) if not self.editable_mode):
            target = Path(self.build_lib, "ascood", "shipped", path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


settings = ConfigParser(delimiters=["="], interpolation=None)
settings.read("settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    packages=find_packages(include=["ascood", "ascood.*"]),
    python_requires=f">={cfg['min_python']}",
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    install_requires=cfg["requirements"].split(),
    extras_require={
        "notebooks": cfg["notebook_requirements"].split(),
        "colab": cfg["colab_requirements"].split(),
        "export": cfg["export_requirements"].split(),
        "docs": cfg["docs_requirements"].split(),
        "timm": cfg["timm_requirements"].split(),
        "dev": cfg["notebook_requirements"].split() + cfg["export_requirements"].split() + cfg["dev_requirements"].split(),
    },
    cmdclass={"build_py": WithShippedFiles},
    zip_safe=False,
)
