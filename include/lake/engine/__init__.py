"""Who computes: the port through which the runner has rows computed and published, and the engine that is behind it.

Every engine speaks Spark Connect, so sessions and frames are those of PySpark.
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class Engine(Protocol):
    """What the runner wants of whoever computes. Tables come from the store, as their address and version."""

    def opened(self, given: "SparkSession | None" = None) -> "AbstractContextManager[SparkSession]":
        """`given`, or a session of our own, which ends with the block, and with it whatever still runs in it."""

    def view(self, spark: "SparkSession", name: str, address: str, version: int) -> None:
        """Let the session's SELECTs read a table, as it is at one version, under a name."""

    def materialise(self, frame: "DataFrame") -> "AbstractContextManager[DataFrame]":
        """The rows, computed once whatever reads them in the block: what was checked is what is published."""

    def publish(self, rows: "DataFrame", address: str, where: str, metadata: str) -> None:
        """Replace those rows of a table for which `where` is true in one commit, which carries `metadata`."""

    def kind(self, error: BaseException) -> str | None:
        """The class of an error of the engine, one of those in `errors`; None for an error of something else."""

    def start(self) -> str:
        """Start the lake's own server unless it runs; gives its address."""

    def stop(self) -> bool:
        """Stop the lake's own server; False if none was running."""

    def address(self) -> str | None:
        """Where the lake's own server listens; None if it does not run."""


def engine() -> Engine:
    """The engine of this lake: Spark."""
    from include.lake.engine import spark

    return spark
