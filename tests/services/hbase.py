"""HBase on an HDFS of its own: ZooKeeper, master and two region servers in one JVM, and Thrift2 gateways in one JVM each, over
HTTP and HTTPS too when they are wanted; and a region server in a JVM of its own, beside gateways of other kinds.

Invariant: `up` returns only after every gateway answered a request that goes through to the master.
"""

import secrets
import subprocess
from pathlib import Path

import hbase_wire
import hdfs
import jvm
import maven
from instance import Instance, free_ports

START_TIMEOUT_S = 240.0
OPTIONS = [
    "-Dorg.apache.hbase.thirdparty.io.netty.tryReflectionSetAccessible=true",
    "--add-modules=jdk.unsupported",
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in (
            "java.nio", "sun.nio.ch", "java.lang", "jdk.internal.ref", "java.lang.reflect", "java.util",
            "java.util.concurrent", "jdk.internal.util.random", "java.net", "java.io",
        )
    ),
    "--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "--add-exports=java.base/sun.net.dns=ALL-UNNAMED",
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
]  # fmt: skip

# Gateways that speak HTTP, with and without TLS.
WEB = ("http_gateway", "https_gateway")
# A Thrift2 gateway and one of Thrift1, both as they are without options: unframed and binary.
PLAIN = {"unframed_gateway": "thrift2", "thrift1_gateway": "thrift"}
# It joins the master's two, and can die without them.
REGION_SERVER = "region_server"

LOGGING = """\
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{HH:mm:ss.SSS} %p %m (%c{1})%n
rootLogger.level={level}
rootLogger.appenderRef.console.ref=console
"""


def up(instance: Instance, cache: Path, arguments) -> None:
    """Starts HBase in a fresh folder, or what is stopped of the one in this folder."""
    if "address" in instance.state:
        if not all(instance.running(role) for role in instance.state["roles"]):
            restart(instance, cache)
        return
    gateways = [gateway_name(number) for number in range(arguments.gateways)] + (list(WEB) if arguments.web else [])
    gateways += [*PLAIN, REGION_SERVER] if arguments.others else []
    instance.save(service="hbase", roles=[*gateways, "server", *hdfs.ROLES])
    hdfs.make(instance, cache)

    def attempt() -> None:
        configure(instance, gateways)
        start(instance, cache)

    jvm.again(attempt)
    instance.save(address=f"127.0.0.1:{instance.state['hbase_ports']['gateway']}")


def gateway_name(number: int) -> str:
    """The role of a gateway: `gateway`, `gateway2`, `gateway3`."""
    return "gateway" if number == 0 else f"gateway{number + 1}"


def values(instance: Instance) -> dict[str, str]:
    """What a test needs to know."""
    ports = instance.state["hbase_ports"]
    gateways = [f"127.0.0.1:{ports[role]}" for role in instance.state["roles"] if role.startswith("gateway")]
    found = {"HBASE_THRIFT": ",".join(gateways)}
    if WEB[0] in ports:
        found |= {"HBASE_HTTP": f"http://127.0.0.1:{ports[WEB[0]]}/", "HBASE_HTTPS": f"https://127.0.0.1:{ports[WEB[1]]}/"}
        found["HBASE_CA"] = str(certificate(instance))
    for role in (*PLAIN, REGION_SERVER):
        if role in ports:
            found[f"HBASE_{role.upper()}"] = f"127.0.0.1:{ports[role]}"
    return {**found, **hdfs.values(instance)}


def certificate(instance: Instance) -> Path:
    """The certificate of the gateway that speaks HTTPS, which signs itself."""
    return instance.folder / "https_gateway.pem"


def make_certificate(instance: Instance, password: str) -> Path:
    """Makes it, and the key store with its key."""
    store = instance.folder / "https_gateway.p12"
    store.unlink(missing_ok=True)
    known = ["-alias", "gateway", "-keystore", str(store), "-storepass", password]
    keytool(
        "-genkeypair", *known, "-keypass", password, "-storetype", "PKCS12", "-keyalg", "RSA", "-keysize", "2048",
        "-validity", "2", "-dname", "CN=localhost", "-ext", "san=ip:127.0.0.1",
    )  # fmt: skip
    certificate(instance).write_text(keytool("-exportcert", "-rfc", *known))
    return store


def keytool(*arguments: str) -> str:
    """Runs the JDK's tool for keys; what it prints."""
    tool = Path(maven.java()).resolve().with_name("keytool")
    result = subprocess.run([tool, *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise jvm.StartFailed(f"keytool failed: {result.stdout}{result.stderr}")
    return result.stdout


def configure(instance: Instance, gateways: list[str]) -> None:
    """Writes the configuration folder, for new ports."""
    ports = dict(zip(("zookeeper", *gateways), free_ports(1 + len(gateways))))
    namenode = f"hdfs://127.0.0.1:{instance.state['hdfs_ports']['namenode']}"
    properties = {
        "hbase.cluster.distributed": "false",
        # On a local folder a kill -9 loses acknowledged writes: there is no hflush there.
        "hbase.rootdir": f"{namenode}/hbase",
        "hbase.wal.dir": f"{namenode}/hbasewal",
        "hbase.tmp.dir": instance.folder / "hbase-tmp",
        "hbase.zookeeper.quorum": "127.0.0.1",
        "hbase.zookeeper.property.clientPort": ports["zookeeper"],
        "hbase.zookeeper.property.dataDir": instance.folder / "zookeeper",
        "hbase.master.hostname": "localhost",
        "hbase.regionserver.hostname": "localhost",
        "hbase.master.ipc.address": "127.0.0.1",
        "hbase.regionserver.ipc.address": "127.0.0.1",
        "hbase.master.info.port": -1,
        "hbase.regionserver.info.port": -1,
        "hbase.thrift.info.port": -1,
        "hbase.localcluster.assign.random.ports": "true",
        "hbase.regionserver.thrift.framed": "true",
        "hbase.regionserver.thrift.compact": "true",
        "hbase.regionserver.thrift.server.type": "threadedselector",
        "hbase.regionserver.thrift.framed.max_frame_size_in_mb": 64,
        "hbase.client.operation.timeout": 30000,
        "hbase.rpc.timeout": 10000,
        "hbase.client.retries.number": 5,
        "dfs.replication": 1,
        "dfs.client.read.shortcircuit": "false",
    }
    write(instance.folder / "hbase-conf", properties)
    if WEB[0] in gateways:
        password = secrets.token_hex(12)
        over_http = {**properties, "hbase.regionserver.thrift.http": "true"}
        over_https = {
            **over_http,
            "hbase.thrift.ssl.enabled": "true",
            "hbase.thrift.ssl.keystore.store": make_certificate(instance, password),
            "hbase.thrift.ssl.keystore.password": password,
            "hbase.thrift.ssl.keystore.keypassword": password,
        }
        write(instance.folder / f"{WEB[0]}-conf", over_http)
        write(instance.folder / f"{WEB[1]}-conf", over_https)
    if REGION_SERVER in gateways:
        plain = {**properties, "hbase.regionserver.thrift.framed": "false", "hbase.regionserver.thrift.compact": "false"}
        for role in PLAIN:
            write(instance.folder / f"{role}-conf", {**plain, "hbase.regionserver.thrift.server.type": "threadpool"})
        # A region server alone is one of a cluster; its death is known when its session ends.
        alone = {"hbase.cluster.distributed": "true", "hbase.regionserver.port": ports[REGION_SERVER], "zookeeper.session.timeout": 10000}
        write(instance.folder / f"{REGION_SERVER}-conf", {**properties, **alone})
    instance.save(hbase_ports=ports)


def write(conf: Path, properties: dict) -> None:
    """A configuration folder."""
    conf.mkdir(exist_ok=True)
    (conf / "log4j2.properties").write_text(LOGGING.replace("{level}", "INFO"))
    (conf / "client-log4j2.properties").write_text(LOGGING.replace("{level}", "ERROR"))
    (conf / "hbase-site.xml").write_text(jvm.site(properties))


def start(instance: Instance, cache: Path) -> None:
    """Runs the JVMs that do not run and waits for their answers."""
    conf = instance.folder / "hbase-conf"
    ports = instance.state["hbase_ports"]
    try:
        if not instance.running("server"):
            main = ["org.apache.hadoop.hbase.master.HMaster", "start", "--localRegionServers=2"]
            command = jvm.command("hbase", cache, conf, ["-Xmx768m", *OPTIONS], *main)
            port = ports["zookeeper"]
            jvm.start(instance, "server", "HBase", command, lambda: hbase_wire.listens(port), START_TIMEOUT_S)
        for role in instance.state["roles"]:
            if "gateway" in role and not instance.running(role):
                start_gateway(instance, cache, role)
            if role == REGION_SERVER and not instance.running(role):
                start_region_server(instance, cache)
    except BaseException:
        for role in instance.state["roles"]:
            if role not in hdfs.ROLES:
                instance.kill(role)
        raise


def start_gateway(instance: Instance, cache: Path, role: str) -> None:
    """Runs one gateway."""
    conf = instance.folder / (f"{role}-conf" if role in WEB or role in PLAIN else "hbase-conf")
    port = instance.state["hbase_ports"][role]
    authority = certificate(instance) if role == WEB[1] else None
    package = PLAIN.get(role, "thrift2")
    framed = [] if role in PLAIN else ["-f", "-c"]
    main = [f"org.apache.hadoop.hbase.{package}.ThriftServer", "-b", "127.0.0.1", "-p", str(port), "--infoport", "-1", *framed]
    command = jvm.command("hbase", cache, conf, ["-Xmx256m", *OPTIONS], *main)
    if role in WEB:
        answers = lambda: hbase_wire.ready_over_http(port, authority)
    elif role in PLAIN:
        question = {"thrift2": b"listNamespaces", "thrift": b"getTableNames"}[package]
        answers = lambda: hbase_wire.ready_unframed(port, question)
    else:
        answers = lambda: hbase_wire.ready(port)
    jvm.start(instance, role, f"the {package} gateway", command, answers, START_TIMEOUT_S)


def start_region_server(instance: Instance, cache: Path) -> None:
    """Runs the region server that has a JVM of its own."""
    conf = instance.folder / f"{REGION_SERVER}-conf"
    port = instance.state["hbase_ports"][REGION_SERVER]
    main = ["org.apache.hadoop.hbase.regionserver.HRegionServer", "start"]
    command = jvm.command("hbase", cache, conf, ["-Xmx384m", *OPTIONS], *main)
    jvm.start(instance, REGION_SERVER, "the region server", command, lambda: hbase_wire.listens(port), START_TIMEOUT_S)


def restart(instance: Instance, cache: Path, role: str | None = None) -> None:
    """Stops what runs of it (or one role), then starts what is stopped, on the same data and ports."""
    for each in instance.state["roles"] if role is None else (role,):
        instance.stop(each)
    jvm.again(lambda: hdfs.start(instance, cache), wait_s=1.0)
    jvm.again(lambda: start(instance, cache), wait_s=1.0)


def admin(instance: Instance, cache: Path) -> list[str]:
    """The command of the Java client that reads, writes and administers tables without any gateway."""
    conf = instance.folder / "hbase-conf"
    source = Path(__file__).with_name("HBaseClient.java")
    logging = f"-Dlog4j2.configurationFile=file:{conf}/client-log4j2.properties"
    return jvm.command("hbase", cache, conf, ["-Xmx256m", logging, *OPTIONS], str(source))
