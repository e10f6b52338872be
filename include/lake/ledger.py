"""The ledger `ops.partition_build`: one row per table, day and build, append-only.

What it says of builds follows from the build records in the tables' commits, so it can be made again from them, and a
build that was killed between its commit and its ledger row is entered by whoever looks next (`heal`).
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

from include.lake import contracts, failures, settings, storage

TABLE = "ops.partition_build"
_COUNTS = pa.map_(pa.string(), pa.int64())
SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("day", pa.string()),
        ("build_id", pa.string()),
        ("status", pa.string()),  # built, or failed: then `error` says why, and nothing was published
        ("built_at", pa.timestamp("us", "UTC")),  # when it was committed (or failed)
        ("run", pa.string()),
        ("code_id", pa.string()),
        ("inputs", pa.map_(pa.string(), pa.string())),  # input -> id of the days that were read of it
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("seconds", pa.float64()),  # of the whole build; a build of several days has the same in each of its rows
        ("build_days", pa.int64()),
        ("checks", _COUNTS),  # check -> rows that broke it
        ("dropped", _COUNTS),  # reason -> rows counted and not published
        ("version", pa.int64()),  # of the table's Delta log; null for a failed build
        ("error", pa.string()),
    ]
)
_MAPS = ("inputs", "checks", "dropped")
# One small file per build: beyond this many commits they are made one, so that reading stays a matter of milliseconds.
_COMPACT_EVERY = 50
# Spark's errors may quote a whole plan.
_ERROR_LENGTH = 2000


def read(tables: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """The rows of `tables` (all by default), oldest first, each build and day once."""
    delta = storage.open_table(TABLE)
    if delta is None:
        return []
    filters = None if tables is None else [("table", "in", sorted(tables))]
    found = storage.rows(delta, filters)
    unique = {}
    for row in found.to_pylist():
        for name in _MAPS:
            row[name] = dict(row[name] or ())
        unique[row["build_id"], row["day"]] = row
    return sorted(unique.values(), key=lambda row: (row["built_at"], row["version"] or -1, row["table"], row["day"]))


def append(rows: list[dict[str, Any]]) -> None:
    """Add rows with the fields of SCHEMA."""
    if not rows:
        return
    create()
    path = str(settings.table_path(TABLE))
    data = pa.Table.from_pylist(_plain(rows), schema=SCHEMA)
    storage.retry_conflicts(lambda: write_deltalake(path, data, mode="append"), TABLE)
    delta = DeltaTable(path)
    if delta.version() % _COMPACT_EVERY == 0:
        with suppress(CommitFailedError):  # somebody else is at it, and the next time comes
            delta.optimize.compact()
        storage.tidy(TABLE)


def create() -> None:
    """Make the ledger's table unless it is there."""
    path = str(settings.table_path(TABLE))
    about = "One row per table, day and build."
    storage.retry_conflicts(
        lambda: DeltaTable.create(path, SCHEMA, mode="ignore", name=TABLE, description=about), TABLE
    )


def failed(
    table: str, days: list[str], build_id: str, run: str, code_id: str, seconds: float, error: Exception
) -> None:
    """Enter a build that published nothing, with the reason."""
    now = datetime.now(UTC)
    append(
        [
            {
                "table": table, "day": day, "build_id": build_id, "status": "failed", "built_at": now, "run": run,
                "code_id": code_id, "inputs": {}, "rows": None, "bytes": None, "seconds": seconds,
                "build_days": len(days), "dropped": {}, "version": None,
                "checks": getattr(error, "broken", {}), "error": "\n".join(failures.root_cause(error))[:_ERROR_LENGTH],
            }
            for day in days
        ]
    )  # fmt: skip


def loaded(table: str, load_id: str, version: int, empty_days: list[str]) -> None:
    """Enter a load of a source, and the days that it said are empty."""


def heal(table: str, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int | None]:
    """Enter the builds of `table` that are committed and not in `rows`, its ledger rows.

    Gives the rows added and the version of the table up to which the ledger now speaks (None: there is no table).
    """
    delta = storage.open_table(table)
    if delta is None:
        return [], None
    known = max((row["version"] for row in rows if row["version"] is not None), default=-1)
    entered = {row["build_id"] for row in rows if row["status"] == "built"}
    added = []
    for version, commit in storage.commits(delta, known):
        record = _record(commit)
        if record and record["build_id"] not in entered and record["table"] == table:
            added += _rows(record, commit, version)
    append(added)
    return added, delta.version()


def rebuild() -> tuple[int, int]:
    """Make the ledger again from the commits of all tables that we build, in one commit; gives rows before and after.

    Failed builds have no commit: those that the old ledger still knows stay.
    """
    before = read()
    rows = [row for row in before if row["status"] == "failed"]
    for contract in contracts.load_all().values():
        delta = None if contract.is_source else storage.open_table(contract.table)
        for version, commit in storage.commits(delta) if delta else ():
            if record := _record(commit):
                rows += _rows(record, commit, version)
    data = pa.Table.from_pylist(_plain(rows), schema=SCHEMA)
    path = str(settings.table_path(TABLE))
    storage.retry_conflicts(lambda: write_deltalake(path, data, mode="overwrite"), TABLE)
    return len(before), len(rows)


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as Arrow takes them: a map is a list of pairs."""
    return [{**row, **{name: sorted(row[name].items()) for name in _MAPS}} for row in rows]


def _record(commit: dict[str, Any]) -> dict[str, Any] | None:
    """The build record of a commit; None for a commit of something else."""
    try:
        record = json.loads(commit.get("userMetadata") or "null")
    except ValueError:
        return None
    return record if isinstance(record, dict) and "build_id" in record else None


def _rows(record: dict[str, Any], commit: dict[str, Any], version: int) -> list[dict[str, Any]]:
    """The ledger rows of one committed build."""
    table = record["table"]
    delta = storage.open_table(table, version)
    assert delta is not None
    files = storage.days(delta, contracts.get(table))
    built_at = datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
    started_at = datetime.fromisoformat(record["started_at"])
    return [
        {
            "table": table, "day": day, "build_id": record["build_id"], "status": "built", "built_at": built_at,
            "run": record["run"], "code_id": record["code_id"], "inputs": told["inputs"], "rows": told["rows"],
            "bytes": files[day].bytes if day in files else 0, "seconds": (built_at - started_at).total_seconds(),
            "build_days": len(record["days"]), "checks": record["checks"], "dropped": told["dropped"],
            "version": version, "error": None,
        }
        for day, told in record["days"].items()
    ]  # fmt: skip
