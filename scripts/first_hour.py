"""The first hour on a workspace: what the lake takes for granted of Databricks, each tried once, with what came of it.

Run it there as a file, in a notebook of a serverless environment 5, or on a cluster, as the service principal:
    main("wev_dev.first_hour")
It makes and drops tables of this schema alone. `as expected` needs nothing; a line with OTHERWISE needs a look at the
place that it names.
"""

import sys
import uuid
from collections.abc import Callable
from typing import Any

RECORD = '{"build_id": "first-hour"}'


def persist(spark: Any, schema: str) -> str:
    """1 persist() is not refused (engine/databricks.py: materialise)."""
    frame = spark.sql("select id from range(3)").persist()
    return _expected(frame.storageLevel.useMemory and len(frame.collect()) == 3, f"it is {frame.storageLevel}")


def replace_where(spark: Any, schema: str) -> str:
    """2 replaceWhere with userMetadata, by name, shows in the history (engine/spark.py: publish)."""
    _write(spark.sql("select 1 as number, '2026-01-01' as day"), schema)
    newest = spark.sql(f"describe history {schema}.days limit 1").collect()[0]
    return _expected(newest["userMetadata"] == RECORD, f"userMetadata is {newest['userMetadata']!r}")


def empty_over_empty(spark: Any, schema: str) -> str:
    """3 No rows over no rows make a commit or not: both are right (build/runner.py: _recorded_without_commit)."""
    before = _version(spark, schema)
    _write(spark.sql("select 1 as number, '2026-01-01' as day limit 0"), schema, "2026-01-09")
    return f"as expected: {'a commit' if _version(spark, schema) > before else 'no commit'}"


def old_version(spark: Any, schema: str) -> str:
    """4 versionAsOf by name (engine/databricks.py: view)."""
    version = _version(spark, schema)
    _write(spark.sql("select 2 as number, '2026-01-01' as day"), schema)
    rows = spark.read.option("versionAsOf", version).table(f"{schema}.days").collect()
    return _expected([row["number"] for row in rows] == [1], f"it gives {rows}")


def row_tracking(spark: Any, schema: str) -> str:
    """5 Ids of rows: OPTIMIZE keeps them, a delete does not (storage/unity_catalog.py: _ids)."""
    name = f"{schema}.source"
    spark.sql(
        f"create table {name} (number bigint, day string) using delta partitioned by (day) "
        "tblproperties (delta.enableRowTracking = true)"
    )
    for number in range(3):
        spark.sql(f"insert into {name} values ({number}, '2026-01-01')")
    ids = (
        "select count(*), max(_metadata.row_commit_version), "
        f"bit_xor(xxhash64(_metadata.row_id, _metadata.row_commit_version)) from {name}"
    )
    before = spark.sql(ids).collect()
    spark.sql(f"optimize {name}")
    compacted = spark.sql(ids).collect()
    spark.sql(f"delete from {name} where number = 1")
    return _expected(before == compacted != spark.sql(ids).collect(), f"{before}, after OPTIMIZE {compacted}")


def features(spark: Any, schema: str) -> str:
    """10 The features that a new table has."""
    detail = spark.sql(f"describe detail {schema}.days").collect()[0].asDict()
    return f"as expected: {', '.join(sorted(detail.get('tableFeatures') or [])) or 'none'}"


def retention(spark: Any, schema: str) -> str:
    """11 The log is kept for ten years (storage/unity_catalog.py: _create)."""
    spark.sql(f"alter table {schema}.days set tblproperties (delta.logRetentionDuration = 'interval 3650 days')")
    return "as expected"


CHECKS: list[Callable[[Any, str], str]] = [
    persist, replace_where, empty_over_empty, old_version, row_tracking, features, retention,
]  # fmt: skip
# What a session of Spark cannot try.
BY_HAND = """\
By hand: 6 let a check fail, and compare the task's error with the run's; 7 seconds of a cold and of a warm start;
8 ask for the run 1, and with an expired token; 9 the shortest auto-stop of the warehouse; 12 cancel a run, and clear
its task."""


def main(schema: str, spark: Any = None) -> int:
    """Try everything in a schema, which is made anew, and dropped; gives how many things are otherwise."""
    if spark is None:
        from pyspark.sql import SparkSession

        spark = SparkSession.builder.getOrCreate()
    place = f"{schema}_{uuid.uuid4().hex[:8]}"
    spark.sql(f"create schema {place}")
    wrong = 0
    try:
        for check in CHECKS:
            try:
                result = check(spark, place)
            except Exception as error:
                result = f"OTHERWISE: {type(error).__name__}: {str(error).splitlines()[0]}"
            wrong += "OTHERWISE" in result
            print(f"{(check.__doc__ or '').rstrip('.')}: {result}", flush=True)
    finally:
        spark.sql(f"drop schema {place} cascade")
    print(BY_HAND)
    return wrong


def _expected(fits: bool, otherwise: str) -> str:
    return "as expected" if fits else f"OTHERWISE: {otherwise}"


def _version(spark: Any, schema: str) -> int:
    return int(spark.sql(f"describe history {schema}.days limit 1").collect()[0]["version"])


def _write(rows: Any, schema: str, day: str = "2026-01-01") -> None:
    writer = rows.write.format("delta").mode("overwrite").option("userMetadata", RECORD)
    if rows.sparkSession.catalog.tableExists(f"{schema}.days"):
        writer = writer.option("replaceWhere", f"day = '{day}'")
    writer.partitionBy("day").saveAsTable(f"{schema}.days")


if __name__ == "__main__":
    main(sys.argv[1])
