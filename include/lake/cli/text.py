"""Rows of an Arrow table as lines for a terminal. Arrow makes the text, because Python would change some values."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.cells import cell_len, set_cell_size

# Longer values are cut, so that the other columns fit on the screen.
_MAX_WIDTH = 40


def table(rows: pa.Table) -> list[str]:
    """A line of column names, then a line per row. Numbers are aligned to the right."""
    columns = []
    for field in rows.schema:
        values = [_cut("NULL" if value is None else value) for value in _texts(rows[field.name].combine_chunks())]
        width = max(map(cell_len, [field.name, *values]))
        is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        columns.append([_pad(cell, width, is_number) for cell in [field.name, *values]])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _texts(values: Any) -> list[str | None]:
    """The values of an Arrow array as text. Arrow's own cast makes it: Python has no year 10000."""
    kind = values.type
    if pa.types.is_list(kind):
        inner = iter(_texts(values.flatten()))
        lengths = pc.list_value_length(values).to_pylist()
        return [
            None if length is None else "[" + ", ".join(next(inner) or "NULL" for _ in range(length)) + "]"
            for length in lengths
        ]
    if pa.types.is_timestamp(kind):  # Arrow writes UTC as `.123456Z`, and a full second as `.000000Z`
        return [_second(value) for value in values.cast(pa.string()).to_pylist()]
    try:
        return list(values.cast(pa.string()).to_pylist())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # a struct, or bytes that are not text
        return [None if not value.is_valid else str(value) for value in values]


def _second(value: str | None) -> str | None:
    return value and value.removesuffix("Z").removesuffix(".000000")


def _cut(value: str) -> str:
    """Cut to _MAX_WIDTH places (a Korean letter takes two), on one line, without control characters."""
    value = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in value[: 2 * _MAX_WIDTH])
    return value if cell_len(value) <= _MAX_WIDTH else set_cell_size(value, _MAX_WIDTH - 1).rstrip() + "…"


def _pad(cell: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if right else cell + space
