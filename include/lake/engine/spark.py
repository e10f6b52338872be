"""A Spark session: of the Connect server that is named or running, else one inside this process."""

import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from include.lake import settings
from include.lake.engine import spark_server
from include.lake.engine.spark_server import address, start, stop
from include.lake.errors import CODE, CONFLICT, DATA, INFRASTRUCTURE, LakeError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# With the functions below, the sides of the port `Engine`.
__all__ = ["address", "kind", "materialise", "opened", "publish", "start", "stop", "view"]

# PySpark raises an error of a query, and also logs it with its stack as one line of thousands of characters.
logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)

# Settings of every session, because another user may have started the server with other ones.
SESSION_CONF = {
    # SELECTs take days from UTC, and casts do not depend on a timezone.
    "spark.sql.session.timeZone": "UTC",
    # Spark's default, INT96, counts nanoseconds, and other readers fail on years after 2262.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # A build that replaces no rows by no rows also needs a commit, because the commit carries the build record.
    "spark.databricks.delta.skipRecordingEmptyCommits": "false",
}
_CLASSES = {
    # What the kinds of SQLSTATE mean: https://spark.apache.org/docs/latest/sql-error-conditions-sqlstates.html
    "07": CODE,  # dynamic SQL
    "0A": CODE,  # not supported
    "21": DATA,  # one row was expected and several came
    "22": DATA,  # a value that cannot be cast, divided by, indexed with …
    "23": DATA,  # a constraint of the table
    "2D": CONFLICT,  # Delta: somebody else committed in between
    # A function of ours on some value. Spark says 38 of Python functions and 39 of others; other days may do well.
    "38": DATA,
    "39": DATA,
    "40": CONFLICT,  # a transaction that was rolled back
    "42": CODE,  # syntax, names, types
    "44": DATA,  # Delta: a row outside the range that is replaced
    "46": CODE,  # a class or a setting that Spark has not
    "54": DATA,  # a limit on what one row or one job may hold
    "P0": DATA,  # raise_error() in a SELECT
}
_SQLSTATE = re.compile(r"\bSQLSTATE: (\w\w)")
# How Delta says that someone else committed in between. Through Connect only the name in the text survives.
_CONFLICTS = ("DELTA_CONCURRENT", "ConcurrentAppend", "ConcurrentDelete", "ConcurrentWrite", "DELTA_METADATA_CHANGED")
# A server that does not answer for a quarter of a minute is gone, and our session with it: PySpark itself would try for
# ten minutes. What has gone wrong is then a matter for a retry of the whole build.
_RETRIES: dict[str, Any] = {"max_retries": 5, "max_backoff": 10_000}
# On another machine, docker or an operator restarts a killed server: a container of Spark listens after 20 s.
# On this machine only we start it, so we do not wait.
_PATIENCE_SECONDS = 40
_THIS_MACHINE = ("localhost", "127.0.0.1")
_PORT = 15002  # the port of Spark Connect if the address has none


def connect() -> "SparkSession":
    """The session to build with. LakeError in one line when the named server does not answer."""
    where = _address()
    if where is None:
        return _in_process()
    url = urlsplit(where)
    host = url.hostname or "localhost"
    _wait_for(host, url.port or _PORT, 0 if host in _THIS_MACHINE else _PATIENCE_SECONDS)
    from pyspark.errors import PySparkException
    from pyspark.sql.connect.client import DefaultChannelBuilder
    from pyspark.sql.connect.client.retries import DefaultPolicy
    from pyspark.sql.connect.session import SparkSession as RemoteSession

    channel = DefaultChannelBuilder(where)
    if token := settings.spark_token():
        # A header: with its own `token` option, the client requires TLS for every host but localhost. The token is not
        # in the address, because PySpark shows the address in errors and keeps it in the environment.
        channel.set("authorization", f"Bearer {token}")
    os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"  # tells PySpark's functions to make columns of Spark Connect
    spark: Any = RemoteSession.builder.channelBuilder(channel).getOrCreate()
    spark.client.set_retry_policies([DefaultPolicy(**_RETRIES)])
    try:
        for name, value in SESSION_CONF.items():
            spark.conf.set(name, value)
    except PySparkException as error:
        if "UNAUTHENTICATED" not in str(error):
            raise
        raise LakeError(
            f"Spark Connect at {host}:{url.port or _PORT} refuses our token: set LAKE_SPARK_TOKEN to the one of the "
            f"server, or restart our own server: `./lake spark stop`, `./lake spark start`"
        ) from None
    return cast("SparkSession", spark)


def _address() -> str | None:
    return settings.spark_remote() or address()


def _wait_for(host: str, port: int, patience: float) -> None:
    """Return when the server listens. The client itself would try for minutes before it reports an error."""
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, port), timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                cure = "./lake spark start" if host in _THIS_MACHINE else "start it, or correct LAKE_SPARK_REMOTE"
                raise LakeError(f"Spark Connect at {host}:{port} does not answer ({error}): {cure}") from None
            time.sleep(0.5)


@contextmanager
def opened(given: "SparkSession | None" = None) -> "Iterator[SparkSession]":
    """`given`, or a session of our own; that of a server ends with the block, and with it whatever still runs in it.

    Otherwise the server would keep it for an hour: Airflow ends its tasks without Python's clean-up at exit.
    """
    spark = given or connect()
    try:
        yield spark
    finally:
        url = urlsplit(_address() or "")
        if given is None and url.hostname and type(spark).__module__.startswith("pyspark.sql.connect"):
            # A dead server has no sessions any more, and the client would try for a while to reach it.
            with suppress(Exception):
                _wait_for(url.hostname, url.port or _PORT, patience=0)
                spark.stop()


@cache
def _in_process() -> "SparkSession":
    from pyspark.sql import SparkSession

    os.environ["JAVA_HOME"] = str(spark_server.java_home())
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder: Any = SparkSession.builder.master(f"local[{settings.spark_cores()}]").appName("lake")
    quiet = {"spark.log.level": "ERROR"}  # Spark shares the terminal with the command line
    spill = {"spark.local.dir": str(spark_server.temporary_folder(str(os.getpid())))}
    for name, value in {**spark_server.spark_conf(), **SESSION_CONF, **quiet, **spill}.items():
        builder = builder.config(name, value)
    session: SparkSession = builder.getOrCreate()
    return session


def view(spark: "SparkSession", name: str, address: str, version: int) -> None:
    """Let the session's SELECTs read a table, as it is at one version of its Delta log, under a name."""
    spark.read.format("delta").option("versionAsOf", version).load(address).createOrReplaceTempView(name)


@contextmanager
def materialise(frame: "DataFrame") -> "Iterator[DataFrame]":
    """The rows, computed once whatever reads them in the block: Spark's cache holds them."""
    kept = frame.persist()
    try:
        yield kept
    finally:
        kept.unpersist()


def publish(rows: "DataFrame", address: str, where: str, metadata: str) -> None:
    """Replace those rows of a table for which `where` is true in one commit, which carries `metadata`."""
    writer = rows.write.format("delta").mode("overwrite")
    writer.option("replaceWhere", where).option("userMetadata", metadata).save(address)


def kind(error: BaseException) -> str | None:
    """The class of an error of Spark, also where it is the text of another error; None for other errors."""
    if any(name in str(error) for name in _CONFLICTS):
        return CONFLICT
    # By name, so that a failure is explained without importing Spark.
    is_spark = any(base.__name__ == "PySparkException" for base in type(error).__mro__)
    state = getattr(error, "getSqlState", lambda: None)() if is_spark else None
    if not state and (in_text := _SQLSTATE.search(str(error))):
        state = in_text[1]
    if state:
        return _CLASSES.get(state[:2], INFRASTRUCTURE)
    # An error without a state is one of Spark or its machine, and not of what it was asked for.
    return INFRASTRUCTURE if is_spark or type(error).__module__.startswith("grpc") else None
