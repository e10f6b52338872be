"""A Delta table of somebody else, in a folder that a load is given."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from include.lake.storage.delta_files import files_of


def batches(folder: Path, choose: Callable[[list[str]], list[str]], size: int) -> Iterator[pa.RecordBatch]:
    """Its rows, at most `size` at a time, of the columns that `choose` takes of all. OSError if it cannot be read."""
    # By its log: beside the files of the newest version lie those of older ones.
    try:
        dataset = files_of(DeltaTable(str(folder)))
        columns = choose(dataset.schema.names)
        yield from dataset.to_batches(columns=columns, batch_size=size, batch_readahead=1, fragment_readahead=1)
    except DeltaError as error:
        raise OSError(str(error)) from error
