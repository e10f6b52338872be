"""The store of a Unity Catalog: tables `catalog.schema.table`, which SQL alone reads and writes. Nobody opens a file.

Its functions are those of the port `Store`. SQL has two ways there. A run of Databricks has a Spark session; it alone
writes. Everybody else (Airflow, the command line) asks a SQL warehouse, and reads how our own tables are in the ledger.
"""

import json
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

import pyarrow as pa

from include.lake import settings
from include.lake.errors import ContractError, LakeError
from include.lake.project import contracts
from include.lake.project.contracts import Column, Contract
from include.lake.project.periods import Period, is_key
from include.lake.storage import ANY_DAY, KEPT, Commit, PartitionFiles, Snapshot, load_record, require_days
from include.lake.storage.arrow import arrow_schema

Values = Mapping[str, str | int]
# Ten years: Delta's own default is 30 days. The commits are the proof of what the ledger says.
_PROPERTIES = {"delta.logRetentionDuration": "interval 3650 days"}
# What SQL says of a table that is not there, and of a version that nobody can read any more.
_ABSENT = re.compile(r"TABLE_OR_VIEW_NOT_FOUND|SCHEMA_NOT_FOUND|DELTA_TABLE_NOT_FOUND|DELTA_MISSING_DELTA_TABLE")
_GONE = re.compile(
    r"DELTA_VERSION_NOT_FOUND|TIME_TRAVEL|[Cc]annot time travel|FILE_NOT_EXIST|FILE_NOT_FOUND|FileNotFound|"
    r"DELTA_LOG_FILE_NOT_FOUND|DELTA_VERSIONS_NOT_CONTIGUOUS|DELTA_STATE_RECOVER"
)
# Commits that change no row. One that is not listed here is compared with the version before: it costs a query.
_STILL = {
    "OPTIMIZE", "VACUUM START", "VACUUM END", "CREATE TABLE", "ADD COLUMNS", "CHANGE COLUMN", "UPDATE COLUMN METADATA",
    "SET TBLPROPERTIES", "UNSET TBLPROPERTIES", "UPGRADE PROTOCOL", "ROW TRACKING BACKFILL", "CLUSTER BY",
    "COMPUTE STATS", "ADD CONSTRAINT", "DROP CONSTRAINT", "ADD DELETION VECTORS TOMBSTONES",
}  # fmt: skip
# The history of a stream has tens of thousands of commits. What lies before these is compared in one go.
_COMMITS = 500


class Session(Protocol):
    """What the store wants of the Spark session of a run."""

    def sql(self, text: str) -> pa.Table: ...

    def write(self, table: str, rows: pa.Table, mode: str, options: Mapping[str, str]) -> None: ...


_session: Session | None = None


def use(session: Session | None) -> None:
    """From here on, this process is a run with this session; None: it is none, and asks the warehouse."""
    global _session
    _session = session


def literal(value: str | int) -> str:
    """A value as SQL writes it."""
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _sql(text: str, values: Values | None = None) -> list[dict[str, Any]]:
    return _read(text, values).to_pylist(maps_as_pydicts="strict")


def _read(text: str, values: Values | None = None) -> pa.Table:
    """The result of a query. In a run the values are literals: Delta's parser loses bound ones (see lineage.py)."""
    if _session is None:
        from include.lake.storage import warehouse

        return warehouse.sql(text, values or {})
    return _session.sql(re.sub(r"(?<!:):(\w+)", lambda name: literal((values or {})[name[1]]), text) if values else text)


def _run() -> Session:
    if _session is None:
        raise LakeError("only a run of Databricks writes tables: trigger the DAG, or its task, in Airflow")
    return _session


def address(table: str) -> str:
    """The name of a table in the catalog."""
    return f"`{settings.catalog()}`.{table}"
