"""Spark: a session of the Connect server that is named or running, else one inside this process."""

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import dataset

from include.lake import settings
from include.lake.engine import connect, kinds, server, spark_server, toolchain
from include.lake.errors import CONFLICT, UsageError
from include.lake.project.contracts import DROP_REASON, RUN_TIMESTAMP, Contract
from include.lake.storage import ANY_DAY, Snapshot, arrow, may_try_again, store

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

# Maintenance of a table commits a few times a week. A build that meets it more often than this meets something else.
_AGAIN = 5

# Of the port `Engine`, with the functions below.
address, kind = partial(server.address, settings.SPARK), kinds.of


def start() -> str:
    """Start the lake's own server unless it runs; gives its address."""
    _require_ours()
    return server.start(settings.SPARK)


def stop() -> bool:
    """Stop the lake's own server; False if none was running."""
    _require_ours()
    return server.stop()


def _require_ours() -> None:
    if others := settings.server_of_others():
        raise UsageError(
            f"LAKE_ENGINE names a server that others run: start and stop {others} where it runs, or set LAKE_ENGINE "
            f"to {settings.SAIL} or {settings.SPARK}"
        )


@contextmanager
def opened(given: "SparkSession | None" = None) -> "Iterator[SparkSession]":
    """`given`; or a session of a server, which ends with the block; or the session of this process."""
    if given is not None:
        yield given
    elif where := _address():
        with connect.session(where, SESSION_CONF, settings.engine_token()) as spark:
            if others := settings.server_of_others():
                _require_spark(spark, others)
            yield spark
    else:
        yield _in_process()


def _require_spark(spark: "SparkSession", where: str) -> None:
    """UsageError if the server is Sail. It says a version of Spark, too, but its SQL says its own."""
    (version,) = collect(spark.sql("select version()"))[0]
    if not version.startswith(spark.version):
        raise UsageError(f"the server at {where} is no Spark (it says version {version}): for Sail, LAKE_ENGINE=sail")


def _address() -> str | None:
    chosen = settings.engine()
    return address() if chosen == settings.SPARK else chosen


@cache
def _in_process() -> "SparkSession":
    from pyspark.sql import SparkSession

    os.environ["JAVA_HOME"] = str(toolchain.java_home())
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder: Any = SparkSession.builder.master(f"local[{settings.engine_cores()}]").appName("lake")
    quiet = {"spark.log.level": "ERROR"}  # Spark shares the terminal with the command line
    spill = {"spark.local.dir": str(server.temporary_folder())}
    for name, value in {**spark_server.spark_conf(), **SESSION_CONF, **quiet, **spill}.items():
        builder = builder.config(name, value)
    session: SparkSession = builder.getOrCreate()
    return session


def view(spark: "SparkSession", name: str, address: str, version: int) -> None:
    """Let the session's SELECTs read a table, as it is at one version of its Delta log, under a name."""
    spark.read.format("delta").option("versionAsOf", version).load(address).createOrReplaceTempView(name)


def types(frame: "DataFrame") -> dict[str, str]:
    """Column -> its type."""
    return dict(frame.dtypes)


@dataclass(frozen=True)
class Cached:
    """Rows that Spark keeps in its cache."""

    frame: "DataFrame"

    def publish(
        self, contract: Contract, target: Snapshot, partitions: list[str], run_timestamp: datetime,
        record: Mapping[str, Any], staying: Any = None,
    ) -> None:  # fmt: skip
        """Replace partitions of the target by the rows without a drop reason, in one commit that carries `record`."""
        from pyspark.sql import functions as F

        rows = self.frame.where(F.col(DROP_REASON).isNull()).drop(DROP_REASON)
        if contract.kept_by and ANY_DAY not in partitions:
            rows = rows.where(F.col(contract.place_column).isin(partitions) if contract.place_column else F.lit(False))
        if RUN_TIMESTAMP in contract.column_names:
            rows = rows.withColumn(RUN_TIMESTAMP, F.lit(run_timestamp).cast("timestamp"))
        # rebalance: few files of a sensible size per partition, however many tasks computed the rows
        rows = rows.select(*contract.column_names)
        if staying:
            rows = rows.union(staying.frame.select(*contract.column_names))
        rows = rows.hint("rebalance", *contract.partitioned_by)
        if contract.kept_by:
            self._publish_keys(rows, contract, target, partitions, record)
            return
        place = f"`{contract.day_column}` >= '{partitions[0]}' and `{contract.day_column}` <= '{partitions[-1]}'"
        writer = rows.write.format("delta").mode("overwrite").option("replaceWhere", place)
        writer = writer.option("userMetadata", json.dumps(record, separators=(",", ":")))
        for attempt in range(_AGAIN):
            try:
                return self._save(writer, target.address)
            except Exception as error:
                # Maintenance lays the same rows into other files. The rows in the cache are still right.
                again = attempt + 1 < _AGAIN and kind(error) == CONFLICT and may_try_again(contract, target, partitions)
                if not again:
                    raise

    def _save(self, writer: Any, address: str) -> None:
        writer.save(address)

    def _publish_keys(
        self, rows: "DataFrame", contract: Contract, target: Snapshot, places: list[str], record: Mapping[str, Any]
    ) -> None:
        """Let delta-rs commit the rows, exactly on top of the target's version.

        Rows of a table kept by key stand on all earlier ones. Spark would also commit on top of a version that it was
        not told of, and then a key of another build might be lost or there twice.
        """
        from include.lake.storage import delta_files  # not at the top: a run of Databricks, which has no delta-rs

        # In the table's folder, which Spark and delta-rs reach, each with its own credentials.
        files, folder = delta_files.file_system(target.handle.delta), f"_stage/{uuid.uuid4().hex}"
        try:
            rows.write.parquet(f"{target.address}/{folder}")
            schema = arrow.arrow_schema(contract)
            staged = dataset.dataset(folder, schema, format="parquet", filesystem=files)
            store().replace(
                contract, lambda: pa.RecordBatchReader.from_batches(schema, arrow.batches(staged)),
                partitions=places, record=record, since=target,
            )  # fmt: skip
        finally:
            with suppress(FileNotFoundError):
                files.delete_dir(folder)


@contextmanager
def materialise(frame: "DataFrame") -> "Iterator[Cached]":
    """The rows, computed once whatever reads them in the block."""
    from pyspark.errors import PySparkException

    kept = frame.persist()
    try:
        yield Cached(kept)
    finally:
        with suppress(PySparkException):  # of a session that is gone, and the rows with it: Ctrl-C, a dead server
            kept.unpersist()


def collect(frame: "DataFrame") -> "list[Row]":
    """The rows of a small frame."""
    return frame.collect()
