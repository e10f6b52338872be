"""What the Delta log of a table says, read and (for sources) written by delta-rs: milliseconds, and no JVM."""

import json
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Field, QueryBuilder, Schema, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from pyarrow import dataset
from pyarrow.fs import FileSystem, SubTreeFileSystem

from include.lake import settings
from include.lake.errors import ContractError, LakeError, WriteConflict
from include.lake.project.contracts import Column, Contract
from include.lake.project.periods import Period, is_key

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
    """What the files of one day hold."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class Commit:
    """One commit of a Delta log. `day_bytes`: the days whose rows it changed, with the bytes that it added to each.

    Compaction, comments and the like change no rows: they have no days. ANY_DAY stands for days that the log does not
    name. `metadata`: the JSON object of its userMetadata, empty where it has none.
    """

    version: int
    at: datetime
    metadata: dict[str, Any]
    day_bytes: dict[str, int]


# The day of a change that cannot be assigned to days.
ANY_DAY = "*"


def open_table(table: str, version: int | None = None) -> DeltaTable | None:
    """The Delta table at a version (the newest by default); None if it does not exist. LakeError if it is damaged."""
    path = settings.table_path(table)
    try:
        return DeltaTable(str(path), version=version)
    except TableNotFoundError:
        return None
    except DeltaError as error:
        raise LakeError(f"{table}: {_damage(path, error)}") from None


def _damage(path: Path, error: Exception) -> str:
    """Why a Delta table cannot be opened, with the cure."""
    newest = max((path / "_delta_log").glob("*.json"), default=None)
    reason = str(error).splitlines()[0]
    if newest:
        try:
            for line in newest.read_bytes().splitlines():
                json.loads(line)
        except ValueError:
            # A commit is written at once or not at all: only a disk or a copy that broke off leaves half a one.
            return (
                f"its newest commit is torn: delete {newest}, which nobody could read, and build or load its days again"
            )
    return f"its Delta log cannot be read ({reason}): restore {path} from a copy, or move it away and make it again"


def require_days(delta: DeltaTable, contract: Contract) -> None:
    """ContractError unless the table is partitioned by the day column of its contract."""
    partitioned_by = delta.metadata().partition_columns
    if contract.day_column and contract.day_column not in partitioned_by:
        layout = f"partitioned by {', '.join(partitioned_by)}" if partitioned_by else "not partitioned"
        raise ContractError(
            f"{settings.shown(contract.path)}: the day is {contract.day_column}, but the table is {layout}: "
            f"correct partitioned_by, or move {settings.table_path(contract.table)} away and make the table again"
        )


def rows(delta: DeltaTable, filters: list[tuple[str, str, Any]] | None = None) -> pa.Table:
    """The rows of the version that `delta` stands at; `filters` such as [("day", "=", "2026-01-05")]."""
    if _deleted(delta):
        # The pyarrow reader does not know deletion vectors; the query engine of delta-rs does.
        where = " and ".join(f'"{name}" = {_quoted(value)}' for name, _, value in filters or ())
        return query(delta, f"select * from source_rows{' where ' + where if where else ''}")
    # Read by path with the file system of pyarrow. delta-rs passes one implemented in Python; threads of pyarrow may
    # still call it while the interpreter shuts down, and the process aborts.
    local, folder = FileSystem.from_uri(delta.table_uri)
    return delta.to_pyarrow_table(filters=filters, filesystem=SubTreeFileSystem(folder, local))


def files_by(delta: DeltaTable, column: str) -> dict[str, list[str]]:
    """Value of a partition column -> the files with it."""
    actions = pa.table(delta.get_add_actions(flatten=True))
    if not actions.num_rows:
        return {}
    files: dict[str, list[str]] = {}
    for path, value in zip(*(actions[name].to_pylist() for name in ("path", f"partition.{column}")), strict=True):
        files.setdefault(value, []).append(path)
    return files


def read_files(delta: DeltaTable, paths: list[str], schema: pa.Schema) -> pa.Table:
    """The rows of some files of a table without deletion vectors: a few milliseconds, however many others there are."""
    local, folder = FileSystem.from_uri(delta.table_uri)
    files = dataset.dataset([f"{folder}/{path}" for path in paths], schema=schema, format="parquet", filesystem=local)
    return files.to_table()


def query(delta: DeltaTable, sql: str) -> pa.Table:
    """The result of a query over the table `source_rows`, computed by delta-rs."""
    return pa.table(QueryBuilder().register("source_rows", delta).execute(sql).read_all())


def _quoted(value: Any) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _deleted(delta: DeltaTable) -> dict[str, int]:
    """File name -> rows that a deletion vector takes out of it; empty for tables without such vectors."""
    if "deletionVectors" not in (delta.protocol().reader_features or ()):
        return {}
    vectors = pa.table(delta.deletion_vectors().read_all())
    paths, selections = (column.to_pylist() for column in vectors.columns)
    return {path.rpartition("/")[2]: selection.count(False) for path, selection in zip(paths, selections, strict=True)}


def commits(delta: DeltaTable, contract: Contract, after: int = -1) -> list[Commit]:
    """Every commit after version `after`, up to the version that `delta` stands at; oldest first.

    Where older commits were cleaned away, the first one that is left stands for them: it changed every day.
    """
    local, folder = FileSystem.from_uri(delta.table_uri)
    found: list[Commit] = []
    for version in range(after + 1, delta.version() + 1):
        try:
            with local.open_input_stream(f"{folder}/_delta_log/{version:020}.json") as stream:
                lines = stream.read().splitlines()
        except FileNotFoundError:
            gap = {ANY_DAY: 0, **dict.fromkeys(days(delta, contract), 0)}
            found = [Commit(version, datetime.fromtimestamp(0, UTC), {}, gap)]
            continue
        found.append(_commit(version, lines, contract.day_column))
    return found


def _commit(version: int, lines: list[bytes], day_column: str | None) -> Commit:
    at, metadata, day_bytes = 0, {}, dict[str, int]()
    for line in lines:
        if line.startswith(b'{"commitInfo"'):
            info = json.loads(line)["commitInfo"]
            at = info.get("timestamp", 0)
            with suppress(ValueError, TypeError):
                metadata = json.loads(info.get("userMetadata") or "{}")
        elif line.startswith((b'{"add"', b'{"remove"')) and day_column:
            ((kind, action),) = json.loads(line).items()
            if not action.get("dataChange", True):
                continue
            values = action.get("partitionValues")
            # Writers may leave the values out of a removal; then it may be of any day.
            day = ANY_DAY if values is None or day_column not in values else values[day_column]
            if day is not None:
                size = action.get("size") or 0 if kind == "add" else 0
                day_bytes[day] = day_bytes.get(day, 0) + size
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return Commit(version, moment, metadata if isinstance(metadata, dict) else {}, day_bytes)


def days(delta: DeltaTable, contract: Contract) -> dict[str, DayFiles]:
    """The days that have rows, with what their files hold; empty for a table without days."""
    if not contract.day_column:
        return {}
    require_days(delta, contract)
    actions = pa.table(delta.get_add_actions(flatten=True))
    if not actions.num_rows:
        return {}
    actions = actions.select(["path", "size_bytes", "num_records", f"partition.{contract.day_column}"])
    deleted = _deleted(delta)
    found: dict[str, DayFiles] = {}
    for path, size, records, value in zip(*(column.to_pylist() for column in actions.columns), strict=True):
        day = str(value)
        # Others may write partitions that are no days (null, 9999-12-32): no build reads them.
        if not is_key(contract.grain, day):
            continue
        # A file without statistics may have rows: it counts as one.
        kept = (1 if records is None else records) - deleted.get(path.rpartition("/")[2], 0)
        if kept > 0:
            before = found.get(day, DayFiles(0, 0))
            found[day] = DayFiles(before.rows + kept, before.bytes + size)
    return dict(sorted(found.items()))


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
    if delta.metadata().partition_columns != list(contract.partitioned_by):
        layout = ", ".join(delta.metadata().partition_columns) or "nothing"
        raise ContractError(
            f"{contract.table} is partitioned by {layout} in the table and by {', '.join(contract.partitioned_by)} in "
            f"its contract: correct the contract, or move {path} away and make the table again"
        )
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
    predicate = (
        f"{day} in ({', '.join(repr(Period.parse(contract.grain, text).text) for text in held)})" if day else None
    )
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
    counts = query(delta, f"select {day} as day, count(*) as number from source_rows group by 1")
    return {row["day"]: row["number"] for row in counts.to_pylist()}
