"""Law 5, together: builders, a backfill, late files and table maintenance at once, and nothing is lost or repeated.

`make races N=100` tries more seeds than every run of the tests.
"""

import random
from pathlib import Path
from typing import Any

import pytest

from include.lake.backfill import plan, request
from include.lake.backfill import run as backfill
from include.lake.build import failures, runner
from include.lake.errors import WriteConflict
from include.lake.project import contracts
from include.lake.storage import delta_files as storage
from tests import builders
from tests.builders import DAYS, TABLE, Reader, deliver, end_well, some_days, start

SEEDS = builders.how_many(10)
BUILDS = 2 if SEEDS > 10 else 1  # of each builder, one after the other, so that the paces of the builders shift

pytestmark = pytest.mark.e2e


@pytest.fixture
def shop(lake_home: Path, project: Any, request: pytest.FixtureRequest) -> Any:
    with builders.a_shop(request.param, project):
        yield


def a_builder(seed: int) -> None:
    """Ranges of days as two task lists would build them: overlapping, the same, or far apart."""
    chance = random.Random(seed)
    for _ in range(BUILDS):
        days = some_days(chance)
        try:
            runner.build(TABLE, days[0], days[-1], force=chance.random() < 0.5, log=lambda line: None)
        except WriteConflict as error:  # what Airflow would try again
            assert failures.kind(error) == "conflict"


def a_backfill(seed: int) -> None:
    asked = request.check([TABLE], DAYS[0], DAYS[-1], "all", random.Random(seed).choice([2, 4, "automatic"]))
    name = f"backfill-{seed}"
    results, stopped = backfill.run(asked, name, lambda line: None, backfill.Progress(plan.plan(asked, name)))
    assert not stopped and backfill.is_good(results)


def maintenance(seed: int) -> None:
    """Small files made one, files of a week ago removed: by two at once, of which one has to give way."""
    for _ in range(3 * BUILDS):
        assert storage.maintain(TABLE)


@builders.ON_BOTH
def test_two_builders_a_backfill_and_maintenance(shop: None, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = builders.sample(SEEDS)
    delivered, progress = dict.fromkeys(DAYS, 0), builders.Progress(seeds, "seeds")
    deliver(0, DAYS)
    with Reader(builders.broken_days) as reader:
        builders.settle(delivered)
        for seed in range(1, seeds + 1):
            chance = random.Random(seed)
            work = [(a_builder, 2 * seed), (a_builder, 2 * seed + 1), (a_backfill, seed), *[(maintenance, seed)] * 2]
            running = [start(*one) for one in work]
            late = some_days(chance)
            deliver(seed, late)
            delivered |= dict.fromkeys(late, seed)
            for process in running:
                end_well(process)
            builders.settle(delivered)
            progress.add()
    assert reader.wrong == []
    with capsys.disabled():
        print(f"\n{seeds} seeds, {reader.versions} versions read, {len(reader.wrong)} bad reads")
    assert reader.versions > 2 * seeds, "they hardly met"
    assert contracts.get(TABLE).key, "a table without a key could repeat rows unseen"
