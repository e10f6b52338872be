"""Builds that fail, rows that are lost on their way, sources that are emptied: nothing passes silently."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from include.lake import settings
from include.lake.build import checks, late, runner
from include.lake.errors import CheckFailed, ContractError, LakeError
from include.lake.project import contracts, lineage
from include.lake.state import ledger
from include.lake.state.look import FAILED, FRESH, MISSING, STALE, Look
from include.lake.storage import delta_files as storage
from include.lake.storage import load_record, store
from tests import builders
from tests.conftest import ENGINES
from tests.shop import CONTRACT, DAY, NEXT, SELECT, TABLE, build, load

pytestmark = pytest.mark.spark
SOURCE = "shop.event"


def state(table: str, day: str) -> str:
    return Look().own_state(table, day).state


def totals() -> list[tuple[Any, Any]]:
    return sorted((row["name"], row["total"]) for row in builders.published(TABLE))


def build_and_deliver_again(spark: Any) -> None:
    """A day that is built, and stale by a late file."""
    load(("a", 1, DAY))
    build(spark)
    load(("a", 2, DAY))


def late_days() -> late.LateDays:
    return late.build_stale_days([TABLE], NEXT, 3, "a run", lambda line: None)


def test_a_late_day_whose_rebuild_failed_is_built_by_the_next_try(
    shop: Any, spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_and_deliver_again(spark)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_publish", _no_storage)
        (failed,) = late_days().failed
    assert failed.retry and state(TABLE, DAY) == FAILED and totals() == [("a", 1)]
    assert late_days().built == {TABLE: [DAY]} and totals() == [("a", 2)]
    # One that nobody can look at is no reason to be green.
    monkeypatch.setattr(Look, "built_days", _torn)
    load(("a", 3, DAY))
    assert "the ledger is torn" in late_days().failed[0].text


def _no_storage(*arguments: Any) -> Any:
    raise ConnectionError("the storage is away")


def _torn(*arguments: Any) -> Any:
    raise LakeError("the ledger is torn")


def test_rows_that_are_lost_after_the_audit_are_never_published_as_none(
    shop: Any, spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_and_deliver_again(spark)
    audit = checks.audit

    def then_lose(*arguments: Any) -> Any:
        found = audit(*arguments)
        for file in (settings.home() / "engine").rglob("stage/**/*.parquet"):
            file.unlink()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(checks, "audit", then_lose)
        with pytest.raises(FileNotFoundError):
            build(spark)
    assert totals() == [("a", 1)] and state(TABLE, DAY) == FAILED
    build(spark)
    assert totals() == [("a", 2)]


def empty(*days: str) -> None:
    """A load that says of some days that they have no rows."""
    contract = contracts.get(SOURCE)
    rows = storage.arrow_schema(contract).empty_table()
    storage.replace(contract, rows, partitions=days, record=load_record(contract, "x", {}, list(days)))


def test_the_first_day_of_a_source_is_loaded_again_as_empty(shop: Any, spark: Any) -> None:
    """A source that drops its oldest days makes nothing stale. Here somebody says that there were no rows."""
    load(("a", 1, DAY), ("a", 1, NEXT))
    build(spark, DAY, NEXT)
    empty(DAY)
    assert [state(TABLE, day) for day in (DAY, NEXT)] == [STALE, FRESH]
    build(spark)
    assert len(totals()) == 1


def test_a_day_is_empty_only_by_the_newest_load_of_it(shop: Any) -> None:
    empty(DAY)
    load(("a", 1, NEXT))
    assert state(SOURCE, DAY) == FRESH
    load(("a", 1, DAY))
    DeltaTable(storage.address(SOURCE)).delete(f"day = '{DAY}'")
    ledger.record(SOURCE)
    assert state(SOURCE, DAY) == MISSING


def test_partition_values_that_paths_encode(shop: Any) -> None:
    """The log writes South%2520Korea for the folder South%20Korea."""
    columns = ", ".join(f"{{name: {name}, type: string}}" for name in ("name", "country", "day"))
    shop({"shop/visit.yaml": f"about: E.\npartitioned_by: [country, day]\ncolumns: [{columns}]\n"})
    rows = pa.table({"name": ["a", "b"], "country": ["South Korea", "a%b#c"], "day": [DAY, DAY]})
    storage.replace(contracts.get("shop.visit"), rows)
    snapshot = store().open("shop.visit")
    assert snapshot and storage.lost_files(snapshot) == []
    assert store().maintain("shop.visit")


@pytest.mark.parametrize("renamed", [True, False], ids=["renamed columns", "deletion vectors"])
def test_a_source_that_pyarrow_cannot_read(shop: Any, spark: Any, renamed: bool) -> None:
    """Spark gives renamed columns other names in the files and in the log. A new day is no change of all days.

    Databricks switches deletion vectors on. pyarrow refuses such a table, also where no row was deleted.
    """
    names = {name: f"col-{n}" if renamed else name for n, name in enumerate(("name", "amount", "day"), 1)}
    fields = [
        {
            "name": name, "type": "long" if name == "amount" else "string", "nullable": True,
            "metadata": {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": physical},
        }
        for number, (name, physical) in enumerate(names.items(), 1)
    ]  # fmt: skip
    mapping = {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "3"}
    vectors = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    protocol = {"minReaderVersion": 2, "minWriterVersion": 5} if renamed else vectors | {
        "minReaderVersion": 3, "minWriterVersion": 7,
    }  # fmt: skip
    settings_of_table = mapping if renamed else {}
    actions: list[dict[str, Any]] = [
        {"protocol": protocol},
        {"metaData": {
            "id": "x", "format": {"provider": "parquet", "options": {}}, "partitionColumns": ["day"], "createdTime": 0,
            "schemaString": json.dumps({"type": "struct", "fields": fields}), "configuration": settings_of_table,
        }},
    ]  # fmt: skip
    folder = Path(storage.address(SOURCE))
    (folder / "_delta_log").mkdir(parents=True)

    def add(version: int, day: str) -> None:
        pq.write_table(pa.table({names["name"]: ["a"], names["amount"]: [1]}), folder / f"{day}.parquet")
        size = (folder / f"{day}.parquet").stat().st_size
        added = {"path": f"{day}.parquet", "partitionValues": {names["day"]: day}, "size": size, "modificationTime": 0}
        lines = [*(actions if version == 0 else ()), {"add": {**added, "dataChange": True}}]
        (folder / "_delta_log" / f"{version:020}.json").write_text("\n".join(map(json.dumps, lines)))

    add(0, DAY)
    build(spark)
    assert totals() == [("a", 1)]
    add(1, NEXT)
    assert [state(TABLE, day) for day in (DAY, NEXT)] == [FRESH, MISSING]
    snapshot = store().open(SOURCE)
    assert snapshot
    found = sorted(store().rows(snapshot).to_pylist(), key=lambda row: row["day"])
    assert found == [{"name": "a", "amount": 1, "day": day} for day in (DAY, NEXT)]


def test_a_comment_that_is_taken_away_costs_one_commit(shop: Any) -> None:
    contract = contracts.get(TABLE)
    before = store().ensure(contract).version
    shop({"shop/total.yaml": CONTRACT.replace(", comment: 합계", "")})
    for _ in range(3):
        assert store().ensure(contracts.get(TABLE)).version == before + 1


@ENGINES
def test_a_dropped_row_is_counted_and_never_checked(shop: Any, spark: Any) -> None:
    """Whatever is in it: no day, or a text that the check cannot cast."""
    shop({
        "shop/total.yaml": CONTRACT.replace("[total >= 0]", "[cast(name as bigint) >= 0]"),
        "shop/total.sql": SELECT.replace("    event.day,\n", "    nullif(event.day, event.name) as day,\n")
        .replace("event.name = 'nobody'", f"event.name in ('nobody', '{DAY}')"),
    })  # fmt: skip
    load(("1", 1, DAY), ("nobody", 1, DAY), (DAY, 1, DAY))
    assert build(spark).dropped == {"nameless": 2}
    assert totals() == [("1", 1)]


KEPT = """\
about: The last event of each name.
key: [name]
kept_by: [name]
partitioned_by: [day]
columns: [{name: name, type: string}, {name: day, type: string}]
"""
KEPT_SQL = "select event.name, {day} as day from shop.event as event group by event.name"


@ENGINES
def test_the_place_of_a_row_is_a_day_of_the_calendar(shop: Any, spark: Any) -> None:
    shop({"shop/seen.yaml": KEPT, "shop/seen.sql": KEPT_SQL.format(day="replace(max(event.day), '01-05', '13-45')")})
    load(("a", 1, DAY))
    with pytest.raises(LakeError, match="check `day is a day`"):
        runner.build("shop.seen", DAY, DAY, spark=spark, log=lambda line: None)


def test_names_that_are_words_of_sql(shop: Any, spark: Any) -> None:
    words = {"name": "user", "day": "interval"}
    texts = {}
    for path in ("shop/event.yaml", "shop/seen.yaml", "shop/seen.sql"):
        text = {"shop/seen.yaml": KEPT, "shop/seen.sql": KEPT_SQL.format(day="max(event.`day`)")}.get(path)
        texts[path] = text or (settings.SQL / path).read_text()
    for word, other in words.items():
        for path, text in texts.items():
            quoted = f"`{other}`" if path.endswith(".sql") else other
            text = text.replace(f"`{word}`", word).replace(f"name: {word},", f"name: {other},")
            text = text.replace(f"[{word}]", f"[{other}]").replace(f"event.{word}", f"event.{quoted}")
            texts[path] = text.replace(f" as {word}", f" as {quoted}")
    for path in (settings.SQL / "shop").glob("total.*"):
        path.unlink()
    shop(texts)
    load(("a", 1, DAY))
    assert runner.build("shop.seen", DAY, DAY, spark=spark, log=lambda line: None).rows == 1
    load(("a", 1, NEXT), ("b", 1, NEXT))
    runner.build("shop.seen", NEXT, NEXT, spark=spark, log=lambda line: None)
    assert sorted((row["user"], row["interval"]) for row in builders.published("shop.seen")) == [
        ("a", NEXT),
        ("b", NEXT),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"shop/event.yaml": "about: E.\npartitioned_by: [part_week]\ncolumns: [{name: name, type: string}, "
          "{name: day, type: string}, {name: part_week, type: string}]\n"},
         "has weeks, and a table kept by key takes in days"),
        ({"shop/event.yaml": "about: E.\ncolumns: [{name: name, type: string}, {name: day, type: string}]\n"},
         "and none has days"),
    ],
)  # fmt: skip
def test_what_a_table_kept_by_key_cannot_read(
    project: Any, files: dict[str, str], message: str, lake_home: Path
) -> None:
    project({"shop/seen.yaml": KEPT, "shop/seen.sql": KEPT_SQL.format(day="max(event.day)"), **files})
    with pytest.raises(ContractError, match=message):
        lineage.touches("shop.seen")


def test_a_table_of_days_reads_no_table_that_is_kept_by_key(shop: Any) -> None:
    shop({
        "shop/seen.yaml": KEPT, "shop/seen.sql": KEPT_SQL.format(day="max(event.day)"),
        "shop/daily.yaml": CONTRACT,
        "shop/daily.sql": "select seen.name, 1L as total, seen.day from shop.seen as seen "
        "where seen.day between :start_date and :end_date",
    })  # fmt: skip
    with pytest.raises(ContractError, match="is kept by key, so that any day may change its rows of all days"):
        lineage.inputs("shop.daily")


NUMBERS = {
    "shop/number.yaml": "about: Numbers.\npartitioned_by: [day]\ncolumns: [{name: name, type: string}, "
    "{name: size, type: double}, {name: day, type: string}]\n",
    "shop/ratio.yaml": "about: Ratios.\nkey: [name]\npartitioned_by: [day]\nchecks: [ratio <= 2]\ncolumns: "
    "[{name: name, type: string}, {name: ratio, type: double}, {name: day, type: string}]\n",
    "shop/ratio.sql": "select n.name, {ratio} as ratio, n.day from shop.number as n "
    "where n.day between :start_date and :end_date\n",
}


@ENGINES
@pytest.mark.parametrize(
    ("ratio", "sizes"),
    [
        ("n.size", (1.5, float("nan"), 1.5)),  # as the source has it
        ("n.size * cast(0 as double) + cast(1.5 as double)", (1.0, float("inf"), 2.0)),  # as the SELECT makes it
    ],
)
def test_nan_beside_rows_of_one_value(
    project: Any, lake_home: Path, spark: Any, ratio: str, sizes: tuple[float, ...]
) -> None:
    """A file says of a column what its smallest and largest value is. NaN is neither, and not that value."""
    project(NUMBERS | {"shop/ratio.sql": NUMBERS["shop/ratio.sql"].format(ratio=ratio)})
    contract = contracts.get("shop.number")
    columns = [["a", "b", "c"], list(sizes), [DAY] * 3]
    storage.replace(contract, pa.table(columns, schema=storage.arrow_schema(contract)))
    with pytest.raises(CheckFailed, match="`ratio is not NaN` fails 1 time"):
        runner.build("shop.ratio", DAY, DAY, spark=spark, log=lambda line: None)


def test_a_select_sees_the_days_alone_that_its_contract_reads(shop: Any, spark: Any, lake_home: Path) -> None:
    """What it read of others could change, and its rows would stay fresh."""
    shop({
        "shop/total.sql": "select event.name, sum(event.amount) as total, :end_date as day from shop.event as event "
        "where event.day between '2026-01-01' and :end_date or event.day > :start_date group by event.name"
    })  # fmt: skip
    load(("a", 1, DAY), ("a", 2, NEXT), ("a", 4, "2026-01-07"))
    build(spark, NEXT)
    assert totals() == [("a", 2)]
    shop({"shop/total.yaml": CONTRACT + f"reads: {{{SOURCE}: 1}}\n"})
    build(spark, NEXT)
    assert totals() == [("a", 3)]
    load(("a", 9, DAY))
    assert state(TABLE, NEXT) == STALE
