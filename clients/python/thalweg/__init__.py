"""Client of the Thalweg streaming SQL server.

>>> import thalweg
>>> with thalweg.connect("127.0.0.1:5433") as db:
...     db.query("SELECT 1 AS one").rows
[(1,)]
"""

from .connection import Connection, connect
from .errors import Error, SubscriptionLost
from .result import Result
from .subscription import Changes, Subscription

__all__ = ["Changes", "Connection", "Error", "Result", "Subscription", "SubscriptionLost", "connect"]
__version__ = "0.1.0"
