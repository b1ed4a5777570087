"""Processes of one running service: start, signal, watch, stop.

Invariant: a signal is sent only to a process that this folder started (pid and start time both match),
so a recycled pid is never hit.
"""

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

STATE = "instance.json"


def started_at(pid: int) -> str | None:
    """The kernel's start time of a live process; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None
    return None if fields[0] == "Z" else fields[19]


def free_ports(count: int) -> list[int]:
    """Ports on loopback that are free now.

    They lie below the kernel's range for outgoing connections: a client that keeps dialling a stopped
    broker inside that range can connect to itself and hold the port that the restart needs.
    """
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        low = 0
    held, ports = [], []
    while len(ports) < count:
        sock = socket.socket()
        try:
            sock.bind(("127.0.0.1", random.randrange(15000, low) if low > 16000 else 0))
        except OSError:
            sock.close()
            continue
        held.append(sock)
        ports.append(sock.getsockname()[1])
    for sock in held:
        sock.close()
    return ports


class Instance:
    """One service in one run folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.state = {}
        if (folder / STATE).exists():
            self.state = json.loads((folder / STATE).read_text())

    def save(self, **fields) -> None:
        """Merges `fields` into the state file."""
        self.state.update(fields)
        part = self.folder / (STATE + ".part")
        part.write_text(json.dumps(self.state, indent=1))
        part.rename(self.folder / STATE)

    def roles(self, role: str | None = None) -> list[str]:
        """The processes a verb means: one, or all in the order in which they are stopped."""
        return self.state.get("roles", ["server"]) if role is None else [role]

    def running(self, role: str = "server") -> bool:
        """Whether the process of that role is alive."""
        process = self.state.get(role)
        return bool(process) and started_at(process["pid"]) == process["started_at"]

    def spawn(self, role: str, command: list[str], log: str) -> subprocess.Popen:
        """Starts a process in a session of its own and notes it before anything else can fail."""
        with open(self.folder / log, "ab") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.folder, start_new_session=True
            )
        self.save(**{role: {"pid": process.pid, "started_at": started_at(process.pid)}})
        return process

    def signal(self, number: int, role: str = "server") -> bool:
        """Signals the whole session of a role; False when nothing runs."""
        if not self.running(role):
            return False
        try:
            os.killpg(self.state[role]["pid"], number)
        except ProcessLookupError:
            return False
        return True

    def await_exit(self, timeout_s: float, role: str = "server") -> bool:
        """Waits for the end of a process; True when it ended in time."""
        deadline = time.monotonic() + timeout_s
        while self.running(role):
            try:
                # Our own child must be reaped or it stays a zombie; another program's child cannot be.
                os.waitpid(self.state[role]["pid"], os.WNOHANG)
            except ChildProcessError:
                pass
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def stop(self, role: str = "server") -> None:
        """Ends a process: politely first, by force after ten seconds. A paused one is resumed to hear it."""
        if self.signal(signal.SIGTERM, role):
            self.signal(signal.SIGCONT, role)
            if not self.await_exit(10.0, role):
                self.kill(role)

    def kill(self, role: str | None = None) -> bool:
        """SIGKILL to one process or all, and waits until they are gone; False when none ran."""
        killed = [each for each in self.roles(role) if self.signal(signal.SIGKILL, each)]
        for each in killed:
            self.await_exit(10.0, each)
        return bool(killed)

    def log_tail(self, log: str, lines: int = 25) -> str:
        """The last lines of a log file."""
        try:
            return "\n".join((self.folder / log).read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def watch(self, parent_pid: int) -> None:
        """Starts the watcher that stops the service when `parent_pid` ends, however it ends."""
        if self.running("watcher"):
            return
        script = Path(__file__).with_name("service.py")
        self.spawn("watcher", [sys.executable, str(script), "watch", str(self.folder), str(parent_pid)], "watcher.log")


def await_end_of(pid: int) -> None:
    """Returns when process `pid` is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:
        born = started_at(pid)
        while born is not None and started_at(pid) == born:
            time.sleep(0.2)
        return
    select.select([handle], [], [])
