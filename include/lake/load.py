"""Files into sources: JSON lines, CSV or Parquet, checked row by row against the contract before it is written."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from include.lake import contracts, storage
from include.lake.contracts import Column, Contract
from include.lake.days import parse_day
from include.lake.errors import LakeError, UsageError

_SHOWN = 10
_INTEGERS = {"tinyint": 8, "int": 32, "bigint": 64}
_WHOLE = re.compile(r"[+-]?\d+")


@dataclass
class Loaded:
    """What a load did: rows written, the days they replaced, and rows dropped with file, line and reason."""

    rows: int = 0
    days: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def load(table: str, files: list[str], drop_bad: bool = False) -> Loaded:
    """Replace the days that the files hold (all of a source that has no days) in one commit.

    Raises UsageError for a table that is no source or a file that can't be read as what its name says, and LakeError
    with the first bad rows and their line numbers, when nothing is written; `drop_bad` leaves those rows out instead.
    """
    contract = contracts.get(table)
    if not contract.is_source:
        raise UsageError(f"{table} is built from its SELECT, not loaded: ./lake build {table} --from D --to D")
    columns: dict[str, list[Any]] = {name: [] for name in contract.column_names}
    result = Loaded()
    for file in files:
        for line, row in _rows(Path(file)):
            good = _checked(contract, row)
            if isinstance(good, str):
                result.dropped.append(f"{file}:{line}: {good}")
                continue
            for name, value in zip(columns, good, strict=True):
                columns[name].append(value)
    if result.dropped and not drop_bad:
        more = f"\n… and {len(result.dropped) - _SHOWN:,} more" if len(result.dropped) > _SHOWN else ""
        raise LakeError(
            f"{len(result.dropped):,} rows do not fit the contract of {table}, nothing was loaded "
            f"(mend them, or leave them out with --drop-bad):\n" + "\n".join(result.dropped[:_SHOWN]) + more
        )
    data = pa.table(columns, schema=storage.arrow_schema(contract))
    if contract.day_column:
        result.days = sorted(set(columns[contract.day_column]))
    result.rows = data.num_rows
    storage.replace_source(contract, data)
    return result


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, row) of a file; in Parquet the row's number. A row that can't be read is a text that says why."""
    try:
        if path.suffix in (".jsonl", ".json", ".ndjson"):
            with path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        try:
                            yield number, json.loads(line)
                        except ValueError as error:
                            yield number, f"is not JSON: {error}"
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as lines:
                reader = csv.DictReader(lines, strict=True)
                for row in reader:
                    if None in row or None in row.values():
                        yield reader.line_num, f"has not as many values as the header ({len(reader.fieldnames or [])})"
                    else:
                        yield reader.line_num, {name: value for name, value in row.items() if value != ""}
        elif path.suffix == ".parquet":
            number = 0
            for batch in pq.ParquetFile(path).iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        else:
            raise UsageError(f"{path}: load reads .jsonl (.json, .ndjson), .csv and .parquet files")
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        raise UsageError(f"{path} can't be read as {path.suffix[1:]}: {error}") from None


def _checked(contract: Contract, row: Any) -> list[Any] | str:
    """The row's values in the contract's order, or what is wrong with it. Columns that it does not know are ignored."""
    if isinstance(row, str):
        return row
    if not isinstance(row, dict):
        return "is not an object with columns"
    values: list[Any] = []
    for column in contract.columns:
        value = row.get(column.name)
        if value is None:
            if not column.nullable:
                return f"{column.name} is missing"
            values.append(None)
            continue
        try:
            values.append(_value(column, value))
            if column.name == contract.day_column:
                parse_day(value)
        except (ValueError, TypeError, OverflowError, UsageError):
            wanted = "a day" if column.name == contract.day_column else column.type
            return f"{column.name}: {str(value)[:60]!r} is not {wanted}"
    return values


def _value(column: Column, value: Any) -> Any:
    """`value` as the column's type, from what JSON, CSV or Parquet gave; ValueError if it is none."""
    kind = column.type
    if kind.startswith("array<"):
        found = json.loads(value) if isinstance(value, str) else value
        if not isinstance(found, list):
            raise ValueError
        inner = Column(name=column.name, type=kind[6:-1])
        return [None if item is None else _value(inner, item) for item in found]
    if kind == "string":
        if isinstance(value, (dict, list)):  # JSON kept as text, as the columns of the sources have it
            return json.dumps(value, ensure_ascii=False)
        if not isinstance(value, str):
            raise ValueError
        return value
    if kind in _INTEGERS:
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            value = int(value)
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or not -(1 << _INTEGERS[kind] - 1) <= value < 1 << _INTEGERS[kind] - 1
        ):
            raise ValueError
        return value
    if kind == "double":
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    if kind == "boolean":
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise ValueError
        return value
    if kind == "date":
        return value if type(value) is date else date.fromisoformat(value)
    # A timestamp without a zone is UTC, as everywhere here.
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
