"""The one Thrift2 request that tells whether a gateway serves, framed and compact.

Invariant: written from the protocol's description and independent of the code under test.
"""

import socket
import struct

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


def exactly(sock: socket.socket, count: int) -> bytes:
    """That many bytes, or ConnectionError."""
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionError("the gateway closed the connection")
        data += more
    return data
