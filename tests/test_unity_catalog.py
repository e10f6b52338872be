"""The store of a Unity Catalog and its engine, on a real Spark with Delta; Airflow's side by the statement API."""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from include.lake import settings
from include.lake.engine import databricks
from include.lake.project import contracts
from include.lake.state import ledger
from include.lake.state.look import FRESH, Look
from include.lake.storage import store, unity_catalog, warehouse
from tests.databricks import statements
from tests.databricks.server import Workspace, serving
from tests.shop import CONTRACT, DAY, FILES, LAST, NEXT, TABLE, build

pytestmark = pytest.mark.spark
SOURCE = "shop.event"
EVENT, TOTAL = (f"`{statements.CATALOG}`.{table}" for table in (SOURCE, TABLE))


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A session of one Spark with Delta, which all tests of this file share."""
    with (
        statements.spark_server(tmp_path_factory.mktemp("server")) as (address, token),
        statements.session(address, token) as session,
    ):
        yield session


@pytest.fixture
def run(
    spark: Any, project: Callable[[dict[str, str]], None], lake_home: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """This process is a run of Databricks with an empty catalog, and the project has the two tables of the shop."""
    project(FILES)
    monkeypatch.setenv("LAKE_ENGINE", settings.DATABRICKS)
    monkeypatch.setenv("LAKE_CATALOG", statements.CATALOG)
    monkeypatch.setenv("SPARK_CONNECT_MODE_ENABLED", "1")
    for schema in ("shop", "ops"):
        spark.sql(f"drop schema if exists {statements.CATALOG}.{schema} cascade")
    monkeypatch.setattr(databricks, "_entered", None)
    yield databricks.enter(spark)
    unity_catalog.use(None)


def load(*rows: tuple[str | None, int | None, str]) -> None:
    contract = contracts.get(SOURCE)
    columns = list(zip(*rows, strict=True))
    store().replace(contract, pa.table([list(c) for c in columns], names=contract.column_names))


def totals(spark: Any) -> list[tuple[Any, ...]]:
    return sorted(tuple(row) for row in spark.sql(f"select name, total, day from {TOTAL}").collect())


def states() -> list[str]:
    look = Look()
    return [look.own_state(TABLE, day).state for day in (DAY, NEXT)]


def test_a_build_gives_a_table_as_its_contract_says(run: Any) -> None:
    load(("a", 1, DAY), ("a", 2, DAY), ("b", 5, NEXT))
    assert build(None, DAY, NEXT).rows == 2
    assert totals(run) == [("a", 3, DAY), ("b", 5, NEXT)] and states() == [FRESH, FRESH]
    assert build(None, DAY, NEXT).state == FRESH
    columns = unity_catalog._columns(TOTAL)
    assert columns["name"] == ("string", "이름") and columns["run_timestamp"][0] == "timestamp"
    (detail,) = run.sql(f"describe detail {TOTAL}").collect()
    assert (detail["partitionColumns"], detail["description"]) == (["day"], "하루의 합계.")
    assert [row["status"] for row in ledger.read([TABLE])] == [ledger.BUILT] * 2


def test_the_laws(run: Any) -> None:
    """Again, any order, one or many: days built one by one, backwards and twice, are days built in one go."""
    days = [DAY, NEXT, LAST]
    load(*((name, number, day) for number, day in enumerate(days) for name in "ab"))
    build(None, DAY, LAST)
    expected = totals(run)
    assert len(expected) == 6
    run.sql(f"delete from {TOTAL}")
    assert states() == ["stale"] * 2, "another writer has taken the rows of both"
    for day in [*reversed(days), DAY]:
        build(None, day, force=day == DAY)
    assert totals(run) == expected
    builds = [row for row in ledger.read([TABLE]) if row["status"] == ledger.BUILT]
    assert len({row["version"] for row in builds}) == 5, "one commit a build"


@pytest.mark.parametrize("tracked", [True, False], ids=["row tracking", "by content"])
def test_a_day_is_another_one_when_its_rows_are(run: Any, tracked: bool) -> None:
    """OPTIMIZE changes no day. A delete with deletion vectors, which changes no file name, always changes its day."""
    load(("a", 1, DAY), ("b", 1, DAY), ("a", 5, NEXT))
    properties = f"'delta.enableDeletionVectors' = 'true', 'delta.enableRowTracking' = '{str(tracked).lower()}'"
    run.sql(f"alter table {EVENT} set tblproperties ({properties})")
    run.sql(f"insert into {EVENT} values ('c', 1, '{DAY}')")  # a second file, so that OPTIMIZE has work
    build(None, DAY, NEXT)
    # What comes goes again, and files become other ones.
    run.sql(f"insert into {EVENT} values ('a', 6, '{NEXT}')")
    run.sql(f"delete from {EVENT} where day = '{NEXT}' and amount = 6")
    run.sql(f"optimize {EVENT}").collect()
    assert build(None, DAY, NEXT).days == []
    run.sql(f"delete from {EVENT} where name = 'a' and amount = 1")
    assert states() == ["stale", FRESH]
    assert build(None, DAY, NEXT).days == [DAY]
    run.sql(f"update {EVENT} set amount = 7 where day = '{NEXT}'")
    assert states() == [FRESH, "stale"]


def test_an_empty_day_over_an_empty_day(run: Any) -> None:
    """Delta makes no commit for it, and the ledger knows it all the same."""
    load(("a", 1, DAY), ("a", 1, NEXT))
    run.sql(f"update {EVENT} set name = 'nobody' where day = '{NEXT}'")  # counted and not published
    build(None)
    version = run.sql(f"describe history {TOTAL} limit 1").collect()[0]["version"]
    assert build(None, NEXT).dropped == {"nameless": 1}
    assert run.sql(f"describe history {TOTAL} limit 1").collect()[0]["version"] == version
    assert states() == [FRESH, FRESH] and build(None, DAY, NEXT).days == []
    (row,) = (row for row in ledger.read([TABLE]) if row["partition"] == NEXT)
    assert (row["status"], row["version"], row["rows"]) == (ledger.BUILT, version, 0)
    assert [row["version"] for row in ledger.record(TABLE)] == []
