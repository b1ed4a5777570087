"""Azure Blob Storage as azurite has it: one process, blobs in its folder, requests signed with the key that it prints.

Invariant: `up` returns when the container is there. What was written in the seconds before a kill may be gone.
"""

import base64
import hashlib
import hmac
import os
import urllib.error
import urllib.request
from email.utils import formatdate
from pathlib import Path

import jvm
import packages
from instance import Instance, free_ports

ACCOUNT = "thalweg"
CONTAINER = "lake"
VERSION = "2021-12-02"


def up(instance: Instance, cache: Path, arguments) -> None:
    """Starts a server in a fresh folder, unless one runs there."""

    def first() -> None:
        key = base64.b64encode(os.urandom(64)).decode()
        instance.save(service="azure", address=f"127.0.0.1:{free_ports(1)[0]}", azure_access_key=key)
        start(instance, cache)

    jvm.up(instance, first, lambda: restart(instance, cache))


def values(instance: Instance) -> dict[str, str]:
    """What a test needs to know."""
    return {
        "AZURE_ENDPOINT": f"http://{instance.state['address']}/{ACCOUNT}",
        "AZURE_ACCOUNT": ACCOUNT,
        "AZURE_CONTAINER": CONTAINER,
        "AZURE_ACCESS_KEY": instance.state["azure_access_key"],
    }


def start(instance: Instance, cache: Path) -> None:
    """Runs the server and makes the container."""
    host, port = instance.state["address"].split(":")
    node, modules = packages.node("azure", cache)
    program = modules / "azurite" / "dist" / "src" / "blob" / "main.js"
    accounts = f"AZURITE_ACCOUNTS={ACCOUNT}:{instance.state['azure_access_key']}"
    place = ["--blobHost", host, "--blobPort", port, "--location", str(instance.folder / "blobs")]
    command = ["env", accounts, node, str(program), *place, "--disableTelemetry", "--skipApiVersionCheck"]
    jvm.start(instance, "server", "azurite", command, lambda: make_container(instance))


def make_container(instance: Instance) -> bool:
    """Whether the container is there, which one request makes sure of."""
    date = formatdate(usegmt=True)
    headers = f"x-ms-date:{date}\nx-ms-version:{VERSION}\n"
    resource = f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    text = "PUT" + "\n" * 12 + headers + resource
    key = base64.b64decode(instance.state["azure_access_key"])
    signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
    request = urllib.request.Request(
        f"http://{instance.state['address']}/{ACCOUNT}/{CONTAINER}?restype=container",
        method="PUT",
        headers={"x-ms-date": date, "x-ms-version": VERSION, "Authorization": f"SharedKey {ACCOUNT}:{signature}"},
    )
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        # After a restart it is there.
        if error.code != 409:
            raise
    return True


def restart(instance: Instance, cache: Path, role: str | None = None) -> None:
    """Stops the server if it runs, then starts it on the same blobs and the same port."""
    jvm.restart(instance, role, lambda: start(instance, cache))
