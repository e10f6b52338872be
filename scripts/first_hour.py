"""The first hour on a workspace: what the lake takes for granted of Databricks, each tried once, with what came of it.

Run it there as a file, in a notebook of a serverless environment 5, or on a cluster, as the service principal:
    main("wev_dev.first_hour")
It makes and drops tables of this schema alone. `as expected` needs nothing; a line with OTHERWISE needs a look at the
place that it names.
"""

import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    """5 Ids of rows: OPTIMIZE keeps them, a delete does not (storage/unity_catalog.py: _files)."""
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


def number_taken(spark: Any, schema: str) -> str:
    """13 A write whose number is taken is left out (storage/unity_catalog.py: keys_options)."""
    _numbered(spark, schema, 3, "1")
    version = _version(spark, schema, "keys")
    _numbered(spark, schema, 3, "2")
    _numbered(spark, schema, 2, "2")
    return _expected(_version(spark, schema, "keys") == version, "each makes a commit")


def empty_with_number(spark: Any, schema: str) -> str:
    """14 A write of no rows over no rows that has a number makes a commit (unity_catalog.py: require_commit)."""
    version = _version(spark, schema, "keys")
    _numbered(spark, schema, 4, "")
    return _expected(_version(spark, schema, "keys") == version + 1, "it makes none: no build could say so")


def one_of_two(spark: Any, schema: str) -> str:
    """15 Of two writes with one number at once, one is taken (unity_catalog.py: keys_options)."""
    version = _version(spark, schema, "keys")

    def write(place: str) -> str:
        try:
            _numbered(spark, schema, 5, place)
        except Exception as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        errors = "".join(pool.map(write, "34"))
    count = _version(spark, schema, "keys") - version
    known = not errors or "DELTA_CONCURRENT" in errors
    return _expected(count == 1 and known, f"{count} commits, {errors[:200]}")


def whole_table(spark: Any, schema: str) -> str:
    """16 replaceWhere true replaces all rows, and keeps partitions and comments (unity_catalog.py: keys_options)."""
    _numbered(spark, schema, 6, "9", "true")
    places = [row["place"] for row in spark.sql(f"select place from {schema}.keys").collect()]
    detail = spark.sql(f"describe detail {schema}.keys").collect()[0]
    kept = detail["partitionColumns"] == ["place"] and detail["description"] == "Keys."
    return _expected(
        places == ["9"] and kept, f"places {places}, {detail['partitionColumns']}, {detail['description']}"
    )


def files_gone(spark: Any, schema: str) -> str:
    """17 The files of an older version can be counted by name (unity_catalog.py: is_readable)."""
    version = _version(spark, schema, "keys") - 1
    text = f"select count(distinct _metadata.file_name) as files from {schema}.keys version as of {version}"
    return _expected(spark.sql(text).collect()[0]["files"] >= 1, "it counts none")


def view(spark: Any, schema: str) -> str:
    """18 A view tells its properties, one that is not there says so (unity_catalog.py: ensure_views)."""
    spark.sql(
        f"create or replace view {schema}.shown (`place` comment 'where') comment 'Shown.' "
        f"tblproperties ('lake.code_id' = 'abc') as select keys.place from {schema}.keys as keys"
    )
    code_id = spark.sql(f"show tblproperties {schema}.shown ('lake.code_id')").collect()[0]["value"]
    try:
        spark.sql(f"show tblproperties {schema}.absent ('lake.code_id')").collect()
        absent = "no error"
    except Exception as error:
        absent = str(error)
    return _expected(code_id == "abc" and "TABLE_OR_VIEW_NOT_FOUND" in absent, f"{code_id}, {absent[:200]}")


def two_at_once(spark: Any, schema: str) -> str:
    """20 Of two builds of one empty day at once, the day has the rows of one (build/runner.py: _build_days)."""

    def write(number: int) -> str:
        try:
            _write(spark.sql(f"select {number} as number, '2026-02-01' as day"), schema, "2026-02-01")
        except Exception as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        errors = "".join(pool.map(write, (1, 2)))
    count = spark.sql(f"select * from {schema}.days where day = '2026-02-01'").count()
    return _expected(count == 1 and (not errors or "DELTA_" in errors), f"it has {count} rows, {errors[:200]}")


def libraries(spark: Any, schema: str) -> str:
    """21 The libraries of a run, and rows that come as Arrow (storage/unity_catalog.py: _read)."""
    import pyarrow
    import pyspark

    rows = spark.createDataFrame(pyarrow.table({"facts": [{"a": 1}]})).toArrow()
    told = f"PySpark {pyspark.__version__}, pyarrow {pyarrow.__version__}, Python {sys.version.split()[0]}"
    return _expected(rows.num_rows == 1, told) + f": {told}"


CHECKS: list[Callable[[Any, str], str]] = [
    persist, replace_where, empty_over_empty, old_version, row_tracking, features, retention, number_taken,
    empty_with_number, one_of_two, whole_table, files_gone, view, two_at_once, libraries,
]  # fmt: skip
# What a session of Spark cannot try.
BY_HAND = """\
By hand: 6 let a check fail, and compare the task's error with the run's; 7 seconds of a cold and of a warm start;
8 ask for the run 1, and with an expired token; 9 the shortest auto-stop of the warehouse; 12 cancel a run, and clear
its task; 19 after a week, the operations of Databricks itself in the history: see _STILL in unity_catalog.py; 22 where
Airflow runs, ./lake status with LAKE_ENGINE=databricks: it asks the SQL warehouse."""


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


def _version(spark: Any, schema: str, table: str = "days") -> int:
    return int(spark.sql(f"describe history {schema}.{table} limit 1").collect()[0]["version"])


def _numbered(spark: Any, schema: str, number: int, place: str, where: str = "") -> None:
    """Replace a place of a table by one row, or nothing by no rows, as a build of keys does."""
    name = f"{schema}.keys"
    layout = "(number bigint, place string) using delta partitioned by (place) comment 'Keys.'"
    spark.sql(f"create table if not exists {name} {layout}")
    rows = spark.sql(f"select 1L as number, '{place}' as place" + ("" if place else " limit 0"))
    options = {"replaceWhere": where or (f"place in ('{place}')" if place else "false"), "userMetadata": RECORD}
    options |= {"txnAppId": "first hour", "txnVersion": str(number)}
    rows.write.format("delta").mode("overwrite").options(**options).saveAsTable(name)


def _write(rows: Any, schema: str, day: str = "2026-01-01") -> None:
    writer = rows.write.format("delta").mode("overwrite").option("userMetadata", RECORD)
    if rows.sparkSession.catalog.tableExists(f"{schema}.days"):
        writer = writer.option("replaceWhere", f"day = '{day}'")
    writer.partitionBy("day").saveAsTable(f"{schema}.days")


if __name__ == "__main__":
    main(sys.argv[1])
