"""Starts one JVM of a service and waits until it answers.

Invariant: a start that fails leaves no process of that role behind, and its message ends with the tail of the log.
"""

import os
import sys
import time
from pathlib import Path
from typing import Callable

import maven
from instance import Instance

START_TIMEOUT_S = 240.0
PORT_ATTEMPTS = 15
# A test's server lives for minutes: what it starts with costs half the CPU time when the JVM compiles quickly instead of well.
QUICK = "-XX:TieredStopAtLevel=1"
# What Kafka, Hadoop and HBase log when a port is held by somebody else.
TAKEN = ("Address already in use", "Port in use")


class StartFailed(Exception):
    """The server did not come up; the message ends with the tail of its log."""


class PortTaken(StartFailed):
    """Another program took a port between our choice and the server's bind."""


def start(
    instance: Instance, role: str, name: str, command: list[str], answers: Callable[[], bool], timeout_s: float = START_TIMEOUT_S
) -> None:
    """Runs a JVM in a role and waits for its answer. `answers` may raise OSError while nobody listens."""
    log = f"{role}.log"
    mark = log_size(instance, log)
    process = instance.spawn(role, command, log)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            kind = PortTaken if any(word in log_since(instance, log, mark) for word in TAKEN) else StartFailed
            raise kind(f"{name} ended with code {process.returncode} while starting; its log ends:\n{instance.log_tail(log)}")
        try:
            if answers():
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.1)
    instance.kill(role)
    tail = instance.log_tail(log)
    raise StartFailed(f"{name} did not answer within {timeout_s:.0f} s; its log ends:\n{tail}")


def again(attempt: Callable[[], None], wait_s: float = 0.0) -> None:
    """Repeats a start while other programs hold its ports, and once for any other reason, which is told."""
    failed = False
    for count in range(1, PORT_ATTEMPTS + 1):
        try:
            return attempt()
        except StartFailed as error:
            if count == PORT_ATTEMPTS or (failed and not isinstance(error, PortTaken)):
                raise
            failed |= not isinstance(error, PortTaken)
            print(f"services: trying once more: {error}", file=sys.stderr)
            time.sleep(wait_s)


def up(instance: Instance, first: Callable[[], None], once_more: Callable[[], None]) -> None:
    """Starts a server of one process: `first` in a fresh folder, `once_more` when it has stopped there."""
    if not instance.running():
        if "address" in instance.state:
            once_more()
        else:
            again(first)


def restart(instance: Instance, role: str | None, start: Callable[[], None]) -> None:
    """Stops the server if it runs, then starts it on the port that clients hold, which may have to become free."""
    for each in instance.roles(role):
        instance.stop(each)
    again(start, wait_s=1.0)


def log_size(instance: Instance, log: str) -> int:
    """Where the next start's lines will begin."""
    path = instance.folder / log
    return path.stat().st_size if path.exists() else 0


def log_since(instance: Instance, log: str, mark: int) -> str:
    """What this start wrote; an earlier failed attempt must not be taken for this one."""
    with open(instance.folder / log, errors="replace") as lines:
        lines.seek(mark)
        return lines.read()


def site(properties: dict) -> str:
    """A Hadoop configuration file."""
    lines = "".join(f"<property><name>{name}</name><value>{value}</value></property>\n" for name, value in properties.items())
    return f'<?xml version="1.0"?>\n<configuration>\n{lines}</configuration>\n'


def command(service: str, cache: Path, conf: Path, options: list[str], *arguments: str) -> list[str]:
    """The command of a JVM with the jars of a service, its configuration folder first on the classpath."""
    lib = maven.jars(service, cache)
    compiler = os.environ.get("THALWEG_SERVICES_JVM", QUICK).split()
    return [maven.java(), "-XX:+UseSerialGC", *compiler, *options, "-cp", f"{conf}:{lib}/*", *arguments]
