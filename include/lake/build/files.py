"""Read files of other programs in batches of rows: JSON lines, CSV, Parquet, and folders of these.

A row that cannot be read affects no other row. Its batch reports its line and the reason, and the reader goes on with
the next row. This module checks only the names of columns; `values` checks the values.
"""

import csv
import difflib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.lake.build.values import JSON
from include.lake.errors import UsageError
from include.lake.project.contracts import Contract
from include.lake.storage import delta_folder
from include.lake.words import counted

# Rows and bytes of a batch: enough that Arrow is quick, and few enough for a machine with little memory.
_ROWS, _BYTES = 20_000, 16 << 20
# Lines that one CSV record may have. Without a limit, a quote that is never closed takes the rest of the file.
_RECORD_LINES = 1_000
_FIELD_BYTES = 64 << 20
# The first bytes of packed files.
_PACKED = {"gzip": rb"\x1f\x8b\x08", "zstd": rb"\x28\xb5\x2f\xfd", "bzip2": rb"BZh[1-9]1AY&SY"}
_ARRAY = re.compile(rb"\s*\[\s*(\{|\]?\s*$)")
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_SHOWN = 10


@dataclass
class Batch:
    """Rows of one file, by column. `folder`: column values in the names of its folders, as Hive writes them."""

    path: Path
    folder: dict[str, str | None]
    lines: list[int] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    bad: list[tuple[int, str]] = field(default_factory=list)  # rows that cannot be read: line and reason


class Names:
    """Compares the column names of the files with those of the contract. `matched`: the columns that files have."""

    def __init__(self, contract: Contract, ignore: bool) -> None:
        self.table, self.matched = contract.table, set[str]()
        self._ignore, self._unknown = ignore, dict[str, str]()
        # A name in a file -> its column, which has a name of its own and sometimes one more.
        self._known = {name: name for name in contract.column_names}
        self._known |= {column.named: column.name for column in contract.columns if column.named}
        self._columns = [
            f"{column.name} or {column.named}" if column.named else column.name for column in contract.columns
        ]

    def column(self, name: str) -> str | None:
        """The column that a file calls `name`; None if the contract does not know it."""
        return self._known.get(name)

    def see(self, names: Collection[str], place: str) -> None:
        """Remember the names of a file; the unknown ones, so that `refuse` can report them.

        UsageError if the file has both names of a column: nobody knows which of them counts.
        """
        unknown = [name for name in names if name not in self._known]
        by_column: dict[str, str] = {}
        for name in names:
            column = self._known.get(name)
            if column and by_column.setdefault(column, name) != name:
                raise UsageError(
                    f"{place} has {by_column[column]} and {name}, two names of the column {column}: "
                    "nothing was loaded; leave one of them out"
                )
        self.matched |= by_column.keys()
        if not self._ignore:
            for name in unknown:
                self._unknown.setdefault(name, place)

    def header(self, names: list[str], folder: Collection[str], path: Path) -> None:
        """Check all column names of a file at once."""
        repeated = sorted({n for n in names if names.count(n) > 1 and (n in self._known or not self._ignore)})
        if repeated:
            raise UsageError(f"{path} has {', '.join(repeated)} twice: nothing was loaded; give each column one name")
        before, self.matched = self.matched, set()
        self.see(names, str(path))
        self.see(folder, str(path))
        self.refuse()
        self.need(path)
        self.matched |= before

    def need(self, path: Path) -> None:
        """UsageError for a file without any known column name."""
        if not self.matched:
            raise UsageError(
                f"{path} has none of the columns of {self.table} ({', '.join(self._columns)}): nothing was loaded"
            )

    def refuse(self) -> None:
        """UsageError with all unknown names, the place of the first one, and similar known names."""
        if not self._unknown:
            return
        names, known = [], {name.lower(): name for name in self._known}
        for name in list(self._unknown)[:_SHOWN]:
            near = difflib.get_close_matches(name.lower(), known, n=1)
            names.append(f"{name!r} (is it {known[near[0]]}?)" if near else repr(name))
        more = f" and {len(self._unknown) - _SHOWN} more" if len(self._unknown) > _SHOWN else ""
        mark = next(
            (mark for mark in ";\t|" if any(self._known.keys() & set(n.split(mark)[1:]) for n in self._unknown)), None
        )
        cure = (
            f"separate the columns with commas, not {mark!r}"
            if mark
            else "mend the names, or leave these columns out with --ignore-columns"
        )
        place = next(iter(self._unknown.values()))
        raise UsageError(f"{place}: {self.table} has no column {', '.join(names)}{more}: nothing was loaded; {cure}")


def read(file: str, names: Names) -> Iterator[Batch]:
    """The rows of a file, or of all files in a folder. UsageError if a file does not have the format of its name."""
    start = Path(file)
    if _is_delta(start):
        yield from _said_plainly(start, "a Delta table", lambda: _delta(start, names))
        return
    if not start.exists():
        raise UsageError(f"{start} does not exist")
    for path in _files(start):
        if kind := _packed(path):
            raise UsageError(f"{path} is packed with {kind}: unpack it first")
        reader = _READERS.get(path.suffix)
        if reader is None:
            raise UsageError(f"{path}: load reads .jsonl (.json, .ndjson), .csv and .parquet files")
        folder = _folder(path, start, names)
        yield from _said_plainly(path, path.suffix[1:], lambda r=reader, p=path, f=folder: r(p, f, names))  # type: ignore[misc]


def require_once(paths: list[str]) -> None:
    """UsageError if a file is there twice, by whatever path: each of its rows would be loaded twice."""
    seen: dict[tuple[int, int], tuple[Path, Path]] = {}  # file -> its first path, and what the user named
    for start in map(Path, paths):
        # The files of a Delta table are in its folder, and its rows in them.
        for path in [start, *_below(start)] if _is_delta(start) else _files(start):
            with suppress(OSError):  # whoever reads the file tells
                stat = path.stat()
                first, named = seen.setdefault((stat.st_dev, stat.st_ino), (path, start))
                if first is not path:
                    folders = [f"in {folder}" for folder in (named, start) if folder != path]
                    other = str(first) if first != path else "".join(folders[:1])
                    same = f" (it is {other}, too)" if other else ""
                    raise UsageError(f"{path} is named twice{same}: nothing was loaded; name it once")


def _packed(path: Path) -> str | None:
    head = b""
    with suppress(OSError), path.open("rb") as stream:  # the reader of the file tells of errors
        head = stream.read(10)
    return next((kind for kind, start in _PACKED.items() if re.match(start, head)), None)


def _is_delta(path: Path) -> bool:
    return (path / "_delta_log").is_dir()


def _said_plainly(path: Path, kind: str, batches: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    try:
        yield from batches()
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} can't be read as {kind}: {str(error).splitlines()[0]}") from None


def _files(path: Path) -> list[Path]:
    """The file itself, or the files in a folder. UsageError for files of a Delta table, by whatever path."""
    files = _below(path) if path.is_dir() else [path]
    for folder in sorted({file.resolve().parent for file in files}):
        for table in (folder, *folder.parents):
            if _is_delta(table):
                raise UsageError(
                    f"{table} is a Delta table, and among its files are old ones with rows that it has no more: "
                    "nothing was loaded; name the table's own folder"
                )
    return files


def _is_hidden(name: str) -> bool:
    """Other programs keep their notes under names with `_` or `.` in front. `_loaded=2026-01-05` holds rows, though."""
    return name[0] == "." or (name[0] == "_" and "=" not in name)


def _below(path: Path) -> list[Path]:
    """The files in a folder, without the hidden ones.

    UsageError for what cannot be read, and for what is read already: its rows would be missing, or there twice.
    """

    def refuse(error: OSError) -> None:
        raise UsageError(f"{error.filename} can't be read: {error.strerror}; nothing was loaded") from None

    found, seen = [], set()
    for folder, folders, files in os.walk(path, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            raise UsageError(f"{folder} leads to {real}, which is read already: nothing was loaded; take the link away")
        seen.add(real)
        folders[:] = [name for name in folders if not _is_hidden(name)]
        found += [Path(folder, name) for name in files if not _is_hidden(name)]
    for file in found:
        if not file.is_file():
            raise UsageError(f"{file} is no file, or a link to nothing: nothing was loaded; mend it or take it away")
    return sorted(found)


def _folder(path: Path, start: Path, names: Names) -> dict[str, str | None]:
    """Column values in the folder names above a file, as Hive and Spark write them: `part_date=2026-01-05/`.

    Above the folder that the user named, a folder counts only if it names a column of the contract.
    """
    depth = len(start.parts) if start.is_dir() else len(path.parts) - 1
    values: dict[str, str | None] = {}
    for place, part in enumerate(path.parts[:-1]):
        name, equals, text = part.partition("=")
        name = unquote(name)
        if not equals or (place < depth and not names.column(name)):
            continue
        name = names.column(name) or name
        try:
            value = None if text == _NULL_PARTITION else unquote(text, errors="strict")
        except UnicodeDecodeError:
            raise UsageError(f"{path}: the folder {part} is no UTF-8") from None
        if values.setdefault(name, value) != value:
            raise UsageError(f"{path}: its folders say {name} twice")
    return values


def _open(path: Path) -> BinaryIO:
    """Open the file and skip its byte order mark."""
    stream = path.open("rb")
    head = stream.read(3)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        stream.close()
        raise UsageError(f"{path} is UTF-16: write it as UTF-8")
    stream.seek(3 if head == b"\xef\xbb\xbf" else 0)
    return stream


def _json(path: Path, folder: dict[str, str | None], names: Names) -> Iterator[Batch]:
    batch, rows, size = Batch(path, folder), list[dict[str, Any]](), 0
    keys: set[str] = set()  # of all rows of the file
    by_column: dict[str, str] = {}  # the columns among them, and their keys

    def full() -> Batch:
        batch.columns = {column: [row.get(key) for row in rows] for column, key in by_column.items()}
        return batch

    any_row, first = False, True
    with _open(path) as stream:
        for number, raw in enumerate(stream, 1):
            if raw.isspace():
                continue
            if first and _ARRAY.match(raw):
                raise UsageError(f"{path}:{number} begins a JSON array: write one object per line, without [ and ]")
            first = False
            try:
                row = JSON.decode(raw.decode().strip())
            except UnicodeDecodeError as error:
                batch.bad.append((number, f"is no UTF-8 at byte {error.start + 1}"))
            except RecursionError:
                batch.bad.append((number, "is nested too deep"))
            except json.JSONDecodeError as error:
                batch.bad.append((number, f"is not JSON: {error.msg} at character {error.pos + 1}"))
            except ValueError as error:  # from `JSON`, or from a whole number with thousands of digits
                reason = str(error).split(";")[0]
                batch.bad.append((number, f"is not JSON that can be held: {reason}"))
            else:
                if not isinstance(row, dict):
                    batch.bad.append((number, "is not an object with columns"))
                    continue
                any_row = True
                if not row.keys() <= keys:
                    new = [key for key in row if key not in keys]
                    # A file may have a new key in each line, so only the few keys of columns are seen again.
                    names.see([*by_column.values(), *new], f"{path}:{number}")
                    keys.update(new)
                    by_column |= {column: key for key in new if (column := names.column(key))}
                rows.append(row)
                batch.lines.append(number)
            size += len(raw)
            if len(rows) + len(batch.bad) >= _ROWS or size >= _BYTES:
                yield full()
                batch, size = Batch(path, folder), 0
                rows.clear()
    names.see(folder, str(path))
    if any_row and not by_column and not any(map(names.column, folder)):
        names.refuse()
        names.matched.clear()
        names.need(path)
    yield full()


class _Lines:
    """Lines for Python's CSV reader. It keeps the lines of the current record, so that a bad one can be read again."""

    def __init__(self, stream: BinaryIO) -> None:
        self._lines, self._again = enumerate(stream, 1), deque[tuple[int, bytes]]()
        self.record: list[tuple[int, bytes]] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if len(self.record) == _RECORD_LINES:
            raise csv.Error(f"a quote is not closed for {_RECORD_LINES:,} lines")
        self.record.append(self._again.popleft() if self._again else next(self._lines))
        return self.record[-1][1].decode(errors="surrogateescape")

    def begin_again(self) -> None:
        self._again.extendleft(reversed(self.record[1:]))


def _csv(path: Path, folder: dict[str, str | None], names: Names) -> Iterator[Batch]:
    csv.field_size_limit(_FIELD_BYTES)
    batch, rows, size = Batch(path, folder), list[list[str]](), 0
    header: list[str] = []

    def full() -> Batch:
        values = zip(*rows, strict=True) if rows else ((),) * len(header)
        by_column = zip(map(names.column, header), values, strict=True)
        batch.columns = {name: [value or None for value in column] for name, column in by_column if name}
        return batch

    with _open(path) as stream:
        lines = _Lines(stream)
        reader = csv.reader(lines, strict=True)
        while True:
            lines.record.clear()
            try:
                row = next(reader)
                problem = _csv_problem(row, header, lines.record)
            except StopIteration:
                break
            except csv.Error as error:
                problem = f"is not CSV: {error}{_SPARKS_QUOTES if _is_sparks(lines.record[:1]) else ''}"
                lines.begin_again()
            if not header and (problem or row):
                if problem:
                    raise UsageError(f"{path} can't be read as csv: its header {problem}")
                header = row
                names.header(header, folder, path)
            elif problem:
                batch.bad.append((lines.record[0][0], problem))
            elif row or len(header) == 1:
                rows.append(row or [""])  # programs write the null of a single column as an empty line
                batch.lines.append(lines.record[0][0])
            size += sum(len(raw) for _, raw in lines.record)
            if len(rows) + len(batch.bad) >= _ROWS or size >= _BYTES:
                yield full()
                batch, size = Batch(path, folder), 0
                rows.clear()
    yield full()


_SPARKS_QUOTES = " (a backslash before a quote: let Spark write with the option escape='\"')"


def _is_sparks(record: list[tuple[int, bytes]]) -> bool:
    return any(b'\\"' in raw for _, raw in record)


def _csv_problem(row: list[str], header: list[str], record: list[tuple[int, bytes]]) -> str:
    """The problem of a record that the CSV reader could split; empty for a good record."""
    text = "".join(row)
    if not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text):
        return "is no UTF-8"
    sparks = _is_sparks(record)
    if header and row and len(row) != len(header):
        return f"has {counted(len(row), 'value')}, but the header has {len(header)}{_SPARKS_QUOTES if sparks else ''}"
    if sparks:
        lines = [raw.decode() for _, raw in record]
        try:
            other = next(csv.reader(lines, strict=True, doublequote=False, escapechar="\\"))
        except csv.Error:
            return ""
        if other != row and len(other) == len(row):
            return f"can be read in two ways{_SPARKS_QUOTES}"
    return ""


def _parquet(path: Path, folder: dict[str, str | None], names: Names) -> Iterator[Batch]:
    # INT96 is Spark's timestamp. Arrow reads it as nanoseconds by default, and these overflow after the year 2262.
    options = {"coerce_int96_timestamp_unit": "us", "pre_buffer": False, "page_checksum_verification": True}
    with pq.ParquetFile(path, **options) as file:
        schema = file.schema_arrow
        # pandas writes its row labels as a column of this name.
        columns = [name for name in schema.names if not (name.startswith("__index_level_") and schema.pandas_metadata)]
        names.header(columns, folder, path)
        groups = map(file.metadata.row_group, range(file.num_row_groups))
        widest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
        size = max(1, min(_ROWS, _BYTES // max(widest, 1)))
        number = 1
        wanted = [name for name in columns if names.column(name)]
        finer = _nanoseconds(path, file, wanted, size, options)
        for rows in file.iter_batches(size, columns=wanted):
            batch = _arrow(path, folder, rows, number, names)
            _refuse_nanoseconds(batch, rows, next(finer, None), names)
            yield batch
            number += rows.num_rows


def _nanoseconds(
    path: Path, file: pq.ParquetFile, wanted: list[str], size: int, options: dict[str, Any]
) -> Iterator[pa.RecordBatch]:
    """The INT96 columns of a file once more, batch by batch, in nanoseconds; nothing for a file without such."""
    leaves = map(file.schema.column, range(len(file.schema)))
    columns = {leaf.path for leaf in leaves if leaf.physical_type == "INT96"}.intersection(wanted)
    if columns:
        with pq.ParquetFile(path, **options | {"coerce_int96_timestamp_unit": "ns"}) as again:
            yield from again.iter_batches(size, columns=sorted(columns))


def _refuse_nanoseconds(batch: Batch, rows: pa.RecordBatch, finer: pa.RecordBatch | None, names: Names) -> None:
    """Take the rows out of a batch whose INT96 has more digits than the microseconds that Arrow has cut it to."""
    bad: dict[int, str] = {}
    if finer is None:
        return
    for name in finer.schema.names:
        # In years beyond those of nanoseconds both overflow in the same way, and the rest is the same.
        micros, nanos = rows[name].cast(pa.int64()), finer[name].cast(pa.int64())
        rest = pc.subtract(nanos, pc.multiply(micros, pa.scalar(1000, pa.int64())))
        for row in pc.indices_nonzero(rest).to_pylist():
            bad[row] = f"{names.column(name)}: has more digits than a timestamp can hold (microseconds)"
    if bad:
        good = pa.array((row for row in range(rows.num_rows) if row not in bad), pa.int64())
        batch.bad += [(batch.lines[row], reason) for row, reason in sorted(bad.items())]
        batch.lines = [batch.lines[row] for row in good.to_pylist()]
        batch.columns = {name: column.take(good) for name, column in batch.columns.items()}


def _delta(path: Path, names: Names) -> Iterator[Batch]:
    def choose(columns: list[str]) -> list[str]:
        names.header(columns, (), path)
        return [name for name in columns if names.column(name)]

    number = 1
    for rows in delta_folder.batches(path, choose, _ROWS):
        yield _arrow(path, {}, rows, number, names)
        number += rows.num_rows


def _arrow(path: Path, folder: dict[str, str | None], rows: pa.RecordBatch, number: int, names: Names) -> Batch:
    lines = list(range(number, number + rows.num_rows))
    columns = zip(map(names.column, rows.schema.names), rows.columns, strict=True)
    return Batch(path, folder, lines, {name: column for name, column in columns if name})


_READERS: dict[str, Callable[[Path, dict[str, str | None], Names], Iterator[Batch]]] = {
    ".jsonl": _json, ".json": _json, ".ndjson": _json, ".csv": _csv, ".parquet": _parquet,
}  # fmt: skip
