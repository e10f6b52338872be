"""The types of a contract as Arrow has them, in which every store takes and gives rows."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import dataset

from include.lake.project.contracts import Contract

_BATCH_ROWS = 8192
_ARROW_TYPES = {
    "string": pa.string(), "tinyint": pa.int8(), "int": pa.int32(), "bigint": pa.int64(),
    "double": pa.float64(), "boolean": pa.bool_(), "date": pa.date32(), "timestamp": pa.timestamp("us", "UTC"),
}  # fmt: skip


def rows_by_day(contract: Contract, rows: pa.Table | pa.RecordBatch) -> dict[str, int]:
    """Day -> how many of the rows are of it; '' for all of a table without days."""
    if not contract.day_column:
        return {"": rows.num_rows}
    counts = rows.column(contract.day_column).value_counts()
    return dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True))


def batches(files: dataset.Dataset, **options: Any) -> Iterator[pa.RecordBatch]:
    """Rows of files for delta-rs, one batch after the other: delta-rs keeps rows in memory already."""
    yield from files.to_batches(batch_size=_BATCH_ROWS, batch_readahead=1, fragment_readahead=1, **options)


def arrow_schema(contract: Contract) -> pa.Schema:
    """The contract's columns as Arrow types, in its order."""

    def kind(text: str) -> pa.DataType:
        return pa.list_(kind(text[6:-1])) if text.startswith("array<") else _ARROW_TYPES[text]

    return pa.schema([(column.name, kind(column.type)) for column in contract.columns])
