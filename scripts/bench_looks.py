"""`make bench-looks`: what a look costs with a long history, beside one with an empty ledger. One run, no Spark.

The ledger gets ROWS (1,000,000) rows of 100 tables and five years. A process each makes the look of a build: two tables
and a source, ten days. Measured are its seconds of CPU and its largest memory. Another process makes the plan of a
backfill, and the states that a board shows, both of 50 tables and 730 days. The lake is a folder that it removes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from deltalake import write_deltalake

from include.lake import settings
from include.lake.project import contracts, lineage
from include.lake.project.days import day_range
from include.lake.state import ledger
from include.lake.storage import delta_files as storage
from scripts.options import read_number
from scripts.stack import Clock

TABLES = 100
DAYS = day_range("2021-01-01", "2025-12-31")
WANTED_SECONDS, WANTED_MB = 0.1, 50
LOOK = """\
import json, resource, time
from pathlib import Path
from include.lake import settings
settings.SQL = Path({sql!r})
from include.lake.project import contracts, lineage
from include.lake.state.look import Look
lineage.code_id("shop.table_1"), lineage.code_id("shop.table_0"), Look()
began = time.process_time()
lake = Look()
for day in {days!r}:
    lake.own_state("shop.table_1", day), lake.absent_inputs("shop.table_1", day, day)
print(json.dumps({{"seconds": time.process_time() - began,
                  "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}}))
"""
WIDE_TABLES, WIDE_DAYS, WANTED_WIDE_SECONDS = 50, DAYS[-730:], 3
WIDE = """\
import json, time
from pathlib import Path
from include.lake import settings
settings.SQL = Path({sql!r})
from include.lake.backfill import plan, request
from include.lake.project import lineage
from include.lake.project.current import held
from include.lake.state.look import Look
tables, days, found = {tables!r}, {days!r}, {{}}
lineage.in_order()
with held():
    began = time.process_time()
    plan.plan(request.check(tables, days[0], days[-1], yes=True))
    found["plan"] = time.process_time() - began
    began, lake = time.process_time(), Look()
    for table in tables:
        for day in days:
            lake.state(table, day)
    found["board"] = time.process_time() - began
print(json.dumps(found))
"""
COLUMNS = "columns: [{name: amount, type: bigint}, {name: day, type: string}]\n"


def main() -> int:
    say, rows = Clock(), read_number("ROWS", 1_000_000, int)
    home = Path(tempfile.mkdtemp(prefix="lake-bench-"))
    os.environ["LAKE_HOME"] = str(home)
    try:
        make_project(home / "sql")
        figures = {}
        for name, number in {"an empty ledger": 0, f"a ledger of {rows:,} rows": rows}.items():
            if number:
                fill(number)
                say(f"the ledger has {number:,} rows")
            figures[name] = min((look() for _ in range(5)), key=lambda figure: figure["seconds"])
            figure = figures[name]
            say(f"a look with {name}: {figure['seconds']:.3f} s of CPU, {figure['megabytes']:.0f} MB at most")
        before, after = figures.values()
        seconds, megabytes = (after[name] - before[name] for name in ("seconds", "megabytes"))
        say(f"with the long history {seconds:.3f} s and {megabytes:.0f} MB more")
        good = seconds <= WANTED_SECONDS and megabytes <= WANTED_MB
        say("as wanted" if good else f"wanted: at most {WANTED_SECONDS} s and {WANTED_MB} MB")
        tables = [f"shop.table_{number}" for number in range(WIDE_TABLES)]
        wide = run(WIDE.format(sql=str(settings.SQL), tables=tables, days=WIDE_DAYS))
        for name, taken in wide.items():
            say(f"the {name} of {WIDE_TABLES} tables and {len(WIDE_DAYS)} days: {taken:.1f} s of CPU "
                f"(wanted: at most {WANTED_WIDE_SECONDS})")  # fmt: skip
        return not (good and max(wide.values()) <= WANTED_WIDE_SECONDS)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def make_project(sql: Path) -> None:
    """event (a source) -> table_0 -> table_1 -> … -> table_99."""
    (sql / "shop").mkdir(parents=True)
    (sql / "shop" / "event.yaml").write_text(f"about: A source.\npartitioned_by: [day]\n{COLUMNS}")
    for number in range(TABLES):
        above = f"table_{number - 1}" if number else "event"
        contract = f"about: A table.\nkey: []\npartitioned_by: [day]\n{COLUMNS}"
        (sql / "shop" / f"table_{number}.yaml").write_text(contract)
        (sql / "shop" / f"table_{number}.sql").write_text(
            f"select t.amount, t.day from shop.{above} as t where t.day between :start_date and :end_date\n"
        )
    settings.SQL = sql
    event = contracts.get("shop.event")
    columns = {"amount": [1] * len(DAYS[-30:]), "day": DAYS[-30:]}
    storage.replace(event, pa.table(columns, schema=storage.arrow_schema(event)))
    for number in range(TABLES):
        storage.ensure(contracts.get(f"shop.table_{number}"))


def fill(rows: int) -> None:
    """Ledger rows of many builds, written as the runner's rows are after their compaction: a few files per table."""
    builds = max(1, round(rows / TABLES / len(DAYS)))
    ledger.create()
    for number in range(TABLES):
        table = f"shop.table_{number}"
        delta = storage.open_table(table)
        assert delta is not None
        above = lineage.inputs(table)[0]
        facts = {
            "table": table, "table_id": str(delta.metadata().id), "status": ledger.BUILT, "run": "bench/scheduled",
            "code_id": lineage.code_id(table), "rows": 1000, "bytes": 100_000, "seconds": 4.0, "build_days": 1,
            "inputs": {above: f"{uuid.uuid4()}@1"}, "checks": {"day is in the range": 0}, "dropped": {}, "error": None,
        }  # fmt: skip
        batch = []
        for version in range(1, builds + 1):
            # The ledger's rows count up to the version that the table has.
            nothing = storage.arrow_schema(contracts.get(table)).empty_table()
            write_deltalake(storage.address(table), nothing, mode="append")
            for position, day in enumerate(DAYS):
                at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=position)
                build_id = uuid.uuid4().hex
                batch.append({**facts, "partition": day, "version": version, "build_id": build_id, "built_at": at})
        write_deltalake(storage.address(ledger.TABLE), ledger.encoded(batch), mode="append")


def look() -> dict[str, float]:
    return run(LOOK.format(sql=str(settings.SQL), days=DAYS[-10:]))


def run(program: str) -> dict[str, float]:
    """The figures that a program prints."""
    # A shell starts it. Linux counts the memory of the process that starts a program as that of the program, too, and
    # this process has filled the ledger.
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=settings.ROOT, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(ended.stdout)
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
