"""Topics, written and read by confluent-kafka, which shares no code with the server."""

import json

import confluent_kafka

PARTITIONS = 3


def producer(bootstrap, **settings):
    """A producer that writes a message once, also when it has to try again. Settings have underscores for dots."""
    always = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 2}
    return confluent_kafka.Producer(always | {name.replace("_", "."): value for name, value in settings.items()})


class Topic:
    """Everything in a topic, from the start, as readers of one isolation level see it."""

    def __init__(self, bootstrap, name, isolation="read_committed"):
        self.messages = []
        self.consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "reader",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": isolation,
                "log_level": 2,
            }
        )
        self.consumer.assign([confluent_kafka.TopicPartition(name, partition, 0) for partition in range(PARTITIONS)])

    def read(self):
        """Takes what has arrived."""
        for message in self.consumer.consume(10000, 0.2):
            if message.error() is None:
                self.messages.append((message.partition(), message.key(), message.value()))
        return self.messages

    def newest(self):
        """The newest row of each key; a tombstone takes it away. A key never moves between partitions."""
        held, homes = {}, {}
        for partition, key, value in self.read():
            assert homes.setdefault(key, partition) == partition, f"{key} is in two partitions"
            if value is None:
                held.pop(key, None)
            else:
                held[key] = json.loads(value)
        return held
