"""Listeners with SCRAM and TLS for a broker, and the certificates they need.

Invariant: the plaintext listener stays, so that the scripts and tests can look at the same topics from the other side.
"""

import secrets
import subprocess
from pathlib import Path

import fetched

USER = "alice"

LISTENERS = """\
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller},SASL_PLAINTEXT://127.0.0.1:{sasl},SASL_SSL://127.0.0.1:{sasl_ssl},SSL://127.0.0.1:{ssl}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker},SASL_PLAINTEXT://127.0.0.1:{sasl},SASL_SSL://127.0.0.1:{sasl_ssl},SSL://127.0.0.1:{ssl}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PKCS12
ssl.keystore.location={keystore}
ssl.keystore.password={store_password}
ssl.key.password={store_password}
ssl.truststore.type=PEM
ssl.truststore.location={client_ca}
listener.name.ssl.ssl.client.auth=required
"""


def secure(text: str, instance, ports: dict) -> tuple[str, list[str]]:
    """The configuration with the listeners added, and the arguments that make the user when the log folder is formatted."""
    folder = instance.folder
    password, store_password = secrets.token_hex(12), secrets.token_hex(12)
    keystore = certificates(folder, store_password)
    lines = [line for line in text.splitlines() if not line.startswith(("listeners=", "advertised.listeners="))]
    values = {"keystore": keystore, "store_password": store_password, "client_ca": folder / "client.pem", **ports}
    instance.save(
        secure={
            "SASL_PLAINTEXT": f"127.0.0.1:{ports['sasl']}",
            "SASL_SSL": f"127.0.0.1:{ports['sasl_ssl']}",
            "SSL": f"127.0.0.1:{ports['ssl']}",
            "CA": str(folder / "broker.pem"),
            "CLIENT_CERTIFICATE": str(folder / "client.pem"),
            "CLIENT_KEY": str(folder / "client.key"),
            "USER": USER,
            "PASSWORD": password,
        }
    )
    users = []
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
        users += ["--add-scram", f"{mechanism}=[name={USER},password={password}]"]
    return "\n".join(lines) + "\n" + LISTENERS.format(**values), users


def certificates(folder: Path, password: str) -> Path:
    """A certificate for the broker and one for a client, each its own authority; the broker's key store."""
    for name, subject in (("broker", "/CN=broker"), ("client", f"/CN={USER}")):
        run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", subject,
            "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"),
        )
    store = folder / "broker.p12"
    run(
        "openssl", "pkcs12", "-export", "-name", "broker", "-in", str(folder / "broker.pem"),
        "-inkey", str(folder / "broker.key"), "-out", str(store), "-passout", f"pass:{password}",
    )
    return store


def run(*command: str) -> None:
    """Runs a tool; a missing one means that this cannot be had here."""
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise fetched.Unavailable(f"{command[0]} is not installed") from error
    if result.returncode != 0:
        raise OSError(f"{command[0]} failed: {result.stderr[-500:]}")
