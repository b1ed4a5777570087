"""The real server binary as a child process, and the real broker from tests/services.

Invariant: nothing started here outlives the tests: the server is killed on exit, the broker watches our pid.
"""

import json
import os
import pathlib
import pwd
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import psycopg
import pyarrow.fs

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ROOT / "tests" / "services"
START_TIMEOUT_S = 120.0


def binary() -> Path:
    """THALWEG_BIN, else the debug build."""
    named = os.environ.get("THALWEG_BIN")
    if named:
        return Path(named)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "debug" / "thalweg"


def until(condition, what: str, timeout_s: float = 180.0):
    """Waits for a condition; its value when it holds. An exception inside counts as not yet."""
    deadline = time.monotonic() + timeout_s
    last = None
    while time.monotonic() < deadline:
        try:
            value = condition()
            if value:
                return value
            last = value
        except Exception as error:  # A client may see any error of its own while the server restarts.
            last = error
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what}; last seen: {last!r}")


class Server:
    """`thalweg serve` on free ports over a data dir that survives restarts; file sources read below `files`."""

    def __init__(self, environment: dict[str, str] | None = None):
        self.environment = os.environ | (environment or {})
        self.data_dir = Path(tempfile.mkdtemp(prefix="thalweg-clients-"))
        self.files = self.data_dir / "files"
        self.files.mkdir()
        (self.data_dir / "thalweg.toml").write_text(f"file_root = '{self.files}'\n")
        self.process = None
        self.pg = self.flight = self.http = None

    def start(self, crash_at: str | None = None) -> "Server":
        """Starts and waits for the ready line. A debug build can be told at which step to fail."""
        environment = self.environment | ({"THALWEG_CRASH_AT": crash_at} if crash_at else {})
        address = ["--pg", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        command = [str(binary()), "serve", "--data-dir", str(self.data_dir / "data"), "--config", str(self.data_dir / "thalweg.toml"), *address]
        self.log = open(self.data_dir / "server.log", "ab")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)
        lines = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout, lines), daemon=True).start()
        try:
            line = lines.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            line = ""
        if not line.startswith("ready "):
            self.kill()
            raise AssertionError(f"the server did not get ready, it said {line!r}; its log ends:\n{self.log_tail()}")
        parts = dict(word.split("=", 1) for word in line.split()[1:])
        self.pg, self.flight, self.http = parts["pg"], parts["flight"], parts["http"]
        self.lines = lines
        return self

    @staticmethod
    def _read(stream, lines):
        for line in stream:
            lines.put(line.strip())
        lines.put("")

    @property
    def pg_port(self) -> int:
        """Port of the Postgres wire."""
        return int(self.pg.rsplit(":", 1)[1])

    def dsn(self, **extra) -> str:
        """A libpq connection string."""
        words = {"host": "127.0.0.1", "port": self.pg_port, "user": "app", "dbname": "thalweg", **extra}
        return " ".join(f"{name}={value}" for name, value in words.items())

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the server's log."""
        return "\n".join((self.data_dir / "server.log").read_text(errors="replace").splitlines()[-lines:])

    def kill(self):
        """SIGKILL."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def sql(self, text: str, *parameters):
        """Runs SQL on a connection of its own: the rows, or how many were changed."""
        with psycopg.connect(self.dsn(), autocommit=True, connect_timeout=60) as connection:
            cursor = connection.execute(text, parameters or None)
            return cursor.fetchall() if cursor.description else cursor.rowcount

    def terminate(self) -> int:
        """SIGTERM; the exit code. Fails when the server needs more than a minute."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def close(self):
        """Ends the process and removes the data."""
        self.kill()
        shutil.rmtree(self.data_dir, ignore_errors=True)


class Unavailable(Exception):
    """The service cannot be had on this machine."""


def services(*words) -> dict[str, str]:
    """Runs a verb of tests/services; what it prints of the service. What went wrong is in the failure."""
    result = subprocess.run([SERVICES / words[0], *words[1:]], capture_output=True, text=True)
    if result.returncode == 2:
        raise Unavailable(result.stderr.strip())
    assert result.returncode == 0, f"tests/services/{' '.join(map(str, words))} ended with {result.returncode}:\n{result.stderr}"
    return dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)


class HBase:
    """A real HBase with two Thrift2 gateways, one over HTTP and one over HTTPS, and its Java client as the independent reader and writer.

    `more` are options of tests/services that take the place of these gateways."""

    def __init__(self, *more: str):
        self.folder = tempfile.mkdtemp(prefix="thalweg-hbase-")
        arguments = ["hbase", "--run", self.folder, *(more or ("--gateways", "2", "--web")), "--parent-pid", str(os.getpid())]
        self.values = values = services("up", *arguments)
        self.servers = values["HBASE_THRIFT"]
        if not more:
            self.http, self.https = values["HBASE_HTTP"], values["HBASE_HTTPS"]
            self.certificate = pathlib.Path(values["HBASE_CA"]).read_text()
        self.java = subprocess.Popen(
            [SERVICES / "hbase_client", "--run", self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, request: str) -> list[str]:
        """A request to the Java client."""
        self.java.stdin.write(request + "\n")
        self.java.stdin.flush()
        lines = []
        while (line := self.java.stdout.readline().rstrip("\n")) != "ok":
            assert line and not line.startswith("error "), f"{request}: {line}"
            lines.append(line)
        return lines

    def verb(self, name: str, role: str):
        """kill, pause, resume or restart of one process."""
        services(name, "hbase", "--run", self.folder, "--role", role)

    def close(self):
        """Ends HBase and removes its data."""
        self.java.stdin.close()
        self.java.wait(30)
        subprocess.run([SERVICES / "down", "--run", self.folder], check=False, capture_output=True)


class Hdfs:
    """A real HDFS: a NameNode and a DataNode; WebHDFS is the independent reader."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="thalweg-hdfs-")
        arguments = ["hdfs", "--run", self.folder, "--parent-pid", str(os.getpid())]
        values = services("up", *arguments)
        self.url, self.web = values["HDFS_URL"], values["HDFS_WEB"]

    def verb(self, name: str, role: str):
        """kill, pause, resume or restart of one process."""
        services(name, "hdfs", "--run", self.folder, "--role", role)

    def admin(self, *words: str):
        """What its administrator does: `--safemode enter`, `--quota /folder 1`."""
        services("hdfs_admin", "--run", self.folder, *words)

    def permit(self, path: str, octal: str, owner: str):
        """Its owner says who may do what with a folder."""
        url = f"{self.web}/webhdfs/v1{path}?op=SETPERMISSION&permission={octal}&user.name={owner}"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=30).close()

    def ask(self, path: str, operation: str) -> bytes:
        """A read of WebHDFS."""
        with urllib.request.urlopen(f"{self.web}/webhdfs/v1{urllib.parse.quote(path)}?op={operation}", timeout=30) as answer:
            return answer.read()

    def write(self, path: str, content: bytes, append=False):
        """Writes a file whole, over one that is there, or more behind one that is."""
        operation, method = ("APPEND", "POST") if append else ("CREATE&overwrite=true", "PUT")
        user = pwd.getpwuid(os.getuid()).pw_name
        url = f"{self.web}/webhdfs/v1{urllib.parse.quote(path)}?op={operation}&noredirect=true&user.name={user}"
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as answer:
            place = json.load(answer)["Location"]
        request = urllib.request.Request(place, data=content, method=method, headers={"Content-Type": "application/octet-stream"})
        urllib.request.urlopen(request, timeout=30).close()

    def delete(self, path: str):
        """Removes a file."""
        user = pwd.getpwuid(os.getuid()).pw_name
        url = f"{self.web}/webhdfs/v1{urllib.parse.quote(path)}?op=DELETE&user.name={user}"
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=30).close()

    def files(self, folder: str) -> dict[str, int]:
        """Every file below a folder, with its length."""
        found = {}
        for entry in json.loads(self.ask(folder, "LISTSTATUS"))["FileStatuses"]["FileStatus"]:
            path = f"{folder}/{entry['pathSuffix']}"
            if entry["type"] == "DIRECTORY":
                found |= self.files(path)
            else:
                found[path] = entry["length"]
        return found

    def close(self):
        """Ends HDFS and removes its data."""
        subprocess.run([SERVICES / "down", "--run", self.folder], check=False, capture_output=True)


class ObjectStore:
    """A server that speaks the protocol of S3 or of Azure; pyarrow's own clients are the independent readers."""

    def __init__(self, service: str):
        self.service, self.folder = service, tempfile.mkdtemp(prefix=f"thalweg-{service}-")
        arguments = [service, "--run", self.folder, "--parent-pid", str(os.getpid())]
        self.values = services("up", *arguments)

    def verb(self, name: str):
        """pause or resume: the port stays open and nothing answers."""
        services(name, self.service, "--run", self.folder)

    def close(self):
        """Ends the server and removes its data."""
        subprocess.run([SERVICES / "down", "--run", self.folder], check=False, capture_output=True)


class S3(ObjectStore):
    """S3 as moto has it. What the server is asked for is checked against the key."""

    def __init__(self):
        super().__init__("s3")
        self.bucket = self.values["S3_BUCKET"]
        self.key, self.secret = self.values["S3_ACCESS_KEY_ID"], self.values["S3_SECRET_ACCESS_KEY"]
        self.endpoint = self.values["S3_ENDPOINT"]

    def path(self, folder: str) -> str:
        """The option `path` of a folder."""
        return f"s3://{self.bucket}/{folder}"

    def options(self, folder: str, **other: str | None) -> str:
        """Options of an archive in a folder, of which some may be others, or be left out."""
        options = {
            "connector": "s3",
            "path": self.path(folder),
            "s3.endpoint": self.endpoint,
            "s3.allow.http": "true",
            "s3.region": "us-east-1",
            "s3.access.key.id": self.key,
            "s3.secret.access.key": self.secret,
        }
        return written(options | {f"s3.{name.replace('_', '.')}" if name != "path" else name: value for name, value in other.items()})

    def environment(self) -> dict[str, str]:
        """What the server may know by itself."""
        return {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}

    def files(self):
        """The file system, as pyarrow has it."""
        return pyarrow.fs.S3FileSystem(
            access_key=self.key, secret_key=self.secret, endpoint_override=self.endpoint, region="us-east-1", request_timeout=30
        )


class Azure(ObjectStore):
    """Azure Blob Storage as azurite has it."""

    def __init__(self):
        super().__init__("azure")
        self.bucket = self.values["AZURE_CONTAINER"]
        self.account, self.secret = self.values["AZURE_ACCOUNT"], self.values["AZURE_ACCESS_KEY"]
        self.endpoint = self.values["AZURE_ENDPOINT"]

    def path(self, folder: str) -> str:
        """The option `path` of a folder."""
        return f"azure://{self.bucket}/{folder}"

    def options(self, folder: str, **other: str | None) -> str:
        """Options of an archive in a folder, of which some may be others, or be left out."""
        options = {
            "connector": "azure",
            "path": self.path(folder),
            "azure.account": self.account,
            "azure.endpoint": self.endpoint,
            "azure.allow.http": "true",
            "azure.access.key": self.secret,
        }
        return written(options | {f"azure.{name.replace('_', '.')}" if name != "path" else name: value for name, value in other.items()})

    def files(self):
        """The file system, as pyarrow has it."""
        host = self.endpoint.split("/")[2]
        return pyarrow.fs.AzureFileSystem(
            account_name=self.account,
            account_key=self.secret,
            blob_storage_authority=host,
            blob_storage_scheme="http",
            dfs_storage_authority=host,
            dfs_storage_scheme="http",
        )


def written(options: dict[str, str | None]) -> str:
    """Options as WITH takes them, without those that are None."""
    return ", ".join(f"{name} = '{value}'" for name, value in options.items() if value is not None)


class Kafka:
    """A real broker; a secure one also listens with SCRAM and TLS."""

    def __init__(self, secure=False):
        self.folder = tempfile.mkdtemp(prefix="thalweg-kafka-")
        arguments = ["kafka", "--run", self.folder, "--parent-pid", str(os.getpid())]
        arguments += ["--secure"] if secure else []
        values = services("up", *arguments)
        self.bootstrap = values["KAFKA_BOOTSTRAP"]
        self.values = values

    def verb(self, name: str):
        """kill, pause, resume or restart."""
        services(name, "kafka", "--run", self.folder)

    def topic(self, name: str, partitions: int):
        """Creates a topic."""
        services("topic", self.bootstrap, name, str(partitions))

    def close(self):
        """Ends the broker and removes its data."""
        subprocess.run([SERVICES / "down", "--run", self.folder], check=False, capture_output=True)
