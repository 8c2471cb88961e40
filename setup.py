"""Installs the package as `settings.ini` describes it."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

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
    install_requires=cfg["requirements"].split(),
    extras_require={
        "notebooks": cfg["notebook_requirements"].split(),
        "export": cfg["export_requirements"].split(),
        "dev": cfg["notebook_requirements"].split() + cfg["export_requirements"].split() + cfg["dev_requirements"].split(),
    },
    zip_safe=False,
)
