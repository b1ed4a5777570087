"""A Kafka broker in KRaft mode: broker and controller in one JVM.

Invariant: `up` returns only after the broker answered a metadata request on the port it prints.
"""

import subprocess
from pathlib import Path

import jvm
import kafka_secure
import kafka_wire
from instance import Instance, free_ports

CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qk"

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


def java_command(cache: Path, folder: Path, *arguments: str) -> list[str]:
    """The JVM with the Kafka jars. The serial collector keeps threads and memory small."""
    logging = f"-Dlog4j2.configurationFile=file:{folder}/log4j2.properties"
    return jvm.command("kafka", cache, folder, ["-Xms128m", "-Xmx512m", logging], *arguments)


def up(instance: Instance, cache: Path, arguments) -> None:
    """Starts a broker in a fresh folder, unless one runs there. With `--secure` it also listens with SCRAM and TLS."""
    instance.folder.mkdir(parents=True, exist_ok=True)

    def first() -> None:
        broker, controller = free_ports(2)
        configure(instance, cache, broker, controller, arguments.secure)
        start(instance, cache)

    jvm.up(instance, first, lambda: restart(instance, cache))


def values(instance: Instance) -> dict[str, str]:
    """What a test needs to know."""
    secure = {f"KAFKA_{key}": value for key, value in instance.state.get("secure", {}).items()}
    return {"KAFKA_BOOTSTRAP": instance.state["address"], **secure}


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
        raise jvm.StartFailed("cannot format the log folder of Kafka:\n" + result.stdout[-2000:])
    instance.save(service="kafka", address=f"127.0.0.1:{broker}")


def start(instance: Instance, cache: Path) -> None:
    """Runs the JVM and waits for its answer."""

    def answers() -> bool:
        try:
            return kafka_wire.ready(instance.state["address"])
        except kafka_wire.KafkaError:
            return False

    properties = str(instance.folder / "server.properties")
    jvm.start(instance, "server", "Kafka", java_command(cache, instance.folder, "kafka.Kafka", properties), answers)


def restart(instance: Instance, cache: Path, role: str | None = None) -> None:
    """Stops the broker if it runs, then starts it on the same data and the same port."""
    jvm.restart(instance, role, lambda: start(instance, cache))
