"""Load files into sources. Every row is checked against the contract. Then one commit writes all rows, or none."""

import tempfile
import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include.lake import settings
from include.lake.build import files, values
from include.lake.errors import LakeError, UsageError
from include.lake.project import contracts, task_lists
from include.lake.project.contracts import Contract
from include.lake.project.periods import Grain, Period, keys_of_days, spans
from include.lake.state import ledger
from include.lake.storage import load_record, store
from include.lake.storage.arrow import arrow_schema, rows_by_day
from include.lake.words import counted, span

_SHOWN = 10


@dataclass
class Loaded:
    """The result of a load.

    now, before: rows of each day of the load ('' for a source without days). empty_days: days of the range without
    rows. dropped: number of rows left out. reasons: file, line and reason of the first of them. no_values: columns that
    no file has.
    """

    now: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    empty_days: list[str] = field(default_factory=list)
    dropped: int = 0
    reasons: list[str] = field(default_factory=list)
    no_values: list[str] = field(default_factory=list)
    version: int = -1

    @property
    def rows(self) -> int:
        return sum(self.now.values())

    @property
    def days(self) -> list[str]:
        return sorted(day for day in self.now if day)

    def lines(self, table: str) -> list[str]:
        """Lines for people: the rows of each day before and now. If there are many days, only those that lose rows."""
        lost = f", {self.dropped:,} dropped" if self.dropped else ""
        of = f" of {counted(len(self.days), 'day')} ({span(self.days[0], self.days[-1])})" if self.days else ""
        lines = [f"{table}: {counted(self.rows, 'row')}{of} loaded{lost}"]
        shown = [day for day in self.now if len(self.now) <= _SHOWN or self.now[day] < self.before[day]]
        if len(self.now) > _SHOWN:
            kinds = Counter(
                "new" if not self.before[day] and rows else "empty" if not rows
                else "with more rows" if rows > self.before[day]
                else "with fewer rows" if rows < self.before[day] else "with as many rows"
                for day, rows in self.now.items()
            )  # fmt: skip
            lines.append("  days " + ", ".join(f"{kind}: {count:,}" for kind, count in kinds.items()))
        for day in sorted(shown)[:_SHOWN]:
            lines.append(f"  {day or 'rows'}: {self.before[day]:,} before, {self.now[day]:,} now")
        more = len(shown) - _SHOWN
        lines += [f"  … and {counted(more, 'more day')} with fewer"] if more > 0 else []
        grain = contracts.get(table).grain
        over = min(Period.newest_over(grain, zone).text for zone in task_lists.zones_of_source(table))
        if early := [day for day in self.days if day > over]:
            lines.append(f"  note, not over yet: {spans(grain, early, _SHOWN)}")
        return lines


class _Spool:
    """Checked rows in a temporary file of the lake, so that memory does not grow with the files.

    The file has no name, so the system removes it even when the load is killed.
    """

    def __init__(self, schema: pa.Schema) -> None:
        settings.home().mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=settings.home())  # noqa: SIM115 (closed below)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_stream(self._file, schema, options=options)
        self.write = self._writer.write

    def reader(self) -> pa.RecordBatchReader:
        self._writer.close()
        self._file.seek(0)
        return pa.ipc.open_stream(self._file)

    def __enter__(self) -> "_Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def load(
    table: str,
    paths: list[str],
    drop_bad: bool = False,
    *,
    days: list[str] | None = None,
    ignore_columns: bool = False,
    allow_empty: bool = False,
    replace_smaller: bool = False,
) -> Loaded:
    """Replace the days of the files in one commit; a source without days is replaced as a whole.

    days: replace these days instead. The ledger records the days without rows in the files as empty.
    drop_bad: leave out rows that do not fit the contract. Without it they stop the load.
    ignore_columns: leave out columns that the contract does not know. Without it, and without the word
        `ignore_other_columns` in the contract, they stop the load.
    allow_empty: the user means to load files without a good row. Of a source with days, `days` says which are empty.
    replace_smaller: the user means to load days that lose more than half of their rows.

    Raises UsageError for a table that is no source, and for a file that can't be read or has other columns. Raises
    LakeError for bad rows (with lines and reasons) and for days that would shrink. Then nothing is written.
    """
    contract = contracts.get(table)
    if contract.view:
        raise UsageError(f"{table} is a view, nothing is loaded into it: ./lake show {table}")
    if not contract.is_source:
        raise UsageError(f"{table} is built from its SELECT, not loaded: ./lake build {table} --from D --to D")
    if days and not contract.day_column:
        raise UsageError(f"{table} has no days: load it without --from and --to")
    if days:
        days = keys_of_days(contract.grain, days[0], days[-1])
    files.require_once(paths)
    names, result = files.Names(contract, ignore_columns or contract.ignore_other_columns), Loaded()
    dropped_of: Counter[str] = Counter()  # day -> dropped rows, as far as their day could be read
    now: Counter[str] = Counter()
    with _Spool(arrow_schema(contract)) as spool:
        for path in paths:
            for batch in files.read(path, names):
                rows, bad = _checked(contract, batch, days, dropped_of)
                result.dropped += len(bad)
                result.reasons += [f"{batch.path}:{n}: {why}" for n, why in bad[: _SHOWN - len(result.reasons)]]
                if rows.num_rows:
                    now.update(rows_by_day(contract, rows))
                    spool.write(rows)
        names.refuse()
        result.now = dict(sorted(now.items()))
        if result.dropped and not drop_bad:
            more = f"\n… and {result.dropped - _SHOWN:,} more" if result.dropped > _SHOWN else ""
            raise LakeError(
                f"{counted(result.dropped, 'row does', 'rows do')} not fit the contract of {table}, nothing was loaded "
                f"(mend them, or leave them out with --drop-bad):\n" + "\n".join(result.reasons) + more
            )
        result.empty_days = [day for day in days or () if day not in now]
        _refuse_empty(contract, result, days, allow_empty, {day for day in result.empty_days if dropped_of[day]})
        result.now |= dict.fromkeys(result.empty_days, 0) or ({} if contract.day_column or now else {"": 0})
        result.no_values = _without_values(contract, names.matched) if now else []

        def guard(before: dict[str, int]) -> None:
            result.before = {day: before.get(day, 0) for day in result.now}
            meant = replace_smaller or (allow_empty and not contract.day_column and not result.rows)
            _refuse_smaller(table, result, meant)

        load_id = uuid.uuid4().hex
        loaded = dict(now) or ({} if contract.day_column else {"": 0})
        result.version = store().replace(
            contract, spool.reader, partitions={*loaded, *result.empty_days},
            record=load_record(contract, load_id, loaded, result.empty_days), guard=guard,
        )  # fmt: skip
    ledger.record(table)
    return result


def _refuse_empty(
    contract: Contract, result: Loaded, days: list[str] | None, allow_empty: bool, all_dropped: set[str]
) -> None:
    """LakeError if no row is left to load, unless the user means it."""
    table, bad = contract.table, f" but {counted(result.dropped, 'bad one')}" if result.dropped else ""
    if not result.now and contract.day_column and not days:
        more = " --allow-empty" if bad else ""
        raise LakeError(
            f"no file has rows of {table}{bad}: nothing was loaded; --from D --to D{more} says which days are empty"
        )
    if allow_empty:
        return
    if not result.now and (result.dropped or not days):
        raise LakeError(f"no file has rows of {table}{bad}: nothing was loaded; if it is to be empty: --allow-empty")
    if all_dropped:
        raise LakeError(
            f"{table}: every row of {_some(sorted(all_dropped))} is bad: nothing was loaded; "
            "if these days are to be empty: --allow-empty"
        )


def _refuse_smaller(table: str, result: Loaded, meant: bool) -> None:
    """LakeError if a day would lose more than half of its rows, unless the user means it."""
    smaller = [day for day, rows in result.now.items() if 2 * rows < result.before[day]]
    if smaller and not meant:
        changes = _some([f"{day}{' ' if day else ''}{result.before[day]:,} -> {result.now[day]:,}" for day in smaller])
        raise LakeError(
            f"{table} would lose more than half of its rows ({changes}): nothing was loaded; "
            "if that is meant: --replace-smaller"
        )


def _some(texts: list[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN:,} more" if len(texts) > _SHOWN else "")


def _checked(
    contract: Contract, batch: files.Batch, days: list[str] | None, dropped_of: Counter[str]
) -> tuple[pa.RecordBatch, list[tuple[int, str]]]:
    """The good rows of a batch in the contract's order and types, and the bad ones: line and reason."""
    schema, size = arrow_schema(contract), len(batch.lines)
    wrong: dict[int, str] = {}  # row -> its first reason
    arrays: dict[str, pa.Array] = {}
    # The day comes last, because it may follow from another column.
    for column in sorted(contract.columns, key=lambda column: column.name == contract.day_column):
        is_day = column.name == contract.day_column
        array, problems = _array(column, schema.field(column.name).type, batch, is_day)
        if is_day and contract.day_of:
            array = _day_of(column, array, contract.day_of, arrays[contract.day_of], problems)
        if not column.nullable or is_day:
            of_day = is_day and contract.day_of
            missing = f"{of_day} is missing ({column.name} is its day)" if of_day else f"{column.name} is missing"
            for row in _where(pc.is_null(array)):
                problems.setdefault(row, missing)
        if column.name in contract.partitioned_by and pa.types.is_string(array.type):
            for row in _where(pc.equal(array, "")):
                problems.setdefault(row, f"{column.name}: '' is null in a partition column; give it a value")
        if is_day:
            for day in array.unique().to_pylist():
                if day and (problem := _day_problem(column, contract.grain, day, days)):
                    problems.update(dict.fromkeys(_where(pc.equal(array, day)), problem))
        wrong = problems | wrong
        arrays[column.name] = array
    rows = pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)
    if wrong:
        if contract.day_column:
            dropped_of.update(rows.column(contract.day_column).take(pa.array(list(wrong), pa.int64())).to_pylist())
        good = pa.array([row not in wrong for row in range(size)], pa.bool_())
        rows = rows.filter(good)
    return rows, sorted(batch.bad + [(batch.lines[row], why) for row, why in wrong.items()])


def _array(
    column: contracts.Column, wanted: pa.DataType, batch: files.Batch, is_day: bool
) -> tuple[pa.Array, dict[int, str]]:
    """One column of a batch, from the file or from a folder name."""
    size, problems = len(batch.lines), dict[int, str]()
    array = None
    if column.name in batch.columns:
        array, problems = values.as_column(column, wanted, batch.columns[column.name], is_day)
    if column.name in batch.folder:
        one, wrong = values.as_column(column, wanted, [batch.folder[column.name]], is_day)
        if wrong:
            return pa.nulls(size, wanted), dict.fromkeys(range(size), f"{wrong[0]} (a folder's name)")
        folder = pa.repeat(one[0], size)
        if array is not None:
            same = pc.fill_null(pc.equal(array, folder), False)
            for row in _where(pc.invert(pc.or_(same, pc.and_(pc.is_null(array), pc.is_null(folder))))):
                problems.setdefault(row, values.reason(column, array[row].as_py(), "is not what its folder says"))
        array = folder
    return pa.nulls(size, wanted) if array is None else array, problems


def _without_values(contract: Contract, matched: Collection[str]) -> list[str]:
    """The columns that no file has, and that the load does not fill."""
    filled = [contract.day_column] if contract.day_of else []
    return [name for name in contract.column_names if name not in matched and name not in filled]


def _day_of(
    column: contracts.Column, days: pa.Array, name: str, moments: pa.Array, problems: dict[int, str]
) -> pa.Array:
    """The UTC days of the moments in the column `name`. A day that the file says must be the same."""
    derived = moments.cast(pa.date32()).cast(days.type)
    for row in _where(pc.not_equal(days, derived)):
        problems.setdefault(row, values.reason(column, days[row].as_py(), f"is not the UTC day of {name}"))
    return derived


def _where(mask: Any) -> list[int]:
    positions: list[int] = pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist()
    return positions


def _day_problem(column: contracts.Column, grain: Grain, day: str, days: list[str] | None) -> str | None:
    try:
        Period.parse(grain, day)
    except UsageError:
        return values.reason(column, day, f"is not a {grain}")
    if days and not days[0] <= day <= days[-1]:
        return values.reason(column, day, f"is not in {span(days[0], days[-1])}")
    return None
