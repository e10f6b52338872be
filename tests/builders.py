"""Builds in processes of their own, which can be killed, and a reader who watches. event (a source) -> total.

Every day of `event` has each of NAMES once, with the number of the delivery as its amount. So whoever reads `total`
knows what a day must look like: each of the names once, and the same number everywhere.
"""

import multiprocessing
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from include.lake import settings
from include.lake.build import runner
from include.lake.engine import server
from include.lake.engine import spark as session
from include.lake.project import contracts
from include.lake.project.days import day_range
from include.lake.state import ledger
from include.lake.state.look import FRESH, Look
from include.lake.storage import delta_files as storage
from include.lake.storage import store
from include.lake.storage.arrow import arrow_schema
from tests.conftest import QUICK
from tests.shop import FILES, TABLE

NAMES = [f"name{n:02}" for n in range(40)]
DAYS = day_range("2026-01-01", "2026-01-06")
# A build of six days takes two seconds; what takes this long hangs.
SECONDS = 120
# Python with Spark's client is imported once; each builder is forked from that, and starts within milliseconds.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.builders", "pyspark.sql.connect.session"])


def how_many(default: int) -> int:
    """N of `make faults N=…` and the like; the default is what every run of the tests tries."""
    return int(os.environ.get("N") or default)


def sample(number: int) -> int:
    """How many of the examples the engine of LAKE_ENGINE tries: all on Sail, and with N=…; else a few on Spark."""
    return number if settings.engine() == settings.SAIL or os.environ.get("N") else -(-number // 8)


class Progress:
    """Says every ten seconds how far `make faults N=…` and the like are, past pytest, which would keep it."""

    def __init__(self, total: int, what: str) -> None:
        self._done, self._total, self._what = 0, total, what
        self._began = self._told = time.monotonic()

    def add(self, done: int = 1) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._told > 10 and os.environ.get("N"):
            self._told = now
            line = f"{now - self._began:6.0f} s  {self._done:,} of {self._total:,} {self._what}"
            print(line, file=sys.__stdout__, flush=True)


# For a test of builders in processes of their own.
ON_BOTH = pytest.mark.parametrize("shop", [settings.SAIL, settings.SPARK], indirect=True)


@contextmanager
def a_shop(engine: str, project: Any) -> Iterator[None]:
    """A lake with the two tables in it, and a server of an engine that all builders share."""
    project(FILES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKE_ENGINE", engine)
        patch.setenv("LAKE_ENGINE_MEMORY", "1g")
        server.start(engine, lambda line: None)
        try:
            yield
        finally:
            server.stop(patience=0)


def deliver(number: int, days: list[str]) -> None:
    """Replace days of the source."""
    rows = {"name": NAMES * len(days), "amount": [number] * len(NAMES) * len(days)}
    rows["day"] = [day for day in days for _ in NAMES]
    contract = contracts.get("shop.event")
    store().replace(contract, pa.table(rows, schema=arrow_schema(contract)))


def published(table: str) -> list[dict[str, Any]]:
    """The rows of a table without the one column that may differ, whatever store has them."""
    snapshot = store().open(table)
    assert snapshot is not None
    names = [name for name in contracts.get(table).column_names if name != contracts.RUN_TIMESTAMP]
    return store().rows(snapshot).select(names).to_pylist()


def require_rows(expected: dict[str, list[dict[str, Any]]], tables: list[str], where: str) -> None:
    """Each of the tables has these rows and no other."""
    for table in tables:
        names = contracts.get(table).column_names
        wanted = Counter(tuple(row[name] for name in names) for row in expected[table])
        rows = Counter(tuple(row.values()) for row in published(table))
        assert wanted and rows == wanted, f"{where}, {table}: {list((rows - wanted).items())[:3]}"


def some_days(chance: random.Random) -> list[str]:
    """A range of days."""
    first, last = sorted(chance.sample(range(len(DAYS) + 1), 2))
    return DAYS[first:last]


def start(work: Callable[..., None], *arguments: Any) -> Any:
    """Run `work` in a process of its own, in the same lake and project."""
    process = _processes.Process(
        target=_in_the_lake, args=(str(settings.home()), settings.engine(), settings.SQL, work, *arguments)
    )
    process.start()
    return process


def _in_the_lake(home: str, engine: str, sql: Path, work: Callable[..., None], *arguments: Any) -> None:
    os.environ["LAKE_HOME"], os.environ["LAKE_ENGINE"], settings.SQL = home, engine, sql
    session.SESSION_CONF.update(QUICK)
    work(*arguments)


def build(first: str, last: str, force: bool = False) -> None:
    runner.build(TABLE, first, last, force=force, log=lambda line: None)


def end_well(process: Any) -> None:
    process.join(SECONDS)
    assert process.exitcode == 0, f"a builder hangs or failed (exit code {process.exitcode})"


def rows_of(delta: DeltaTable) -> dict[str, Counter]:
    """Day -> its rows."""
    return by_day(delta.to_pyarrow_table(columns=["name", "total", "day"]))


def by_day(rows: pa.Table) -> dict[str, Counter]:
    found: dict[str, Counter] = {}
    for row in rows.to_pylist():
        found.setdefault(row["day"], Counter())[row["name"], row["total"]] += 1
    return found


def day_of(number: int) -> Counter:
    """What a day has to be after that delivery."""
    return Counter({(name, number): 1 for name in NAMES})


def broken_days(delta: DeltaTable) -> list[str]:
    """Days that are not whole: not each of the names once, or of two deliveries."""
    return broken(rows_of(delta))


def broken(days: dict[str, Counter]) -> list[str]:
    return [
        f"{day}: {sorted(rows.items())}"
        for day, rows in days.items()
        if rows not in [day_of(number) for number in {number for _, number in rows}]
    ]


class Reader(threading.Thread):
    """Reads every version of the table while it is written, and collects what no reader may ever see."""

    def __init__(self, wrong_in: Callable[[DeltaTable], list[str]]) -> None:
        super().__init__(daemon=True)
        self.versions, self.wrong = 0, list[str]()
        self._wrong_in, self._ended = wrong_in, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.02):
            self.look()

    def look(self) -> None:
        newest = storage.open_table(TABLE)
        for version in range(self.versions, newest.version() + 1 if newest else 0):
            delta = storage.open_table(TABLE, version)
            assert delta is not None
            self.wrong += [f"version {version}: {what}" for what in self._wrong_in(delta)]
            self.versions = version + 1

    def __enter__(self) -> "Reader":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()
        self.look()


def check_the_lake(delivered: dict[str, int]) -> None:
    """All days are there and fresh, each row once, and the ledger says what the commits say."""
    delta, lake = storage.open_table(TABLE), Look()
    assert delta is not None
    assert rows_of(delta) == {day: day_of(number) for day, number in delivered.items()}
    assert {day: lake.state(TABLE, day).state for day in delivered} == dict.fromkeys(delivered, FRESH)
    kept = ledger.read()
    ledger.rebuild()
    rebuilt = ledger.read()
    assert [row for row in kept if row not in rebuilt] == [], "the ledger knows what no commit says"
    assert [row for row in rebuilt if row not in kept] == [], "the ledger does not know what a commit says"


def settle(delivered: dict[str, int]) -> float:
    """Build what is still due, as the next run would, and look at the result; gives the seconds of the build."""
    began = time.monotonic()
    end_well(start(build, DAYS[0], DAYS[-1]))
    seconds = time.monotonic() - began
    check_the_lake(delivered)
    return seconds
