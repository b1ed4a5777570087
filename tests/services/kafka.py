"""A Kafka broker in KRaft mode: broker and controller in one JVM.

Invariant: `up` returns only after the broker answered a metadata request on the port it prints.
"""

import subprocess
import time
from pathlib import Path

import kafka_secure
import kafka_wire
import maven
from instance import Instance, free_ports

CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qk"
START_TIMEOUT_S = 60.0
PORT_ATTEMPTS = 5

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
"""

LOGGING = """\
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{HH:mm:ss.SSS} %p %m (%c{1})%n
rootLogger.level=INFO
rootLogger.appenderRef.console.ref=console
"""


class StartFailed(Exception):
    """The broker did not come up; the message ends with the tail of its log."""


class PortTaken(StartFailed):
    """Another program took a port between our choice and the broker's bind."""


def java_command(cache: Path, folder: Path, *arguments: str) -> list[str]:
    """The JVM with the Kafka jars. The serial collector keeps threads and memory small."""
    lib = maven.jars("kafka", cache)
    logging = f"-Dlog4j2.configurationFile=file:{folder}/log4j2.properties"
    return [maven.java(), "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", logging, "-cp", f"{lib}/*", *arguments]


def up(instance: Instance, cache: Path, secure: bool = False) -> str:
    """Starts a broker in a fresh folder, or returns the address of the one that runs there. With `secure` it also listens
    with SCRAM and TLS."""
    if instance.running():
        return instance.state["address"]
    if "address" in instance.state:
        return restart(instance, cache)
    instance.folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, PORT_ATTEMPTS + 1):
        broker, controller = free_ports(2)
        configure(instance, cache, broker, controller, secure)
        try:
            start(instance, cache)
        except PortTaken:
            if attempt == PORT_ATTEMPTS:
                raise
            continue
        return instance.state["address"]
    raise AssertionError("the loop returns or raises")


def configure(instance: Instance, cache: Path, broker: int, controller: int, secure: bool) -> None:
    """Writes the configuration and formats the log folder."""
    data = instance.folder / "data"
    properties = instance.folder / "server.properties"
    text, users = PROPERTIES.format(broker=broker, controller=controller, data=data), []
    if secure:
        ports = dict(zip(("sasl", "sasl_ssl", "ssl"), free_ports(3)), broker=broker, controller=controller)
        text, users = kafka_secure.secure(text, instance, ports)
    properties.write_text(text)
    (instance.folder / "log4j2.properties").write_text(LOGGING)
    arguments = ["format", "-t", CLUSTER_ID, "-c", str(properties), "--ignore-formatted", *users]
    command = java_command(cache, instance.folder, "kafka.tools.StorageTool", *arguments)
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise StartFailed("cannot format the log folder of Kafka:\n" + result.stdout[-2000:])
    instance.save(service="kafka", address=f"127.0.0.1:{broker}")


def start(instance: Instance, cache: Path) -> None:
    """Runs the JVM and waits for its answer."""
    mark = log_size(instance)
    properties = str(instance.folder / "server.properties")
    process = instance.spawn("server", java_command(cache, instance.folder, "kafka.Kafka", properties), "server.log")
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = instance.log_tail("server.log")
            kind = PortTaken if "Address already in use" in log_since(instance, mark) else StartFailed
            raise kind(f"Kafka ended with code {process.returncode} while starting; its log ends:\n{tail}")
        try:
            if kafka_wire.ready(instance.state["address"]):
                return
        except (OSError, kafka_wire.KafkaError):
            pass
        time.sleep(0.1)
    instance.kill()
    tail = instance.log_tail("server.log")
    raise StartFailed(f"Kafka did not answer within {START_TIMEOUT_S:.0f} s; its log ends:\n{tail}")


def log_size(instance: Instance) -> int:
    """Where the next start's lines will begin."""
    log = instance.folder / "server.log"
    return log.stat().st_size if log.exists() else 0


def log_since(instance: Instance, mark: int) -> str:
    """What this start wrote; an earlier failed attempt must not be taken for this one."""
    with open(instance.folder / "server.log", errors="replace") as log:
        log.seek(mark)
        return log.read()


def restart(instance: Instance, cache: Path) -> str:
    """Stops the broker if it runs, then starts it on the same data and the same port."""
    instance.stop()
    for attempt in range(1, PORT_ATTEMPTS + 1):
        try:
            start(instance, cache)
            break
        except PortTaken:
            # The address is what clients hold, so it cannot change: wait for the port instead.
            if attempt == PORT_ATTEMPTS:
                raise
            time.sleep(1.0)
    return instance.state["address"]
