"""The store of Delta files, in a folder or an object store, read and written by delta-rs: milliseconds, and no JVM.

Its functions are those of the port `Store`. It opens the Delta log of a table by its address alone.
"""

import json
import os
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from errno import EIO, ENOENT
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from weakref import WeakValueDictionary

import pyarrow as pa
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Field,
    QueryBuilder,
    Schema,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from deltalake.schema import PrimitiveType
from pyarrow import compute, dataset
from pyarrow.fs import FileSystem, FileType, LocalFileSystem, PyFileSystem, SubTreeFileSystem

from include.lake import settings
from include.lake.errors import ContractError, LakeError, WriteConflict
from include.lake.project import contracts
from include.lake.project.contracts import Column, Contract
from include.lake.project.periods import Period, is_key
from include.lake.storage import (
    ANY_DAY,
    KEPT,
    PROPERTIES,
    Commit,
    Maintained,
    PartitionFiles,
    Snapshot,
    load_record,
    may_try_again,
    require_days,
)
from include.lake.storage.arrow import arrow_schema, rows_by_day
from include.lake.storage.records import metadata_of

# The pool that pyarrow takes by default keeps tens of MB more than it uses. Every task and sensor pays for that.
pa.set_memory_pool(pa.system_memory_pool())

dialect = "postgres"  # sqlglot's name for what is nearest to the SQL of DataFusion
_DELTA_TYPES = {
    "string": "string", "tinyint": "byte", "int": "integer", "bigint": "long",
    "double": "double", "boolean": "boolean", "date": "date", "timestamp": "timestamp",
}  # fmt: skip
# Delta-rs keeps a row group of each day in memory until it is full: with its million rows some hundred MB a day. Of
# 25,000 rows, files are hardly larger (1 %), and three days of 200,000 or of 1,800,000 rows take the same memory.
_ROW_GROUP = 25_000
# The smallest and largest value of a file leave NaN out. Where the others are all equal, Sail gives NaN their value.
# And it passes the file over in a search for what is larger.
_NO_STATISTICS = ColumnProperties(statistics_enabled="NONE")
# INT96 is the timestamp of Spark's defaults. Arrow takes it for nanoseconds, and these overflow after the year 2262.
_PARQUET = dataset.ParquetReadOptions(coerce_int96_timestamp_unit="us")
# Bytes of a commit that show whether anything is in it.
_FIRST_WORDS = 64
# What pyarrow says of a file that broke off, or of which a disk lost blocks.
_TORN_FILE = re.compile(r"Could not open Parquet input source '([^']+)'")
# Commits of a table without a contract between two looks whether one of its partitions has too many files.
_LOOK_EVERY = 50
# Address -> its newest version that was opened, as long as somebody has it. A build opens its tables many times, and
# to read a log takes a thousand times as long as to see that it has not grown.
_held: "WeakValueDictionary[str, Snapshot]" = WeakValueDictionary()
os.register_at_fork(after_in_child=_held.clear)  # delta-rs works in the process alone that opened a table
# Builds of other partitions of the table may commit as often as this while one of them commits.
_RETRIES = 15
# Maintenance of a table commits a few times a week. A build that meets it more often than this meets something else.
_AGAIN = 5


class _Files:
    """What a snapshot of this store keeps: the Delta table, and the files by the values of a partition column.

    Who writes with delta-rs moves its table on to another version, and opens one of its own for that.
    """

    def __init__(self, delta: DeltaTable) -> None:
        self.delta = delta
        self._by: dict[str, dict[str, list[str]]] = {}
        self._commit: tuple[int | None, int | None] | None = None

    def _commits(self) -> tuple[tuple[int | None, int | None], bool]:
        """Size and time of the file of this version's commit, and whether there is a next one."""
        version = self.delta.version()
        paths = [f"_delta_log/{number:020}.json" for number in (version, version + 1)]
        commit, following = file_system(self.delta).get_file_info(paths)
        return (commit.size, commit.mtime_ns), following.type == FileType.File

    def hold(self) -> None:
        """Note of which commit this version is, for `is_newest`."""
        self._commit, _ = self._commits()

    def is_newest(self) -> bool:
        """Is a version that is held still the newest one? Not if the table was moved away and made again."""
        commit, has_next = self._commits()
        return commit == self._commit and not has_next

    def by(self, column: str) -> dict[str, list[str]]:
        """Value of a partition column -> the files with it."""
        if column not in self._by:
            files = self._by[column] = {}
            actions = pa.table(self.delta.get_add_actions(flatten=True))
            if actions.num_rows:
                values = (actions[name].to_pylist() for name in ("path", f"partition.{column}"))
                for path, value in zip(*values, strict=True):
                    files.setdefault(value, []).append(path)
        return self._by[column]


def address(table: str) -> str:
    """The folder or the URL of a table: the path is the table."""
    schema, name = table.split(".")
    return f"{settings.warehouse()}/{schema}/{name}"


def local_folder(table: str) -> Path | None:
    """The folder of a table; None in an object store."""
    return _local(address(table))


def _local(where: str) -> Path | None:
    """The folder at an address; None in an object store."""
    return None if "://" in where else Path(where)


def open(table: str, version: int | None = None, places: Collection[str] | None = None) -> Snapshot | None:
    """The table at a version (the newest by default); None if it does not exist. LakeError if it is damaged.

    places: partitions of an older version that are to be read. LakeError if their files are not there any more.
    """
    held = _held.get(address(table)) if version is None else None
    if held and held.handle.is_newest():
        return held
    delta = open_table(table, version)
    if delta is None:
        return None
    snapshot = _snapshot(table, delta)
    if version is None:
        snapshot.handle.hold()
        _held[snapshot.address] = snapshot
    if places is not None:
        _require_files(snapshot, contracts.get(table).place_column, places)
    return snapshot


def _snapshot(table: str, delta: DeltaTable) -> Snapshot:
    metadata = delta.metadata()
    columns = tuple(column.name for column in delta.schema().fields)
    return Snapshot(
        table, str(metadata.id), delta.version(), address(table), columns, tuple(metadata.partition_columns),
        _Files(delta),
    )  # fmt: skip


def open_table(table: str, version: int | None = None) -> DeltaTable | None:
    """The same as delta-rs has it: for this store, and for who tests what is in its files."""
    where = address(table)
    try:
        delta = DeltaTable(where, version=version)
    except TableNotFoundError:
        return None
    except DeltaError as error:
        raise LakeError(f"{table}: {_damage(where, error)}") from None
    # Delta-rs takes a commit without a word in it for one that changed nothing: the rows of the day before a power cut.
    if version is None and (folder := _local(where)):
        newest = _commit_file(folder, delta.version())
        with suppress(FileNotFoundError), newest.open("rb") as file:
            if not file.read(_FIRST_WORDS).strip(b"{} \r\n"):
                raise LakeError(f"{table}: {_torn(newest)}")
    return delta


def _commit_file(folder: Path, version: int) -> Path:
    return folder / "_delta_log" / f"{version:020}.json"


def _torn(commit: Path) -> str:
    # A commit is written at once or not at all: only a disk or a copy that broke off leaves half a one.
    return (
        f"its newest commit is torn: delete {commit}, which nobody could read, then ./lake ledger rebuild, and "
        "build or load its days again"
    )


def _damage(where: str, error: Exception) -> str:
    """Why a Delta table cannot be opened, with the cure."""
    folder = _local(where)
    newest = max((folder / "_delta_log").glob("*.json"), default=None) if folder else None
    reason = str(error).splitlines()[0]
    if newest:
        try:
            for line in newest.read_bytes().splitlines():
                json.loads(line)
        except ValueError:
            return _torn(newest)
    return (
        f"its Delta log cannot be read ({reason}): move {where} away and make it again; or restore it from a copy, "
        "then ./lake ledger rebuild, and build again (--force) what has read later versions"
    )


def _is_here(delta: DeltaTable) -> bool:
    return urlsplit(delta.table_uri).scheme in ("", "file")


def file_system(delta: DeltaTable) -> FileSystem:
    """The files of a table, by their path in it."""
    if _is_here(delta):
        # The file system of pyarrow. delta-rs has one implemented in Python; threads of pyarrow may still call it while
        # the interpreter shuts down, and the process aborts.
        return SubTreeFileSystem(unquote(urlsplit(delta.table_uri).path).rstrip("/"), LocalFileSystem())
    # It has the credentials and the kinds of URL that delta-rs has, and not those of pyarrow.
    return PyFileSystem(DeltaStorageHandler.from_table(delta._table))


def files_of(delta: DeltaTable) -> dataset.Dataset:
    """Its rows, to be read from the files of its version."""
    return delta.to_pyarrow_dataset(filesystem=file_system(delta), parquet_read_options=_PARQUET)


def rows(snapshot: Snapshot, where: Mapping[str, Collection[str]] | None = None, limit: int | None = None) -> pa.Table:
    """The rows; of those columns that `where` names, only the rows with one of its values. It gives them all."""
    delta: DeltaTable = snapshot.handle.delta
    if not {*(where or ())} <= {*snapshot.columns}:
        require_days(snapshot, contracts.get(snapshot.table))
    if needs_query_engine(delta):
        parts = [f'"{name}" in ({", ".join(map(_quoted, values))})' for name, values in (where or {}).items()]
        return _query(delta, f"select * from source_rows{' where ' + ' and '.join(parts) if parts else ''}")
    with _whole_files(snapshot):
        if where and tuple(where) == snapshot.partitioned_by and len(where) == 1:
            ((column, values),) = where.items()
            return _rows_of_partitions(snapshot, column, sorted(values))
        files = files_of(delta)
        conditions = [compute.field(name).isin(sorted(values)) for name, values in (where or {}).items()]
        return files.to_table(filter=reduce(and_, conditions) if conditions else None)


@contextmanager
def _whole_files(snapshot: Snapshot) -> Iterator[None]:
    """An error about a torn data file names it by its full path: pyarrow knows its path in the table alone."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        if not (torn := _TORN_FILE.search(str(error))):
            raise
        raise OSError(EIO, "is torn", f"{snapshot.address}/{torn[1]}") from None


def _rows_of_partitions(snapshot: Snapshot, column: str, values: list[str]) -> pa.Table:
    """The rows with these values of the only partition column: milliseconds, however many files others have."""
    delta: DeltaTable = snapshot.handle.delta
    schema = pa.schema(delta.schema().to_arrow())
    place = schema.get_field_index(column)
    stored, tables = schema.remove(place), [schema.empty_table()]
    for value in values:
        if paths := snapshot.handle.by(column).get(value):
            kind = dataset.ParquetFileFormat(_PARQUET)
            try:
                files = dataset.dataset(paths, stored, kind, filesystem=file_system(delta))
                # Threads and read-ahead take more time and memory than such small files are worth.
                part = files.to_table(use_threads=False, batch_readahead=0)
            except FileNotFoundError:
                raise FileNotFoundError(ENOENT, "not found", (*lost_files(snapshot, paths), *paths)[0]) from None
            tables.append(part.add_column(place, schema.field(place), pa.repeat(value, len(part))))
    return pa.concat_tables(tables)


def values(snapshot: Snapshot, column: str, keys: Sequence[str], expressions: Sequence[str]) -> pa.Table:
    """The values of some aggregates for each of some keys of a column, computed by delta-rs."""
    found, listed = f'"{column}"', ", ".join(map(_quoted, keys))
    return _query(
        snapshot.handle.delta,
        f"select {found}, {', '.join(expressions)} from source_rows where {found} in ({listed}) group by {found}",
    )


def _query(delta: DeltaTable, sql: str) -> pa.Table:
    return pa.table(QueryBuilder().register("source_rows", delta).execute(sql).read_all())


def _quoted(value: Any) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _deleted(delta: DeltaTable) -> dict[str, int]:
    """File name -> rows that a deletion vector takes out of it; empty for tables without such vectors."""
    if not _may_have_vectors(delta):
        return {}
    vectors = pa.table(delta.deletion_vectors().read_all())
    paths, selections = (column.to_pylist() for column in vectors.columns)
    return {path.rpartition("/")[2]: selection.count(False) for path, selection in zip(paths, selections, strict=True)}


def needs_query_engine(delta: DeltaTable) -> bool:
    """Can pyarrow not read the files by itself? It knows neither deletion vectors nor other names of columns."""
    return _has_other_names(delta) or _may_have_vectors(delta)


def _may_have_vectors(delta: DeltaTable) -> bool:
    return "deletionVectors" in (delta.protocol().reader_features or ())


def _has_other_names(delta: DeltaTable) -> bool:
    """Have columns other names in the files and in the log? So after a RENAME COLUMN by Spark (column mapping)."""
    return delta.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"


def _name_in_log(delta: DeltaTable, column: str | None) -> str | None:
    fields = (field for field in delta.schema().fields if field.name == column) if _has_other_names(delta) else ()
    return next((field.metadata.get("delta.columnMapping.physicalName") for field in fields), None) or column


def commits(
    snapshot: Snapshot, contract: Contract, after: int = -1, ids: Callable[[], Mapping[str, str]] = dict,
    last: int | None = None,
) -> list[Commit]:  # fmt: skip
    """Every commit after version `after`, up to that of the snapshot; oldest first. The log says all: it needs no ids.

    last: an earlier version to end with.

    Where older commits were cleaned away, the first one that is left stands for them: it changed every day.
    """
    found: list[Commit] = []
    versions = range(after + 1, (snapshot.version if last is None else last) + 1)
    if not versions:  # as in nearly every look
        return found
    files = file_system(snapshot.handle.delta)
    place = _name_in_log(snapshot.handle.delta, contract.place_column)
    for version in versions:
        try:
            with files.open_input_stream(f"_delta_log/{version:020}.json") as stream:
                lines = stream.read().splitlines()
        except FileNotFoundError:
            gap = {ANY_DAY: 0, **dict.fromkeys(days(snapshot, contract), 0)}
            found = [Commit(version, datetime.fromtimestamp(0, UTC), {}, gap)]
            continue
        found.append(_commit(version, lines, place))
    return found


def _commit(version: int, lines: list[bytes], column: str | None) -> Commit:
    at, metadata, day_bytes = 0, dict[str, Any](), dict[str, int]()
    for line in lines:
        if line.startswith(b'{"commitInfo"'):
            info = json.loads(line)["commitInfo"]
            at = info.get("timestamp", 0)
            metadata = metadata_of(info.get("userMetadata"))
        elif line.startswith((b'{"add"', b'{"remove"')):
            ((kind, action),) = json.loads(line).items()
            if not action.get("dataChange", True):
                continue
            values = action.get("partitionValues")
            # Writers may leave the values out of a removal; then it may be of any day.
            day = ANY_DAY if values is None or column not in values else values[column]
            if day is not None:
                size = action.get("size") or 0 if kind == "add" else 0
                day_bytes[day] = day_bytes.get(day, 0) + size
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return Commit(version, moment, metadata, day_bytes)


def days(snapshot: Snapshot, contract: Contract) -> dict[str, PartitionFiles]:
    """The days that have rows, with what their files hold; empty for a table without days."""
    if not contract.day_column:
        return {}
    require_days(snapshot, contract)
    delta: DeltaTable = snapshot.handle.delta
    actions = pa.table(delta.get_add_actions(flatten=True))
    if not actions.num_rows:
        return {}
    actions = actions.select(["path", "size_bytes", "num_records", f"partition.{contract.day_column}"])
    deleted = _deleted(delta)
    found: dict[str, PartitionFiles] = {}
    for path, size, records, value in zip(*(column.to_pylist() for column in actions.columns), strict=True):
        day = str(value)
        # Others may write partitions that are no days (null, 9999-12-32): no build reads them.
        if not is_key(contract.grain, day):
            continue
        # A file without statistics may have rows: it counts as one.
        kept = (1 if records is None else records) - deleted.get(path.rpartition("/")[2], 0)
        if kept > 0:
            before = found.get(day, PartitionFiles(0, 0))
            found[day] = PartitionFiles(before.rows + kept, before.bytes + size)
    return dict(sorted(found.items()))


def _require_files(snapshot: Snapshot, column: str | None, places: Collection[str]) -> None:
    """LakeError if files of some partitions are not there any more; a table without partitions is one."""
    delta: DeltaTable = snapshot.handle.delta
    if column and ANY_DAY not in places:
        paths = [path for place in places for path in snapshot.handle.by(column).get(place, ())]
    else:
        paths = _paths(delta)
    if lost := lost_files(snapshot, paths):
        raise LakeError(f"{snapshot.table} cannot be read at version {snapshot.version} any more: {lost[0]} is gone")


def lost_files(snapshot: Snapshot, paths: list[str] | None = None) -> list[str]:
    """The files of a table, of all or of some paths in it, that are not there any more."""
    delta: DeltaTable = snapshot.handle.delta
    # The log writes paths as URLs: country=South%2520Korea is the folder country=South%20Korea.
    found = file_system(delta).get_file_info([unquote(path) for path in (_paths(delta) if paths is None else paths)])
    return [f"{snapshot.address}/{info.path}" for info in found if info.type != FileType.File]


def _paths(delta: DeltaTable) -> list[str]:
    paths: list[str] = pa.table(delta.get_add_actions(flatten=True))["path"].to_pylist()
    return paths


def _field(column: Column) -> Field:
    inner = column.type.removeprefix("array<").removesuffix(">")
    kind: object = _DELTA_TYPES[inner]
    if inner != column.type:
        kind = {"type": "array", "elementType": kind, "containsNull": True}
    metadata = {"comment": column.comment} if column.comment else {}
    return Field.from_json(json.dumps({"name": column.name, "type": kind, "nullable": True, "metadata": metadata}))


def writer_properties(delta: DeltaTable) -> WriterProperties:
    """How all that we write into a table is laid out."""
    doubles = [field.name for field in delta.schema().fields if field.type == PrimitiveType("double")]
    return WriterProperties(
        max_row_group_size=_ROW_GROUP, column_properties=dict.fromkeys(doubles, _NO_STATISTICS) or None
    )


def _type_in_words(kind: Any) -> str:
    """A type of Delta as contracts write it."""
    words = {name: word for word, name in _DELTA_TYPES.items()}
    plain = json.loads(kind.to_json())
    if isinstance(plain, dict) and plain["type"] == "array" and isinstance(plain["elementType"], str):
        return f"array<{words.get(plain['elementType'], plain['elementType'])}>"
    return words.get(plain, plain) if isinstance(plain, str) else str(plain["type"])


def ensure(contract: Contract) -> Snapshot:
    """The table, made with the contract's types and comments if it is not there, and aligned with them if it is.

    New columns are added and comments follow the contract; another type or a column taken away is a ContractError.
    """
    path = address(contract.table)
    fields = [_field(column) for column in contract.columns]
    delta = open_table(contract.table)
    if delta is None:
        DeltaTable.create(
            path, Schema(fields), mode="ignore", partition_by=list(contract.partitioned_by),
            name=contract.table, description=contract.about, configuration=PROPERTIES,
        )  # fmt: skip
        return _snapshot(contract.table, DeltaTable(path))
    if delta.metadata().partition_columns != list(contract.partitioned_by):
        layout = ", ".join(delta.metadata().partition_columns) or "nothing"
        promised = ", ".join(contract.partitioned_by) or "nothing"
        raise ContractError(
            f"{contract.table} is partitioned by {layout} in the table and by {promised} in its contract: correct the "
            f"contract, or move {path} away and make the table again"
        )
    there = {field.name: field for field in delta.schema().fields}
    cure = f"move {path} away and {'load its rows' if contract.is_source else 'build its days'} again"
    for field in fields:
        if field.name in there and there[field.name].type != field.type:
            kind = _type_in_words(there[field.name].type)
            raise ContractError(f"{contract.table}.{field.name} is {kind} in the table: {cure}")
    if gone := sorted(set(there) - set(contract.column_names)):
        raise ContractError(f"{contract.table} has {', '.join(gone)}, which its contract has not: {cure}")
    if new := [field for field in fields if field.name not in there]:
        delta.alter.add_columns(new)
    for field in fields:
        comment = field.metadata.get("comment", "")
        if field.name in there and (there[field.name].metadata.get("comment") or "") != comment:
            delta.alter.set_column_metadata(field.name, {"comment": comment})
    if delta.metadata().description != contract.about:
        delta.alter.set_table_description(contract.about)
    return _snapshot(contract.table, delta)


def maintain(table: str, older_than: timedelta = KEPT) -> Maintained | None:
    """Make small files one, cluster them, delete what nobody needs any more; None if the table does not exist."""
    from include.lake.storage import delta_upkeep  # it imports this module

    return delta_upkeep.maintain(table, older_than)


def _retry_conflicts(write: Callable[[], object], what: str) -> None:
    """Run one Delta commit, again if another writer came first; WriteConflict after ten times."""
    for _ in range(10):
        try:
            write()
            return
        except CommitFailedError:
            continue
    raise WriteConflict(f"{what}: other writers came first ten times; try again")


def write(
    table: str,
    rows: pa.Table | Callable[[Snapshot], pa.Table],
    *,
    about: str,
    partitioned_by: Sequence[str],
    anew: bool = False,
) -> None:
    """Append rows to a table without a contract, or let a function give all rows that it has from then on."""
    where = address(table)
    if anew:
        _move_away(table, where)
    delta = open_table(table)
    if isinstance(rows, pa.Table):
        if delta is None:
            _retry_conflicts(
                lambda: DeltaTable.create(
                    where, rows.schema, mode="ignore", partition_by=list(partitioned_by), name=table,
                    description=about, configuration={"delta.checkpointInterval": "20"},
                ),
                table,
            )  # fmt: skip
            delta = DeltaTable(where)
        if rows.num_rows:
            _append(table, delta, rows)
        return
    # Without a retry of delta-rs: a row that another process has added since we read would be lost.
    once = CommitProperties(max_commit_retries=0)

    def rewrite() -> None:
        newest = DeltaTable(where)
        write_deltalake(newest, rows(_snapshot(table, newest)), mode="overwrite", commit_properties=once)

    _retry_conflicts(rewrite, table)


def _append(table: str, delta: DeltaTable, rows: pa.Table) -> None:
    _retry_conflicts(lambda: write_deltalake(address(table), rows, mode="append"), table)
    delta.update_incremental()
    if delta.version() % _LOOK_EVERY == 0:
        from include.lake.storage import delta_upkeep  # it imports this module

        delta_upkeep.thin_out(table)


def _move_away(table: str, where: str) -> None:
    """Keep what nobody can read beside its place."""
    folder = _local(where)
    if folder is None:
        raise LakeError(f"{table}: move {where} away first; nothing was written")
    with suppress(FileNotFoundError):
        folder.rename(folder.with_name(f"{folder.name}.unreadable.{time.time_ns()}"))


def replace(
    contract: Contract,
    rows: pa.Table | Callable[[], pa.RecordBatchReader],
    *,
    partitions: Collection[str] = (),
    record: Mapping[str, Any] | None = None,
    since: Snapshot | None = None,
    guard: Callable[[dict[str, int]], None] | None = None,
) -> int:
    """Replace partitions (all of a source without days) in one commit that carries `record`; gives its version.

    partitions: days, or the places of a table kept by key; ANY_DAY stands for the whole table.
    rows: a function gives them anew for every try. A table without `record` is a load of the partitions that it holds.
    since: WriteConflict if another commit has changed one of the partitions since then. If others have only laid their
    rows into other files, it commits on top of that. Without `since` the newest version is replaced, whatever it is.
    guard: sees the rows of each day as they are, and may raise.
    """
    day = contract.place_column
    if isinstance(rows, pa.Table):
        table = rows.cast(arrow_schema(contract))
        loaded = rows_by_day(contract, table)
        partitions = partitions or sorted(loaded)
        record = record or load_record(contract, uuid.uuid4().hex, loaded)
        rows = table.to_reader
    where, read = address(contract.table), rows
    if since is None:
        ensure(contract)
    if day and not partitions and since is None:
        return DeltaTable(where).version()
    predicate = None
    if contract.kept_by and not day and not partitions:
        predicate = "1 = 0"  # of a build after which no row differs: it commits its record alone
    elif day and ANY_DAY not in partitions:
        keys = [Period.parse(contract.grain, text).text for text in sorted(partitions)]
        # No partition is '': a build that replaces none needs a commit all the same, for its record.
        predicate = f'"{day}" in ({", ".join(map(repr, keys or [""]))})'  # a column may be named as a word of SQL
    properties = CommitProperties(
        # Without a retry of delta-rs a load commits only on top of the version that the guard has seen, and a build of
        # keys on top of the version that it computed from. A build of days leaves it to delta-rs to look whether the
        # commits since then changed the same partitions.
        max_commit_retries=_RETRIES if since and not contract.kept_by else 0,
        custom_metadata={"userMetadata": json.dumps(record, separators=(",", ":"))},
    )
    version = -1

    def write(base: int | None = None) -> None:
        nonlocal version
        newest = DeltaTable(where, version=base)
        if guard:
            guard(_row_counts(newest, contract))
        try:
            write_deltalake(
                newest, read(), mode="overwrite", predicate=predicate,
                commit_properties=properties, writer_properties=writer_properties(newest),
            )  # fmt: skip
        except CommitFailedError:
            raise
        except DeltaError as error:
            raise LakeError(f"{contract.table} can't be written: {str(error).splitlines()[0]}") from error
        version = newest.version()

    if since is None:
        _retry_conflicts(write, contract.table)
        return version
    base = since.version
    for attempt in range(_AGAIN):
        try:
            write(base)
            break
        except CommitFailedError as error:
            newest = open(contract.table)
            if attempt + 1 == _AGAIN or newest is None or not may_try_again(contract, since, partitions):
                raise WriteConflict(f"{contract.table}: {str(error).splitlines()[0]}") from None
            base = newest.version  # of maintenance: the rows are still right on top of it
    return version


def _row_counts(delta: DeltaTable, contract: Contract) -> dict[str, int]:
    """Rows of each day; of a source without days, all of them under ''."""
    day = f'"{contract.day_column}"' if contract.day_column else "''"
    counts = _query(delta, f"select {day} as day, count(*) as number from source_rows group by 1")
    return {row["day"]: row["number"] for row in counts.to_pylist()}
