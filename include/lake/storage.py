"""What the Delta log of a table says, read and (for sources) written by delta-rs: milliseconds, and no JVM."""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Field, QueryBuilder, Schema, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from pyarrow.fs import FileSystem, SubTreeFileSystem

from include.lake import settings
from include.lake.contracts import Column, Contract
from include.lake.days import parse_day
from include.lake.errors import ContractError, LakeError, WriteConflict

_DELTA_TYPES = {
    "string": "string", "tinyint": "byte", "int": "integer", "bigint": "long",
    "double": "double", "boolean": "boolean", "date": "date", "timestamp": "timestamp",
}  # fmt: skip
_ARROW_TYPES = {
    "string": pa.string(), "tinyint": pa.int8(), "int": pa.int32(), "bigint": pa.int64(),
    "double": pa.float64(), "boolean": pa.bool_(), "date": pa.date32(), "timestamp": pa.timestamp("us", "UTC"),
}  # fmt: skip
# A week, as Delta has it: the longest that a build or a reader of an older version may take.
_KEPT = timedelta(days=7)
# Delta-rs keeps a row group of each day in memory until it is full: with its million rows some hundred MB a day. Of
# 25,000 rows, files are hardly larger (1 %), and three days of 200,000 or of 1,800,000 rows take the same memory.
_WRITER = WriterProperties(max_row_group_size=25_000)
# Ten years: the ledger can be made again from the commits, so the commits stay (Delta's own default is 30 days).
_PROPERTIES = {"delta.logRetentionDuration": "interval 3650 days"}


@dataclass(frozen=True)
class DayFiles:
    """The files of one day: an id of the set of them, and what they hold."""

    id: str
    rows: int
    bytes: int


def open_table(table: str, version: int | None = None) -> DeltaTable | None:
    """The Delta table at a version (the newest by default); None if it does not exist yet."""
    try:
        return DeltaTable(str(settings.table_path(table)), version=version)
    except TableNotFoundError:
        return None


def rows(delta: DeltaTable, filters: list[tuple[str, str, Any]] | None = None) -> pa.Table:
    """The rows of the version that `delta` stands at; `filters` such as [("day", "=", "2026-01-05")]."""
    # By the path: delta-rs's own file system is Python, of which pyarrow's threads may still have need when the
    # interpreter ends, and then the process aborts.
    local, folder = FileSystem.from_uri(delta.table_uri)
    return delta.to_pyarrow_table(filters=filters, filesystem=SubTreeFileSystem(folder, local))


def commits(delta: DeltaTable, after: int = -1) -> list[tuple[int, dict[str, Any]]]:
    """(version, commit) of every commit after version `after`, up to the version that `delta` stands at; oldest first.

    delta-rs lists from there up to the newest commit, and numbers what it finds from the version of `delta` downwards:
    one number off for every commit that came since `delta` was opened. So they are numbered here, from the oldest.
    """
    if delta.version() <= after:
        return []
    found = reversed(delta.history(delta.version() - after))
    return [(version, commit) for version, commit in enumerate(found, after + 1) if version <= delta.version()]


def days(delta: DeltaTable, contract: Contract) -> dict[str, DayFiles]:
    """The days that have files, with their files; empty for a table without days."""
    if not contract.day_column:
        return {}
    actions = pa.table(delta.get_add_actions(flatten=True)).select(
        ["path", "size_bytes", "num_records", f"partition.{contract.day_column}"]
    )
    by_day: dict[str, list[tuple[str, int, int]]] = {}
    for path, size, records, day in zip(*(column.to_pylist() for column in actions.columns), strict=True):
        if day is not None:
            by_day.setdefault(day, []).append((path, size, records or 0))
    return {
        day: DayFiles(
            hashlib.sha256("\n".join(sorted(path for path, _, _ in files)).encode()).hexdigest()[:16],
            sum(records for _, _, records in files),
            sum(size for _, size, _ in files),
        )
        for day, files in sorted(by_day.items())
    }


def _field(column: Column) -> Field:
    inner = column.type.removeprefix("array<").removesuffix(">")
    kind: object = _DELTA_TYPES[inner]
    if inner != column.type:
        kind = {"type": "array", "elementType": kind, "containsNull": True}
    metadata = {"comment": column.comment} if column.comment else {}
    return Field.from_json(json.dumps({"name": column.name, "type": kind, "nullable": True, "metadata": metadata}))


def arrow_schema(contract: Contract) -> pa.Schema:
    """The contract's columns as Arrow types, in its order."""

    def kind(text: str) -> pa.DataType:
        return pa.list_(kind(text[6:-1])) if text.startswith("array<") else _ARROW_TYPES[text]

    return pa.schema([(column.name, kind(column.type)) for column in contract.columns])


def ensure_table(contract: Contract) -> DeltaTable:
    """The table, made with the contract's types and comments if it is not there, and aligned with them if it is.

    New columns are added and comments follow the contract; another type or a column taken away is a ContractError.
    """
    path = settings.table_path(contract.table)
    fields = [_field(column) for column in contract.columns]
    delta = open_table(contract.table)
    if delta is None:
        DeltaTable.create(
            str(path), Schema(fields), mode="ignore", partition_by=list(contract.partitioned_by),
            name=contract.table, description=contract.about, configuration=_PROPERTIES,
        )  # fmt: skip
        return DeltaTable(str(path))
    there = {field.name: field for field in delta.schema().fields}
    cure = f"move {path} away and build its days again"
    for field in fields:
        if field.name in there and there[field.name].type != field.type:
            raise ContractError(f"{contract.table}.{field.name} is {there[field.name].type} in the table: {cure}")
    if gone := sorted(set(there) - set(contract.column_names)):
        raise ContractError(f"{contract.table} has {', '.join(gone)}, which its contract has not: {cure}")
    if new := [field for field in fields if field.name not in there]:
        delta.alter.add_columns(new)
    for field in fields:
        if field.name in there and there[field.name].metadata != field.metadata:
            delta.alter.set_column_metadata(field.name, field.metadata or {"comment": ""})
    if delta.metadata().description != contract.about:
        delta.alter.set_table_description(contract.about)
    return delta


def tidy(table: str, older_than: timedelta = _KEPT) -> None:
    """Delete the files that no version of the table needs any more, and what killed writers have left behind.

    Only what is older than `older_than`: younger files may be read by a build that began before they were replaced, or
    belong to a commit that is on its way.
    """
    delta, hours = DeltaTable(str(settings.table_path(table))), older_than / timedelta(hours=1)
    with suppress(CommitFailedError):  # somebody else is at it, and the next time comes
        delta.vacuum(int(hours), dry_run=False, enforce_retention_duration=False, full=True)
    # A writer of Spark that is killed leaves its half of a log file, which vacuum does not look for.
    for path in (settings.table_path(table) / "_delta_log").glob(".*.tmp*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > hours * 3600:
                path.unlink()


def retry_conflicts(write: Callable[[], object], what: str) -> None:
    """Run one Delta commit, again if another writer came first; WriteConflict after ten times."""
    for _ in range(10):
        try:
            write()
            return
        except CommitFailedError:
            continue
    raise WriteConflict(f"{what}: other writers came first ten times; try again")


def replace_source(
    contract: Contract,
    rows: pa.Table | Callable[[], pa.RecordBatchReader],
    *,
    loaded: dict[str, int] | None = None,
    empty_days: Sequence[str] = (),
    load_id: str | None = None,
    guard: Callable[[dict[str, int]], None] | None = None,
) -> int:
    """Replace the days that `rows` hold (all of a source without days) in one commit; gives the version written.

    rows: also a function that gives them anew for every try; then `loaded` says the rows of each day ('' without days).
    empty_days: days that are to have no rows. guard: sees the rows of each day as they are, and may raise.
    """
    day = contract.day_column
    if isinstance(rows, pa.Table):
        table = rows.cast(arrow_schema(contract))
        counts = table[day].value_counts().to_pylist() if day else [{"values": "", "counts": table.num_rows}]
        loaded = {count["values"]: count["counts"] for count in counts}
        rows = table.to_reader
    path, read = str(settings.table_path(contract.table)), rows
    held = sorted({*(loaded or ()), *empty_days})
    ensure_table(contract)
    if day and not held:
        return DeltaTable(path).version()
    predicate = f"{day} in ({', '.join(repr(parse_day(text)) for text in held)})" if day else None
    record = {
        "load_id": load_id or uuid.uuid4().hex,
        "table": contract.table,
        "loaded": dict(sorted((loaded or {}).items())),
        "empty_days": sorted(empty_days),
    }
    properties = CommitProperties(max_commit_retries=0, custom_metadata={"userMetadata": json.dumps(record)})
    version = -1

    def write() -> None:
        # Delta commits only on top of the version that the guard has seen; else the next try looks again.
        nonlocal version
        newest = DeltaTable(path)
        if guard:
            guard(_row_counts(newest, contract))
        try:
            write_deltalake(
                newest, read(), mode="overwrite", predicate=predicate,
                commit_properties=properties, writer_properties=_WRITER,
            )  # fmt: skip
        except CommitFailedError:
            raise
        except DeltaError as error:
            raise LakeError(f"{contract.table} can't be written: {str(error).splitlines()[0]}") from error
        version = newest.version()

    retry_conflicts(write, contract.table)
    return version


def _row_counts(delta: DeltaTable, contract: Contract) -> dict[str, int]:
    """Rows of each day; of a source without days, all of them under ''."""
    day = f'"{contract.day_column}"' if contract.day_column else "''"
    counted = QueryBuilder().register("rows", delta).execute(f"SELECT {day} AS day, count(*) AS n FROM rows GROUP BY 1")
    return {row["day"]: row["n"] for row in pa.table(counted.read_all()).to_pylist()}
