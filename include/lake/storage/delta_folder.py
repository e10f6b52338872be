"""A Delta table of somebody else, in a folder that a load is given."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError

from include.lake.storage.delta_files import files_of, needs_query_engine


def batches(folder: Path, choose: Callable[[list[str]], list[str]], size: int) -> Iterator[pa.RecordBatch]:
    """Its rows, at most `size` at a time, of the columns that `choose` takes of all. OSError if it cannot be read."""
    # By its log: beside the files of the newest version lie those of older ones.
    try:
        delta = DeltaTable(str(folder))
        columns = choose([field.name for field in delta.schema().fields])
        if needs_query_engine(delta):
            yield from _by_engine(delta, columns, size)
            return
        dataset = files_of(delta)
        yield from dataset.to_batches(columns=columns, batch_size=size, batch_readahead=1, fragment_readahead=1)
    except DeltaError as error:
        raise OSError(str(error)) from error


def _by_engine(delta: DeltaTable, columns: list[str], size: int) -> Iterator[pa.RecordBatch]:
    """The rows as the query engine of delta-rs reads them; it knows mapped columns and deletion vectors."""
    # One partition: the rows stay in the order of the files, and memory does not grow with the cores.
    engine = QueryBuilder(
        {"datafusion.execution.batch_size": str(size), "datafusion.execution.target_partitions": "1"}
    ).register("source_rows", delta)
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
    try:
        for batch in engine.execute(f"select {names} from source_rows"):
            yield pa.record_batch(batch)
    except Exception as error:  # the engine has no class of its own for its errors
        raise OSError(str(error)) from error
