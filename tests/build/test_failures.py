"""What people read when a build fails: the class of the error, its cause, and how to see it again."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from deltalake.exceptions import DeltaError
from pyspark.errors import PySparkException

from include.lake.backfill import run as backfill
from include.lake.build import failures
from include.lake.errors import CheckFailed, ContractError, InputsMissing, WriteConflict
from include.lake.storage import store
from tests.conftest import ENGINES
from tests.shop import DAY, SELECT, TABLE, build, load


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CheckFailed("a check", {"a check": 1}), "data"),
        (InputsMissing("no input"), "data"),
        (ContractError("a wrong SELECT"), "code"),
        (WriteConflict("others"), "conflict"),
        (RuntimeError("io.delta.exceptions.ConcurrentAppendException: [DELTA_CONCURRENT_APPEND] …"), "conflict"),
        (ConnectionResetError("the server is gone"), "infrastructure"),
        (MemoryError(), "infrastructure"),
        (KeyError("a bug"), "code"),
        (PySparkException("[CAST_INVALID_INPUT] not a number. SQLSTATE: 22018"), "data"),
        (PySparkException("[SCALAR_SUBQUERY_TOO_MANY_ROWS] More than one row. SQLSTATE: 21000"), "data"),
        (PySparkException("[PYTHON_EXCEPTION] a function of ours on a value. SQLSTATE: 38000"), "data"),
        (PySparkException("[FAILED_EXECUTE_UDF] the same of Scala. SQLSTATE: 39000"), "data"),
        (PySparkException("[DELTA_REPLACE_WHERE_MISMATCH] outside the range. SQLSTATE: 44000"), "data"),
        (PySparkException("[UNRESOLVED_COLUMN] no such column. SQLSTATE: 42703"), "code"),
        (PySparkException("[DELTA_CONCURRENT_APPEND] SQLSTATE: 2D521"), "conflict"),
        (PySparkException("[INTERNAL_ERROR] SQLSTATE: XX000"), "infrastructure"),
        (PySparkException("the server is gone"), "infrastructure"),
        (PySparkException("java.lang.OutOfMemoryError: Java heap space"), "infrastructure"),
        (DeltaError("the log cannot be read"), "infrastructure"),
        (PermissionError(13, "Permission denied", "/lake"), "infrastructure"),
    ],
)
def test_every_error_has_a_class_and_only_some_are_worth_a_retry(error: Exception, kind: str) -> None:
    failure = failures.explain(error, "a.b", DAY, DAY)
    assert failure.kind == kind
    assert failure.retry == (kind in ("conflict", "infrastructure"))
    assert ("give LAKE_ENGINE_MEMORY more" in failure.text) == ("Java heap space" in str(error))
    # The same answer decides if a backfill looks for the bad day: an input that is missing is missed by its half, too.
    assert backfill.is_of_the_rows(error) == (kind == "data" and not isinstance(error, InputsMissing))


@pytest.mark.engine("spark")
@pytest.mark.spark
@pytest.mark.parametrize(
    ("sql", "kind", "told"),
    [
        ("select cast('x' as int) as n", "data", "CAST_INVALID_INPUT"),
        ("select 1 / n as n from range(0, 3) as t(n)", "data", "DIVIDE_BY_ZERO"),
        ("select array(1, 2)[5] as n", "data", "INVALID_ARRAY_INDEX"),
        ("select nothing", "code", "UNRESOLVED_COLUMN"),
        ("selec 1", "code", "PARSE_SYNTAX_ERROR"),
        ("select * from parquet.`/there/is/no/such/folder`", "code", "PATH_NOT_FOUND"),
        ("select java_method('java.lang.Integer', 'parseInt', 'x') as n", "code", "For input string"),
    ],
)
def test_an_error_of_spark_is_told_without_its_stack(spark, sql: str, kind: str, told: str) -> None:
    with pytest.raises(Exception) as raised:
        spark.sql(sql).collect()
    failure = failures.explain(raised.value, "a.b", DAY, "2026-01-07")
    lines = failure.text.splitlines()
    assert failure.kind == kind, failure.text
    assert told in failure.text
    assert len(lines) <= 22
    assert not [line for line in lines if line.strip().startswith("at ")]
    assert lines[0].startswith(f"a.b {DAY}..2026-01-07 failed ({kind} error; ")
    assert lines[-1] == f"see it again: ./lake build a.b --from {DAY} --to 2026-01-07"


def test_the_cause_is_twenty_lines_however_deep_the_stack_is() -> None:
    def even(n: int) -> None:
        odd(n - 1)

    def odd(n: int) -> None:
        if n < 0:
            raise ValueError("the very cause")
        even(n - 1)

    with pytest.raises(ValueError, match="cause") as raised:
        even(50)
    cause = failures.root_cause(raised.value)
    assert len(cause) == 20
    assert cause[-1] == "ValueError: the very cause"


@pytest.mark.spark
def test_a_file_that_somebody_took_away_is_named_with_the_cure(shop: Any, spark: Any) -> None:
    """Whoever reads the table meets it: an engine, ./lake show, the maintenance."""
    load(("a", 1, DAY))
    build(spark)
    for table, cure in (
        (TABLE, f"build {TABLE} --from {DAY} --to {DAY} --force"),
        ("shop.event", "load shop.event FILE"),
    ):
        snapshot = store().open(table)
        assert snapshot is not None
        for path in Path(snapshot.address).glob(f"day={DAY}/*.parquet"):
            path.unlink()
        for read in partial(store().rows, snapshot, {"day": [DAY]}), partial(store().maintain, table):
            with pytest.raises(FileNotFoundError) as raised:
                read()
            (line,) = failures.root_cause(raised.value)
            assert line.startswith(f"a file of {table} is gone (") and line.endswith(f"./lake {cure}")
    with pytest.raises(Exception, match=r"gone|not found|not exist|No such file") as raised_by_engine:
        build(spark, force=True)
    assert failures.root_cause(raised_by_engine.value)[0].endswith("./lake load shop.event FILE")


@ENGINES
def test_a_wrong_column_of_a_select_is_named_with_line_and_cure(shop: Any, spark: Any) -> None:
    shop({"shop/total.sql": SELECT.replace("event.amount", "event.amout")})
    load(("a", 1, DAY))
    with pytest.raises(ContractError, match=r"shop/total.sql:3: there is no column amout; did you mean amount\?$"):
        build(spark)
    shop({"shop/total.sql": SELECT.replace("event.amount", "length(event.zzz)")})
    with pytest.raises(ContractError, match=r"total.sql:3: there is no column zzz; its inputs have none of this name$"):
        build(spark)


@ENGINES
@pytest.mark.spark
def test_a_file_that_a_disk_tore_is_named_with_the_cure(shop: Any, spark: Any) -> None:
    """Stands for: who reads a torn file is told whose it is, and not to look at the SELECT."""
    load(("a", 1, DAY))
    snapshot = store().open("shop.event")
    assert snapshot is not None
    (path,) = Path(snapshot.address).glob(f"day={DAY}/*.parquet")
    content = path.read_bytes()
    readers: list[Callable[[], Any]] = [
        partial(store().rows, snapshot, {"day": [DAY]}),
        partial(store().rows, snapshot),
        partial(store().values, snapshot, "day", [DAY], ["max(amount)"]),
        partial(build, spark),
    ]
    for rest in (b"", content[:-40], bytes(len(content))):
        path.write_bytes(rest)
        for read in readers:
            with pytest.raises(Exception) as raised:
                read()
            (line,) = failures.root_cause(raised.value)
            assert line.startswith("a file of shop.event is torn (") and line.endswith("./lake load shop.event FILE")
            assert not failures.is_bug(raised.value)
            assert "it wants the file" in failures.describe(raised.value, "a build")
