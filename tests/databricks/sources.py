"""Sources in the catalog, as their owners write them: the lake itself never does."""

import json
import uuid
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from include.lake.project.contracts import Contract
from include.lake.storage import load_record, unity_catalog
from include.lake.storage.arrow import arrow_schema, rows_by_day
from include.lake.storage.unity_catalog import literal


def replace(
    contract: Contract, rows: pa.Table, *, partitions: Collection[str] = (), record: Mapping[str, Any] | None = None
) -> int:
    """Replace days of a source (all of one without days) in one commit, with the session of the run."""
    table = rows.cast(arrow_schema(contract))
    loaded = rows_by_day(contract, table)
    record = record or load_record(contract, uuid.uuid4().hex, loaded)
    writer = unity_catalog._run().createDataFrame(table).write.format("delta").mode("overwrite")
    writer = writer.option("userMetadata", json.dumps(record))
    if contract.day_column:
        keys = ", ".join(map(literal, sorted(partitions or loaded)))
        writer = writer.option("replaceWhere", f"`{contract.day_column}` in ({keys or 'null'})")
    writer.saveAsTable(unity_catalog.ensure(contract).address)
    newest = unity_catalog.open(contract.table)
    assert newest is not None, "it was written"
    return newest.version
