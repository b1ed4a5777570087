"""S3 as moto has it: one process, everything in its memory, requests signed with the key that it prints.

Invariant: `up` returns when the bucket is there and a request that is not signed with the key is refused. What a killed server
held is gone: after a restart the bucket is empty and the key is another.
"""

import re
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import jvm
import packages
from instance import Instance, free_ports

BUCKET = "lake"
USER = "thalweg"
EVERYTHING = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'


def up(instance: Instance, cache: Path, arguments) -> None:
    """Starts a server in a fresh folder, unless one runs there."""

    def first() -> None:
        instance.save(service="s3", address=f"127.0.0.1:{free_ports(1)[0]}")
        start(instance, cache)

    jvm.up(instance, first, lambda: restart(instance, cache))


def values(instance: Instance) -> dict[str, str]:
    """What a test needs to know."""
    keys = {name.upper(): instance.state[name] for name in ("s3_access_key_id", "s3_secret_access_key")}
    return {"S3_ENDPOINT": f"http://{instance.state['address']}", "S3_BUCKET": BUCKET, **keys}


def start(instance: Instance, cache: Path) -> None:
    """Runs the server, makes a key and the bucket, and has every request checked from then on."""
    host, port = instance.state["address"].split(":")
    command = [*packages.python("s3", cache), "-m", "moto.server", "-H", host, "-p", port]
    jvm.start(instance, "server", "moto", command, lambda: bool(ask(instance, "s3", "GET", "/moto-api/data.json")))
    iam(instance, "CreateUser", UserName=USER)
    iam(instance, "PutUserPolicy", UserName=USER, PolicyName="everything", PolicyDocument=EVERYTHING)
    key = iam(instance, "CreateAccessKey", UserName=USER)
    fields = {"s3_access_key_id": "AccessKeyId", "s3_secret_access_key": "SecretAccessKey"}
    instance.save(**{name: re.search(f"<{field}>(.*?)</{field}>", key)[1] for name, field in fields.items()})
    ask(instance, "s3", "PUT", f"/{BUCKET}")
    ask(instance, "s3", "POST", "/moto-api/reset-auth", b"0")


def iam(instance: Instance, action: str, **parameters: str) -> str:
    """A request to the accounts of the server, as long as it takes unsigned ones."""
    form = urlencode({"Action": action, "Version": "2010-05-08", **parameters})
    return ask(instance, "iam", "POST", "/", form.encode())


def ask(instance: Instance, service: str, method: str, path: str, body: bytes | None = None) -> str:
    """An unsigned request; the server finds the service by the scope of the signature."""
    scope = f"AWS4-HMAC-SHA256 Credential=nobody/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=none"
    url = f"http://{instance.state['address']}{path}"
    # Of a form moto takes the fields; what is no form it takes as it is.
    kind = "application/x-www-form-urlencoded" if service == "iam" else "text/plain"
    headers = {"Authorization": scope, "Content-Type": kind}
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def restart(instance: Instance, cache: Path, role: str | None = None) -> None:
    """Stops the server if it runs, then starts an empty one on the same port."""
    jvm.restart(instance, role, lambda: start(instance, cache))
