"""The service scripts themselves, against a real broker.

Proves: the printed address answers, data and port survive kill -9, a paused broker keeps its port open but
is silent, two brokers run side by side, nothing is left after `down` or after the parent process died.
"""

import os
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import kafka_wire  # noqa: E402
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


def until(condition, what, timeout_s=15.0):
    """Waits for a condition."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"still not: {what}")
        time.sleep(0.05)


class Kafka(unittest.TestCase):
    def up(self, *arguments):
        folder = Path(tempfile.mkdtemp(prefix="thalweg-kafka-"))
        self.addCleanup(verb, "down", "--run", folder)
        result, values = verb("up", "kafka", "--run", folder, *arguments, check=False)
        if result.returncode == 2 and not REQUIRED:
            self.skipTest(result.stderr.strip())
        self.assertEqual(result.returncode, 0, result.stderr)
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


class Scripts(unittest.TestCase):
    def test_unbuilt_and_unknown_services_say_so(self):
        for name, code, word in (("hbase", 2, "not built yet"), ("hdfs", 2, "not built yet"), ("kafak", 1, "no service")):
            result, _ = verb("up", name, check=False)
            self.assertEqual(result.returncode, code)
            self.assertIn(word, result.stderr)

    def test_ports_are_distinct(self):
        self.assertEqual(len(set(free_ports(50))), 50)

    def test_one_pom_per_service(self):
        self.assertIn("<artifactId>kafka_2.13</artifactId>", maven.pom("kafka", maven.coordinates("kafka")))
        self.assertRaises(maven.Unavailable, maven.coordinates, "nothing")


if __name__ == "__main__":
    unittest.main()
