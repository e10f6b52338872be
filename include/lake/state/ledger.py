"""The ledger `ops.partition_build`: what happened to the days of all tables, append-only, partitioned by table.

All but the failed builds follows from the Delta logs of the tables. So the ledger can be made again from them, and a
build that was killed between its commit and its ledger row is entered later (`record`).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from errno import EIO
from itertools import pairwise
from typing import Any
from weakref import WeakValueDictionary

import pyarrow as pa
import pyarrow.compute as pc

from include.lake import settings
from include.lake.errors import LakeError, UsageError
from include.lake.project import contracts
from include.lake.project.contracts import Contract
from include.lake.storage import ANY_DAY, Commit, Snapshot, store
from include.lake.storage.records import BuildRecord, record_of

TABLE = contracts.LEDGER
# What a row tells of its day. `changed`: another writer than the runner changed rows of the day, or a source got rows.
# `empty`: a load said that the source has no rows of this day. `moved`: the rows of the day are the same ones, in other
# files, with another id.
BUILT, FAILED, CHANGED, EMPTY, MOVED = "built", "failed", "changed", "empty", "moved"
_COUNTS = pa.map_(pa.string(), pa.int64())
SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("partition", pa.string()),  # its key: a day, the Monday of a week, or yyyy-MM
        ("status", pa.string()),  # one of the five above; of a failed build nothing was published, and `error` says why
        ("table_id", pa.string()),  # Delta's id of the table: another one after the table was moved away
        ("version", pa.int64()),  # the commit in the table's Delta log; for a failed build the newest one at its start
        ("build_id", pa.string()),  # of a change by others: the id of the load, or one of the day's files
        ("built_at", pa.timestamp("us", "UTC")),  # when it was committed (or failed)
        ("run", pa.string()),
        ("engine", pa.string()),  # who computed it: sail, spark, or the address of a Spark Connect server
        ("code_id", pa.string()),  # `lineage.code_id`; of a failed build `lineage.checks_id`
        ("inputs", pa.map_(pa.string(), pa.string())),  # input -> the version that was read, as `table_id@version`
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("seconds", pa.float64()),  # of the whole build; a build of several days has the same in each of its rows
        ("build_days", pa.int64()),
        ("checks", _COUNTS),  # check -> rows that broke it
        ("dropped", _COUNTS),  # reason -> rows counted and not published
        ("error", pa.string()),
    ]
)
# What the store wants to know where it has to make the ledger.
_LAYOUT: dict[str, Any] = {"about": "What happened to the days of all tables.", "partitioned_by": ("table",)}
_CURE = "the ledger can be made again from the tables: ./lake ledger rebuild"
_MAPS = ("inputs", "checks", "dropped")
_EMPTY_ROW: dict[str, Any] = dict.fromkeys(SCHEMA.names) | {name: {} for name in _MAPS}
# Spark's errors may quote a whole plan.
_ERROR_LENGTH = 2000


def read(tables: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """The rows of `tables` (all by default), oldest first, each of them once."""
    snapshot = open_ledger()
    if snapshot is None:
        return []
    data = _rows_in(snapshot, None if tables is None else {"table": list(tables)})
    return sorted(
        _unique(decoded(data)), key=lambda row: (row["table"], row["version"], row["built_at"], row["partition"])
    )


class Reader:
    """The ledger at one version, read table by table: a look's cost does not depend on the other tables' history."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        self._snapshot = snapshot
        self._histories: dict[str, pa.Table] = {}

    def history(self, table: str) -> pa.Table:
        """The rows of one table with the columns of SCHEMA, oldest first, some perhaps twice; see `decoded`."""
        self.read([table])
        return self._histories[table]

    def read(self, tables: Iterable[str]) -> None:
        """Read the rows of some tables in one go: on Databricks each read is a statement."""
        if not (new := [table for table in tables if table not in self._histories]):
            return
        data = SCHEMA.empty_table()
        if self._snapshot is not None:
            data = _rows_in(self._snapshot, {"table": new}).sort_by(
                [("version", "ascending"), ("built_at", "ascending")]
            )
        for table in new:
            self._histories[table] = data.filter(pc.equal(data["table"], table)) if new[1:] else data


# Snapshot (its id) -> its reader, as long as somebody has it: the looks of one build read the same rows.
_readers: "WeakValueDictionary[int, Reader]" = WeakValueDictionary()


def reader() -> Reader:
    """The ledger as it is now."""
    snapshot = open_ledger()
    if (held := _readers.get(id(snapshot))) is None:
        held = _readers[id(snapshot)] = Reader(snapshot)  # which keeps the snapshot, so that no other one gets its id
    return held


def decoded(data: pa.Table) -> list[dict[str, Any]]:
    """Arrow's rows as dicts with the fields of SCHEMA."""
    # Column by column: Table.to_pylist() takes several times as long.
    columns = {name: data[name].to_pylist() for name in SCHEMA.names if name not in (*_MAPS, "built_at")}
    columns |= {name: [dict(row) for row in pairs(data[name])] for name in _MAPS}
    columns["built_at"] = moments(data["built_at"])
    return [
        dict(zip(SCHEMA.names, values, strict=True))
        for values in zip(*(columns[name] for name in SCHEMA.names), strict=True)
    ]


def pairs(column: pa.ChunkedArray) -> list[list[tuple[str, Any]]]:
    """The maps of a column as lists of pairs; a null is an empty one."""
    lists = []
    for chunk in column.chunks:
        entries = list(zip(chunk.keys.to_pylist(), chunk.items.to_pylist(), strict=True))
        lists += [entries[first:end] for first, end in pairwise(chunk.offsets.to_pylist())]
    return lists


def moments(column: pa.ChunkedArray) -> list[datetime]:
    """The moments of a column. pyarrow itself looks the timezone up again for each value."""
    return [moment.replace(tzinfo=UTC) for moment in column.cast(pa.timestamp("us")).to_pylist()]


def open_ledger() -> Snapshot | None:
    """The ledger as it is now; None if nothing was built yet. LakeError if it must be made again."""
    try:
        snapshot = store().open(TABLE)
    except UsageError:  # of a setting: the ledger may be as it should
        raise
    except LakeError as error:
        if settings.on_databricks():  # the error has its cure, and nobody makes the ledger again there
            raise
        raise LakeError(f"{error}; {_CURE}") from None
    if snapshot and not set(snapshot.columns) >= set(SCHEMA.names):
        raise LakeError(f"{TABLE} was written by an older version of the lake: ./lake ledger rebuild makes it again")
    return snapshot


def _rows_in(snapshot: Snapshot, where: dict[str, list[str]] | None = None) -> pa.Table:
    """Rows of the ledger with the columns of SCHEMA. LakeError if a file of it is lost or torn."""
    try:
        return store().rows(snapshot, where).select(SCHEMA.names).cast(SCHEMA)
    except OSError as error:
        if not isinstance(error, FileNotFoundError) and error.errno != EIO:
            raise  # of a right, or of the network: the ledger may be as it should
        raise LakeError(f"a file of {TABLE} is lost or torn ({error.filename or error}); {_CURE}") from None


def _unique(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row once: a repair may enter a build that enters itself just now."""
    names = ("table", "partition", "status", "table_id", "version", "build_id")
    return list({tuple(row[name] for name in names): row for row in rows}.values())


def append(rows: list[dict[str, Any]]) -> None:
    """Add rows with the fields of SCHEMA."""
    if not rows:
        return
    open_ledger()  # its rows would not fit into one of an older version
    store().write(TABLE, encoded(rows), **_LAYOUT)


def create() -> None:
    """Make the ledger's table unless it is there."""
    if open_ledger() is None:
        store().write(TABLE, SCHEMA.empty_table(), **_LAYOUT)


def failed(
    table: str, table_id: str, version: int, days: list[str], build_id: str, run: str, code_id: str,
    inputs: dict[str, str], seconds: float, checks: dict[str, int], error: str,
) -> None:  # fmt: skip
    """Enter a build that published nothing: the reason, the inputs it read, the table's version at its start."""
    row = {
        **_EMPTY_ROW, "table": table, "status": FAILED, "table_id": table_id, "version": version, "build_id": build_id,
        "built_at": datetime.now(UTC), "run": run, "engine": settings.engine(), "code_id": code_id, "inputs": inputs,
        "seconds": seconds, "build_days": len(days), "checks": checks, "error": error[:_ERROR_LENGTH],
    }  # fmt: skip
    append([{**row, "partition": day} for day in days])


def record(table: str) -> list[dict[str, Any]]:
    """Enter what the commits of a table say and the ledger does not know yet; gives the rows that were added.

    The runner calls it after each commit of its own. So a killed build is entered by the next one of its table.
    """
    contract = contracts.get(table)
    snapshot = store().open(table)
    if snapshot is None or not contract.has_days:
        return []
    rows = unrecorded(contract, snapshot, reader().history(table))
    append(rows)
    return rows


def unrecorded(contract: Contract, snapshot: Snapshot, data: pa.Table) -> list[dict[str, Any]]:
    """What the commits of a table say and its ledger rows `data` do not."""
    known = known_version(data, snapshot.table_id)
    commits = store().commits(snapshot, contract, known, lambda: _known_ids(data, snapshot.table_id))
    return rows_of_commits(contract, snapshot.table_id, commits)


def _known_ids(data: pa.Table, table_id: str) -> dict[str, str]:
    """Day -> the newest id that the store gave for it."""
    columns = (data[name].to_pylist() for name in ("partition", "build_id", "table_id", "status"))
    return {
        day: id for day, id, of, status in zip(*columns, strict=True)
        if id and of == table_id and status in (CHANGED, MOVED)
    }  # fmt: skip


def known_version(data: pa.Table, table_id: str) -> int:
    """The version of a table up to which its ledger rows speak; -1 if there are none."""
    mine = pc.and_(pc.equal(data["table_id"], table_id), pc.not_equal(data["status"], FAILED))
    newest = pc.max(data["version"].filter(mine)).as_py()
    return -1 if newest is None else int(newest)


def rows_of_commits(contract: Contract, table_id: str, commits: list[Commit]) -> list[dict[str, Any]]:
    """The ledger rows of commits of one table."""
    return [row for commit in commits for row in _rows(contract, table_id, commit)]


def _rows(contract: Contract, table_id: str, commit: Commit) -> Iterator[dict[str, Any]]:
    row = {
        **_EMPTY_ROW, "table": contract.table, "table_id": table_id, "version": commit.version, "built_at": commit.at,
    }  # fmt: skip
    record = record_of(commit.metadata, contract.table)
    if isinstance(record, BuildRecord):
        seconds = (commit.at - record.started_at).total_seconds()
        row |= {
            "status": BUILT, "build_id": record.build_id, "run": record.run, "code_id": record.code_id,
            "engine": record.engine, "inputs": record.inputs or {}, "build_days": len(record.days),
            "checks": record.checks, "seconds": max(0.0, seconds),  # the clock of the committer may be behind
        }  # fmt: skip
        for day, facts in record.days.items():
            size = commit.day_bytes.get(day, 0)
            if contract.kept_by:  # its bytes are of places, and not of days
                size = sum(commit.day_bytes.values()) // len(record.days)
            yield {**row, "partition": day, "rows": facts.rows, "dropped": facts.dropped, "bytes": size}
        return
    load_id = record.load_id if record else None
    if contract.kept_by:  # the keys that another writer changed may be of any day
        commit = replace(commit, day_bytes=dict.fromkeys([ANY_DAY] if commit.day_bytes else [], 0))
    for day, size in commit.day_bytes.items():
        yield {
            **row, "status": CHANGED, "partition": day, "bytes": size, "build_id": commit.ids.get(day) or load_id,
        }  # fmt: skip
    for day, id in commit.moved.items():
        yield {**row, "status": MOVED, "partition": day, "bytes": 0, "build_id": id}
    for day in record.empty_days if record else ():
        yield {**row, "status": EMPTY, "partition": day, "build_id": load_id}


def rebuild(tell: Callable[[str], None] = lambda line: None) -> tuple[int, int]:
    """Make the ledger again from the commits of all tables; gives the number of rows before and after.

    Failed builds have no commit: those that the old ledger still knows stay. So do the rows of a table whose commits
    cannot be read just now. An old ledger whose log cannot be read, or of an older version, is moved aside first.
    `tell` gets a line for all that could not be read.
    """
    try:
        create()
    except UsageError:
        raise
    except LakeError:
        tell(f"{TABLE} cannot be read, or is of an older version of the lake: failed builds are forgotten")
        store().write(TABLE, SCHEMA.empty_table(), **_LAYOUT, anew=True)
    counts = 0, 0
    unread: list[str] = []  # of the try that is written

    def all_rows(ledger: Snapshot) -> pa.Table:
        nonlocal counts, unread
        from_commits, damaged = _rows_of_all_commits()
        before, lost = _readable_rows(ledger)
        unread = [*(f"{why}; its rows stay as they were" for why in damaged.values()), *lost]
        stays = pa.array(sorted({*contracts.load_all().broken, *damaged}), pa.string())
        kept = before.filter(pc.or_(pc.equal(before["status"], FAILED), pc.is_in(before["table"], stays)))
        rows = _unique(decoded(kept)) + from_commits
        counts = before.num_rows, len(rows)
        return encoded(rows)

    store().write(TABLE, all_rows, **_LAYOUT)
    for line in unread:
        tell(line)
    return counts


def _readable_rows(snapshot: Snapshot) -> tuple[pa.Table, list[str]]:
    """The rows of the ledger, and a line for each table that has a lost or torn file: its rows are left out."""
    with suppress(LakeError):
        return _rows_in(snapshot), []
    known, parts, lost = contracts.load_all(), [SCHEMA.empty_table()], []
    for table in sorted({*known, *known.broken}):
        try:
            parts.append(_rows_in(snapshot, {"table": [table]}))
        except LakeError as error:
            lost.append(f"{str(error).removesuffix(f'; {_CURE}')}: failed builds of {table} are forgotten")
    return pa.concat_tables(parts), lost


def _rows_of_all_commits() -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of all commits; and the tables whose commits cannot be read, with the reason."""
    rows: list[dict[str, Any]] = []
    damaged: dict[str, str] = {}
    for contract in contracts.load_all().values():
        try:
            snapshot = store().open(contract.table) if contract.has_days else None
            if snapshot:
                rows += rows_of_commits(contract, snapshot.table_id, store().commits(snapshot, contract))
        except LakeError as error:
            damaged[contract.table] = str(error)
    return rows, damaged


def encoded(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as Arrow takes them: a map is a list of pairs."""
    plain = [{**row, **{name: sorted(row[name].items()) for name in _MAPS}} for row in rows]
    return pa.Table.from_pylist(plain, schema=SCHEMA)
