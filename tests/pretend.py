"""Builds and loads of tables without Spark: real commits with the build record of the runner, but without its rows."""

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, write_deltalake

from include.lake.project import contracts, lineage
from include.lake.project.days import day_range
from include.lake.state import ledger
from include.lake.state.look import Look
from include.lake.storage import delta_files as storage

DAYS = day_range("2026-01-01", "2026-01-10")
BASE, TOP = "shop.base", "shop.top"
SOURCE = """\
about: A source.
partitioned_by: [day]
columns: [{name: amount, type: bigint}, {name: day, type: string}]
"""
BUILT = """\
about: A table.
key: []
partitioned_by: [day]
columns: [{name: amount, type: bigint}, {name: day, type: string}]
"""


def select(*tables: str) -> str:
    """A SELECT of the days of all `tables`."""
    parts = (
        f"select t.amount, t.day from {table} as t where t.day between :start_date and :end_date" for table in tables
    )
    return "\nunion all\n".join(parts) + "\n"


def files_of(reads: dict[str, list[str]], extra: dict[str, str] | None = None) -> dict[str, str]:
    """Contracts and SELECTs: table -> inputs. `extra`: more lines of a table's contract."""
    files = {"shop/event.yaml": SOURCE}
    for table, inputs in reads.items():
        name = table.replace(".", "/")
        files |= {f"{name}.sql": select(*inputs), f"{name}.yaml": BUILT + (extra or {}).get(table, "")}
    return files


def load(table: str, *days: str) -> None:
    """A row for each of the days of a source; one row for a source without days."""
    contract = contracts.get(table)
    rows: list[dict[str, Any]] = [{str(contract.day_column): day} for day in days] if contract.day_column else [{}]
    storage.replace(contract, pa.Table.from_pylist(rows, schema=storage.arrow_schema(contract)))


def build(table: str, days: list[str], status: str = "built", **facts: Any) -> None:
    """A build of these days as they would be built now; `facts` are other values of its ledger rows."""
    contract, lake = contracts.get(table), Look()
    snapshot = storage.ensure(contract)
    build_id = uuid.uuid4().hex
    if status == "failed":
        error = facts.pop("error", "rows are bad")
        run = facts.pop("run", "test")
        ledger.failed(
            table, snapshot.table_id, snapshot.version, days, build_id, run, lineage.checks_id(table),
            lake.input_versions(table), 4.0, {}, error,
        )  # fmt: skip
        return
    record = {
        "build_id": build_id, "table": table, "run": "test", "started_at": datetime.now(UTC).isoformat(),
        "code_id": lineage.code_id(table), "inputs": lake.input_versions(table), "checks": {},
        "days": {day: {"rows": 1, "dropped": {}} for day in days},
    }  # fmt: skip
    metadata = CommitProperties(custom_metadata={"userMetadata": json.dumps(record)})
    nothing = storage.arrow_schema(contract).empty_table()
    write_deltalake(storage.address(table), nothing, mode="append", commit_properties=metadata)
    snapshot = storage.ensure(contract)
    known = ledger.known_version(ledger.reader().history(table), snapshot.table_id)
    rows = ledger.rows_of_commits(contract, snapshot.table_id, storage.commits(snapshot, contract, known))
    facts = {"bytes": 1000, "seconds": 4.0} | facts
    ledger.append([row | facts if row["build_id"] == build_id else row for row in rows])
