"""Fetches the jars of a service once and keeps them.

Invariant: a folder named `lib-<hash>` is complete; an interrupted fetch leaves only a `.part` folder,
which the next fetch replaces.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
EVERYTHING_EXCLUDED = (
    "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
)


class Unavailable(Exception):
    """The service cannot be had on this machine; the message says what is missing."""


def coordinates(service: str) -> list[str]:
    """The coordinates that deps.txt lists for `service`."""
    for line in (HERE / "deps.txt").read_text().splitlines():
        words = line.split()
        if words and words[0] == service:
            return words[1:]
    raise Unavailable(f"deps.txt has no line for {service}")


def pom(service: str, coords: list[str]) -> str:
    """A project that depends on exactly `coords`: one pom per service, so that versions do not mix."""
    dependencies = []
    for coordinate in coords:
        group, artifact, version = coordinate.rstrip("!").split(":")
        alone = EVERYTHING_EXCLUDED if coordinate.endswith("!") else ""
        dependencies.append(
            f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
            f"<version>{version}</version>{alone}</dependency>"
        )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        f"<groupId>thalweg.services</groupId><artifactId>{service}</artifactId><version>1</version>"
        "<packaging>pom</packaging><dependencies>\n" + "\n".join(dependencies) + "\n</dependencies></project>\n"
    )


def java() -> str:
    """The java command: JAVA_HOME first, else the PATH."""
    home = os.environ.get("JAVA_HOME")
    if home and Path(home, "bin", "java").exists():
        return str(Path(home, "bin", "java"))
    found = shutil.which("java")
    if not found:
        raise Unavailable("no java on the PATH and JAVA_HOME is not set: install a JDK, 17 or newer")
    return found


def jars(service: str, cache: Path) -> Path:
    """The folder with the jars of `service`, fetched on first use and found without network afterwards."""
    coords = coordinates(service)
    key = hashlib.sha256("\n".join(coords).encode()).hexdigest()[:16]
    folder = cache / service
    lib = folder / f"lib-{key}"
    if lib.is_dir():
        return lib
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "fetch.lock", "w") as lock:
        # Two test programs may ask at once: one fetches, the other waits and finds the folder.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not lib.is_dir():
            fetch(service, coords, folder, lib)
    return lib


def fetch(service: str, coords: list[str], folder: Path, lib: Path) -> None:
    """Runs Maven once; the finished folder appears under its final name by a rename."""
    mvn = shutil.which("mvn")
    if not mvn:
        raise Unavailable("no mvn on the PATH: install Maven 3, or copy a filled service cache")
    part = folder / (lib.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    (folder / "pom.xml").write_text(pom(service, coords))
    command = [mvn, "-B", "-q", "-f", str(folder / "pom.xml"), PLUGIN]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={part}"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0 or not any(part.glob("*.jar")):
        tail = "\n".join(result.stdout.splitlines()[-15:])
        raise Unavailable(f"cannot fetch the jars of {service} with Maven:\n{tail}")
    part.rename(lib)
