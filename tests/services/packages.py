"""Fetches the Python or Node packages of a service once and keeps them.

Invariant: nothing is installed outside the folder that `fetched.py` keeps.
"""

import shutil
import sys
from pathlib import Path

import fetched


def python(service: str, cache: Path) -> list[str]:
    """A Python that has the packages of `service`, as the beginning of a command."""

    def fill(wanted: list[str], folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        fetched.run([*pip, "--target", str(folder), *wanted], f"the packages of {service}")

    return ["env", f"PYTHONPATH={fetched.kept(service, cache, fill)}", sys.executable]


def node(service: str, cache: Path) -> tuple[str, Path]:
    """The node command, and the folder with the modules of `service`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise fetched.Unavailable("no node and npm on the PATH: install Node 20 or newer")

    def fill(wanted: list[str], folder: Path) -> None:
        quiet = ["--silent", "--no-audit", "--no-fund"]
        fetched.run([npm, "install", *quiet, "--prefix", str(folder), *wanted], f"the packages of {service}")

    return node, fetched.kept(service, cache, fill) / "node_modules"
