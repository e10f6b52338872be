"""What a look sees of what others do to tables: every change of rows and no other, whoever wrote it. No Spark."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from include.lake.errors import ContractError, LakeError
from include.lake.project import contracts
from include.lake.project.days import day_range, days_before, last_finished_day
from include.lake.state import ledger
from include.lake.state.look import Look
from include.lake.storage import delta_files as storage
from include.lake.storage import overtaken, store
from tests.pretend import BUILT, SOURCE, build, load, select

EVENT, TOTAL, WIDE, ALL = "shop.event", "shop.total", "shop.wide", "shop.whole"
LETTERS = {"fresh": "f", "stale": "s", "missing": "m", "failed": "X"}
DAYS = day_range("2026-01-01", "2026-01-05")
FILES = {
    "shop/event.yaml": SOURCE,
    "shop/name.yaml": "about: Names, without days.\ncolumns: [{name: amount, type: bigint}]\n",
    "shop/total.yaml": BUILT,
    "shop/total.sql": select(EVENT),
    "shop/wide.yaml": BUILT + "reads: {shop.event: 1}\n",
    "shop/wide.sql": select(EVENT),
    "shop/whole.yaml": BUILT + "reads: {shop.event: all}\n",
    "shop/whole.sql": select(EVENT),
}


@pytest.fixture
def shop(project: Any, lake_home: Path) -> Any:
    """event (a source) with five days, and three tables built of it, which read a day, two days and all days."""
    project(FILES)
    load(EVENT, *DAYS)
    for table in (TOTAL, WIDE, ALL):
        build(table, DAYS)
    return project


def states(table: str, days: list[str] = DAYS) -> str:
    """The states of days: Fresh, Stale, Missing, and X for failed."""
    lake = Look()
    return "".join(LETTERS[lake.own_state(table, day).state] for day in days)


def delta(table: str) -> DeltaTable:
    found = storage.open_table(table)
    assert found is not None
    return found


def path(table: str) -> Path:
    return Path(storage.address(table))


# A change of rows of the third day by another writer, and what does not change any row.
CHANGES = {
    "delete": lambda table: table.delete("day = '2026-01-03'"),
    "update": lambda table: table.update({"amount": "7"}, predicate="day = '2026-01-03'"),
    "restore": lambda table: table.restore(0),
}
NO_CHANGES = {
    "compact": lambda table: table.optimize.compact(),
    "z-order": lambda table: table.optimize.z_order(["amount"]),
    "vacuum": lambda table: table.vacuum(0, dry_run=False, enforce_retention_duration=False),
    "property": lambda table: table.alter.set_table_properties({"delta.logRetentionDuration": "interval 9 days"}),
    "comment": lambda table: table.alter.set_table_description("another one"),
    "checkpoint": lambda table: table.create_checkpoint(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_rows_of_a_source_makes_exactly_its_readers_stale(shop, change: str) -> None:
    load(EVENT, *DAYS[:4])  # a second file of most days, so that there is something to compact or to restore
    for table in (TOTAL, WIDE, ALL):
        build(table, DAYS)
    if change == "restore":
        CHANGES[change](delta(EVENT))
        assert set(states(TOTAL)) <= {"f", "s"} and states(TOTAL) != "fffff"
        return
    CHANGES[change](delta(EVENT))
    assert states(TOTAL) == "ffsff"
    assert states(WIDE) == "ffssf"
    assert states(ALL) == "ffsss"


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_changes_no_row_of_a_source_or_table_makes_nothing_stale(shop, change: str) -> None:
    storage.ensure(contracts.get(EVENT))
    for table in (EVENT, TOTAL):
        NO_CHANGES[change](delta(table))
    assert (states(TOTAL), states(WIDE), states(ALL)) == ("fffff",) * 3


def give_rows(table: str) -> None:
    """Rows for the table, from its runner: a build record with rows of every day."""
    import json
    import uuid

    import pyarrow as pa
    from deltalake import CommitProperties, write_deltalake

    from include.lake.project import lineage

    contract = contracts.get(table)
    record = {
        "build_id": uuid.uuid4().hex, "table": table, "run": "test", "started_at": datetime.now(UTC).isoformat(),
        "code_id": lineage.code_id(table), "inputs": Look().input_versions(table), "checks": {},
        "days": {day: {"rows": 1, "dropped": {}} for day in DAYS},
    }  # fmt: skip
    rows = pa.Table.from_pylist([{"amount": 1, "day": day} for day in DAYS], schema=storage.arrow_schema(contract))
    properties = CommitProperties(custom_metadata={"userMetadata": json.dumps(record)})
    write_deltalake(str(path(table)), rows, mode="append", commit_properties=properties)
    ledger.record(table)


@pytest.mark.parametrize("entered", [False, True])
@pytest.mark.parametrize("change", ["delete", "update"])
def test_a_change_of_our_own_table_by_hand_is_stale_and_says_so(shop, change: str, entered: bool) -> None:
    give_rows(TOTAL)
    CHANGES[change](delta(TOTAL))
    if entered:  # a later build of another day, which enters the change in the ledger
        build(TOTAL, DAYS[:1])
    assert states(TOTAL) == "ffsff"
    assert Look().own_state(TOTAL, DAYS[2]).why == "changed by another writer since the build"
    assert ledger.rebuild()[1] > 0
    assert states(TOTAL) == "ffsff"
    build(TOTAL, DAYS[2:3])
    assert states(TOTAL) == "fffff"


@pytest.mark.parametrize(
    "said",
    [
        "no JSON", "[1]", '{"days": 3, "since": "x", "places": 1}', '{"build_id": null, "table": "TABLE"}',
        '{"build_id": "b", "table": "TABLE", "days": {"2026-01-03": 7}, "checks": []}',
        '{"load_id": "b", "table": "TABLE", "loaded": 1, "empty_days": "2026-01-03"}',
        '{"table": "TABLE", "build_id": "b", "run": "r", "started_at": "now", "code_id": "", "checks": {}, "days": {}}',
    ],
)  # fmt: skip
def test_what_others_say_in_their_commits_is_theirs(shop, said: str) -> None:
    """A record that is not whole is none: the day is changed by another writer, and builds and the ledger go on."""
    import pyarrow as pa
    from deltalake import CommitProperties, write_deltalake

    row = pa.Table.from_pylist([{"amount": 1, "day": DAYS[2]}], schema=storage.arrow_schema(contracts.get(TOTAL)))
    before = store().open(TOTAL)
    assert before is not None
    properties = CommitProperties(custom_metadata={"userMetadata": said.replace("TABLE", TOTAL)})
    write_deltalake(str(path(TOTAL)), row, mode="append", commit_properties=properties)
    assert overtaken(contracts.get(TOTAL), before.version, [DAYS[2]])
    assert not overtaken(contracts.get(TOTAL), before.version, [DAYS[3]])
    assert states(TOTAL) == "ffsff"
    assert ledger.rebuild()[1] > 0
    assert states(TOTAL) == "ffsff"
    build(TOTAL, DAYS[2:3])
    assert states(TOTAL) == "fffff"


def test_a_restore_of_our_own_table_to_its_beginning_makes_all_days_stale(shop) -> None:
    give_rows(TOTAL)
    delta(TOTAL).restore(0)
    assert states(TOTAL) == "sssss"


def test_a_table_that_was_moved_away_is_missing_and_built_anew(shop) -> None:
    for _ in range(3):
        build(TOTAL, DAYS)
    path(TOTAL).rename(path(TOTAL).with_name("moved"))
    assert states(TOTAL) == "mmmmm"
    build(TOTAL, DAYS[:2])
    assert states(TOTAL) == "ffmmm"
    assert {row["version"] for row in ledger.read([TOTAL])} > {1}, "its old rows are still in the ledger"


def test_a_source_that_was_moved_away_and_loaded_anew_makes_its_readers_stale(shop) -> None:
    path(EVENT).rename(path(EVENT).with_name("moved"))
    load(EVENT, *DAYS)
    assert states(TOTAL) == "sssss"


def test_a_source_that_drops_its_oldest_days_makes_nothing_stale(shop) -> None:
    delta(EVENT).delete("day <= '2026-01-02'")
    assert (states(TOTAL), states(WIDE), states(ALL)) == ("fffff",) * 3
    build(TOTAL, DAYS[4:])
    assert (states(TOTAL), states(WIDE), states(ALL)) == ("fffff",) * 3
    delta(EVENT).delete("day = '2026-01-04'")  # not its oldest one: its rows were taken away
    assert (states(TOTAL), states(WIDE), states(ALL)) == ("fffsf", "fffss", "fffss")


def test_days_of_commits_that_delta_has_cleaned_away_count_as_changed_unless_the_ledger_knows_them(shop) -> None:
    for table in (EVENT, TOTAL):
        delta(table).create_checkpoint()
    ledger.record(EVENT)
    load(EVENT, *DAYS)  # before the next look, its commit is gone
    delta(EVENT).create_checkpoint()
    for log in sorted((path(EVENT) / "_delta_log").glob("*.json"))[:-1]:
        log.unlink()
    assert states(TOTAL) == "sssss"


# -- states that end well


def test_a_failed_try_counts_as_long_as_its_inputs_are_those_that_it_failed_with(shop) -> None:
    load(EVENT, DAYS[2])
    build(TOTAL, DAYS[2:3], "failed")
    assert states(TOTAL) == "ffXff"
    load(EVENT, DAYS[2])  # the corrected file
    assert states(TOTAL) == "ffsff"
    build(TOTAL, DAYS[2:3])
    assert states(TOTAL) == "fffff"


def test_a_first_try_that_failed_is_missing_again_once_its_inputs_or_its_select_changed(shop) -> None:
    shop({"shop/fourth.yaml": BUILT, "shop/fourth.sql": select(EVENT, EVENT)})
    build("shop.fourth", DAYS[:1], "failed")
    assert Look().own_state("shop.fourth", DAYS[0]).state == "failed"
    shop({"shop/fourth.sql": select(EVENT)})
    assert Look().own_state("shop.fourth", DAYS[0]).state == "missing"


def test_a_failed_try_ends_with_a_change_of_an_input_without_days(shop) -> None:
    read_names = select(EVENT).replace("where", "inner join shop.name as n on n.amount = t.amount where")
    shop({"shop/fourth.yaml": BUILT, "shop/fourth.sql": read_names})
    load("shop.name")
    build("shop.fourth", DAYS[:1], "failed")
    assert Look().own_state("shop.fourth", DAYS[0]).state == "failed"
    load("shop.name")
    assert Look().own_state("shop.fourth", DAYS[0]).state == "missing"


def test_the_order_is_that_of_commits_and_not_of_clocks(shop, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(minutes=2)

    with monkeypatch.context() as worker:
        worker.setattr(ledger, "datetime", Ahead)
        build(TOTAL, DAYS[:1], "failed")
    assert Look().own_state(TOTAL, DAYS[0]).state == "failed"
    build(TOTAL, DAYS[:1])  # the retry on another worker, whose clock is right
    assert Look().own_state(TOTAL, DAYS[0]).state == "fresh"
    assert all(row["seconds"] is None or row["seconds"] >= 0 for row in ledger.read([TOTAL]))


# -- days that are empty, and days that are complete


def complete(shop: Any, *fields: str) -> None:
    shop({"shop/event.yaml": SOURCE + "".join(f"{field}\n" for field in fields)})


def test_a_day_counts_as_there_when_ready_when_is_true_of_its_rows(shop, lake_home: Path) -> None:
    import pyarrow as pa

    complete(shop, "ready_when: max(amount) = 23")

    def deliver(*amounts: int) -> None:
        rows = pa.table({"amount": list(amounts), "day": ["2026-01-06"] * len(amounts)})
        storage.replace(contracts.get(EVENT), rows)

    deliver(1, 5)
    lake = Look()
    assert list(lake.absent(EVENT, ["2026-01-06"])) == ["2026-01-06"]
    state = lake.own_state(EVENT, "2026-01-06")
    assert state.state == "missing" and "is not complete" in state.why and "is 5" in state.why
    assert "is not complete" in lake.own_state(TOTAL, "2026-01-06").why
    deliver(1, 23)
    assert Look().absent(EVENT, ["2026-01-06"]) == []
    assert Look().own_state(EVENT, "2026-01-06").state == "fresh"


def test_a_condition_that_the_query_engine_does_not_know_names_its_line(shop) -> None:
    complete(shop, "ready_when: max(amount) = true")
    assert (
        "event.yaml:4: `ready_when` `max(amount) = true` cannot be computed: " in Look().own_state(EVENT, DAYS[0]).why
    )


@pytest.mark.parametrize("damage", ["lost", "torn"])
def test_a_damaged_file_is_no_fault_of_the_condition(shop, damage: str) -> None:
    complete(shop, "ready_when: max(amount) > 1")
    (file,) = path(EVENT).glob(f"day={DAYS[0]}/*.parquet")
    file.unlink() if damage == "lost" else file.write_bytes(file.read_bytes()[:-40])
    why = Look().own_state(EVENT, DAYS[0]).why
    assert why.startswith(f"a file of {EVENT} is lost or torn: load its days again (") and file.name in why


def test_a_day_without_rows_counts_as_empty_some_hours_after_its_end(shop) -> None:
    assert Look().absent(EVENT, ["2026-01-06"]) == ["2026-01-06"]
    complete(shop, "empty_after: 1")
    assert Look().absent(EVENT, ["2026-01-06"]) == []
    assert Look().own_state(EVENT, "2026-01-06").why == "empty, and complete"
    today = days_before(last_finished_day("UTC"), -1)
    assert Look().absent(EVENT, [today]) == [today], "it is not over"
    build(TOTAL, ["2026-01-06"])
    assert Look().own_state(TOTAL, "2026-01-06").state == "fresh"
    load(EVENT, "2026-01-06")
    assert Look().own_state(TOTAL, "2026-01-06").state == "stale", "rows came all the same"


# -- one damaged file


def tear(table: str, rest: bytes | None = None) -> Path:
    """Cut the newest commit of a table off, as a full disk, a power cut or a copy that broke off does."""
    newest = max((path(table) / "_delta_log").glob("*.json"))
    newest.write_bytes(newest.read_bytes()[:-40] if rest is None else rest)
    return newest


@pytest.mark.parametrize("rest", [None, b"", b"\n", b"{}\n", bytes(100)], ids=str)
def test_a_torn_commit_of_a_table_is_named_with_the_cure_and_hides_no_other(shop, rest: bytes | None) -> None:
    shop({"shop/other.yaml": SOURCE})
    load("shop.other", *DAYS)
    torn = tear(EVENT, rest)
    lake = Look()
    assert lake.own_state(EVENT, DAYS[0]).state == "failed"
    assert f"{EVENT}: its newest commit is torn: delete {torn}" in lake.own_state(EVENT, DAYS[0]).why
    assert lake.own_state("shop.other", DAYS[0]).state == "fresh"
    assert lake.newest_day(EVENT) == ""
    torn.unlink()
    assert Look().own_state(EVENT, DAYS[0]).state == "missing"


@pytest.mark.parametrize("rest", [None, b""], ids=["cut off", "empty"])
def test_a_torn_ledger_is_made_again(shop, rest: bytes | None) -> None:
    build(TOTAL, DAYS[:1], "failed")
    tear(ledger.TABLE, rest)
    with pytest.raises(LakeError, match=r"\./lake ledger rebuild"):
        Look().day_versions(TOTAL)
    told: list[str] = []
    ledger.rebuild(told.append)
    assert states(TOTAL) == "fffff"
    (line,) = told
    assert "cannot be read" in line and line.endswith("failed builds are forgotten")


def test_a_table_that_cannot_be_read_keeps_its_rows_of_the_ledger_and_is_named(shop) -> None:
    rows = ledger.read([TOTAL])
    newest = max((path(TOTAL) / "_delta_log").glob("*.json"))
    content = newest.read_bytes()
    tear(TOTAL, None)
    told: list[str] = []
    ledger.rebuild(told.append)
    (line,) = told
    assert line.startswith(f"{TOTAL}: its newest commit is torn") and line.endswith("its rows stay as they were")
    newest.write_bytes(content)
    assert ledger.read([TOTAL]) == rows and states(TOTAL) == "fffff"


def test_rows_that_a_repair_entered_a_second_time_count_once(shop) -> None:
    build(TOTAL, DAYS[:1], "failed")
    rows, builds = ledger.read([TOTAL]), Look().builds(TOTAL)
    ledger.append(rows)
    lake = Look()
    assert (ledger.read([TOTAL]), lake.builds(TOTAL), states(TOTAL)) == (rows, builds, "Xffff")
    assert [len(lake.rows(TOTAL, day)) for day in DAYS] == [2, 1, 1, 1, 1]
    assert {day: row["build_id"] for day, row in lake.built(TOTAL).items()} == dict.fromkeys(DAYS, rows[0]["build_id"])
    ledger.rebuild()
    snapshot = store().open(ledger.TABLE)
    assert snapshot is not None
    assert store().rows(snapshot, {"table": [TOTAL]}).num_rows == len(rows), "who reads the table itself has each once"


@pytest.mark.parametrize("damage", ["lost", "empty", "cut off"])
def test_a_ledger_with_a_damaged_file_is_made_again_and_hides_no_other_table(shop, damage: str) -> None:
    build(TOTAL, DAYS[:1], "failed")
    build(WIDE, DAYS[:1], "failed")
    file = min(path(ledger.TABLE).glob(f"table={TOTAL}/*.parquet"))
    content = file.read_bytes()
    file.unlink() if damage == "lost" else file.write_bytes(content[: len(content) // 2 if damage == "cut off" else 0])
    state = Look().own_state(TOTAL, DAYS[0])
    assert state.state == "failed" and str(file) in state.why and "./lake ledger rebuild" in state.why
    assert states(WIDE) == "Xffff"
    with pytest.raises(LakeError, match=r"\./lake ledger rebuild"):
        ledger.read()
    told: list[str] = []
    ledger.rebuild(told.append)
    assert told == [f"a file of {ledger.TABLE} is lost or torn ({file}): failed builds of {TOTAL} are forgotten"]
    assert states(TOTAL) == "fffff", "the failure was in the partition that cannot be read"
    assert states(WIDE) == "Xffff", "a failure that the ledger still knows stays"


def test_another_partitioning_is_an_error_of_its_table_alone(shop) -> None:
    shop({"shop/event.yaml": SOURCE.replace("[day]", "[part]").replace("day, type", "part, type")})
    state = Look().own_state(EVENT, DAYS[0])
    assert state.state == "failed" and "shop/event.yaml" in state.why and "partitioned by day" in state.why
    with pytest.raises(ContractError, match="partitioned by day in the table and by part in its contract"):
        load(EVENT, *DAYS)
    snapshot = store().open(EVENT)
    assert snapshot is not None
    with pytest.raises(ContractError, match="partitioned by day") as told:
        store().rows(snapshot, {"part": DAYS})
    assert str(told.value) == state.why
    shop({"shop/event.yaml": SOURCE.replace("partitioned_by: [day]\n", "")})
    with pytest.raises(ContractError, match="by day in the table and by nothing in its contract"):
        load(EVENT)
    shop({"shop/name.yaml": FILES["shop/name.yaml"]})
    load("shop.name")
    shop({"shop/name.yaml": SOURCE})
    assert "not partitioned" in Look().own_state("shop.name", DAYS[0]).why
    assert Look().own_state(WIDE, DAYS[0]).state == "failed"


@pytest.mark.parametrize(
    ("table", "contract", "message"),
    [
        (EVENT, SOURCE.replace("amount, type", "other, type"), "has amount, which its contract has not: move"),
        (EVENT, SOURCE.replace("amount, type: bigint", "amount, type: int"), "amount is bigint in the table: move"),
        (TOTAL, BUILT.replace("amount, type: bigint", "amount, type: array<int>"), "amount is bigint in the table"),
    ],
)
def test_another_layout_is_told_in_the_words_of_contracts(shop, table: str, contract: str, message: str) -> None:
    shop({f"{table.replace('.', '/')}.yaml": contract})
    with pytest.raises(ContractError) as told:
        storage.ensure(contracts.get(table))
    assert message in str(told.value)
    assert str(told.value).endswith("load its rows again" if table == EVENT else "build its days again")


def test_a_type_of_delta_is_told_as_contracts_write_it() -> None:
    for kind in ("string", "tinyint", "int", "bigint", "double", "boolean", "date", "timestamp", "array<bigint>"):
        column = contracts.Column(name="a", type=kind)
        assert storage._type_in_words(storage._field(column).type) == kind
