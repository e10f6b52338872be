"""The store of a Unity Catalog: tables `catalog.schema.table`, which SQL alone reads and writes. Nobody opens a file.

Its functions are those of the port `Store`. A run of Databricks uses its Spark session, and it alone writes. Airflow
and the command line ask a SQL warehouse, and read the state of our own tables from the ledger.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import groupby
from typing import Any, NoReturn

import pyarrow as pa

from include.lake import settings
from include.lake.errors import ContractError, LakeError, WriteConflict
from include.lake.project import contracts, lineage
from include.lake.project.contracts import Column, Contract
from include.lake.project.periods import is_key
from include.lake.storage import (
    ANY_DAY,
    KEPT,
    PROPERTIES,
    Commit,
    Maintained,
    PartitionFiles,
    Snapshot,
    require_days,
)
from include.lake.storage.records import BuildRecord, LoadRecord, metadata_of, record_of

dialect = "databricks"
Values = Mapping[str, str | int]
# What SQL says of a table that is not there, of one that two make at once, and of a version that nobody can read.
_ABSENT = re.compile(r"TABLE_OR_VIEW_NOT_FOUND|SCHEMA_NOT_FOUND|DELTA_TABLE_NOT_FOUND|DELTA_MISSING_DELTA_TABLE")
_TOGETHER = re.compile(
    r"ALREADY_EXISTS|DELTA_CREATE_TABLE_WITH_NON_EMPTY_LOCATION|DELTA_PROTOCOL_CHANGED|DELTA_METADATA_CHANGED|"
    r"DELTA_CONCURRENT"
)
_GONE = re.compile(
    r"DELTA_VERSION_NOT_FOUND|BEYOND_DELETED_FILE_RETENTION|[Cc]annot time travel (Delta table|beyond)|FILE_NOT_EXIST|"
    r"FILE_NOT_FOUND|FileNotFound|DELTA_LOG_FILE_NOT_FOUND|DELTA_VERSIONS_NOT_CONTIGUOUS|DELTA_STATE_RECOVER"
)
# What it says of what has no versions for us: a view, a table with a row filter or a column mask.
_NO_VERSIONS = re.compile(r"VIEW_HISTORY|EXPECT_TABLE_NOT_VIEW|TIME_TRAVEL_VIEWS|FGAC_TIME_TRAVEL")
# How often a run tries to make a table that another run makes at the same time, one second after the other.
_TRIES = 10
# Commits that change no row. One that is not listed here is compared with the version before: it costs a query.
_STILL = {
    "OPTIMIZE", "VACUUM START", "VACUUM END", "CREATE TABLE", "ADD COLUMNS", "CHANGE COLUMN", "UPDATE COLUMN METADATA",
    "SET TBLPROPERTIES", "UNSET TBLPROPERTIES", "UPGRADE PROTOCOL", "ROW TRACKING BACKFILL", "CLUSTER BY",
    "COMPUTE STATS", "ADD CONSTRAINT", "DROP CONSTRAINT",
}  # fmt: skip
# The property of a view that tells whether it is the one of our files.
_CODE = "'lake.code_id'"
# Databricks takes up to 256 values with a statement.
_BOUND = 240
# Commits that are read when a table is opened: mostly all that came since the last look.
_GLANCE = 20
# The history of a stream has tens of thousands of commits. What lies before these is compared in one go.
_COMMITS = 500


_session: Any = None  # of Spark, in a run; this room does not know PySpark


def use(session: Any) -> None:
    """From here on, this process is a run with this session; None: it is none, and asks the warehouse."""
    global _session
    _session = session
    _ledger_columns.cache_clear()


def literal(value: str | int) -> str:
    """A value as SQL writes it."""
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _sql(text: str, values: Values | None = None) -> list[dict[str, Any]]:
    return _read(text, values).to_pylist()  # a map is a list of pairs: the pyarrow of a cluster makes no dicts of them


def _read(text: str, values: Values | None = None, kept_seconds: float | None = None) -> pa.Table:
    """The result of a query. In a run the values are literals: Delta's parser loses bound ones (see lineage.py)."""
    if _session is None:
        from include.lake.storage import warehouse

        return warehouse.sql(text, values or {}, kept_seconds)
    if values:
        text = re.sub(r":([a-z]\w*)", lambda name: literal(values[name[1]]), text)
    rows: pa.Table = _session.sql(text).toArrow()
    return rows


def is_run() -> bool:
    """Is this process a run of Databricks?"""
    return _session is not None


def _run() -> Any:
    if _session is None:
        raise LakeError("only a run of Databricks writes tables: trigger the DAG, or its task, in Airflow")
    return _session


def address(table: str) -> str:
    """The name of a table in the catalog."""
    return f"`{settings.catalog()}`.{table}"


def _read_only(table: str) -> bool:
    """Is it a table of ours that we look at from outside of a run?"""
    return _session is None and table != contracts.LEDGER and not contracts.get(table).is_source


def open(table: str, version: int | None = None, places: Collection[str] | None = None) -> Snapshot | None:
    """The table at a version (the newest by default); None if it does not exist. The ledger is always the newest.

    places: partitions of an older version that are to be read. LakeError if their files are not there any more.

    Outside of a run the ledger says how a table of ours is: one statement for all of them. A commit of a killed build
    is seen when the next run of the table has entered it.
    """
    if _read_only(table):
        return _as_recorded(table)
    name = address(table)
    try:
        if table == contracts.LEDGER:
            columns = tuple(_columns(name)) if _session is None else _ledger_columns(name)
            return Snapshot(table, "", 0, name, columns, (), {})
        history = _sql(f"describe history {name} limit {_GLANCE}")
        detail = _detail(name, history[0]["version"], history[0]["timestamp"])
        at = history[0]["version"] if version is None else version
        contract, partitioned_by = contracts.get(table), tuple(detail["partitionColumns"])
        if contract.is_source and not partitioned_by:
            # Others may cluster their tables instead. To read them by their days costs more then, and is as right.
            partitioned_by = contract.partitioned_by
        snapshot = Snapshot(
            table, detail["id"], at, name, _columns_at(name, detail["id"], at), partitioned_by,
            {**detail, "history": history},
        )  # fmt: skip
        if places is not None:
            _open_files(snapshot, contract.place_column, places)
    except Exception as error:
        if _ABSENT.search(str(error)):
            return None
        if _GONE.search(str(error)):
            raise LakeError(f"{table} cannot be read at version {version} any more") from None
        if _NO_VERSIONS.search(str(error)):
            raise ContractError(
                f"{name} is a view, or has a row filter or a column mask, so Databricks shows no versions of it: let "
                "its owner give you a plain Delta table"
            ) from None
        raise
    return snapshot


@lru_cache(maxsize=1000)
def _detail(name: str, version: int, committed_at: datetime) -> dict[str, Any]:
    """What the catalog says of a table with this newest commit. A table made again has its versions at other times."""
    (detail,) = _sql(f"describe detail {name}")
    return {**detail, "properties": dict(detail["properties"] or ())}


@lru_cache(maxsize=1000)
def _columns_at(name: str, table_id: str, version: int) -> tuple[str, ...]:
    """The columns of a table at a version, which never change: the same version is opened many times."""
    return tuple(_read(f"select * from {name} version as of {version} limit 0").column_names)


def _columns(name: str) -> dict[str, tuple[str, str]]:
    """Column -> its type and comment."""
    columns: dict[str, tuple[str, str]] = {}
    for row in _sql(f"describe table {name}"):
        if not row["col_name"] or row["col_name"].startswith("#"):  # here begins what it says of the partitions
            break
        columns[row["col_name"]] = row["data_type"], row["comment"] or ""
    return columns


@lru_cache
def _ledger_columns(name: str) -> tuple[str, ...]:
    """The columns of the ledger. They stay as they are during a run, and a build would ask five times."""
    return tuple(_columns(name))


def _as_recorded(table: str) -> Snapshot | None:
    """A table of ours as the ledger knows it: its newest version. One statement asks for all tables."""
    name, contract = address(contracts.LEDGER), contracts.get(table)
    try:
        rows = _sql(
            f"select `table`, table_id, max(version) as version, max(built_at) as built_at from {name} "
            "group by `table`, table_id"
        )
    except LakeError as error:
        if _ABSENT.search(str(error)):
            return None
        raise
    newest = max((row for row in rows if row["table"] == table), key=lambda row: row["built_at"], default=None)
    return None if newest is None else Snapshot(
        table, newest["table_id"], newest["version"], address(table), tuple(contract.column_names),
        contract.partitioned_by, {},
    )  # fmt: skip


def _at(snapshot: Snapshot, version: int | None = None) -> str:
    return f"{snapshot.address} version as of {snapshot.version if version is None else version}"


def _condition(wanted: Mapping[str, Collection[str]]) -> tuple[str, dict[str, str]]:
    """A condition for columns with one of some values, and the values that it binds."""
    values = {
        f"{column}_{number}": text for column, texts in wanted.items() for number, text in enumerate(sorted(texts))
    }
    parts = (
        f"`{column}` in ({', '.join(f':{column}_{number}' for number in range(len(texts))) or 'null'})"
        for column, texts in wanted.items()
    )
    return f" where {' and '.join(parts)}" if wanted else "", values


def _lists(values: Iterable[str], size: int) -> list[list[str]]:
    """Sorted values in lists of a size."""
    every = sorted(values)
    return [every[start : start + size] for start in range(0, len(every), size)]


# -- which days have changed


# Row tracking: Delta gives each row an id for life, and the version that has inserted or updated it last.
_TRACKED = "bit_xor(xxhash64(_metadata.row_id, _metadata.row_commit_version))"
# How an id of a day begins that is of its rows, and not of its files.
_ROWS = "rows "
# What the rows say. As JSON: it names the columns, so that no value can stand for that of another column.
_CONTENT = (
    "sum(cast(xxhash64(to_json(struct(*), map('timestampFormat', 'yyyyMMddHHmmssSSSSSS', "
    "'timestampNTZFormat', 'yyyyMMddHHmmssSSSSSS'))) as decimal(38, 0)))"
)


def _files(snapshot: Snapshot, contract: Contract, version: int | None = None) -> dict[str, tuple[PartitionFiles, str]]:
    """Day -> what its files hold, and an id that is another one with other files; with row tracking, with other rows.

    It reads no column but the day.
    """
    if snapshot.handle["properties"].get("delta.enableRowTracking") == "true":
        with suppress(Exception):  # the version may be of the time before row tracking
            of_rows = f"concat('{_ROWS}', sum(number), ' ', bit_xor(tracked))"
            return _held(snapshot, contract, version, f"{_TRACKED} as tracked", of_rows)
    return _held(snapshot, contract, version, "null as tracked", "cast(bit_xor(xxhash64(name, number)) as string)")


def _held(
    snapshot: Snapshot, contract: Contract, version: int | None, tracked: str, id_of_day: str
) -> dict[str, tuple[PartitionFiles, str]]:
    day = contract.day_column
    rows = _sql(
        f"select cast(`{day}` as string) as day, sum(number) as number, sum(size) as size, {id_of_day} as id from "
        f"(select `{day}`, _metadata.file_name as name, _metadata.file_size as size, count(*) as number, {tracked} "
        f"from {_at(snapshot, version)} group by `{day}`, _metadata.file_name, _metadata.file_size) group by `{day}`"
    )
    # Others may have rows of what is no day (null, 9999-12-32): no build reads them.
    return {
        row["day"]: (PartitionFiles(row["number"], row["size"]), row["id"])
        for row in sorted(rows, key=lambda row: str(row["day"]))
        if row["day"] is not None and is_key(contract.grain, row["day"])
    }


def days(snapshot: Snapshot, contract: Contract) -> dict[str, PartitionFiles]:
    """The days that have rows, with what their files hold; empty for a table without days."""
    if not contract.day_column:
        return {}
    require_days(snapshot, contract)
    return {day: held for day, (held, _) in _held(snapshot, contract, None, "null as tracked", "''").items()}


def _contents(snapshot: Snapshot, contract: Contract, version: int, days: Collection[str]) -> dict[str, str]:
    """Day -> an id of its rows: equal ids are equal rows, however they lie in files."""
    day = contract.day_column
    ids: dict[str, str] = {}
    for some in _lists(days, _BOUND):
        where, values = _condition({str(day): some})
        rows = _sql(
            f"select cast(`{day}` as string) as day, concat_ws('-', count(*), {_CONTENT}) as id "
            f"from {_at(snapshot, version)}{where} group by `{day}`",
            values,
        )
        ids |= {row["day"]: row["id"] for row in rows}
    return ids


def _changed(
    snapshot: Snapshot, contract: Contract, old: int, new: int, known: Mapping[str, str], restored: bool
) -> tuple[dict[str, int], dict[str, str], set[str]]:
    """The days whose rows differ between two versions, with their bytes; the ids of all days in the new one; and the
    days that have the same rows in other files.

    known: the ids of the days in the old one, as the ledger has them. Where they are of files, rows change only where
    files do, or their number of rows: a deletion vector takes rows out of a file that stays. Only a RESTORE may bring
    back another vector of as many rows. What differs so is compared by its rows, which tells compaction from a change.

    Delta lets nobody read a version that is older than a week and not the newest. Then other files count as a change.
    """
    sizes: dict[str, int] = {}
    ids: dict[str, str] = {}
    try:
        now = _files(snapshot, contract, new)
        sizes, ids = ({day: held.bytes for day, (held, _) in now.items()}, {day: id for day, (_, id) in now.items()})
        if old >= 0 and not known:  # a table of ours, of which the ledger has no such ids
            known = {day: id for day, (_, id) in _files(snapshot, contract, old).items()}
    except Exception as error:
        if not _GONE.search(str(error)):
            raise
        return {ANY_DAY: 0, **sizes}, ids, set()
    every = known.keys() | ids.keys()
    of_rows = {
        day for day in every if known.get(day, _ROWS).startswith(_ROWS) and ids.get(day, _ROWS).startswith(_ROWS)
    }
    changed = {day for day in every if known.get(day) != ids.get(day) or (restored and day not in of_rows)}
    moved: set[str] = set()
    if old >= 0 and (doubtful := changed - of_rows):
        try:
            before, after = (_contents(snapshot, contract, version, doubtful) for version in (old, new))
            moved = {day for day in doubtful if before.get(day) == after.get(day)}
        except Exception as error:
            if not _GONE.search(str(error)):
                raise
    return {day: sizes.get(day, 0) for day in sorted(changed - moved)}, ids, moved


def commits(
    snapshot: Snapshot, contract: Contract, after: int = -1, ids: Callable[[], Mapping[str, str]] = dict
) -> list[Commit]:
    """Every commit after version `after`, up to that of the snapshot; oldest first. `ids`: the newest that were given.

    A commit of ours says which days it has changed. Those of others that follow one another are compared in one go:
    the days in which the rows differ before and after them have changed with the last of them.
    """
    if after >= snapshot.version:
        return []
    history = _history(snapshot, after)
    listed = sorted(
        (row for row in history if after < row["version"] <= snapshot.version), key=lambda row: row["version"]
    )
    if contract.kept_by:
        bases = [since for row in listed if (since := _since(row, contract.table)) is not None]
        history = _history(snapshot, min([after, *bases]))
        listed = [{**row, "userMetadata": None} if _is_misplaced(row, history, contract) else row for row in listed]
    first = listed[0]["version"] if listed else snapshot.version + 1
    if first > after + 1:  # older commits were cleaned away, and one stands for them all
        gap = {"version": first - 1, "operation": "RESTORE", "userMetadata": None}
        listed.insert(0, {**gap, "timestamp": datetime.fromtimestamp(0, UTC)})
    commits: list[Commit] = []
    for ours, group in groupby(listed, key=lambda row: _of_ours(row, contract) is not None):
        *others, last = group
        changes, files, moved = dict[str, int](), dict[str, str](), set[str]()
        operations = {row["operation"] for row in (*others, last)} - _STILL
        if not ours and operations and contract.kept_by:
            changes = {ANY_DAY: 0}
        elif not ours and operations and contract.day_column:
            restored = "RESTORE" in operations
            changes, files, moved = _changed(snapshot, contract, after, last["version"], ids(), restored)
        for row in (*others, last):
            day_bytes = _of_ours(row, contract) or (changes if row is last else {})
            metadata = metadata_of(row["userMetadata"])
            same = {day: files[day] for day in moved if row is last and day in files}
            commits.append(Commit(row["version"], row["timestamp"], metadata, day_bytes, files, same))
        after = last["version"]
    return commits


def _history(snapshot: Snapshot, after: int) -> list[dict[str, Any]]:
    """The commits after a version, newest first; of a long history some hundred. Others may be among them."""
    history: list[dict[str, Any]] = snapshot.handle["history"]
    if history[-1]["version"] > after + 1:
        # Commits that came after the snapshot are listed first.
        history = _sql(f"describe history {snapshot.address} limit {min(snapshot.version - after, _COMMITS) + 100}")
    return history


def _since(row: dict[str, Any], table: str) -> int | None:
    """The version that a build of keys was computed from; None for other commits."""
    record = record_of(metadata_of(row["userMetadata"]), table)
    return record.since if isinstance(record, BuildRecord) else None


def _is_misplaced(row: dict[str, Any], history: list[dict[str, Any]], contract: Contract) -> bool:
    """Did another commit come between a build of keys and the version that it was computed from?

    Then keys of the other may be lost. It counts as a commit of somebody else, so all keys are computed anew.
    """
    since = _since(row, contract.table)
    return since is not None and any(
        since < other["version"] < row["version"] and other["operation"] not in _STILL for other in history
    )


def _of_ours(row: dict[str, Any], contract: Contract) -> dict[str, int] | None:
    """The days (or places) of a commit of ours, with their bytes; None if it is of somebody else."""
    record = record_of(metadata_of(row["userMetadata"]), contract.table)
    if record is None:
        return None
    if isinstance(record, LoadRecord):
        rows = {**dict.fromkeys(record.empty_days, 0), **record.loaded}
    elif record.places is not None:
        rows = dict.fromkeys(record.places, 1)
    else:
        rows = {day: facts.rows for day, facts in record.days.items()}
    written = int(dict(row["operationMetrics"] or ()).get("numOutputBytes") or 0)
    total = sum(rows.values()) or 1
    return {day: written * count // total for day, count in rows.items()}


# -- rows


def _open_files(snapshot: Snapshot, column: str | None, places: Collection[str]) -> None:
    """Open each file of some partitions; a table without partitions is one.

    Delta itself refuses a version that is older than a week.
    """
    condition, bound = _condition({column: places} if column and ANY_DAY not in places else {})
    _sql(f"select count(distinct _metadata.file_name) as files from {_at(snapshot)}{condition}", bound)


def rows(snapshot: Snapshot, where: Mapping[str, Collection[str]] | None = None, limit: int | None = None) -> pa.Table:
    """The rows; of those columns that `where` names, only the rows with one of its values.

    limit: more rows are not needed. The statement API refuses results above 25 MiB.
    """
    condition, values = _condition(where or {})
    place = _at(snapshot) if snapshot.handle else snapshot.address
    return _read(f"select * from {place}{condition}" + (f" limit {limit}" if limit else ""), values)


def values(snapshot: Snapshot, column: str, keys: Sequence[str], expressions: Sequence[str]) -> pa.Table:
    """The values of some aggregates for each of some keys of a column."""
    tables = []
    for some in _lists(keys, _BOUND):
        condition, bound = _condition({column: some})
        selected = f"`{column}`, {', '.join(expressions)}"
        tables.append(_read(f"select {selected} from {_at(snapshot)}{condition} group by `{column}`", bound))
    return pa.concat_tables(tables)


# -- what a run writes


def _column(column: Column) -> str:
    return f"`{column.name}` {column.type}{_comment(column.comment)}"


def _comment(text: str) -> str:
    return f" comment {literal(text)}" if text else ""


def _create(table: str, columns: str, partitioned_by: Sequence[str], about: str) -> None:
    layout = f" partitioned by ({', '.join(f'`{name}`' for name in partitioned_by)})" if partitioned_by else ""
    properties = ", ".join(f"{literal(name)} = {literal(value)}" for name, value in PROPERTIES.items())
    text = (
        f"create table if not exists {address(table)} ({columns}) using delta{layout} comment {literal(about)} "
        f"tblproperties ({properties})"
    )
    for left in reversed(range(_TRIES)):
        try:
            _make(table, text)
            return
        except Exception as error:
            # Of two runs that make a table at once, Delta refuses one. It is there for both, now or in a moment.
            if not _TOGETHER.search(str(error)) or not left:
                raise
        time.sleep(1)


def _make(table: str, text: str) -> None:
    """Run the statement that makes a table or a view, and make its schema if need be."""
    try:
        _run().sql(text)
    except Exception as error:
        # Only now: whoever may make tables in a schema may not make schemas.
        if "SCHEMA_NOT_FOUND" not in str(error):
            raise
        _run().sql(f"create schema if not exists {address(table).rpartition('.')[0]}")
        _run().sql(text)


def ensure(contract: Contract) -> Snapshot:
    """The table, made with the contract's types and comments if it is not there, and aligned with them if it is.

    New columns are added and comments follow the contract; another type or a column taken away is a ContractError.
    """
    table, name = contract.table, address(contract.table)
    snapshot = open(table)
    if snapshot is None:
        _create(table, ", ".join(map(_column, contract.columns)), contract.partitioned_by, contract.about)
        snapshot = open(table)
        assert snapshot is not None, "it was made"
        return snapshot
    cure = f"drop {name}, which keeps its files for a week (undrop), and build its days again"
    if tuple(snapshot.handle["partitionColumns"]) != contract.partitioned_by:
        # By partitions alone Delta keeps two builds of one empty day apart.
        layout = ", ".join(snapshot.handle["partitionColumns"]) or "nothing"
        raise ContractError(
            f"{table} is partitioned by {layout} in the table and by {', '.join(contract.partitioned_by)} in its "
            f"contract: correct the contract, or {cure}"
        )
    there = _columns(name)
    for column in contract.columns:
        if column.name in there and there[column.name][0] != column.type:
            raise ContractError(f"{table}.{column.name} is {there[column.name][0]} in the table: {cure}")
    if gone := sorted(there.keys() - set(contract.column_names)):
        raise ContractError(f"{table} has {', '.join(gone)}, which its contract has not: {cure}")
    # Each of these makes a build of other days that is about to commit begin again. So only where something differs.
    changes = [
        f"alter table {name} alter column `{column.name}` comment {literal(column.comment)}"
        for column in contract.columns
        if column.name in there and there[column.name][1] != column.comment
    ]
    if new := [_column(column) for column in contract.columns if column.name not in there]:
        changes.append(f"alter table {name} add columns ({', '.join(new)})")
    if (snapshot.handle.get("description") or "") != contract.about:
        changes.append(f"comment on table {name} is {literal(contract.about)}")
    for change in changes:
        _run().sql(change)
    newest = open(table) if changes else snapshot
    assert newest is not None, "it was there"
    return newest


def keys_options(target: Snapshot, places: Sequence[str], record: Mapping[str, Any]) -> dict[str, str]:
    """How Spark replaces places of a table kept by key, with the record of the build, unless another build came first.

    Delta numbers the writes of an application. It leaves out a write whose number is not above the newest one, and of
    two at the same time it refuses one. Here the number of a build is that of the commit of the build before it. Who
    has not seen the newest build has a number that is taken.
    """
    contract = contracts.get(target.table)
    if ANY_DAY in places:
        where = "true"
    else:
        where = f"`{contract.place_column}` in ({', '.join(map(literal, places))})" if places else "false"
    return {
        "replaceWhere": where,
        "userMetadata": json.dumps({**record, "since": target.version, "places": [*places]}, separators=(",", ":")),
        "txnAppId": f"lake {target.table_id}",
        "txnVersion": str(_number(target)),
    }


def _number(target: Snapshot) -> int:
    """The version of the newest build of a table; without one the oldest version of its history, which is no lower."""
    for history in (lambda: target.handle["history"], lambda: _history(target, -1)):
        rows = [row for row in history() if row["version"] <= target.version]
        if builds := [row["version"] for row in rows if _since(row, target.table) is not None]:
            return int(builds[0])
    return int(rows[-1]["version"])


def require_commit(target: Snapshot, build_id: str) -> None:
    """WriteConflict unless this build of keys has committed right on top of the version that it was computed from."""
    newest = open(target.table)
    assert newest is not None, "it was written"
    if newest.version == target.version:
        raise LakeError(
            f"{target.table}: Databricks made no commit for build {build_id}: run scripts/first_hour.py, see check 14"
        )
    commits_since = commits(newest, contracts.get(target.table), target.version)
    if not any(commit.metadata.get("build_id") == build_id for commit in commits_since):
        raise WriteConflict(f"{target.table}: another build came first")


def ensure_views(tables: Collection[str]) -> None:
    """Make the views that read one of these tables, and those again whose contract or SELECT is another one.

    A run ends with it. A view that reads a table which is not there yet is made by the first build of that.
    """
    for name in lineage.in_order() if _session else ():
        contract = contracts.get(name)
        if contract.view and not set(lineage.inputs(name)).isdisjoint(tables):
            _ensure_view(contract)


def _ensure_view(contract: Contract) -> None:
    name, select = address(contract.table), lineage.select(contract.table)
    comments = {column.name: f"`{column.name}`{_comment(column.comment)}" for column in contract.columns}
    head = f"({', '.join(comments[column] for column in select.columns)}){_comment(contract.about)}"
    # A view is of all days: its SELECT names none.
    text = select.over_views("1970-01-01", "1970-01-01", address)
    code_id = literal(hashlib.sha256(f"{head}{text}".encode()).hexdigest()[:16])
    try:
        if literal(_sql(f"show tblproperties {name} ({_CODE})")[0]["value"]) == code_id:
            return
    except Exception as error:
        if not _ABSENT.search(str(error)):
            raise
    try:
        _make(contract.table, f"create or replace view {name} {head} tblproperties ({_CODE} = {code_id}) as {text}")
    except Exception as error:
        # Another input is not there yet; or another run makes the same view.
        if not _ABSENT.search(str(error)) and not _TOGETHER.search(str(error)):
            raise


def write(
    table: str,
    rows: pa.Table | Callable[[Snapshot], pa.Table],
    *,
    about: str,
    partitioned_by: Sequence[str],
    anew: bool = False,
) -> None:
    """Append rows to a table without a contract. Appends never conflict."""
    if not isinstance(rows, pa.Table) or anew:
        raise LakeError(
            f"{table} cannot be made again in {settings.catalog()}: bring an older version back with "
            f"RESTORE TABLE {address(table)} TO VERSION AS OF n"
        )
    session = _run()
    if open(table) is None:
        _create(table, ", ".join(f"`{field.name}` {_type(field.type)}" for field in rows.schema), partitioned_by, about)
    if rows.num_rows:
        session.createDataFrame(rows).write.format("delta").mode("append").saveAsTable(address(table))


def _type(kind: pa.DataType) -> str:
    """The SQL type of a column of the ledger."""
    if pa.types.is_map(kind):
        return f"map<{_type(kind.key_type)}, {_type(kind.item_type)}>"
    return "timestamp" if pa.types.is_timestamp(kind) else {"int64": "bigint"}.get(str(kind), str(kind))


def replace(contract: Contract, *_: Any, **__: Any) -> NoReturn:
    """Never: a build writes with Spark, and the sources are tables of somebody else."""
    raise LakeError(f"./lake load does not write {contract.table} in {settings.catalog()}: its owner writes it there")


def maintain(table: str, older_than: timedelta = KEPT) -> Maintained:
    """Nothing: OPTIMIZE, VACUUM and ANALYZE of managed tables are run by the platform (predictive optimization)."""
    return Maintained(note="Databricks maintains its managed tables itself")


# -- what sensors wait for


@dataclass(frozen=True)
class Wanted:
    """What is asked of a table: its days first..last, of each day the values of some aggregates, and its first day."""

    first: str
    last: str
    values: tuple[str, ...] = ()
    first_day: bool = False


@dataclass
class Presence:
    """What is there of a table. `days`: a day with rows of a source, and its values as texts.

    `first`: its first day of all, if it was asked for. `built`, `empty`: days that the ledger knows so.
    """

    days: dict[str, list[str | None]] = field(default_factory=dict)
    first: str | None = None
    built: dict[str, None] = field(default_factory=dict)
    empty: dict[str, None] = field(default_factory=dict)


def presence(wanted: Mapping[str, Wanted]) -> dict[str, Presence | LakeError]:
    """Table -> what is there of it, in one statement; a source that does not exist is left out.

    Where the warehouse refuses the statement because of one table, that table has the error. The others are asked for
    without it.
    """
    found: dict[str, Presence | LakeError] = {}
    days = {day for one in wanted.values() for day in (one.first, one.last)}
    at_once = len(wanted) if len(days) <= _BOUND else _BOUND // 2  # each table has two days
    for tables in _lists(wanted, at_once) if wanted else ():
        found |= _presence({table: wanted[table] for table in tables})
    return found


def _presence(wanted: Mapping[str, Wanted]) -> dict[str, Presence | LakeError]:
    days = sorted({day for one in wanted.values() for day in (one.first, one.last)})
    names = {day: f"day_{number}" for number, day in enumerate(days)}
    ranges = {table: f"between :{names[one.first]} and :{names[one.last]}" for table, one in wanted.items()}
    parts = {
        table: _presence_of_source(table, ranges[table], wanted[table])
        for table in sorted(wanted)
        if contracts.get(table).is_source
    }
    parts[contracts.LEDGER] = _presence_in_ledger(ranges)
    values = dict(zip(names.values(), days, strict=True))
    refused: dict[str, LakeError] = {}
    rows = _rows_of(parts, values, refused)
    if (of_ledger := refused.pop(contracts.LEDGER, None)) and not _says_absent(of_ledger, contracts.LEDGER):
        raise of_ledger
    there = {table: Presence() for table in wanted if table not in refused}
    for row in rows:
        if (found := there.get(row["name"])) is None or not row["day"]:
            continue
        if row["fact"] == "days":
            found.days[row["day"]] = json.loads(row["shown"] or "[]")
        elif row["fact"] == "first":
            found.first = row["day"]
        else:
            {"built": found.built, "empty": found.empty}[row["fact"]][row["day"]] = None
    return {**there, **{table: error for table, error in refused.items() if not _says_absent(error, table)}}


def _rows_of(
    parts: Mapping[str, str], values: Mapping[str, str], refused: dict[str, LakeError]
) -> list[dict[str, Any]]:
    """The rows of all parts of a statement. The table whose part is refused gets the error in `refused`."""
    from include.lake.storage.warehouse import StatementFailed

    if not parts:
        return []
    text = " union all ".join(parts.values())
    bound = {name: values[name] for name in re.findall(r":(day_\d+)", text)}
    try:
        return _read(text, bound, kept_seconds=0).to_pylist()
    except StatementFailed as error:
        bad = [*parts] if len(parts) == 1 else [table for table in parts if _says_absent(error, table)]
        refused |= dict.fromkeys(bad, error)
    rest = [table for table in parts if table not in bad]
    # An error that names no table: one half of them has it.
    halves = [rest] if bad else [rest[: len(rest) // 2], rest[len(rest) // 2 :]]
    return [row for half in halves for row in _rows_of({table: parts[table] for table in half}, values, refused)]


def _says_absent(error: Exception, table: str) -> bool:
    """Is it this table that an error names, or its schema?"""
    schema, _, name = table.partition(".")
    quoted = f"`{settings.catalog()}`.`{schema}`" if "SCHEMA_NOT_FOUND" in str(error) else f"`{schema}`.`{name}`"
    return bool(_ABSENT.search(str(error))) and quoted in str(error)


def _presence_of_source(table: str, days: str, wanted: Wanted) -> str:
    name, day = address(table), contracts.get(table).day_column
    start = f"select {literal(table)} as name, 'days' as fact, "
    if not day:
        return f"{start}'' as day, '' as shown from {name} where false"
    texts = ", ".join(f"cast({value} as string)" for value in wanted.values)
    text = (
        f"{start}cast(`{day}` as string) as day, to_json(array({texts})) as shown from {name} "
        f"where `{day}` {days} group by `{day}`"
    )
    if wanted.first_day:  # which may read the whole table
        text += (
            f" union all select {literal(table)}, 'first', cast(min(`{day}`) as string), '' from {name} "
            f"where `{day}` rlike '^[0-9]{{4}}-'"
        )
    return text


def _presence_in_ledger(ranges: Mapping[str, str]) -> str:
    tables = ", ".join(map(literal, sorted(ranges)))
    days = " or ".join(f"(`table` = {literal(table)} and `partition` {ranges[table]})" for table in sorted(ranges))
    # Rows of a table that was dropped since, and made again, speak of another one.
    newest = "max_by(table_id, built_at) over (partition by `table`)"
    rows = f"(select *, {newest} as newest from {address(contracts.LEDGER)} where `table` in ({tables}))"
    return (
        f"select distinct `table` as name, status as fact, `partition` as day, '' as shown from {rows} "
        f"where table_id = newest and status in ('built', 'empty') and ({days}) union all "
        f"select `table`, 'first', min(`partition`), '' from {rows} where table_id = newest and status = 'built' "
        "group by `table`"
    )
