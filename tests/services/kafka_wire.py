"""Just enough of the Kafka protocol to ask a broker whether it is ready and to make topics.

Invariant: no code under test is used here, so a broken connector cannot make a broken broker look well.
"""

import socket
import struct
import time

API_METADATA, API_VERSIONS, API_CREATE_TOPICS, API_CREATE_PARTITIONS = 3, 18, 19, 37
TOPIC_EXISTS = 36


class KafkaError(Exception):
    """The broker answered with an error, or did not answer as the protocol says."""


def text(value: str) -> bytes:
    """A protocol string."""
    raw = value.encode()
    return struct.pack(">h", len(raw)) + raw


class Reply:
    """Reads the fields of a response in order."""

    def __init__(self, raw: bytes):
        self.raw, self.at = raw, 0

    def take(self, form: str):
        """The next number, by its struct format."""
        (value,) = struct.unpack_from(">" + form, self.raw, self.at)
        self.at += struct.calcsize(">" + form)
        return value

    def text(self):
        """The next nullable string."""
        size = self.take("h")
        if size < 0:
            return None
        self.at += size
        return self.raw[self.at - size : self.at].decode()


def call(bootstrap: str, api: int, version: int, body: bytes, timeout_s: float = 10.0) -> Reply:
    """One request on a connection of its own."""
    host, port = bootstrap.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=timeout_s) as sock:
        request = struct.pack(">hhi", api, version, 7) + text("thalweg-services") + body
        sock.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", receive(sock, 4))
        reply = Reply(receive(sock, size))
    if reply.take("i") != 7:
        raise KafkaError("the answer belongs to another request")
    return reply


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    raw = b""
    while len(raw) < size:
        chunk = sock.recv(size - len(raw))
        if not chunk:
            raise KafkaError("the broker closed the connection")
        raw += chunk
    return raw


def versions(bootstrap: str, timeout_s: float = 10.0) -> int:
    """How many APIs the broker offers."""
    reply = call(bootstrap, API_VERSIONS, 0, b"", timeout_s)
    code = reply.take("h")
    if code != 0:
        raise KafkaError(f"ApiVersions failed with code {code}")
    return reply.take("i")


def metadata(bootstrap: str, topic: str | None = None, timeout_s: float = 10.0):
    """(number of brokers, partition -> leader of `topic`)."""
    body = struct.pack(">i", 0) if topic is None else struct.pack(">i", 1) + text(topic)
    reply = call(bootstrap, API_METADATA, 1, body, timeout_s)
    brokers = reply.take("i")
    for _ in range(brokers):
        reply.take("i"), reply.text(), reply.take("i"), reply.text()
    reply.take("i")
    leaders = {}
    for _ in range(reply.take("i")):
        reply.take("h"), reply.text(), reply.take("b")
        for _ in range(reply.take("i")):
            reply.take("h")
            partition, leader = reply.take("i"), reply.take("i")
            for _ in range(2):
                for _ in range(reply.take("i")):
                    reply.take("i")
            leaders[partition] = leader
    return brokers, leaders


def ready(bootstrap: str) -> bool:
    """True when the broker answers ApiVersions and lists itself; an open port alone is too early."""
    return versions(bootstrap) > 0 and metadata(bootstrap)[0] > 0


def create_topic(bootstrap: str, name: str, partitions: int, configs: dict[str, str]) -> bool:
    """Creates a topic and waits until every partition has a leader; False when it was there already."""
    body = struct.pack(">i", 1) + text(name) + struct.pack(">ih", partitions, 1) + struct.pack(">i", 0)
    body += struct.pack(">i", len(configs))
    for key, value in configs.items():
        body += text(key) + text(value)
    body += struct.pack(">i?", 60000, False)
    reply = call(bootstrap, API_CREATE_TOPICS, 2, body, 70.0)
    reply.take("i"), reply.take("i"), reply.text()
    code, message = reply.take("h"), reply.text()
    if code not in (0, TOPIC_EXISTS):
        raise KafkaError(f'cannot create topic "{name}": {message or code}')
    if code == 0:
        await_leaders(bootstrap, name, partitions)
    return code == 0


def grow_topic(bootstrap: str, name: str, partitions: int) -> None:
    """Raises the number of partitions of a topic."""
    body = struct.pack(">i", 1) + text(name) + struct.pack(">i", partitions) + struct.pack(">i", -1)
    body += struct.pack(">i?", 60000, False)
    reply = call(bootstrap, API_CREATE_PARTITIONS, 0, body, 70.0)
    reply.take("i"), reply.take("i"), reply.text()
    code, message = reply.take("h"), reply.text()
    if code != 0:
        raise KafkaError(f'cannot grow topic "{name}": {message or code}')
    await_leaders(bootstrap, name, partitions)


def await_leaders(bootstrap: str, name: str, partitions: int, timeout_s: float = 60.0) -> None:
    """Waits until clients can write to every partition."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        leaders = metadata(bootstrap, name)[1]
        if len(leaders) >= partitions and all(leader >= 0 for leader in leaders.values()):
            return
        time.sleep(0.05)
    raise KafkaError(f'topic "{name}" has no leaders after {timeout_s} s')
