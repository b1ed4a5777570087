"""Keeps what a service needs from outside: fetched once, found without network afterwards.

Invariant: a folder that `complete` gives is complete; an interrupted fetch leaves only a `.part` folder, which the next fetch replaces.
"""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Callable

HERE = Path(__file__).resolve().parent


class Unavailable(Exception):
    """The service cannot be had on this machine; the message says what is missing."""


def coordinates(service: str) -> list[str]:
    """The coordinates that deps.txt lists for `service`."""
    for line in (HERE / "deps.txt").read_text().splitlines():
        words = line.split()
        if words and words[0] == service:
            return words[1:]
    raise Unavailable(f"deps.txt has no line for {service}")


def kept(service: str, cache: Path, fill: Callable[[list[str], Path], None]) -> Path:
    """The folder with what deps.txt lists for `service`, which `fill` puts there; another list gets another folder."""
    wanted = coordinates(service)
    key = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:16]
    return complete(cache / service / f"lib-{key}", lambda part: fill(wanted, part))


def complete(lib: Path, fill: Callable[[Path], None]) -> Path:
    """A folder that `fill` filled under another name, now or earlier."""
    if lib.is_dir():
        return lib
    lib.parent.mkdir(parents=True, exist_ok=True)
    with open(lib.parent / "fetch.lock", "w") as lock:
        # Two test programs may ask at once: one fetches, the other waits and finds the folder.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not lib.is_dir():
            part = lib.with_name(lib.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            fill(part)
            part.rename(lib)
    return lib


def run(command: list[str], what: str) -> None:
    """Runs a command that fetches `what`."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        tail = "\n".join(result.stdout.splitlines()[-15:])
        raise Unavailable(f"cannot fetch {what}:\n{tail}")
