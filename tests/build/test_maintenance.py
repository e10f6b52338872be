"""Maintenance: fewer files with the same rows, on real Delta tables, beside readers, builds and another maintenance."""

import json
import os
import random
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from include.lake import settings
from include.lake.build import maintenance as upkeep
from include.lake.build import runner
from include.lake.cli import main as cli
from include.lake.engine import server
from include.lake.engine import spark as on_spark
from include.lake.errors import WriteConflict
from include.lake.project import contracts, lineage
from include.lake.project.days import day_range
from include.lake.state import ledger
from include.lake.state.look import Look
from include.lake.storage import Maintained, delta_files, delta_upkeep, store, unity_catalog
from tests import builders
from tests.shop import CONTRACT, DAY, FILES, LAST, NEXT, SOURCE, TABLE, build, load

EVENT = "shop.event"
ROWS = 4  # of each small file
NEWEST = """\
about: The newest day of each name.
key: [name]
kept_by: [name]
partitioned_by: [newest_day]
clustered_by: [name]
columns:
  - {name: name, type: string}
  - {name: newest_day, type: string}
"""
NEWEST_SQL = """\
select event.name, max(event.day) as newest_day
from shop.event as event where event.name is not null group by event.name
"""


def small_files(table: str, days: list[str], count: int = 3) -> None:
    """Small files in some days of a source of the shop."""
    for number in range(count):
        names = [f"{chr(97 + (number * 7 + n * 3) % 26)}" for n in range(ROWS)] * len(days)
        rows = {"name": names, "amount": [number] * len(names), "day": [day for day in days for _ in range(ROWS)]}
        schema = delta_files.arrow_schema(contracts.get(table))
        write_deltalake(delta_files.ensure(contracts.get(table)).address, pa.table(rows, schema=schema), mode="append")


def delta(table: str, version: int | None = None) -> DeltaTable:
    found = delta_files.open_table(table, version)
    assert found is not None
    return found


def rows(table: str, version: int | None = None) -> Counter:
    return Counter(tuple(row.values()) for row in delta(table, version).to_pyarrow_table().to_pylist())


def files(table: str) -> dict[str, int]:
    """Partition -> how many files it has."""
    snapshot = delta_files.open(table)
    assert snapshot is not None
    return {value: len(paths) for value, paths in snapshot.handle.by(snapshot.partitioned_by[-1]).items()}


def operations(table: str, after: int) -> list[str]:
    return [str(one["operation"]) for one in reversed(delta(table).history()) if one["version"] > after]


@pytest.fixture
def sources(project: Any, lake_home: Path) -> Any:
    project(FILES)
    return project


def clustered(by: str = "name") -> dict[str, str]:
    return FILES | {
        "shop/event.yaml": SOURCE.replace("columns:", f"clustered_by: [{by}]\ncolumns:", 1),
        "shop/total.yaml": CONTRACT.replace("columns:", f"clustered_by: [{by}]\ncolumns:", 1),
    }


# -- files and rows


def test_small_files_become_one_and_the_rows_stay(sources: Any) -> None:
    small_files(EVENT, [DAY, NEXT])
    before, version = rows(EVENT), delta(EVENT).version()
    assert files(EVENT) == {DAY: 3, NEXT: 3}
    assert store().maintain(EVENT) == Maintained(6, 2, 0, 0)
    assert rows(EVENT) == before and files(EVENT) == {DAY: 1, NEXT: 1}
    assert rows(EVENT, version) == before, "who reads an older version goes on"
    assert operations(EVENT, version) == ["OPTIMIZE"]
    assert json.loads((Path(delta_files.address(EVENT)) / "_delta_log/_last_checkpoint").read_text())["version"] == 4


def test_what_needs_no_work_gets_no_commit(sources: Any) -> None:
    small_files(EVENT, [DAY])
    store().maintain(EVENT)
    version = delta(EVENT).version()
    assert store().maintain(EVENT) == Maintained(1, 1, 0, 0)
    assert delta(EVENT).version() == version


def test_only_days_that_changed_are_clustered_again(sources: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sources(clustered())
    small_files(EVENT, [DAY, NEXT])
    before, seen = rows(EVENT), []
    optimize = delta_upkeep._optimize
    monkeypatch.setattr(
        delta_upkeep, "_optimize", lambda delta, column, values, *more: (
            seen.append(sorted(values)), optimize(delta, column, values, *more))
    )  # fmt: skip
    store().maintain(EVENT)
    assert seen == [[DAY, NEXT]] and rows(EVENT) == before
    names = delta(EVENT).to_pyarrow_dataset().to_table(columns=["name", "day"]).to_pylist()
    for day in (DAY, NEXT):
        of_day = [row["name"] for row in names if row["day"] == day]
        assert of_day == sorted(of_day), "near names lie near each other"
    store().maintain(EVENT)
    assert seen == [[DAY, NEXT]], "nothing has changed"
    small_files(EVENT, [NEXT], 1)
    small_files(EVENT, [LAST], 1)
    store().maintain(EVENT)
    assert seen[1:] == [[NEXT, LAST]]
    sources(clustered("amount"))
    store().maintain(EVENT)
    assert seen[2:] == [[DAY, NEXT, LAST]], "other columns"


def test_a_clustering_that_was_cut_is_begun_anew(sources: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the first of its commits: the second day is not taken for clustered."""
    sources(clustered())
    small_files(EVENT, [DAY, NEXT])
    before, optimize, seen = rows(EVENT), delta_upkeep._optimize, []

    def cut(delta: Any, column: Any, values: list[str], *more: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(values)
        optimize(delta, column, values, *more)

    monkeypatch.setattr(delta_upkeep, "_TOGETHER", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(delta_upkeep, "_optimize", cut)
        store().maintain(EVENT)
    assert seen == [[DAY]] and files(EVENT) == {DAY: 1, NEXT: 3} and rows(EVENT) == before
    assert store().maintain(EVENT) == Maintained(4, 2, 0, 0)
    assert rows(EVENT) == before


def test_a_source_without_days_is_maintained_too(sources: Any) -> None:
    sources({"shop/word.yaml": "about: Words.\nclustered_by: [word]\ncolumns: [{name: word, type: string}]\n"})
    for word in "cab":
        path = delta_files.ensure(contracts.get("shop.word")).address
        write_deltalake(path, pa.table({"word": [word]}), mode="append")
    assert store().maintain("shop.word") == Maintained(3, 1, 0, 0)
    version = delta("shop.word").version()
    assert [word for (word,) in rows("shop.word")] == ["a", "b", "c"]
    assert store().maintain("shop.word") == Maintained(1, 1, 0, 0) and delta("shop.word").version() == version
    write_deltalake(delta_files.address("shop.word"), pa.table({"word": ["d"]}), mode="append")
    assert store().maintain("shop.word") == Maintained(2, 1, 0, 0)


def test_files_of_a_week_ago_go_and_younger_ones_stay(sources: Any) -> None:
    small_files(EVENT, [DAY])
    store().maintain(EVENT)
    folder, week = Path(delta_files.address(EVENT)), time.time() - 8 * 86400
    for name in ("_stage/old/part.parquet", "_stage/young/part.parquet", f"day={DAY}/orphan.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("half")
    for name in ("_stage/old/part.parquet", f"day={DAY}/orphan.parquet"):
        os.utime(folder / name, (week, week))
    done = store().maintain(EVENT)
    assert done == Maintained(1, 1, 8, 0), "two files of four bytes"
    assert [path.name for path in (folder / "_stage").iterdir()] == ["young"]
    assert len(list(folder.glob("day=*/*.parquet"))) == 4, "those of the version before the compaction"


def test_the_ledger_is_maintained_and_says_the_same(sources: Any) -> None:
    for number in range(8):
        ledger.failed("a.b", "id", number, [DAY], f"id{number}", "test", "code", {}, 1.0, {}, "a reason")
    before = ledger.read()
    assert store().maintain(contracts.LEDGER) == Maintained(8, 1, 0, 0)
    assert ledger.read() == before and len(before) == 8


def test_a_crowded_partition_of_the_ledger_does_not_wait_for_the_week(
    sources: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the other partitions do: the builds have nothing to do with their files."""
    monkeypatch.setattr(delta_upkeep, "_CROWDED", 10)
    for number in range(49):
        table = "a.b" if number % 5 else "c.d"
        ledger.failed(table, "id", number, [DAY], f"id{number}", "test", "code", {}, 1.0, {}, "a reason")
    assert files(contracts.LEDGER) == {"a.b": 39, "c.d": 10}
    ledger.failed("a.b", "id", 49, [DAY], "id49", "test", "code", {}, 1.0, {}, "a reason")
    assert files(contracts.LEDGER) == {"a.b": 1, "c.d": 10} and len(ledger.read()) == 50


# -- beside others


def test_a_second_maintenance_gives_way(sources: Any) -> None:
    """Delta-rs itself would let both commit, and every row would be there twice."""
    small_files(EVENT, [DAY])
    before = rows(EVENT)
    with delta_upkeep._alone(EVENT) as first:
        assert first
        assert store().maintain(EVENT) == Maintained(3, 3, note="is maintained by another process just now")
    processes = [builders.start(maintain, EVENT) for _ in range(3)]
    for process in processes:
        builders.end_well(process)
    assert rows(EVENT) == before and files(EVENT) == {DAY: 1}


def maintain(table: str) -> None:
    assert delta_files.maintain(table)


def test_kills_at_random_instants_harm_nothing(sources: Any) -> None:
    sources(clustered())
    days, chance = day_range("2026-01-01", "2026-01-20"), random.Random(7)
    small_files(EVENT, days)
    before = rows(EVENT)
    for _ in range(4):
        process = builders.start(maintain, EVENT)
        time.sleep(chance.uniform(0.1, 1.0))
        process.kill()
        process.join(builders.SECONDS)
        assert rows(EVENT) == before
    store().maintain(EVENT)
    assert rows(EVENT) == before and set(files(EVENT).values()) == {1}


def test_the_reason_of_the_lock_is_still_there(sources: Any) -> None:
    """If this fails, delta-rs has learnt to refuse the second of two compactions: see `delta_upkeep._alone`."""
    small_files(EVENT, [DAY])
    before, stale = rows(EVENT), delta(EVENT)
    delta(EVENT).optimize.compact()
    stale.optimize.compact()
    assert rows(EVENT).total() == 2 * before.total()


def test_a_day_that_a_build_replaces_meanwhile_is_left_to_it(sources: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small_files(EVENT, [DAY, NEXT])
    before, optimize, tries = rows(EVENT), delta_upkeep._optimize, []

    def late(delta: Any, column: Any, values: list[str], *more: Any) -> None:
        if NEXT in values:  # replaced between the look at its files and the commit, each time
            load(("new", len(tries), NEXT))
            small_files(EVENT, [NEXT], 1)
            tries.append(values)
        optimize(delta, column, values, *more)

    monkeypatch.setattr(delta_upkeep, "_optimize", late)
    done = store().maintain(EVENT)
    assert done is not None and done.lost == 1 and tries == [[DAY, NEXT], [NEXT]]
    assert files(EVENT)[DAY] == 1
    assert {row: count for row, count in rows(EVENT).items() if row[2] == DAY} == {
        row: count for row, count in before.items() if row[2] == DAY
    }
    assert "1 partition" in upkeep.maintain(EVENT)


def test_maintenance_makes_no_source_look_changed(sources: Any) -> None:
    small_files(EVENT, [DAY])
    before = Look().input_versions(TABLE)
    seen = Look().own_state(TABLE, DAY)
    store().maintain(EVENT)
    assert Look().own_state(TABLE, DAY) == seen and before.keys() == Look().input_versions(TABLE).keys()


@pytest.mark.spark
def test_a_build_that_meets_maintenance_publishes_what_it_has_computed(
    shop: Any, spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(clustered())
    load(("b", 1, DAY), ("a", 2, DAY))
    build(spark)
    load(("b", 5, DAY), ("a", 2, DAY))
    code, compute, computed, met = lineage.code_id(TABLE), runner.compute, [], []
    overtaken = runner.overtaken

    def counting(*arguments: Any) -> Any:
        computed.append(arguments)
        return compute(*arguments)

    def at_the_last_moment(*arguments: Any) -> bool:
        found = overtaken(*arguments)
        if not met:
            met.append(store().maintain(TABLE))
        return found

    monkeypatch.setattr(runner, "compute", counting)
    monkeypatch.setattr(runner, "overtaken", at_the_last_moment)
    version = delta(TABLE).version()
    assert build(spark).state == "built"
    assert len(computed) == 1 and met and code == lineage.code_id(TABLE)
    assert operations(TABLE, version) == ["OPTIMIZE", "WRITE"]
    assert sorted(row[:2] for row in rows(TABLE)) == [("a", 2), ("b", 5)]
    assert Look().state(TABLE, DAY).state == "fresh"


@pytest.mark.spark
def test_a_build_of_keys_that_meets_maintenance_publishes_what_it_has_computed(
    shop: Any, spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop({"shop/newest.yaml": NEWEST, "shop/newest.sql": NEWEST_SQL})
    table, met, computed, compute, overtaken = "shop.newest", [], [], runner.compute, runner.overtaken
    load(("a", 1, DAY), ("b", 2, DAY))
    load(("a", 3, NEXT), ("c", 4, NEXT))
    runner.build(table, DAY, DAY, spark=spark, log=lambda line: None)

    def at_the_last_moment(*arguments: Any) -> bool:
        found = overtaken(*arguments)
        met.append(store().maintain(table))
        return found

    monkeypatch.setattr(runner, "compute", lambda *arguments: (computed.append(1), compute(*arguments))[1])
    monkeypatch.setattr(runner, "overtaken", at_the_last_moment)
    version = delta(table).version()
    runner.build(table, NEXT, NEXT, spark=spark, log=lambda line: None)
    assert len(computed) == len(met) == 1 and operations(table, version) == ["OPTIMIZE", "WRITE"]
    assert sorted(rows(table)) == [("a", NEXT), ("b", DAY), ("c", NEXT)]


def test_what_changed_rows_is_a_conflict_as_before(sources: Any) -> None:
    contract = contracts.get(EVENT)
    small_files(EVENT, [DAY, NEXT])
    since = delta_files.open(EVENT)
    some = pa.table({"name": ["x"], "amount": [1], "day": [DAY]}, schema=delta_files.arrow_schema(contract))
    load(("other", 1, DAY))
    store().maintain(EVENT)
    record = {"table": EVENT, "build_id": "id", "days": {DAY: {}}}
    with pytest.raises(WriteConflict):
        delta_files.replace(contract, some, partitions=[DAY], record=record, since=since)


@pytest.mark.spark
@pytest.mark.engine("spark")
@pytest.mark.parametrize("by_maintenance", [True, False])
def test_spark_writes_again_after_maintenance_and_computes_again_after_others(
    shop: Any, spark: Any, monkeypatch: pytest.MonkeyPatch, by_maintenance: bool
) -> None:
    """The conflict itself is feigned: nothing holds Spark up between its look at the table and its commit."""
    shop(clustered())
    load(("b", 1, DAY), ("a", 2, DAY))
    build(spark)
    load(("b", 5, DAY), ("a", 2, DAY))
    computed, saved, compute, save = [], [], runner.compute, on_spark.Cached._save

    def saving(self: Any, writer: Any, address: str) -> None:
        saved.append(address)
        if len(saved) == 1:
            if by_maintenance:
                store().maintain(TABLE)
            else:
                delta(TABLE).delete(f"day = '{DAY}'")
            raise RuntimeError("[DELTA_CONCURRENT_DELETE_READ] as a client of Connect gets it")
        save(self, writer, address)

    monkeypatch.setattr(runner, "compute", lambda *arguments: (computed.append(1), compute(*arguments))[1])
    monkeypatch.setattr(on_spark.Cached, "_save", saving)
    assert build(spark).state == "built"
    assert (len(computed), len(saved)) == ((1, 2) if by_maintenance else (2, 2))
    assert sorted(row[:2] for row in rows(TABLE)) == [("a", 2), ("b", 5)]


# -- the command and the platform


def test_the_command_says_what_it_did(sources: Any, capsys: pytest.CaptureFixture[str]) -> None:
    small_files(EVENT, [DAY])
    assert cli.main(["maintain", EVENT, TABLE, contracts.LEDGER]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("shop.event: 1 file instead of 3, 0 bytes freed (")
    assert lines[1:] == ["shop.total does not exist yet", "ops.partition_build does not exist yet"]
    assert cli.main(["maintain"]) == 0
    assert {line.partition(" ")[0].rstrip(":") for line in capsys.readouterr().out.splitlines()} == {
        *upkeep.tables(), contracts.LEDGER,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--older-than-days", "0"], "--older-than-days 0: at least 7, for a build or a reader may still read files"),
        (["--older-than-days", "9999999999"], "--older-than-days 9,999,999,999: at most 3,660 days"),
        (["shop.totl"], "there is no table 'shop.totl': did you mean shop.total"),
        (["shop.both"], "shop.both is a view, which keeps no rows"),
    ],
)
def test_what_makes_no_sense_is_refused(
    sources: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    sources({"shop/both.yaml": "about: A view.\nview: true\ncolumns: [{name: day, type: string}]\n",
             "shop/both.sql": "select total.day from shop.total as total\n"})  # fmt: skip
    assert cli.main(["maintain", *arguments]) == 2
    assert error in capsys.readouterr().err


def test_a_table_that_fails_stops_no_other(
    sources: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_files(EVENT, [DAY])
    delta_files.ensure(contracts.get(TABLE))
    (Path(delta_files.address(TABLE)) / "_delta_log" / f"{0:020}.json").write_text("{")
    assert cli.main(["maintain", TABLE, EVENT]) == 1
    told = capsys.readouterr()
    assert "its newest commit is torn" in told.err and "shop.event: 1 file instead of 3" in told.out


def test_databricks_maintains_its_tables_itself(
    sources: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_ENGINE", settings.DATABRICKS)
    monkeypatch.setenv("LAKE_CATALOG", "wev_dev")
    assert store() is unity_catalog
    assert cli.main(["maintain"]) == 0
    assert capsys.readouterr().out == "Databricks maintains its managed tables itself\n"


def test_folders_of_dead_processes_go_and_those_of_living_ones_stay(sources: Any) -> None:
    mine = server.folder_of_this_process("stage")
    dead = mine.with_name("999999999-0123456789ab")
    young = mine.with_name("999999998-0123456789ab")
    week = time.time() - 8 * 86400
    for folder in (mine, dead, young):
        folder.mkdir(exist_ok=True)
        (folder / "part.parquet").write_text("rows")
    for path in (mine, mine / "part.parquet", dead, dead / "part.parquet"):
        os.utime(path, (week, week))
    os.utime(dead, (week, week))
    assert upkeep.remove_left_over(timedelta(days=7)) == 1
    assert sorted(path.name for path in mine.parent.iterdir()) == sorted([mine.name, young.name])


def test_clustering_changes_no_code_id(sources: Any) -> None:
    before = lineage.code_id(TABLE)
    sources(clustered())
    assert contracts.get(TABLE).clustered_by == ("name",) and lineage.code_id(TABLE) == before
