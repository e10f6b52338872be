"""Laws 4 and 5 in a Unity Catalog: runs that are killed at random instants, and runs at once, with late files.

Each run is a process with a session of its own on one Spark with Delta. A killed process leaves its statement to Spark,
which may still commit: on a cluster that dies with its run it does not.
"""

import multiprocessing
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from include.lake import settings
from include.lake.build import failures, runner
from include.lake.engine import databricks
from include.lake.errors import WriteConflict
from include.lake.state import ledger
from include.lake.state.look import FRESH, Look
from include.lake.storage import store
from tests import builders
from tests.builders import DAYS, TABLE, broken, by_day, day_of, deliver, some_days
from tests.conftest import THOROUGH
from tests.databricks import statements
from tests.shop import FILES

ROUNDS = max(5, builders.how_many(5))
_spawn = multiprocessing.get_context("spawn")

pytestmark = [pytest.mark.spark, THOROUGH]


@pytest.fixture
def shop(of_databricks: Any, project: Any, lake_home: Path) -> None:
    project(FILES)


def a_run(cluster: tuple[str, str], sql: Path, days: list[str], force: bool) -> None:
    settings.SQL = sql
    with statements.session(*cluster) as spark:
        databricks.enter(spark)
        try:
            runner.build(TABLE, days[0], days[-1], force=force, log=lambda line: None)
        except WriteConflict as error:  # what Airflow would try again
            assert failures.kind(error) == "conflict"


def start(cluster: tuple[str, str, Any], days: list[str], force: bool) -> Any:
    run = _spawn.Process(target=a_run, args=(cluster[:2], settings.SQL, days, force))
    run.start()
    return run


def settle(delivered: dict[str, int]) -> None:
    """Build what is still due, as the next run would; then all is fresh, and every version was whole."""
    runner.build(TABLE, DAYS[0], DAYS[-1], log=lambda line: None)
    look = Look()
    assert {day: look.state(TABLE, day).state for day in delivered} == dict.fromkeys(delivered, FRESH)
    assert rows_of() == {day: day_of(number) for day, number in delivered.items()}
    assert [row["version"] for row in ledger.record(TABLE)] == [], "the ledger has all commits"


def rows_of(version: int | None = None) -> dict[str, Counter]:
    snapshot = store().open(TABLE, version)
    return by_day(store().rows(snapshot)) if snapshot else {}


def require_whole_versions() -> int:
    """How many versions there are; each day of each is of one delivery, and has every name once."""
    newest = store().open(TABLE)
    assert newest is not None
    for version in range(1, newest.version + 1):
        assert broken(rows_of(version)) == [], version
    return newest.version


def test_kills_at_random_instants(
    shop: None, cluster: tuple[str, str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    chance, delivered, landed = random.Random(ROUNDS), dict.fromkeys(DAYS, 0), 0
    deliver(0, DAYS)
    for _ in range(2):  # the first run on a new server takes longer than those after it
        began = time.monotonic()
        whole = start(cluster, DAYS, True)
        whole.join(builders.SECONDS)
        assert whole.exitcode == 0
        seconds = time.monotonic() - began
    progress = builders.Progress(ROUNDS, "kills")
    for number in range(1, ROUNDS + 1):
        late = some_days(chance)
        deliver(number, late)
        delivered |= dict.fromkeys(late, number)
        run = start(cluster, DAYS, chance.random() < 0.3)
        time.sleep(chance.uniform(0.3, 1.1) * seconds)
        run.kill()
        run.join(builders.SECONDS)
        landed += run.exitcode == 0
        settle(delivered)
        progress.add()
    assert landed < ROUNDS, "every kill came too late to prove anything"
    with capsys.disabled():
        print(f"\n{ROUNDS} kills, {landed} runs ended before; {require_whole_versions()} whole versions")


def test_runs_at_once(shop: None, cluster: tuple[str, str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Three runs with ranges that overlap, and a file that comes in between."""
    delivered = dict.fromkeys(DAYS, 0)
    deliver(0, DAYS)
    settle(delivered)
    progress = builders.Progress(ROUNDS, "rounds")
    for number in range(1, ROUNDS + 1):
        chance = random.Random(number)
        runs = [start(cluster, some_days(chance), chance.random() < 0.5) for _ in range(3)]
        time.sleep(chance.uniform(2, 8))
        late = some_days(chance)
        deliver(number, late)
        delivered |= dict.fromkeys(late, number)
        for run in runs:
            run.join(builders.SECONDS)
            assert run.exitcode == 0, "a run hangs or failed"
        settle(delivered)
        progress.add()
    with capsys.disabled():
        print(f"\n{ROUNDS} rounds of three runs at once; {require_whole_versions()} whole versions")
