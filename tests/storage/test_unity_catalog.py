"""The store of a Unity Catalog and its engine, on a real Spark with Delta; Airflow's side by the statement API."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from tests import airflow_home  # noqa: F401

# isort: split
from airflow.triggers.base import TaskSuccessEvent
from lake_airflow import shared_look
from lake_airflow.tasks import PartitionTrigger

from include.lake import settings
from include.lake.build import attempt, runner
from include.lake.engine import databricks
from include.lake.errors import CheckFailed, ContractError, InputsMissing, LakeError, UsageError
from include.lake.project import contracts, lineage
from include.lake.project.days import day_range
from include.lake.state import ledger, presence
from include.lake.state.look import FRESH, Look
from include.lake.state.presence import Ask
from include.lake.storage import Snapshot, store, unity_catalog, warehouse
from include.sample import generate
from tests import builders, buyers
from tests.conftest import THOROUGH
from tests.databricks import statements
from tests.databricks.server import Workspace, serving
from tests.shop import DAY, FILES, LAST, NEXT, TABLE, build

pytestmark = pytest.mark.spark
VAULT_KINDS = ("hub", "link", "satellite", "transactional_link")
SOURCE = "shop.event"
EVENT, TOTAL = (f"`{statements.CATALOG}`.{table}" for table in (SOURCE, TABLE))


@pytest.fixture
def run(of_databricks: Any, project: Callable[[dict[str, str]], None], lake_home: Any) -> Any:
    """This process is a run of Databricks with an empty catalog, and the project has the two tables of the shop."""
    project(FILES)
    return of_databricks


def load(*rows: tuple[str | None, int | None, str]) -> None:
    contract = contracts.get(SOURCE)
    columns = list(zip(*rows, strict=True))
    store().replace(contract, pa.table([list(c) for c in columns], names=contract.column_names))


def totals(spark: Any) -> list[tuple[Any, ...]]:
    return sorted(tuple(row) for row in spark.sql(f"select name, total, day from {TOTAL}").collect())


def states() -> list[str]:
    look = Look()
    found = [look.own_state(TABLE, day) for day in (DAY, NEXT)]
    print(*(f"{one.why}\n" for one in found if one.state == "failed"), end="")  # pytest shows it where a test fails
    return [one.state for one in found]


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


def test_a_build_that_is_killed_or_fails(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut between commit and ledger, the next run enters it. Rows that fail a check are never published."""
    load(("a", 1, DAY))
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "record", lambda table: killed())
        with pytest.raises(KeyboardInterrupt):
            build(None)
    assert ledger.read([TABLE]) == []
    assert build(None).days == [] and [row["partition"] for row in ledger.read([TABLE])] == [DAY]
    load(("a", -1, DAY))
    with pytest.raises(CheckFailed, match="total >= 0"):
        build(None)
    assert totals(run) == [("a", 1, DAY)] and states()[0] == "failed"


@pytest.mark.parametrize("later", ["delete", "optimize"])
def test_a_change_between_two_looks_of_a_build(run: Any, monkeypatch: pytest.MonkeyPatch, later: str) -> None:
    """The build reads rows that came after its first look. Taken back later they are a change; OPTIMIZE is none."""
    load(("a", 1, DAY), ("a", 1, LAST))  # a day between them has no rows, so they are built one after the other
    look, first = runner._look, [True]

    def then_insert(table: str) -> Look:
        found = look(table)
        if first and first.pop():
            run.sql(f"insert into {EVENT} values ('b', 1, '{LAST}')")
        return found

    monkeypatch.setattr(runner, "_look", then_insert)
    with pytest.raises(InputsMissing):
        build(None, DAY, LAST)
    assert totals(run) == [("a", 1, DAY), ("a", 1, LAST), ("b", 1, LAST)]
    run.sql(f"optimize {EVENT}" if later == "optimize" else f"delete from {EVENT} where name = 'b'").collect()
    assert Look().own_state(TABLE, LAST).state == (FRESH if later == "optimize" else "stale")


def test_a_table_whose_builds_have_all_failed(run: Any, airflow: Callable[[], Any]) -> None:
    load(("a", -1, DAY))
    with pytest.raises(CheckFailed):
        build(None)
    assert states()[0] == "failed"
    airflow()
    assert states()[0] == "failed", "Airflow sees it, too"


def killed() -> Any:
    raise KeyboardInterrupt


@THOROUGH
@pytest.mark.parametrize("tracked", [True, False], ids=["row tracking", "by content"])
def test_a_day_is_another_one_when_its_rows_are(run: Any, tracked: bool) -> None:
    """OPTIMIZE changes no day. A delete with deletion vectors, which changes no file name, always changes its day."""
    load(("a", 1, DAY), ("b", 1, DAY), ("a", 5, NEXT))
    properties = f"'delta.enableDeletionVectors' = 'true', 'delta.enableRowTracking' = '{str(tracked).lower()}'"
    run.sql(f"alter table {EVENT} set tblproperties ({properties})")
    run.sql(f"insert into {EVENT} values ('c', 1, '{DAY}')")  # a second file, so that OPTIMIZE has work
    assert build(None, DAY, NEXT).days == [DAY, NEXT]
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


@THOROUGH
@pytest.mark.parametrize("tracked", [True, False], ids=["row tracking", "by content"])
def test_a_source_that_nobody_has_written_for_long(run: Any, tracked: bool) -> None:
    """Delta lets nobody read its old version. Days whose files are the same are the same all the same.

    With row tracking they are the same in other files, too.
    """
    load(("a", 1, DAY))
    run.sql(f"alter table {EVENT} set tblproperties ('delta.enableRowTracking' = '{str(tracked).lower()}')")
    # By others: the ledger then has ids of the days.
    run.sql(f"insert into {EVENT} values ('b', 1, '{DAY}'), ('a', 5, '{NEXT}')")
    build(None, DAY, NEXT)
    if tracked:
        run.sql(f"optimize {EVENT}").collect()
    run.sql(f"alter table {EVENT} set tblproperties ('delta.deletedFileRetentionDuration' = 'interval 1 seconds')")
    time.sleep(2)
    run.sql(f"insert into {EVENT} values ('a', 6, '{NEXT}')")
    with pytest.raises(Exception, match="BEYOND_DELETED_FILE_RETENTION"):
        run.sql(f"select * from {EVENT} version as of 3").collect()
    assert states() == [FRESH, "stale"]


def test_an_empty_day_over_an_empty_day(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delta makes no commit for it where it is written by its path, and the ledger knows it all the same."""
    load(("a", 1, DAY), ("a", 1, NEXT))
    run.sql(f"update {EVENT} set name = 'nobody' where day = '{NEXT}'")  # counted and not published
    build(None)
    folder = run.sql(f"describe detail {TOTAL}").collect()[0]["location"]
    monkeypatch.setattr(databricks._Cached, "_save", lambda self, writer, address: writer.save(folder))
    version = run.sql(f"describe history {TOTAL} limit 1").collect()[0]["version"]
    assert build(None, NEXT).dropped == {"nameless": 1}
    assert run.sql(f"describe history {TOTAL} limit 1").collect()[0]["version"] == version
    assert states() == [FRESH, FRESH] and build(None, DAY, NEXT).days == []
    (row,) = (row for row in ledger.read([TABLE]) if row["partition"] == NEXT)
    assert (row["status"], row["version"], row["rows"]) == (ledger.BUILT, version, 0)
    assert [row["version"] for row in ledger.record(TABLE)] == []


# -- tables kept by key


@pytest.fixture
def shop(run: Any, project: Callable[[dict[str, str]], None]) -> Any:
    """A run of Databricks; the project has the three tables of buyers instead."""
    for path in (settings.SQL / "shop").glob("*"):
        path.unlink()
    project(buyers.FILES)
    return run


def test_tables_kept_by_key(shop: Any, airflow: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Days in any order, one by one; a day that changes no row; a killed build; another writer; a correction."""
    first, second, third = buyers.DAYS[:3]
    world: dict[str, buyers.Events] = {
        second: [("phone", "ann", 2), ("laptop", "bob", 1)],
        first: [("phone", None, 5), ("tablet", "ann", 1)],
        third: [(None, "ann", 3)],
    }
    for day, events in world.items():
        buyers.load(day, events)
    buyers.build(shop, second)
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "record", lambda table: killed())
        with pytest.raises(KeyboardInterrupt):
            buyers.build(shop, first, tables=["shop.owner"])
    version = newest("shop.owner")
    buyers.build(shop, first)
    assert newest("shop.owner") == version, "the commit of the killed build counts"
    buyers.build(shop, third)
    assert newest("shop.owner") == version + 1, "no row differs, and the record has a commit all the same"
    (last,) = store().commits(opened("shop.owner"), contracts.get("shop.owner"), version)
    assert (list(last.day_bytes), list(last.metadata["days"])) == ([], [third])
    assert buyers.found() == buyers.expected(world)
    assert buyers.states(*world) == {table: [FRESH] * 3 for table in buyers.TABLES}
    shop.sql(f"optimize {unity_catalog.address('shop.owner')}").collect()
    assert buyers.states(*world)["shop.owner"] == [FRESH] * 3
    shop.sql(f"delete from {unity_catalog.address('shop.owner')} where device = 'laptop'")
    assert buyers.states(*world)["shop.owner"] == ["stale"] * 3
    world[second] = [("phone", "bob", 2)]
    buyers.load(second, world[second])
    buyers.build(shop, first, third)
    assert buyers.found() == buyers.expected(world)
    seen = buyers.states(*world)
    airflow()
    assert buyers.states(*world) == seen == {table: [FRESH] * 3 for table in buyers.TABLES}


def opened(table: str) -> Snapshot:
    snapshot = store().open(table)
    assert snapshot is not None
    return snapshot


def newest(table: str) -> int:
    return opened(table).version


@THOROUGH
@pytest.mark.parametrize("numbered", [True, False], ids=["left out", "found out"])
def test_another_build_of_the_same_key_comes_first(
    shop: Any, cluster: tuple[str, str, Any], monkeypatch: pytest.MonkeyPatch, numbered: bool
) -> None:
    """It commits right before ours. Delta leaves ours out. Else the history tells, and ours is done again."""
    first, second, third = buyers.DAYS[:3]
    world: dict[str, buyers.Events] = {
        first: [("phone", "ann", 5)], second: [("phone", "bob", 1)], third: [("phone", None, 1)],
    }  # fmt: skip
    for day, events in world.items():
        buyers.load(day, events)
    buyers.build(shop, first, tables=["shop.owner"])
    options, rivals = unity_catalog.keys_options, [third]

    def rival_first(*arguments: Any) -> dict[str, str]:
        given = options(*arguments)
        if rivals:
            with statements.session(*cluster[:2]) as other:
                buyers.build(databricks.enter(other), rivals.pop(), tables=["shop.owner"])
            databricks.enter(shop)
            given = {name: text for name, text in given.items() if numbered or not name.startswith("txn")}
        return given

    monkeypatch.setattr(unity_catalog, "keys_options", rival_first)
    before = newest("shop.owner")
    buyers.build(shop, second, tables=["shop.owner"])
    assert newest("shop.owner") == before + (2 if numbered else 3)
    assert buyers.rows("shop.owner") == buyers.expected(world)["shop.owner"] == [("phone", "bob", third)]
    buyers.build(shop, first, third, tables=["shop.owner"])
    assert {row["status"] for row in ledger.read(["shop.owner"])} == {"built"} | (
        {"changed"} if not numbered else set()
    )
    assert buyers.rows("shop.owner") == [("phone", "bob", third)]
    assert {Look().own_state("shop.owner", day).state for day in world} == {FRESH}


def test_some_rows_of_a_day(run: Any, airflow: Callable[[], Any]) -> None:
    load(("a", 1, DAY), ("b", 2, DAY), ("c", 3, NEXT))
    api = airflow().parts[0]
    snapshot = store().open(SOURCE)
    assert snapshot
    assert store().rows(snapshot, {"day": [DAY]}, 1).num_rows == 1 and api.asked[-1].endswith("limit 1")
    assert store().values(snapshot, "day", [DAY], ["count(*) as number"])["number"].to_pylist() == [2]


def test_a_source_without_versions_names_the_cure(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    load(("a", 1, DAY))

    def refused(*arguments: Any) -> Any:
        raise RuntimeError("[FGAC_TIME_TRAVEL_NOT_SUPPORTED] Time travel is not supported here.")

    with monkeypatch.context() as patch:
        patch.setattr(unity_catalog, "_columns_at", refused)
        with pytest.raises(ContractError, match="row filter"):
            store().open(SOURCE)
    run.sql(f"drop table {EVENT}")
    run.sql(f"create table {EVENT}_of_others (name string) using delta")
    run.sql(f"create view {EVENT} as select * from {EVENT}_of_others")
    with pytest.raises(ContractError, match="is a view"):
        store().open(SOURCE)


@THOROUGH
def test_older_versions_that_are_gone(shop: Any) -> None:
    """Then all keys are computed."""
    first, second = buyers.DAYS[:2]
    world: dict[str, buyers.Events] = {
        first: [("phone", "ann", 5), ("tablet", "cid", 1)],
        second: [("phone", "bob", 1)],
    }
    for day, events in world.items():
        buyers.load(day, events)
        buyers.build(shop, day, tables=buyers.TABLES[: 3 if day == first else 2])
    older = newest("shop.buyer") - 1
    assert store().open("shop.buyer", older, ["*"])
    shop.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    shop.sql(f"vacuum {unity_catalog.address('shop.buyer')} retain 0 hours").collect()
    shop.conf.unset("spark.databricks.delta.retentionDurationCheck.enabled")
    with pytest.raises(LakeError, match="cannot be read at version"):
        store().open("shop.buyer", older, ["*"])
    buyers.build(shop, second)
    assert buyers.found() == buyers.expected(world)


VIEW = """\
about: Buyers who spend more than the others' average.
view: true
columns: [{name: average, type: double}, {name: buyer, type: string, comment: who buys}]
"""
VIEW_SQL = """\
select level.buyer, level.average
from shop.level as level
left semi join shop.buyer as buyer on buyer.buyer = level.buyer
"""


@THOROUGH
def test_views_are_made_by_the_builds_of_what_they_read(
    shop: Any, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    make = unity_catalog._make
    monkeypatch.setattr(unity_catalog, "_make", lambda table, text: (made.append(table), make(table, text)))
    project({"shop/big.yaml": VIEW, "shop/big.sql": VIEW_SQL})
    name = unity_catalog.address("shop.big")
    buyers.load(DAY, [("phone", "ann", 6)])
    build_by_a_run(shop, DAY, tables=["shop.owner", "shop.buyer"])
    assert "shop.level" not in made, "one of its inputs is not there yet"
    build_by_a_run(shop, DAY)
    assert [(row["buyer"], row["average"]) for row in shop.sql(f"select * from {name}").collect()] == [("ann", 6.0)]
    assert unity_catalog._columns(name)["buyer"] == ("string", "who buys")
    count = made.count("shop.big")
    build_by_a_run(shop, DAY, force=True)
    assert made.count("shop.big") == count, "nothing has changed"
    project({"shop/big.yaml": VIEW.replace("who buys", "누가")})
    build_by_a_run(shop, DAY)
    assert made.count("shop.big") == count + 1
    assert unity_catalog._columns(name)["buyer"] == ("string", "누가")


def build_by_a_run(spark: Any, day: str, tables: list[str] = buyers.TABLES, force: bool = False) -> None:
    """What the entry point does."""
    buyers.build(spark, day, tables=tables, force=force)
    unity_catalog.ensure_views(tables)


# -- from Airflow: by the statement API


@pytest.fixture
def airflow(run: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Gives a function: from its call on, this process is no run, and asks the workspace that it gives."""
    with serving(Workspace(statements.Statements(run, chunk_rows=2))) as workspace:

        def leave_the_run() -> Any:
            unity_catalog.use(None)
            monkeypatch.setattr(databricks, "_entered", None)
            monkeypatch.setenv("DATABRICKS_HOST", workspace.host)
            monkeypatch.setenv("DATABRICKS_TOKEN", workspace.token)
            monkeypatch.setenv("LAKE_SQL_WAREHOUSE", f"/sql/1.0/warehouses/{statements.WAREHOUSE}")
            monkeypatch.setattr(warehouse, "BACK_OFF_SECONDS", 0.0)
            monkeypatch.setattr(warehouse, "POLL_SECONDS", 0.0)
            monkeypatch.setattr(warehouse, "KEPT_SECONDS", 3600.0)  # a busy machine may need more than a minute
            warehouse.forget()
            return workspace

        yield leave_the_run
        warehouse.forget()
        assert workspace.mistakes == []


def test_airflow_sees_what_the_run_has_done(run: Any, airflow: Callable[[], Any]) -> None:
    load(("a", 1, DAY), ("b", 2, DAY), ("a", 5, NEXT))
    build(None, DAY, NEXT)
    seen = states(), ledger.read([TABLE]), Look().files(SOURCE), Look().input_versions(TABLE)
    workspace = airflow()
    api = workspace.parts[0]
    workspace.script += [(429, {"Retry-After": "0"}, {}), (503, {}, {})]
    api.pending = 2
    assert (states(), ledger.read([TABLE]), Look().files(SOURCE), Look().input_versions(TABLE)) == seen
    asked = len(api.asked)
    assert states() == [FRESH, FRESH] and len(api.asked) == asked, "within a minute nothing is asked again"
    run.sql(f"delete from {EVENT} where name = 'a' and amount = 1")
    warehouse.forget()
    presence.look_at([TABLE])
    asked = len(api.asked)
    assert states() == ["stale", FRESH]
    assert len(api.asked) == asked, "nothing is asked one by one"
    with pytest.raises(LakeError, match="only a run of Databricks writes"):
        ledger.append(seen[1])
    with pytest.raises(LakeError, match="only a run of Databricks writes"):
        build(None)
    with pytest.raises(UsageError, match="only a run of Databricks computes"), databricks.opened():
        pass


HOURS = """\
about: Complete with its second row.
partitioned_by: [day]
ready_when: count(*) >= 2 and max(name) = 'b'
columns: [{name: name, type: string}, {name: day, type: string}]
"""
NEVER = (
    "about: Nobody loads it.\npartitioned_by: [day]\ncolumns: [{name: name, type: string}, {name: day, type: string}]\n"
)
REPORT = "about: All.\nkey: []\npartitioned_by: [day]\nreads: {shop.total: 2}\n" + (
    "columns: [{name: name, type: string}, {name: day, type: string}]\n"
)
SELECT = """\
select total.name, total.day
from shop.total as total
inner join shop.hours as hours on hours.day = total.day and hours.day between :start_date and :end_date
inner join shop.never as never on never.day = total.day
where total.day between :start_date and :end_date
"""


def test_all_sensors_share_one_statement(run: Any, airflow: Callable[[], Any]) -> None:
    files = {"hours.yaml": HOURS, "never.yaml": NEVER, "report.yaml": REPORT, "report.sql": SELECT}
    for name, text in files.items():
        (settings.SQL / "shop" / name).write_text(text)
    days = day_range("2026-01-01", "2026-04-30")
    load(*(("a", 1, day) for day in days))
    hours = contracts.get("shop.hours")
    store().replace(hours, pa.table([["a", "b", "b"], [DAY, DAY, NEXT]], names=hours.column_names))
    build(None, NEXT, LAST)
    why = f"is not complete: COUNT(*) is 1, MAX(name) is b, and ready_when is {hours.ready_when}"
    assert Look().absent_reasons("shop.hours", [DAY, NEXT]) == {NEXT: why}
    api = airflow().parts[0]

    async def wait() -> list[Any]:
        triggers = [PartitionTrigger(SOURCE, [TABLE], day, "UTC", 1) for day in days] * 4
        return await asyncio.gather(*(anext(trigger.run()) for trigger in triggers))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_look, "GATHER_SECONDS", 0.5)
        events = asyncio.run(wait())
    assert len(events) == 480 and all(isinstance(event, TaskSuccessEvent) for event in events)
    assert len(api.asked) == 1 and "rlike" not in api.asked[0], "no reader reads earlier days of the source"

    report = ("shop.report",)
    asks = [Ask(table, report, day) for day in (DAY, NEXT) for table in ("shop.total", "shop.hours", "shop.never")]
    answers = presence.missing(asks)
    of_day, of_next = [{DAY: "is missing"}, {}, {DAY: "is missing"}], [{}, {NEXT: why}, {NEXT: "is missing"}]
    assert [answers[ask] for ask in asks] == of_day + of_next
    assert len(api.asked) == 3, "one more for the table that is not there"

    # One table that the warehouse refuses has its error, and the others have their answers.
    run.sql(f"drop table {unity_catalog.address('shop.hours')}")
    run.sql(f"create table {unity_catalog.address('shop.hours')} (name string) using delta")
    answers = presence.missing(asks)
    refused = [ask for ask, answer in answers.items() if isinstance(answer, LakeError)]
    assert {ask.table for ask in refused} == {"shop.hours"} and "UNRESOLVED_COLUMN" in str(answers[refused[0]])
    assert [answers[ask] for ask in asks if ask not in refused] == [
        answer for ask, answer in zip(asks, of_day + of_next, strict=True) if ask not in refused
    ]


def tables_to_compare() -> list[str]:
    """All tables; without N=… of the vault one of each kind, and what reads no other of its tables."""
    kinds, tables = set[str](), list[str]()
    for name in lineage.in_order():
        vault = contracts.get(name).vault
        kind = next((kind for kind in VAULT_KINDS if getattr(vault, kind)), "") if vault else ""
        reads_all = all(contracts.get(one).is_source or one in tables for one in lineage.inputs(name))
        if not contracts.get(name).is_source and (os.environ.get("N") or (reads_all and kind not in kinds - {""})):
            kinds.add(kind)
            tables.append(name)
    return tables


@THOROUGH
def test_every_table_has_the_rows_of_the_local_target(
    run: Any, lake_home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days of the sample, built here by Databricks' own way (the vault day by day), and by Sail over Delta files."""
    first, last = days = day_range("2026-01-30", "2026-01-31")
    monkeypatch.setattr(settings, "SQL", settings.ROOT / "include" / "sql")  # without the shop
    tables = tables_to_compare()
    needed = {name for table in tables for name in lineage.inputs(table)}
    sources = [(contracts.get(name), rows) for name, _, rows in generate.days(first, last, 0.01) if name in needed]
    sources += [(contracts.get(name), rows) for name, rows in generate.current(0.01) if name in needed]
    results = []
    for engine in (settings.DATABRICKS, settings.SAIL):
        monkeypatch.setenv("LAKE_ENGINE", engine)
        for source in sources:
            store().replace(*source)
        for name in tables:
            # Of a table of days the newest alone, unless a table kept by key reads it.
            ranges = [(first if contracts.get(name).kept_by or needed_by_key(name) else last, last)]
            # A table of the vault goes on from its published rows.
            if engine == settings.DATABRICKS and (contracts.get(name).vault or os.environ.get("N")):
                ranges = [(day, day) for day in days if day >= ranges[0][0]]
            for start, end in ranges if contracts.get(name).is_built else ():
                runner.build(name, start, end, log=lambda line: None)
            if engine == settings.DATABRICKS:
                unity_catalog.ensure_views([name])
        results.append({name: _rows(name) for name in tables})
    assert all(results[0].values()) and {contracts.get(name).view for name in tables} == {True, False}
    for name, rows in results[0].items():
        assert rows == results[1][name], name


def needed_by_key(table: str) -> bool:
    """Does a table kept by key read this one?"""
    return any(contracts.get(name).kept_by and table in lineage.inputs(name) for name in lineage.in_order())


def _rows(table: str) -> list[str]:
    if contracts.get(table).view:
        of_catalog = settings.on_databricks()
        rows = (
            unity_catalog._read(f"select * from {unity_catalog.address(table)}")
            if of_catalog
            else attempt.view(table)[0]
        )
        return sorted(map(repr, rows.select(contracts.get(table).column_names).to_pylist()))
    return sorted(map(repr, builders.published(table)))
