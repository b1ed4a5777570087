"""Fetches the jars of a service once and keeps them.

Invariant: each service has a project of its own, so that versions do not mix.
"""

import os
import shutil
from pathlib import Path

import fetched

PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
EVERYTHING_EXCLUDED = (
    "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
)


def pom(service: str, coords: list[str]) -> str:
    """A project that depends on exactly `coords`."""
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
        raise fetched.Unavailable("no java on the PATH and JAVA_HOME is not set: install a JDK, 17 or newer")
    return found


def jars(service: str, cache: Path) -> Path:
    """The folder with the jars of `service`."""
    return fetched.kept(service, cache, lambda coords, lib: fetch(service, coords, lib))


def fetch(service: str, coords: list[str], lib: Path) -> None:
    """Runs Maven once, which puts the jars into a folder."""
    mvn = shutil.which("mvn")
    if not mvn:
        raise fetched.Unavailable("no mvn on the PATH: install Maven 3, or copy a filled service cache")
    project = lib.with_name("pom.xml")
    project.write_text(pom(service, coords))
    command = [mvn, "-B", "-q", "-f", str(project), PLUGIN, "-DincludeScope=runtime", f"-DoutputDirectory={lib}"]
    fetched.run(command, f"the jars of {service} with Maven")
    if not any(lib.glob("*.jar")):
        raise fetched.Unavailable(f"Maven brought no jars of {service}")
