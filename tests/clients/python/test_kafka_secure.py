"""Sources and sinks over SCRAM and TLS, against a broker that listens with both.

Proves: each protocol works with its options in a source and in a sink, mutual TLS included; a wrong password, a broker that nobody
vouches for and a missing client certificate are refused with an SQLSTATE; no secret shows up again.
"""

import os

import confluent_kafka
import psycopg
import pytest

import process
import topics

ROWS = 200


@pytest.fixture(scope="module")
def secure():
    """A broker with SCRAM and TLS listeners."""
    try:
        broker = process.Kafka(secure=True)
    except process.Unavailable as error:
        if os.environ.get("THALWEG_REQUIRE_SERVICES") == "1":
            pytest.fail(str(error))
        pytest.skip(f"SKIPPED, no secure Kafka here: {error}")
    try:
        broker.topic("numbers", 2)
        producer = topics.producer(broker.bootstrap)
        for number in range(ROWS):
            producer.produce("numbers", f'{{"n": {number}}}'.encode())
        assert producer.flush(60) == 0
        yield broker
    finally:
        broker.close()


def text(broker, name):
    """A file of the broker as a SQL string."""
    with open(broker.values[f"KAFKA_{name}"]) as file:
        return "'" + file.read().replace("'", "''") + "'"


def options(broker, protocol, **changes):
    """The properties for a listener."""
    found = {
        "bootstrap.server": f"'{broker.values['KAFKA_' + protocol]}'",
        "security.protocol": f"'{protocol}'",
    }
    if protocol.startswith("SASL"):
        mechanism = "SCRAM-SHA-256" if protocol == "SASL_PLAINTEXT" else "SCRAM-SHA-512"
        found["sasl.mechanism"] = f"'{mechanism}'"
        found["sasl.username"] = f"'{broker.values['KAFKA_USER']}'"
        found["sasl.password"] = f"'{broker.values['KAFKA_PASSWORD']}'"
    if protocol.endswith("SSL"):
        found["ssl.ca.pem"] = text(broker, "CA")
    if protocol == "SSL":
        found["ssl.certificate.pem"] = text(broker, "CLIENT_CERTIFICATE")
        found["ssl.key.pem"] = text(broker, "CLIENT_KEY")
    for name, value in changes.items():
        name = name.replace("_", ".")
        if value is None:
            found.pop(name)
        else:
            found[name] = value
    return ", ".join(f"properties.{name} = {value}" for name, value in found.items())


def source(name, properties):
    """A source over the topic."""
    return f"CREATE SOURCE {name} (n int) WITH (connector = 'kafka', topic = 'numbers', {properties}) FORMAT PLAIN ENCODE JSON"


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL", "SSL"])
def test_rows_go_in_and_out(server, secure, protocol):
    name = protocol.lower()
    secure.topic(f"out_{name}", 2)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(source(f"in_{name}", options(secure, protocol)))
        connection.execute(f"CREATE MATERIALIZED VIEW v_{name} AS SELECT n FROM in_{name} WHERE n >= 0")
        connection.execute(f"WAIT FOR v_{name}")
        assert connection.execute(f"SELECT count(*), sum(n) FROM v_{name}").fetchone() == (ROWS, ROWS * (ROWS - 1) // 2)
        connection.execute(
            f"CREATE SINK s_{name} FROM v_{name} WITH (connector = 'kafka', topic = 'out_{name}', {options(secure, protocol)}) FORMAT PLAIN ENCODE JSON"
        )
        connection.execute(f"WAIT FOR s_{name}")
        shown = connection.execute(f"SHOW CREATE SOURCE in_{name}").fetchone()[1] + connection.execute(f"SHOW CREATE SINK s_{name}").fetchone()[1]
        assert secure.values["KAFKA_PASSWORD"] not in shown and "PRIVATE KEY" not in shown
    consumer = confluent_kafka.Consumer({"bootstrap.servers": secure.bootstrap, "group.id": name, "auto.offset.reset": "earliest"})
    consumer.assign([confluent_kafka.TopicPartition(f"out_{name}", partition, 0) for partition in range(2)])
    arrived = []
    process.until(lambda: arrived.extend(m.value() for m in consumer.consume(1000, 0.2)) or len(arrived) >= ROWS, "all rows in the sink's topic")
    assert sorted(arrived) == sorted(f'{{"n":{number}}}'.encode() for number in range(ROWS))
    consumer.close()


@pytest.mark.parametrize(
    ("protocol", "changes", "sqlstates"),
    [
        ("SASL_PLAINTEXT", {"sasl_password": "'wrong'"}, {"28000"}),
        ("SASL_SSL", {"sasl_username": "'mallory'"}, {"28000"}),
        ("SASL_SSL", {"ssl_ca_pem": None}, {"08001", "28000"}),
        ("SSL", {"ssl_certificate_pem": None, "ssl_key_pem": None}, {"08001", "28000", "22023"}),
        ("SSL", {"ssl_ca_pem": "'nonsense'"}, {"22023"}),
    ],
)
def test_who_is_not_known_is_refused(server, secure, protocol, changes, sqlstates):
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        for statement in (
            source("refused", options(secure, protocol, **changes)),
            "CREATE SINK refused AS SELECT 1 AS n WITH (connector = 'kafka', topic = 'numbers', primary_key = 'n', force_append_only = true, "
            + options(secure, protocol, **changes)
            + ") FORMAT PLAIN ENCODE JSON",
        ):
            with pytest.raises(psycopg.Error) as refused:
                connection.execute(statement)
            assert refused.value.sqlstate in sqlstates, str(refused.value)
            assert "wrong" not in str(refused.value) and "nonsense" not in str(refused.value)
    assert secure.values["KAFKA_PASSWORD"] not in server.log_tail(10_000)
