"""The one request that tells whether a gateway serves: framed and compact, or in the binary protocol, unframed or over HTTP.

Invariant: written from the protocol's description and independent of the code under test.
"""

import http.client
import socket
import ssl
import struct
from pathlib import Path

NAME = b"listNamespaces"
CALL, REPLY = 1, 2


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    socket.create_connection(("127.0.0.1", port), timeout=2).close()
    return True


def request(sequence: int = 1) -> bytes:
    """A call without arguments: header, name, and a struct that stops at once."""
    body = bytes([0x82, CALL << 5 | 1, sequence, len(NAME)]) + NAME + b"\0"
    return struct.pack(">i", len(body)) + body


def ready(port: int, timeout_s: float = 20.0) -> bool:
    """Whether the gateway lists namespaces, which it asks the master for."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as sock:
        sock.sendall(request())
        body = exactly(sock, struct.unpack(">i", exactly(sock, 4))[0])
    header = 4 + len(NAME)
    if body[:2] != bytes([0x82, REPLY << 5 | 1]) or body[4:header] != NAME:
        return False
    # Field 0 is the result, a list (type 9) of strings (element type 8); an exception would be field 1.
    return body[header : header + 2] == b"\x09\x00" and body[header + 2] & 0x0F == 8


def ready_over_http(port: int, authority: Path | None = None, timeout_s: float = 20.0) -> bool:
    """The same of a gateway that speaks HTTP, over TLS when its certificate's authority is given."""
    if authority is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    else:
        context = ssl.create_default_context(cafile=authority)
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout_s, context=context)
    try:
        connection.request("POST", "/", binary(NAME, CALL) + b"\0", {"Content-Type": "application/x-thrift"})
        answer = connection.getresponse()
        body = answer.read()
    except http.client.HTTPException:
        return False
    finally:
        connection.close()
    # Field 0 of type 15 is the list.
    return answer.status == 200 and body.startswith(binary(NAME, REPLY) + b"\x0f\0\0")


def ready_unframed(port: int, name: bytes, timeout_s: float = 20.0) -> bool:
    """Whether a gateway that speaks the binary protocol without frames answers a question of this name with a list."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as sock:
        sock.sendall(binary(name, CALL) + b"\0")
        expected = binary(name, REPLY) + b"\x0f\0\0"
        return exactly(sock, len(expected)) == expected


def binary(name: bytes, kind: int) -> bytes:
    """The head of a message in the binary protocol."""
    return struct.pack(">HHi", 0x8001, kind, len(name)) + name + struct.pack(">i", 1)


def exactly(sock: socket.socket, count: int) -> bytes:
    """That many bytes, or ConnectionError."""
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionError("the gateway closed the connection")
        data += more
    return data
