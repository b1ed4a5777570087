"""The command line behind up, down, kill, pause, resume, restart, topic and status.

Invariant: standard output carries only NAME=value lines that a test can read; words for people go to
standard error. Exit codes: 0 done, 1 failed, 2 cannot be had here (a caller may skip).
"""

import argparse
import os
import secrets
import shutil
import signal
import sys
from pathlib import Path

import kafka
import kafka_wire
import maven
from instance import Instance, await_end_of

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("THALWEG_SERVICES_CACHE", ROOT / ".cache" / "services"))
RUNS = CACHE / "run"
BUILT = {"kafka": kafka}
PLANNED = ("hbase", "hdfs")


def fail(message: str, code: int = 1) -> None:
    """Ends with a message."""
    print(f"services: {message}", file=sys.stderr)
    sys.exit(code)


def instances(run: str | None, service: str | None) -> list[Instance]:
    """The instances a verb means: the one in --run, or all in the cache, narrowed by service."""
    folders = [Path(run).resolve()] if run else sorted(RUNS.glob("*")) if RUNS.is_dir() else []
    found = [Instance(folder) for folder in folders if (folder / "instance.json").exists()]
    return [one for one in found if service in (None, one.state.get("service"))]


def the_instance(arguments) -> Instance:
    """The one instance a verb means; more than one needs --run."""
    found = instances(arguments.run, arguments.service)
    if not found:
        fail("nothing of that name runs here")
    if len(found) > 1:
        fail("several run: say which with --run " + " | ".join(str(one.folder) for one in found))
    return found[0]


def report(instance: Instance) -> None:
    """Prints what a test needs to know."""
    name = instance.state["service"].upper()
    print(f"{name}_BOOTSTRAP={instance.state['address']}")
    for key, value in instance.state.get("secure", {}).items():
        print(f"{name}_{key}={value}")
    print(f"{name}_RUN={instance.folder}", flush=True)


def up(arguments) -> None:
    """Starts services."""
    if arguments.run and len(arguments.services) > 1:
        fail("--run names the folder of one service: start the others with their own")
    for service in arguments.services:
        if service in PLANNED:
            fail(f"{service} is not built yet: only kafka can be started", 2)
        if service not in BUILT:
            fail(f'there is no service "{service}": known are {", ".join([*BUILT, *PLANNED])}')
    for service in arguments.services:
        folder = Path(arguments.run).resolve() if arguments.run else RUNS / f"{service}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True, exist_ok=True)
        instance = Instance(folder)
        if arguments.parent_pid:
            # Before the server, so that a parent that dies while it starts leaves nothing behind either.
            instance.save(service=service)
            instance.watch(arguments.parent_pid)
        try:
            BUILT[service].up(instance, CACHE, arguments.secure)
        except BaseException:
            instance.kill()
            instance.signal(signal.SIGKILL, "watcher")
            if not arguments.run:
                # The message carries the tail of the log; a folder that nobody named would stay for ever.
                shutil.rmtree(folder, ignore_errors=True)
            raise
        report(instance)


def down(arguments) -> None:
    """Stops services and, unless told to keep them, removes their folders."""
    for instance in instances(arguments.run, arguments.service):
        instance.signal(signal.SIGKILL, "watcher")
        instance.await_exit(5.0, "watcher")
        remove(instance, arguments.keep)


def remove(instance: Instance, keep: bool) -> None:
    """Ends the server; its data has no use after that."""
    instance.kill()
    if not keep:
        shutil.rmtree(instance.folder, ignore_errors=True)


def kill(arguments) -> None:
    """SIGKILL: what a crash of the machine does to the process."""
    if not the_instance(arguments).kill():
        fail("it was not running")


def pause(arguments) -> None:
    """SIGSTOP: the port stays open and nothing answers."""
    if not the_instance(arguments).signal(signal.SIGSTOP):
        fail("it was not running")


def resume(arguments) -> None:
    """SIGCONT."""
    if not the_instance(arguments).signal(signal.SIGCONT):
        fail("it was not running")


def restart(arguments) -> None:
    """Stops if needed and starts again on the same data and port."""
    instance = the_instance(arguments)
    BUILT[instance.state["service"]].restart(instance, CACHE)
    report(instance)


def status(arguments) -> None:
    """One line per instance."""
    for instance in instances(arguments.run, arguments.service):
        word = "running" if instance.running() else "stopped"
        print(f"{instance.state['service']} {word} {instance.state.get('address', '-')} {instance.folder}")


def topic(arguments) -> None:
    """Creates a topic, or grows one."""
    configs = dict(pair.split("=", 1) for pair in arguments.config)
    if arguments.grow:
        kafka_wire.grow_topic(arguments.bootstrap, arguments.name, arguments.partitions)
    elif not kafka_wire.create_topic(arguments.bootstrap, arguments.name, arguments.partitions, configs):
        fail(f'topic "{arguments.name}" already exists')


def watch(arguments) -> None:
    """Waits for the end of the parent, then stops the service. Started by `up --parent-pid`."""
    await_end_of(arguments.pid)
    remove(Instance(Path(arguments.folder)), keep=False)


def parser() -> argparse.ArgumentParser:
    """The verbs and their arguments."""
    top = argparse.ArgumentParser(prog="tests/services", description="real servers for the tests, on loopback")
    verbs = top.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("up", help="start services and print their addresses")
    verb.add_argument("services", nargs="+", metavar="service")
    verb.add_argument("--run", help="folder for data, log and pid (default: a new one in the cache)")
    verb.add_argument("--parent-pid", type=int, help="stop the service when this process ends")
    verb.add_argument("--secure", action="store_true", help="listen with SCRAM and TLS too; prints addresses and credentials")
    verb.set_defaults(action=up)
    for name, action in (("kill", kill), ("pause", pause), ("resume", resume), ("restart", restart)):
        verb = verbs.add_parser(name, help=action.__doc__)
        verb.add_argument("service", nargs="?")
        verb.add_argument("--run")
        verb.set_defaults(action=action)
    for name, action in (("down", down), ("status", status)):
        verb = verbs.add_parser(name, help=action.__doc__)
        verb.add_argument("service", nargs="?")
        verb.add_argument("--run")
        verb.add_argument("--keep", action="store_true", help="keep data and logs")
        verb.set_defaults(action=action)
    verb = verbs.add_parser("topic", help=topic.__doc__)
    verb.add_argument("bootstrap")
    verb.add_argument("name")
    verb.add_argument("partitions", type=int)
    verb.add_argument("--config", action="append", default=[], metavar="key=value")
    verb.add_argument("--grow", action="store_true", help="raise the partition count of an existing topic")
    verb.set_defaults(action=topic)
    verb = verbs.add_parser("watch")
    verb.add_argument("folder")
    verb.add_argument("pid", type=int)
    verb.set_defaults(action=watch)
    return top


def main() -> None:
    """Runs one verb."""
    arguments = parser().parse_args()
    try:
        arguments.action(arguments)
    except maven.Unavailable as error:
        fail(str(error), 2)
    except (kafka.StartFailed, kafka_wire.KafkaError, OSError) as error:
        fail(str(error))


if __name__ == "__main__":
    main()
