"""The types of a contract as Arrow has them, in which every store takes and gives rows."""

import pyarrow as pa

from include.lake.project.contracts import Contract

_ARROW_TYPES = {
    "string": pa.string(), "tinyint": pa.int8(), "int": pa.int32(), "bigint": pa.int64(),
    "double": pa.float64(), "boolean": pa.bool_(), "date": pa.date32(), "timestamp": pa.timestamp("us", "UTC"),
}  # fmt: skip


def arrow_schema(contract: Contract) -> pa.Schema:
    """The contract's columns as Arrow types, in its order."""

    def kind(text: str) -> pa.DataType:
        return pa.list_(kind(text[6:-1])) if text.startswith("array<") else _ARROW_TYPES[text]

    return pa.schema([(column.name, kind(column.type)) for column in contract.columns])
