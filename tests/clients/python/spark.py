"""Spark, which reads the folders of archives as they lie, with partition discovery.

Spark is 500 MB, so it is no part of the other clients: THALWEG_SPARK names a Python that has pyspark 4.
"""

import ast
import json
import os
import subprocess
import tempfile
import threading

# Reads a folder for each line of its input: what some expressions over all rows give, and the rows by one column.
SCRIPT = """
import json, sys
from pyspark.sql import SparkSession

settings = {"spark.ui.enabled": "false", "spark.driver.memory": "600m", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
builder = SparkSession.builder.master("local[1]")
for name, value in settings.items():
    builder = builder.config(name, value)
session = builder.getOrCreate()
for line in sys.stdin:
    asked = json.loads(line)
    try:
        rows = session.read.parquet(asked["folder"])
        totals = tuple(rows.selectExpr(*asked["totals"]).collect()[0])
        answer = (totals, {str(row[0]): row[1] for row in rows.groupBy(asked["by"]).count().collect()})
    except Exception as error:
        answer = str(error)
    print("ANSWER", repr(answer), flush=True)
"""


# Seconds that Spark may think.
PATIENCE_S = 300


class Spark:
    """A Spark of its own process."""

    def __init__(self, python: str):
        user = {"HADOOP_USER_NAME": os.environ.get("USER", "root")}
        self.log = tempfile.TemporaryFile("w+")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log}
        self.child = subprocess.Popen([python, "-c", SCRIPT], text=True, env=os.environ | user, **pipes)

    def read(self, folder, totals, by):
        """The values of `totals` over the rows of a folder, and how many rows there are by a column; or why it cannot be read."""
        print(json.dumps({"folder": str(folder), "totals": totals, "by": by}), file=self.child.stdin, flush=True)
        late = threading.Timer(PATIENCE_S, self.child.kill)
        late.start()
        answer = next((line for line in self.child.stdout if line.startswith("ANSWER ")), None)
        late.cancel()
        assert answer, f"Spark ended or took longer than {PATIENCE_S} s:\n{self.tail()}"
        return ast.literal_eval(answer.removeprefix("ANSWER "))

    def tail(self):
        self.log.seek(0)
        return "".join(self.log.readlines()[-20:])

    def close(self):
        self.child.stdin.close()
        self.child.wait(60)


def here() -> Spark | None:
    """Spark, where there is one."""
    python = os.environ.get("THALWEG_SPARK")
    return Spark(python) if python else None
