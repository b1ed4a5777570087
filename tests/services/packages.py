"""Fetches the Python or Node packages of a service once and keeps them.

Invariant: as for jars (`maven.py`), a folder named `lib-<hash>` is complete; an interrupted fetch leaves only a `.part` folder,
which the next fetch replaces.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

from maven import Unavailable, coordinates


def kept(service: str, cache: Path, fetch: Callable[[list[str], Path], list[str]]) -> Path:
    """The folder with the packages of `service`; `fetch` gives the command that fills a folder with what deps.txt lists."""
    wanted = coordinates(service)
    key = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:16]
    folder = cache / service
    lib = folder / f"lib-{key}"
    if lib.is_dir():
        return lib
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "fetch.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not lib.is_dir():
            part = folder / (lib.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            result = subprocess.run(fetch(wanted, part), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if result.returncode != 0:
                tail = "\n".join(result.stdout.splitlines()[-15:])
                raise Unavailable(f"cannot fetch the packages of {service}:\n{tail}")
            part.rename(lib)
    return lib


def python(service: str, cache: Path) -> list[str]:
    """A Python that has the packages of `service`, as the beginning of a command."""

    def fetch(wanted: list[str], folder: Path) -> list[str]:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        return [*pip, "--target", str(folder), *wanted]

    return ["env", f"PYTHONPATH={kept(service, cache, fetch)}", sys.executable]


def node(service: str, cache: Path) -> tuple[str, Path]:
    """The node command, and the folder with the modules of `service`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise Unavailable("no node and npm on the PATH: install Node 20 or newer")

    def fetch(wanted: list[str], folder: Path) -> list[str]:
        return [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *wanted]

    return node, kept(service, cache, fetch) / "node_modules"
