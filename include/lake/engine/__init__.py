"""Who computes: the port through which the runner has rows computed and published, and the engines behind it.

All engines speak Spark Connect, so sessions and frames are those of PySpark.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from include.lake import settings

if TYPE_CHECKING:
    # Not at run time: the set-up of an empty machine reads this room before pydantic is installed.
    from pyspark.sql import DataFrame, Row, SparkSession

    from include.lake.project.contracts import Contract
    from include.lake.storage import Snapshot


class Computed(Protocol):
    """Rows of a table that are computed once, whatever reads them: what was checked is what is published.

    `frame`: the contract's columns without RUN_TIMESTAMP, and DROP_REASON.
    """

    @property
    def frame(self) -> "DataFrame": ...

    def publish(
        self, contract: "Contract", target: "Snapshot", partitions: list[str], run_timestamp: datetime,
        record: Mapping[str, Any], staying: Any = None,
    ) -> None:  # fmt: skip
        """Replace partitions of the target by the rows without a drop reason, in one commit that carries `record`.

        staying: what `materialise` gave of rows of these partitions, with all columns of the contract. They are written
        again as they are.
        """


class Engine(Protocol):
    """What the runner wants of whoever computes. Tables come from the store, as their address and version."""

    def opened(self, given: "SparkSession | None" = None) -> "AbstractContextManager[SparkSession]":
        """`given`, or a session of our own, which ends with the block, and with it whatever still runs in it."""

    def view(self, spark: "SparkSession", name: str, address: str, version: int) -> None:
        """Let the session's SELECTs read a table, as it is at one version, under a name."""

    def types(self, frame: "DataFrame") -> dict[str, str]:
        """Column -> its type. Every error of the SQL comes here, as an AnalysisException, and nothing is computed."""

    def materialise(self, frame: "DataFrame") -> AbstractContextManager[Computed]:
        """The rows of a frame, computed once. They are gone after the block."""

    def collect(self, frame: "DataFrame") -> "list[Row]":
        """The rows of a small frame. Its errors have the right `kind`."""

    def kind(self, error: BaseException) -> str | None:
        """The class of an error of the engine, one of those in `errors`; None for an error of something else."""

    def start(self) -> str:
        """Start the lake's own server unless it runs; gives its address. UsageError where no server is ours."""

    def stop(self) -> bool:
        """Stop the lake's own server; False if none was running. UsageError where others run the server."""

    def address(self) -> str | None:
        """Where the lake's own server listens; None if it does not run. UsageError where there is no server."""


def engine() -> Engine:
    """The engine of this lake (`LAKE_ENGINE`)."""
    if settings.engine() == settings.SAIL:
        from include.lake.engine import sail

        return sail
    if settings.on_databricks():
        from include.lake.engine import databricks

        return databricks
    from include.lake.engine import spark

    return spark
