"""Sail, a Spark Connect server without a JVM: the lake's own one that runs, else one for this process alone.

Its cache keeps nothing. So what is computed once is a stage of Parquet files, and delta-rs publishes from the stage.
"""

import atexit
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import compute, dataset

from include.lake import settings
from include.lake.engine import connect, kinds, sail_server, server
from include.lake.errors import CODE, DATA, INFRASTRUCTURE
from include.lake.local import processes
from include.lake.project.contracts import DROP_REASON, RUN_TIMESTAMP, Contract
from include.lake.storage import ANY_DAY, Snapshot, arrow, store

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession

# Settings of every session: SELECTs take days from UTC, and casts do not depend on a timezone.
SESSION_CONF = {"spark.sql.session.timeZone": "UTC"}
# Classes of errors that Sail raises before it computes anything.
_OF_CODE = ("AnalysisException", "ParseException", "UnsupportedOperationException", "IllegalArgumentException")
# Classes of errors that say the values of rows are the cause.
_OF_VALUES = ("ArithmeticException", "NumberFormatException", "ArrayIndexOutOfBoundsException", "DateTimeException")
# How an error of values begins that Sail leaves to Arrow. Others of the class are of Sail's machine.
_OF_ARROW = (
    "Cast error", "Compute error", "Parser error", "Divide by zero", "Arithmetic overflow", "to store in a Decimal",
    "non UTF-8 data", "regex parse error", "Page uncompressed size overflow",
)  # fmt: skip
# Sail panics where a value says that a text has a negative length, or one beyond all memory.
_OF_LENGTHS = 'panicked with message "capacity overflow"'
# Sail finds out only when it computes that a function does not take values of such types.
_OF_TYPES = "coercion failed"
# A file cannot be read: Sail finds out already when it looks for the columns.
_OF_STORE = "Object Store error"
# What DataFusion says when the memory of LAKE_ENGINE_MEMORY is used up.
_LACK = r"Resources exhausted(: Failed to allocate additional [\d.]+ \w+)?"
# The server was started again, or the session was idle too long.
_NO_SESSION = re.compile(r"session \S+ is not running")
_NO_MEMORY = re.compile(rf"{_LACK}|Failed to allocate .* memory pool")
# How the folders of links begin in the system's temporary folder.
_LINKS = "lake-links-"

# Of the port `Engine`, with the functions below.
start, stop, address = partial(server.start, settings.SAIL), server.stop, partial(server.address, settings.SAIL)


@contextmanager
def opened(given: "SparkSession | None" = None) -> "Iterator[SparkSession]":
    """`given`; or a session of the server that runs, or of one for this process, which ends with the block."""
    if given is not None:
        yield given
    else:
        where, token, own = address(), settings.engine_token(), None
        if where is None:
            own, where, token = _of_this_process()

        def interrupt(spark: "SparkSession") -> None:
            """End the session, and ask nothing more: a Sail that is busy on all cores does not answer.

            Sail 0.7 goes on with some computations even then (joins of many rows with many), until they are done.
            """
            own.kill() if own else spark.stop()

        with connect.session(where, SESSION_CONF, token, interrupt) as spark:
            yield spark


# Process -> its server, with the address and the token of it. A fork has another pid and needs its own.
_own: dict[int, tuple["subprocess.Popen[bytes]", str, str]] = {}


def _of_this_process() -> tuple["subprocess.Popen[bytes]", str, str]:
    """A server that ends with this process, with its address and its token."""
    pid = os.getpid()
    if pid in _own and _own[pid][0].poll() is None:
        return _own[pid]
    server.state_folder().mkdir(parents=True, exist_ok=True)
    port, token = server.free_port(), secrets.token_urlsafe(32)
    command, environment = sail_server.command(port, token, None)
    log = server.state_folder() / "own.log"
    with open(log, "a") as output:
        started = subprocess.Popen(
            [*command, "with its parent"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for this process: it ends the session, and then its server
        )
    atexit.register(started.kill)
    import pyspark.sql.connect.session  # noqa: F401  # half a second, while the server starts

    server.wait_for(settings.SAIL, port, lambda: started.poll() is None, log)
    _own[pid] = started, f"sc://127.0.0.1:{port}", token
    return _own[pid]


def view(spark: "SparkSession", name: str, address: str, version: int) -> None:
    """Let the session's SELECTs read a table, as it is at one version of its Delta log, under a name."""
    spark.read.format("delta").option("versionAsOf", version).load(_plain(address)).createOrReplaceTempView(name)


@cache
def _links(pid: int) -> Path:
    """A folder for links of this process, which no other user can write to. It goes as those of `server` do."""
    if _is_plain(str(server.state_folder())):
        folder = server.folder_of_this_process("links")
    else:
        shared = Path(tempfile.gettempdir())
        for other in processes.left_over(shared, _LINKS):
            shutil.rmtree(other, ignore_errors=True)  # which does not follow links, and fails for other users' folders
        folder = Path(tempfile.mkdtemp(prefix=f"{_LINKS}{processes.name(pid)}."))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _is_plain(address: str) -> bool:
    """Can Sail find a Delta log there? It finds none where the path has a blank or a letter beyond ASCII."""
    return re.fullmatch(r"[!-~]+", address) is not None


def _plain(address: str) -> str:
    """An address for Sail, with a link in place of a folder whose name it does not understand."""
    if _is_plain(address):
        return address
    folder, _, name = address.rpartition("/")
    link = _links(os.getpid()) / hashlib.sha256(folder.encode()).hexdigest()[:16]
    with suppress(FileExistsError):
        link.symlink_to(folder)
    return f"{link}/{name}"


def types(frame: "DataFrame") -> dict[str, str]:
    """Column -> its type. An error of the SQL gets the class that Spark gives it: Sail has many."""
    from pyspark.errors import AnalysisException, PySparkException
    from pyspark.errors.exceptions.connect import SparkConnectGrpcException

    try:
        return dict(frame.dtypes)
    except PySparkException as error:
        if type(error) is SparkConnectGrpcException or _OF_STORE in str(error):  # of the connection, or of a file
            raise
        raise AnalysisException(str(error)) from None


@dataclass(frozen=True)
class _Staged:
    """Rows in Parquet files of a folder."""

    frame: "DataFrame"
    files: tuple[Path, ...]

    def rows(self, schema: pa.Schema) -> dataset.Dataset:
        """The rows, from just these files: if one is gone, that is an error, and never a table with fewer rows."""
        if not self.files:
            return dataset.dataset(schema.empty_table())
        return dataset.dataset([str(file) for file in self.files], schema, format="parquet")

    def publish(
        self, contract: Contract, target: Snapshot, partitions: list[str], run_timestamp: datetime,
        record: Mapping[str, Any], staying: Any = None,
    ) -> None:  # fmt: skip
        """Replace partitions of the target by the rows without a drop reason, in one commit that carries `record`."""
        schema = arrow.arrow_schema(contract)
        stored = [name for name in schema.names if name != RUN_TIMESTAMP]
        fields = [schema.field(name) for name in stored] + [pa.field(DROP_REASON, pa.string())]
        files = self.rows(pa.schema(fields))
        published = compute.field(DROP_REASON).is_null()
        if contract.kept_by and ANY_DAY not in partitions:
            place = contract.place_column
            published &= compute.field(place).isin(partitions or [""]) if place else compute.scalar(False)

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in arrow.batches(files, columns=stored, filter=published):
                columns = dict(zip(stored, batch.columns, strict=True))
                if RUN_TIMESTAMP in schema.names:
                    moment = pa.scalar(run_timestamp, schema.field(RUN_TIMESTAMP).type)
                    columns[RUN_TIMESTAMP] = pa.repeat(moment, batch.num_rows)
                yield pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
            if staying:
                yield from arrow.batches(staying.rows(schema))

        store().replace(
            contract, lambda: pa.RecordBatchReader.from_batches(schema, batches()),
            partitions=partitions, record=record, since=target,
        )  # fmt: skip


@contextmanager
def materialise(frame: "DataFrame") -> "Iterator[_Staged]":
    """The rows, computed once into a stage of Parquet files. It goes with the block, or later if we are killed."""
    folder = server.folder_of_this_process("stage") / uuid.uuid4().hex
    try:
        types(frame)  # an error of the SELECT comes here, and one of the rows comes below
        with _computing():
            frame.write.parquet(str(folder))
        folder.mkdir(exist_ok=True)  # of no rows Sail writes no file
        rows = frame.sparkSession.read.schema(frame.schema).parquet(str(folder))
        yield _Staged(rows, tuple(sorted(folder.rglob("*.parquet"))))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def collect(frame: "DataFrame") -> "list[Row]":
    """The rows of a small frame."""
    from pyspark.errors import PySparkException

    try:
        with _computing():
            return frame.collect()
    except PySparkException:
        types(frame)  # is it one of the SQL? Asked before, it would be one more question for each good frame.
        raise


@contextmanager
def _computing() -> Iterator[None]:
    """Give an error of computing its SQLSTATE: Sail uses one class for wrong names and for wrong values."""
    from pyspark.errors import AnalysisException, PySparkException, SparkRuntimeException

    try:
        yield
    except PySparkException as error:
        if lack := _NO_MEMORY.search(str(error)):
            memory = settings.engine_memory()
            raise SparkRuntimeException(
                f"{memory} of memory are too little ({lack[0]}): give LAKE_ENGINE_MEMORY more, or build fewer days"
            ) from None
        if _OF_TYPES in str(error):
            raise AnalysisException(str(error)) from None
        if _OF_LENGTHS in str(error):
            reason = "capacity overflow: the length that a function such as lpad() takes is negative, or too big"
            raise SparkRuntimeException(f"{reason}. SQLSTATE: {kinds.OF_DATA}") from None
        if type(error).__name__ in (*_OF_CODE, *_OF_VALUES) or any(text in str(error) for text in _OF_ARROW):
            reason = kinds.plain(str(error)).rstrip(".")
            raise SparkRuntimeException(f"{reason}. SQLSTATE: {kinds.OF_DATA}") from None
        raise


def kind(error: BaseException) -> str | None:
    """The class of an error of Sail; None for other errors."""
    names = [base.__name__ for base in type(error).__mro__]
    if "PySparkException" in names and _NO_SESSION.search(str(error)):
        return INFRASTRUCTURE
    if "PySparkException" in names and "SQLSTATE" not in str(error) and not _NO_MEMORY.search(str(error)):
        # The narrower class first: a number that cannot be read is also an illegal argument.
        for classes, found in (_OF_VALUES, DATA), (_OF_CODE, CODE):
            if any(name in classes for name in names):
                return found
    return kinds.of(error)
