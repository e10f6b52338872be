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
