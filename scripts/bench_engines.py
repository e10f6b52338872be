"""`make bench-engines`: the three we_mart tables on Spark cold, Spark warm and Sail. One run, one machine.

Settings: SIZES (10000,100000,1000000) rows of the server log of a day, ENGINES (sail,spark), ROUNDS (3): the fastest
build counts. Cold is the start of a Spark server and its first build. It uses a temporary LAKE_HOME for each size.
"""

import os
import shutil
import sys
import tempfile
import time

from include.lake import settings
from include.lake.backfill import plan
from include.lake.build import failures, runner
from include.lake.engine import engine
from include.lake.errors import LakeError, UsageError
from include.lake.project import contracts
from include.lake.storage import store
from include.sample import generate
from scripts.options import read_number
from scripts.stack import Clock

LOG = "service_log.weverse_server_log"
# In this order, because the sessions are made of the other two.
TABLES = ("we_mart.wv_server_log_base", "we_mart.wv_comm_user", "we_mart.wv_sess_daily")
DAY = "2026-01-05"
# The sample has about as many rows of the log in a day at scale 1.
ROWS_OF_SCALE_1 = 100_000
SAIL, WARM, COLD = "Sail", "Spark warm", "Spark cold"

Seconds = dict[tuple[str, str], float]


def main() -> int:
    say = Clock()
    try:
        sizes, engines, rounds = read_sizes(), read_engines(), read_number("ROUNDS", 3, int) or 1
        lines = [["rows of the log", "table", COLD, WARM, SAIL, "cold / Sail", "warm / Sail"]]
        for size in sizes:
            rows, seconds = measure(size, engines, rounds, say)
            lines += report(rows, seconds)
    except LakeError as error:
        print(f"make bench-engines: {error}", file=sys.stderr)
        return 1
    print(f"Seconds of a build of a day. Warm Spark and Sail: the fastest of {rounds}, on a server that runs.")
    print("\n".join(plan.columns(lines)))
    return 0


def read_sizes() -> list[int]:
    text = os.environ.get("SIZES") or "10000,100000,1000000"
    sizes = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if 0 in sizes:
        raise UsageError(f"SIZES={text} makes no sense: give numbers of rows, such as SIZES=10000,100000")
    return sizes


def read_engines() -> list[str]:
    text = os.environ.get("ENGINES") or f"{settings.SAIL},{settings.SPARK}"
    engines = [part.strip() for part in text.split(",")]
    if not {*engines} <= {settings.SAIL, settings.SPARK}:
        raise UsageError(f"ENGINES={text} makes no sense: give {settings.SAIL}, {settings.SPARK}, or both with a comma")
    return engines


def measure(size: int, engines: list[str], rounds: int, say: Clock) -> tuple[int, Seconds]:
    """The rows of the log, and the seconds by kind and table. Both engines build the same rows in the same lake."""
    home = os.environ["LAKE_HOME"] = tempfile.mkdtemp(prefix="lake-bench-")
    seconds: Seconds = {}
    try:
        rows = fill(size / ROWS_OF_SCALE_1)
        say(f"{rows:,} rows of the log")
        for name in engines:
            os.environ["LAKE_ENGINE"] = name
            for table in TABLES:
                try:
                    took = builds(table, rounds, cold=name == settings.SPARK)
                except Exception as error:  # such as too little memory: the figures of the others count all the same
                    if failures.is_bug(error):
                        raise
                    say(f"{name}, {table}: {failures.first_line(error)}")
                    continue
                finally:
                    engine().stop()
                if name == settings.SAIL:
                    seconds[SAIL, table] = min(took)
                else:
                    seconds[COLD, table], seconds[WARM, table] = took[0], min(took[1:])
                say(f"{name}, {table}: {', '.join(f'{second:.2f}' for second in took)} s")
        return rows, seconds
    finally:
        shutil.rmtree(home, ignore_errors=True)


def fill(scale: float) -> int:
    """Load the sample of the day; gives the rows of the log."""
    count = 0
    for table, _, rows in generate.days(DAY, DAY, scale):
        store().replace(contracts.get(table), rows)
        count += rows.num_rows if table == LOG else 0
    for table, rows in generate.current(scale):
        store().replace(contracts.get(table), rows)
    return count


def builds(table: str, rounds: int, cold: bool) -> list[float]:
    """The seconds of the builds of a table on a new server; with `cold`, the start of it and a first build before."""
    if not cold:
        engine().start()
    took = []
    for _ in range(rounds + cold):
        began = time.monotonic()
        engine().start()
        runner.build(table, DAY, DAY, force=True, log=lambda line: None)
        took.append(time.monotonic() - began)
    return took


def report(rows: int, seconds: Seconds) -> list[list[str]]:
    lines = []
    for table in TABLES:
        of = {kind: seconds.get((kind, table)) for kind in (COLD, WARM, SAIL)}
        ratios = [ratio(of[kind], of[SAIL]) for kind in (COLD, WARM)]
        lines.append([f"{rows:,}", table, *(f"{value:.2f}" if value else "" for value in of.values()), *ratios])
    return lines


def ratio(value: float | None, other: float | None) -> str:
    return f"{value / other:.1f}" if value and other else ""


if __name__ == "__main__":
    sys.exit(main())
