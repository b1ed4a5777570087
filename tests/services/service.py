"""The command line behind up, down, kill, pause, resume, restart, topic and status.

Invariant: standard output carries only NAME=value lines that a test can read; words for people go to
standard error. Exit codes: 0 done, 1 failed, 2 cannot be had here (a caller may skip).
"""

import argparse
import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import azure
import hbase
import hdfs
import jvm
import kafka
import kafka_wire
import fetched
import s3
from instance import Instance, await_end_of

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("THALWEG_SERVICES_CACHE", ROOT / ".cache" / "services"))
RUNS = CACHE / "run"
BUILT = {"kafka": kafka, "hdfs": hdfs, "hbase": hbase, "s3": s3, "azure": azure}


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
    service = instance.state["service"]
    for key, value in BUILT[service].values(instance).items():
        print(f"{key}={value}")
    print(f"{service.upper()}_RUN={instance.folder}", flush=True)


def up(arguments) -> None:
    """Starts services."""
    if arguments.run and len(arguments.services) > 1:
        fail("--run names the folder of one service: start the others with their own")
    for service in arguments.services:
        if service not in BUILT:
            fail(f'there is no service "{service}": known are {", ".join(BUILT)}')
    for service in arguments.services:
        folder = Path(arguments.run).resolve() if arguments.run else RUNS / f"{service}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True, exist_ok=True)
        instance = Instance(folder)
        if arguments.parent_pid:
            # Before the server, so that a parent that dies while it starts leaves nothing behind either.
            instance.save(service=service)
            instance.watch(arguments.parent_pid)
        try:
            BUILT[service].up(instance, CACHE, arguments)
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


def the_role(arguments, instance: Instance) -> str | None:
    """The process a verb means, None for all of the service."""
    if arguments.role and arguments.role not in instance.roles():
        fail(f'{instance.state["service"]} has no process "{arguments.role}": it has {", ".join(instance.roles())}')
    return arguments.role


def signal_all(arguments, number: int) -> None:
    """Signals one process of a service, or all of them."""
    instance = the_instance(arguments)
    roles = instance.roles(the_role(arguments, instance))
    if not any([instance.signal(number, role) for role in roles]):
        fail("it was not running")


def kill(arguments) -> None:
    """SIGKILL: what a crash of the machine does to the process."""
    instance = the_instance(arguments)
    if not instance.kill(the_role(arguments, instance)):
        fail("it was not running")


def pause(arguments) -> None:
    """SIGSTOP: the port stays open and nothing answers."""
    signal_all(arguments, signal.SIGSTOP)


def resume(arguments) -> None:
    """SIGCONT."""
    signal_all(arguments, signal.SIGCONT)


def restart(arguments) -> None:
    """Stops if needed and starts again on the same data and port."""
    instance = the_instance(arguments)
    BUILT[instance.state["service"]].restart(instance, CACHE, the_role(arguments, instance))
    report(instance)


def status(arguments) -> None:
    """One line per instance."""
    for instance in instances(arguments.run, arguments.service):
        stopped = [role for role in instance.roles() if not instance.running(role)]
        word = "stopped" if len(stopped) == len(instance.roles()) else "running"
        without = f" without {','.join(stopped)}" if stopped and word == "running" else ""
        print(f"{instance.state['service']} {word}{without} {instance.state.get('address', '-')} {instance.folder}")


def client(arguments) -> None:
    """Becomes the Java client of a running HBase: requests on standard input, answers on standard output."""
    arguments.service = "hbase"
    instance = the_instance(arguments)
    command = hbase.admin(instance, CACHE)
    os.execv(command[0], command)


def hdfs_admin(arguments) -> None:
    """What an administrator of a running HDFS does: safe mode on and off, a quota on a folder and off it."""
    arguments.service = "hdfs"
    instance = the_instance(arguments)
    for command in hdfs.admin(instance, CACHE, arguments.safemode, arguments.quota):
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            fail("dfsadmin says:\n" + result.stdout[-2000:])


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
    verb.add_argument("--gateways", type=int, default=1, choices=range(1, 5), help="how many Thrift2 gateways HBase gets")
    verb.add_argument("--others", action="store_true", help="HBase gets an unframed and a Thrift1 gateway, and a region server in a process of its own")
    verb.add_argument("--web", action="store_true", help="HBase gets gateways over HTTP and HTTPS too; prints their URLs and certificate")
    verb.set_defaults(action=up)
    for name, action in (("kill", kill), ("pause", pause), ("resume", resume), ("restart", restart)):
        verb = verbs.add_parser(name, help=action.__doc__)
        verb.add_argument("service", nargs="?")
        verb.add_argument("--run")
        verb.add_argument("--role", help="one process of the service: namenode, datanode, server, gateway, gateway2, http_gateway, https_gateway")
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
    verb = verbs.add_parser("hbase_client", help=client.__doc__)
    verb.add_argument("--run")
    verb.set_defaults(action=client)
    verb = verbs.add_parser("hdfs_admin", help=hdfs_admin.__doc__)
    verb.add_argument("--run")
    verb.add_argument("--safemode", choices=("enter", "leave"))
    verb.add_argument("--quota", nargs=2, metavar=("FOLDER", "BYTES|none"))
    verb.set_defaults(action=hdfs_admin)
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
    except fetched.Unavailable as error:
        fail(str(error), 2)
    except (jvm.StartFailed, kafka_wire.KafkaError, OSError) as error:
        fail(str(error))


if __name__ == "__main__":
    main()
