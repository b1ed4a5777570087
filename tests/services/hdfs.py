"""HDFS with one NameNode and one DataNode, each a JVM.

Invariant: `up` returns only after the NameNode counts a live DataNode and has left safe mode, so that the next write succeeds.
"""

import json
import os
import pwd
import subprocess
import urllib.request
from pathlib import Path

import jvm
from instance import Instance, free_ports

ROLES = ("datanode", "namenode")
PORTS = ("namenode", "namenode_http", "datanode", "datanode_ipc", "datanode_http")
OPENS = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in ("lang", "util", "net", "io")]

# Without a console appender a NameNode that cannot start dies without a word.
LOGGING = """\
log4j.rootLogger=INFO,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{HH:mm:ss.SSS} %p %m (%c{1})%n
"""


def up(instance: Instance, cache: Path, arguments) -> None:
    """Starts HDFS in a fresh folder, or what is stopped of the one in this folder."""
    if "address" in instance.state:
        if not all(instance.running(role) for role in ROLES):
            restart(instance, cache)
        return
    instance.save(service="hdfs", roles=ROLES)
    make(instance, cache)
    instance.save(address=f"127.0.0.1:{instance.state['hdfs_ports']['namenode']}")


def make(instance: Instance, cache: Path) -> None:
    """Starts HDFS in a fresh folder, which may be part of a larger service."""

    def attempt() -> None:
        configure(instance)
        start(instance, cache)

    jvm.again(attempt)
    # Any user may make a folder of his own, and nobody writes into that of another.
    web = f"http://127.0.0.1:{instance.state['hdfs_ports']['namenode_http']}/webhdfs/v1/"
    superuser = pwd.getpwuid(os.getuid()).pw_name
    request = urllib.request.Request(f"{web}?op=SETPERMISSION&permission=777&user.name={superuser}", method="PUT")
    urllib.request.urlopen(request, timeout=30).close()


def values(instance: Instance) -> dict[str, str]:
    """What a test needs to know."""
    ports = instance.state["hdfs_ports"]
    return {"HDFS_URL": f"hdfs://127.0.0.1:{ports['namenode']}", "HDFS_WEB": f"http://127.0.0.1:{ports['namenode_http']}"}


def configure(instance: Instance) -> None:
    """Writes the configuration folder, for new ports."""
    ports = dict(zip(PORTS, free_ports(len(PORTS))))
    conf = instance.folder / "hdfs-conf"
    # The NameNode looks these folders up on its classpath and ends when one is missing.
    for page in ("hdfs", "datanode", "static"):
        (conf / "webapps" / page).mkdir(parents=True, exist_ok=True)
    (conf / "log4j.properties").write_text(LOGGING)
    (conf / "core-site.xml").write_text(jvm.site({"fs.defaultFS": f"hdfs://127.0.0.1:{ports['namenode']}"}))
    properties = {
        "dfs.replication": 1,
        "dfs.namenode.name.dir": instance.folder / "namenode",
        "dfs.datanode.data.dir": instance.folder / "datanode",
        "dfs.namenode.http-address": f"127.0.0.1:{ports['namenode_http']}",
        "dfs.datanode.address": f"127.0.0.1:{ports['datanode']}",
        "dfs.datanode.ipc.address": f"127.0.0.1:{ports['datanode_ipc']}",
        "dfs.datanode.http.address": f"127.0.0.1:{ports['datanode_http']}",
        "dfs.namenode.datanode.registration.ip-hostname-check": "false",
        "dfs.namenode.safemode.extension": 0,
        "dfs.heartbeat.interval": 1,
        "dfs.datanode.du.reserved": 0,
    }
    (conf / "hdfs-site.xml").write_text(jvm.site(properties))
    instance.save(hdfs_ports=ports)


def start(instance: Instance, cache: Path) -> None:
    """Formats the name folder the first time, then runs both JVMs and waits until a file can be written."""
    conf = instance.folder / "hdfs-conf"
    options = ["-Xmx256m", *OPENS]
    namenode = "org.apache.hadoop.hdfs.server.namenode.NameNode"
    if not (instance.folder / "namenode").exists():
        command = jvm.command("hdfs", cache, conf, options, namenode, "-format", "-nonInteractive", "-force")
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            raise jvm.StartFailed("cannot format the NameNode:\n" + result.stdout[-2000:])
    jmx = f"http://127.0.0.1:{instance.state['hdfs_ports']['namenode_http']}/jmx?qry=Hadoop:service=NameNode,name="
    try:
        if not instance.running("namenode"):
            command = jvm.command("hdfs", cache, conf, options, namenode)
            jvm.start(instance, "namenode", "the NameNode", command, lambda: bool(bean(jmx + "NameNodeInfo")))
        if not instance.running("datanode"):
            command = jvm.command("hdfs", cache, conf, options, "org.apache.hadoop.hdfs.server.datanode.DataNode")
            jvm.start(instance, "datanode", "the DataNode", command, lambda: writable(jmx))
    except BaseException:
        for role in ROLES:
            instance.kill(role)
        raise


def admin(instance: Instance, cache: Path, safemode: str | None, quota: list[str] | None) -> list[list[str]]:
    """The commands of Hadoop's own dfsadmin for what is asked."""
    words = [["-safemode", safemode]] if safemode else []
    if quota:
        folder, size = quota
        words.append(["-clrSpaceQuota", folder] if size == "none" else ["-setSpaceQuota", size, folder])
    conf = instance.folder / "hdfs-conf"
    main = "org.apache.hadoop.hdfs.tools.DFSAdmin"
    return [jvm.command("hdfs", cache, conf, ["-Xmx128m", *OPENS], main, *each) for each in words]


def bean(url: str) -> dict:
    """The first bean of a JMX answer; empty when there is none yet."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        beans = json.load(answer).get("beans", [])
    return beans[0] if beans else {}


def writable(jmx: str) -> bool:
    """Whether a write would succeed now."""
    live = bean(jmx + "FSNamesystemState").get("NumLiveDataNodes", 0)
    return live >= 1 and bean(jmx + "NameNodeInfo").get("Safemode") == ""


def restart(instance: Instance, cache: Path, role: str | None = None) -> None:
    """Stops what runs of it, then starts it on the same data and ports."""
    for each in ROLES if role is None else (role,):
        instance.stop(each)
    jvm.again(lambda: start(instance, cache), wait_s=1.0)
