"""Spark: a session of the Connect server that is named or running, else one inside this process."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from include.lake import settings
from include.lake.engine import connect, server, spark_server, toolchain
from include.lake.errors import CODE, CONFLICT, DATA, INFRASTRUCTURE
from include.lake.project.contracts import DROP_REASON, RUN_TIMESTAMP, Contract
from include.lake.storage import Snapshot

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession

# Settings of every session, because another user may have started the server with other ones.
SESSION_CONF = {
    # SELECTs take days from UTC, and casts do not depend on a timezone.
    "spark.sql.session.timeZone": "UTC",
    # Spark's default, INT96, counts nanoseconds, and other readers fail on years after 2262.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # A build that replaces no rows by no rows also needs a commit, because the commit carries the build record.
    "spark.databricks.delta.skipRecordingEmptyCommits": "false",
}
_CLASSES = {
    # What the kinds of SQLSTATE mean: https://spark.apache.org/docs/latest/sql-error-conditions-sqlstates.html
    "07": CODE,  # dynamic SQL
    "0A": CODE,  # not supported
    "21": DATA,  # one row was expected and several came
    "22": DATA,  # a value that cannot be cast, divided by, indexed with …
    "23": DATA,  # a constraint of the table
    "2D": CONFLICT,  # Delta: somebody else committed in between
    # A function of ours on some value. Spark says 38 of Python functions and 39 of others; other days may do well.
    "38": DATA,
    "39": DATA,
    "40": CONFLICT,  # a transaction that was rolled back
    "42": CODE,  # syntax, names, types
    "44": DATA,  # Delta: a row outside the range that is replaced
    "46": CODE,  # a class or a setting that Spark has not
    "54": DATA,  # a limit on what one row or one job may hold
    "P0": DATA,  # raise_error() in a SELECT
}
_SQLSTATE = re.compile(r"\bSQLSTATE: (\w\w)")
# How Delta says that someone else committed in between. Through Connect only the name in the text survives.
_CONFLICTS = ("DELTA_CONCURRENT", "ConcurrentAppend", "ConcurrentDelete", "ConcurrentWrite", "DELTA_METADATA_CHANGED")


@contextmanager
def opened(given: "SparkSession | None" = None) -> "Iterator[SparkSession]":
    """`given`; or a session of a server, which ends with the block; or the session of this process."""
    if given is not None:
        yield given
    elif where := _address():
        with connect.session(where, SESSION_CONF) as spark:
            yield spark
    else:
        yield _in_process()


def _address() -> str | None:
    chosen = settings.engine()
    return address() if chosen == settings.SPARK else chosen


def start() -> str:
    """Start the lake's own server unless it runs; gives its address."""
    return server.start(settings.SPARK)


def stop() -> bool:
    """Stop the lake's own server; False if none was running."""
    return server.stop()


def address() -> str | None:
    """Where the lake's own server listens; None if it does not run."""
    return server.address(settings.SPARK)


@cache
def _in_process() -> "SparkSession":
    from pyspark.sql import SparkSession

    os.environ["JAVA_HOME"] = str(toolchain.java_home())
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder: Any = SparkSession.builder.master(f"local[{settings.engine_cores()}]").appName("lake")
    quiet = {"spark.log.level": "ERROR"}  # Spark shares the terminal with the command line
    spill = {"spark.local.dir": str(server.temporary_folder(str(os.getpid())))}
    for name, value in {**spark_server.spark_conf(), **SESSION_CONF, **quiet, **spill}.items():
        builder = builder.config(name, value)
    session: SparkSession = builder.getOrCreate()
    return session


def view(spark: "SparkSession", name: str, address: str, version: int) -> None:
    """Let the session's SELECTs read a table, as it is at one version of its Delta log, under a name."""
    spark.read.format("delta").option("versionAsOf", version).load(address).createOrReplaceTempView(name)


@dataclass(frozen=True)
class _Cached:
    """Rows that Spark keeps in its cache."""

    frame: "DataFrame"

    def publish(
        self, contract: Contract, target: Snapshot, partitions: list[str], run_timestamp: datetime,
        record: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Replace partitions of the target by the rows without a drop reason, in one commit that carries `record`."""
        from pyspark.sql import functions as F

        rows = self.frame.where(F.col(DROP_REASON).isNull()).drop(DROP_REASON)
        if RUN_TIMESTAMP in contract.column_names:
            rows = rows.withColumn(RUN_TIMESTAMP, F.lit(run_timestamp).cast("timestamp"))
        # rebalance: few files of a sensible size per partition, however many tasks computed the rows
        rows = rows.select(*contract.column_names).hint("rebalance", *contract.partitioned_by)
        place = f"`{contract.day_column}` >= '{partitions[0]}' and `{contract.day_column}` <= '{partitions[-1]}'"
        writer = rows.write.format("delta").mode("overwrite").option("replaceWhere", place)
        writer.option("userMetadata", json.dumps(record, separators=(",", ":"))).save(target.address)


@contextmanager
def materialise(frame: "DataFrame") -> "Iterator[_Cached]":
    """The rows, computed once whatever reads them in the block."""
    kept = frame.persist()
    try:
        yield _Cached(kept)
    finally:
        kept.unpersist()


def collect(frame: "DataFrame") -> "list[Row]":
    """The rows of a small frame."""
    return frame.collect()


def kind(error: BaseException) -> str | None:
    """The class of an error of Spark, also where it is the text of another error; None for other errors."""
    if any(name in str(error) for name in _CONFLICTS):
        return CONFLICT
    # By name, so that a failure is explained without importing Spark.
    is_spark = any(base.__name__ == "PySparkException" for base in type(error).__mro__)
    state = getattr(error, "getSqlState", lambda: None)() if is_spark else None
    if not state and (in_text := _SQLSTATE.search(str(error))):
        state = in_text[1]
    if state:
        return _CLASSES.get(state[:2], INFRASTRUCTURE)
    # An error without a state is one of Spark or its machine, and not of what it was asked for.
    return INFRASTRUCTURE if is_spark or type(error).__module__.startswith("grpc") else None
