"""`make bench-rudder`, `make bench-vault`: what a day costs tables kept by key, with 30 to 300 days of history.

Each history is built in batches of days. Then its last days are taken in one by one, and the last one is measured,
beside the rebuild of all keys: what dbt's models of the same tables do in every run.
Settings: HISTORIES (30,90,300), SCALE (1: some 10,000 events a day). It uses a temporary LAKE_HOME.
"""

import os
import shutil
import sys
import tempfile
import time
from typing import Any

import pyarrow as pa

from include.lake import settings
from include.lake.backfill.plan import columns
from include.lake.build import runner
from include.lake.engine import engine
from include.lake.errors import LakeError, UsageError
from include.lake.project import contracts, lineage
from include.lake.project.days import day_range, days_before
from include.lake.state import ledger
from include.lake.storage import delta_files as storage
from include.sample import generate
from scripts.options import read_number
from scripts.stack import Clock

LAST = "2026-06-30"
BATCH = 30  # days of a build, until the history is there
WARM = 1  # days that are taken in one by one before the measured one
# Name of the bench -> how the names of its tables begin.
TABLES = {"rudder": "rudder.", "vault": "audio_"}


def main(name: str) -> int:
    say = Clock()
    scale = read_number("SCALE", 1.0, float)
    histories = os.environ.get("HISTORIES") or "30,90,300"
    found: dict[int, dict[str, Any]] = {}
    try:
        for text in histories.split(","):
            if not text.strip().isdigit() or not int(text) > WARM:
                raise UsageError(f"HISTORIES={histories}: write numbers of days above {WARM}, such as 30,90")
            home = os.environ["LAKE_HOME"] = tempfile.mkdtemp(prefix="lake-bench-")
            try:
                engine().start()
                found[int(text)] = of_history(say, TABLES[name], int(text), scale)
            finally:
                engine().stop()
                shutil.rmtree(home, ignore_errors=True)
    except LakeError as error:
        print(f"make bench-{name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    report(found)
    return 0


def of_history(say: Clock, prefix: str, count: int, scale: float) -> dict[str, Any]:
    """Table -> seconds of the day, rows that it computed, rows and bytes that it wrote; and seconds of a rebuild."""
    days = day_range(days_before(LAST, count - 1), LAST)
    world, events = generate._universe(scale, 1), 0
    for source, made in generate.DAILY.items():
        if source.startswith(prefix):
            contract = contracts.get(source)
            every = [generate._table(contract, made(world, generate.day_number(day)), day) for day in days]
            storage.replace(contract, pa.concat_tables(every))
            events += sum(rows.num_rows for rows in every)
    say(f"{count} days: {events:,} events")
    tables = [name for name in lineage.in_order() if name.startswith(prefix) and contracts.get(name).is_built]
    seconds: dict[str, dict[str, float]] = {"day": {}, "rebuild": {}}
    with engine().opened() as spark:
        before = days[: -WARM - 1]
        batches = [before[at : at + BATCH] for at in range(0, len(before), BATCH)]
        work = [(batch[0], batch[-1]) for batch in batches]
        work += [*((day, day) for day in days[-WARM - 1 :]), (days[-1], days[-1])]
        for number, (first, last) in enumerate(work):
            force = number == len(work) - 1
            for table in tables:
                began = time.monotonic()
                runner.build(table, first, last, force=force, spark=spark, log=lambda line: None)
                seconds["rebuild" if force else "day"][table] = time.monotonic() - began
            say(f"{count} days: {'all keys again' if force else f'{first}..{last}'} built")
    facts = {}
    for table in tables:
        # The row of a build's last day has all its rows, and comes last.
        builds = {row["version"]: row for row in ledger.read([table])}
        day, whole = (builds[version] for version in sorted(builds)[-2:])
        facts[table] = {
            "day": seconds["day"][table], "rebuild": seconds["rebuild"][table], "rows": day["rows"],
            "bytes": day["bytes"], "of": whole["rows"],
        }  # fmt: skip
    return facts


def report(found: dict[int, dict[str, Any]]) -> None:
    rows = [["table", "history", "rows of the table", "computed", "written kB", "a day s", "all keys s"]]
    for table in next(iter(found.values())):
        for count, facts in found.items():
            one = facts[table]
            rows.append([table, f"{count}", f"{one['of']:,}", f"{one['rows']:,}", f"{one['bytes'] // 1000:,}",
                         f"{one['day']:.2f}", f"{one['rebuild']:.2f}"])  # fmt: skip
    days = {count: sum(one["day"] for one in facts.values()) for count, facts in found.items()}
    whole = {count: sum(one["rebuild"] for one in facts.values()) for count, facts in found.items()}
    for count in found:
        rows.append(["together", f"{count}", "", "", "", f"{days[count]:.2f}", f"{whole[count]:.2f}"])
    print("\n".join(columns(rows)))
    first, last = min(found), max(found)
    growth, gain = days[last] / days[first], whole[last] / days[last]
    print(f"engine {settings.engine()}: with {last} days a day costs {growth:.2f} times as much as with {first} "
          f"(wanted: at most 1.3), and all keys cost {gain:.1f} times a day (wanted: at least 5)")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
