"""Databricks, from inside a run of it: the session that the run has. Everybody else submits a run, see the plugins."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from include.lake.engine import kinds, spark
from include.lake.errors import UsageError
from include.lake.project.contracts import Contract
from include.lake.storage import Snapshot, unity_catalog

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Serverless allows six settings, these two among them. An old cluster may have other ones.
SESSION_CONF = {"spark.sql.session.timeZone": "UTC", "spark.sql.ansi.enabled": "true"}
_NO_SERVER = "LAKE_ENGINE=databricks: Databricks starts what it needs, there is no server of ours"
_ELSEWHERE = "LAKE_ENGINE=databricks: only a run of Databricks computes: trigger the DAG, or its task, in Airflow"

# What serverless says where it keeps no computed rows.
_NO_CACHE = re.compile(r"NOT_SUPPORTED_WITH_SERVERLESS\W+(PERSIST|CACHE)|CACHE_REQUIRES_NEWER_CLIENT")
_CURE_OF_CACHE = (
    "serverless refuses to keep the rows of a build: it needs environment 5, and the preview of its DataFrame cache "
    "switched on; where that is not allowed, set LAKE_CLUSTER"
)

# Of the port `Engine`, with the functions below.
types, collect, kind = spark.types, spark.collect, kinds.of
_entered: "SparkSession | None" = None


def enter(session: "SparkSession | None" = None) -> "SparkSession":
    """Say that this process is a run: the store and the builds use its session. The entry point calls it first."""
    global _entered
    if session is None:
        from pyspark.sql import SparkSession

        session = SparkSession.builder.getOrCreate()
    for name, value in SESSION_CONF.items():
        session.conf.set(name, value)
    unity_catalog.use(session)
    _entered = session
    return session


@contextmanager
def opened(given: "SparkSession | None" = None) -> "Iterator[SparkSession]":
    """`given`, or the session of the run."""
    session = given or _entered
    if session is None:
        raise UsageError(_ELSEWHERE)
    yield session


def view(session: "SparkSession", name: str, address: str, version: int) -> None:
    """Let the session's SELECTs read a table, as it is at one version, under a name."""
    session.read.option("versionAsOf", version).table(address).createOrReplaceTempView(name)


class _Cached(spark.Cached):
    """Rows in the cache of the session, published by name."""

    def _save(self, writer: Any, address: str) -> None:
        writer.saveAsTable(address)

    def _publish_keys(
        self, rows: "DataFrame", contract: Contract, target: Snapshot, places: list[str], record: Mapping[str, Any]
    ) -> None:
        options = unity_catalog.keys_options(target, places, record)
        self._save(rows.write.format("delta").mode("overwrite").options(**options), target.address)
        unity_catalog.require_commit(target, record["build_id"])


@contextmanager
def materialise(frame: "DataFrame") -> Iterator[_Cached]:
    """The rows, computed once whatever reads them in the block."""
    try:
        with spark.materialise(frame) as kept:
            yield _Cached(kept.frame)
    except Exception as error:
        if _NO_CACHE.search(str(error)):
            raise UsageError(_CURE_OF_CACHE) from error
        raise


def start() -> NoReturn:
    raise UsageError(_NO_SERVER)


def stop() -> bool:
    return False


def address() -> NoReturn:
    raise UsageError(_NO_SERVER)
