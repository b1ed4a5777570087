"""The service scripts themselves, against real servers.

Proves: the printed address answers, data and port survive kill -9, a paused server keeps its port open but
is silent, two brokers run side by side, one process of HBase can be killed alone, nothing is left after `down`
or after the parent process died.
"""

import datetime
import hashlib
import hmac
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import hbase_wire  # noqa: E402
import kafka_wire  # noqa: E402
import fetched  # noqa: E402
import maven  # noqa: E402
from instance import Instance, free_ports, started_at  # noqa: E402

HERE = Path(__file__).resolve().parent
REQUIRED = os.environ.get("THALWEG_REQUIRE_SERVICES") == "1"


def verb(name, *arguments, check=True):
    """Runs a verb; its NAME=value lines as a dict."""
    result = subprocess.run([HERE / name, *map(str, arguments)], capture_output=True, text=True)
    if check and result.returncode != 0:
        raise AssertionError(f"{name} failed: {result.stderr}")
    values = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
    return result, values


def until(condition, what, timeout_s=120.0):
    """Waits for a condition."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"still not: {what}")
        time.sleep(0.05)


class Service(unittest.TestCase):
    def start(self, service, *arguments):
        folder = Path(tempfile.mkdtemp(prefix=f"thalweg-{service}-"))
        self.addCleanup(verb, "down", "--run", folder)
        result, values = verb("up", service, "--run", folder, *arguments, check=False)
        if result.returncode == 2 and not REQUIRED:
            self.skipTest(result.stderr.strip())
        self.assertEqual(result.returncode, 0, result.stderr)
        return folder, values


class Kafka(Service):
    def up(self, *arguments):
        folder, values = self.start("kafka", *arguments)
        return folder, values["KAFKA_BOOTSTRAP"]

    def test_life_of_a_broker(self):
        folder, bootstrap = self.up()
        other, second = self.up()
        self.assertNotEqual(bootstrap, second)
        verb("topic", bootstrap, "t", 4)
        self.assertEqual(verb("topic", bootstrap, "t", 4, check=False)[0].returncode, 1)
        verb("topic", bootstrap, "t", 6, "--grow")
        self.assertEqual(len(kafka_wire.metadata(bootstrap, "t")[1]), 6)

        verb("kill", "kafka", "--run", folder)
        self.assertRaises(OSError, kafka_wire.versions, bootstrap)
        self.assertTrue(kafka_wire.ready(second), "the other broker runs on")
        _, values = verb("restart", "kafka", "--run", folder)
        self.assertEqual(values["KAFKA_BOOTSTRAP"], bootstrap)
        until(lambda: len(kafka_wire.metadata(bootstrap, "t")[1]) == 6, "the topic is back")

        verb("pause", "kafka", "--run", folder)
        self.assertRaises(TimeoutError, kafka_wire.versions, bootstrap, 0.5)
        verb("resume", "kafka", "--run", folder)
        until(lambda: kafka_wire.ready(bootstrap), "a resumed broker answers")

        pids = [Instance(one).state["server"]["pid"] for one in (folder, other)]
        verb("down", "--run", folder)
        verb("down", "--run", other)
        self.assertEqual([started_at(pid) for pid in pids], [None, None])
        self.assertFalse(folder.exists() or other.exists())

    def test_the_broker_ends_with_its_parent(self):
        parent = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        folder, _ = self.up("--parent-pid", parent.pid)
        pid = Instance(folder).state["server"]["pid"]
        self.assertIsNotNone(started_at(pid))
        parent.kill()
        parent.communicate()
        until(lambda: started_at(pid) is None and not folder.exists(), "the broker is gone")


class HBase(Service):
    def client(self, folder, *requests):
        """The answers of the Java client, one list of lines per request, the last of which is `ok` or an error."""
        result = subprocess.run(
            [HERE / "hbase_client", "--run", folder], input="\n".join(requests), capture_output=True, text=True, timeout=120
        )
        answers, lines = [], []
        for line in result.stdout.splitlines():
            lines.append(line)
            if line == "ok" or line.startswith("error "):
                answers.append(lines)
                lines = []
        self.assertEqual(len(answers), len(requests), result.stderr)
        return answers

    def test_life_of_hbase(self):
        folder, values = self.start("hbase", "--gateways", "2", "--web")
        first, second = (int(address.split(":")[1]) for address in values["HBASE_THRIFT"].split(","))
        self.assertTrue(hbase_wire.ready(first) and hbase_wire.ready(second))
        over_http, over_https = (int(values[name].rstrip("/").rsplit(":")[-1]) for name in ("HBASE_HTTP", "HBASE_HTTPS"))
        self.assertTrue(hbase_wire.ready_over_http(over_http))
        self.assertTrue(hbase_wire.ready_over_http(over_https, values["HBASE_CA"]))
        self.assertFalse(hbase_wire.ready_over_http(over_https), "without TLS")
        rows = ["61 d 71 7631 1000 Put", "7a d 71 7632 2000 Put", "ok"]
        made = self.client(folder, "create t d 1 6d", "put t 61 d 71 7631 1000", "put t 7a d 71 7632 2000", "scan t", "regions t")
        self.assertEqual(made[:4], [["ok"], ["ok"], ["ok"], rows])
        self.assertEqual(len(made[4]), 3)
        self.assertIn("NoSuchColumnFamily", self.client(folder, "put t 61 zz 71 7631")[0][0])

        verb("kill", "hbase", "--run", folder, "--role", "gateway")
        self.assertRaises(OSError, hbase_wire.ready, first)
        self.assertTrue(hbase_wire.ready(second), "the other gateway runs on")
        self.assertIn("without gateway ", verb("status", "--run", folder)[0].stdout)
        verb("pause", "hbase", "--run", folder, "--role", "gateway2")
        self.assertRaises(TimeoutError, hbase_wire.ready, second, 0.5)
        verb("resume", "hbase", "--run", folder, "--role", "gateway2")
        until(lambda: hbase_wire.ready(second), "a resumed gateway answers")
        self.assertEqual(verb("kill", "hbase", "--run", folder, "--role", "gateway", check=False)[0].returncode, 1)
        self.assertIn("it has", verb("kill", "hbase", "--run", folder, "--role", "broker", check=False)[0].stderr)

        verb("kill", "hbase", "--run", folder)
        self.assertIn("hbase stopped", verb("status", "--run", folder)[0].stdout)
        _, again = verb("restart", "hbase", "--run", folder)
        self.assertEqual(again["HBASE_THRIFT"], values["HBASE_THRIFT"])
        self.assertEqual(self.client(folder, "scan t"), [rows], "acknowledged rows survive kill -9 of everything")

        pids = [Instance(folder).state[role]["pid"] for role in Instance(folder).roles()]
        self.assertEqual(len(pids), 7)
        verb("down", "--run", folder)
        self.assertEqual([started_at(pid) for pid in pids], [None] * 7)
        self.assertFalse(folder.exists())


class Hdfs(Service):
    def put(self, url, data):
        return urllib.request.urlopen(urllib.request.Request(url, data=data, method="PUT"), timeout=30)

    def test_life_of_hdfs(self):
        folder, values = self.start("hdfs")
        url = f"{values['HDFS_WEB']}/webhdfs/v1/d/file?user.name=root&op="
        # The NameNode names the DataNode that takes the bytes.
        with self.put(f"{url}CREATE&noredirect=true", b"") as answer:
            location = json.load(answer)["Location"]
        self.put(location, b"0123456789").close()
        verb("kill", "hdfs", "--run", folder)
        verb("restart", "hdfs", "--run", folder)
        with urllib.request.urlopen(f"{url}OPEN", timeout=30) as answer:
            self.assertEqual(answer.read(), b"0123456789")
        parent = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        other, _ = self.start("hdfs", "--parent-pid", parent.pid)
        pids = [Instance(other).state[role]["pid"] for role in Instance(other).roles()]
        parent.kill()
        parent.communicate()
        until(lambda: [started_at(pid) for pid in pids] == [None, None] and not other.exists(), "both processes are gone")


class ObjectStores(Service):
    def signed(self, values, method, path, headers=None):
        """The status of a request to S3 that is signed with the printed key."""
        now = datetime.datetime.now(datetime.timezone.utc)
        host, day = values["S3_ENDPOINT"].removeprefix("http://"), f"{now:%Y%m%d}"
        names = {"host": host, "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}", "x-amz-content-sha256": "UNSIGNED-PAYLOAD", **(headers or {})}
        lines = "".join(f"{name}:{names[name]}\n" for name in sorted(names))
        listed, scope = ";".join(sorted(names)), f"{day}/us-east-1/s3/aws4_request"
        canonical = f"{method}\n{path}\n\n{lines}\n{listed}\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        key = f"AWS4{values['S3_SECRET_ACCESS_KEY']}".encode()
        for part in (day, "us-east-1", "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        text = f"AWS4-HMAC-SHA256\n{names['x-amz-date']}\n{scope}\n{digest}"
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        credential = f"{values['S3_ACCESS_KEY_ID']}/{scope}"
        names["Authorization"] = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={listed}, Signature={signature}"
        request = urllib.request.Request(values["S3_ENDPOINT"] + path, data=b"x" if method == "PUT" else None, method=method, headers=names)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def test_s3_keeps_to_the_condition_of_a_put(self):
        folder, values = self.start("s3")
        condition = {"if-none-match": "*"}
        self.assertEqual(self.signed(values, "PUT", "/lake/one", condition), 200)
        self.assertEqual(self.signed(values, "PUT", "/lake/one", condition), 412)
        self.assertEqual(self.signed(values, "PUT", "/lake/one"), 200)
        self.assertEqual(self.signed({**values, "S3_SECRET_ACCESS_KEY": "x"}, "GET", "/lake/one"), 403)
        verb("pause", "s3", "--run", folder)
        with self.assertRaises(TimeoutError):
            urllib.request.urlopen(values["S3_ENDPOINT"], timeout=0.5)
        verb("resume", "s3", "--run", folder)
        self.assertEqual(self.signed(values, "GET", "/lake/one"), 200)
        verb("restart", "s3", "--run", folder)

    def test_life_of_azure(self):
        folder, values = self.start("azure")
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{values['AZURE_ENDPOINT']}/lake/one", timeout=10)
        self.assertIn(refused.exception.code, (403, 404))
        _, again = verb("restart", "azure", "--run", folder)
        self.assertEqual(again, values)


class Scripts(unittest.TestCase):
    def test_unknown_services_say_so(self):
        result, _ = verb("up", "kafak", check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("no service", result.stderr)

    def test_ports_are_distinct(self):
        self.assertEqual(len(set(free_ports(50))), 50)

    def test_one_pom_per_service(self):
        self.assertIn("<artifactId>kafka_2.13</artifactId>", maven.pom("kafka", fetched.coordinates("kafka")))
        self.assertEqual(maven.pom("hbase", fetched.coordinates("hbase")).count("<exclusion>"), 1)
        self.assertRaises(fetched.Unavailable, fetched.coordinates, "nothing")


if __name__ == "__main__":
    unittest.main()
