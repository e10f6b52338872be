"""The six laws on every table that we build, found by discovery: whatever the schedule, the same rows in the end.

`LAWS=20 make test ARGS="-k laws"` tries more schedules than the one of every run.
"""

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from include.lake import contracts, lineage, runner, session, storage
from include.lake.contracts import RUN_TIMESTAMP
from include.lake.days import day_range
from include.lake.errors import InputsMissing
from include.lake.freshness import FRESH, Lake
from include.sample import generate

pytestmark = pytest.mark.spark

DAYS = day_range("2026-03-04", "2026-03-06")
SCALE = 0.01
SCHEDULES = int(os.environ.get("LAWS") or 1)


def load(table: str, rows: Any) -> None:
    storage.replace_source(contracts.get(table), rows)


def rows_of(table: str) -> Counter:
    """The rows of a table, each with how often it is there; without the one column that may differ."""
    delta = storage.open_table(table)
    assert delta is not None
    names = [name for name in contracts.get(table).column_names if name != RUN_TIMESTAMP]
    return Counter(tuple(map(str, row.values())) for row in delta.to_pyarrow_table(columns=names).to_pylist())


@pytest.fixture(scope="module")
def sample() -> dict[str, Any]:
    """What arrives: per source and day a first file, and another one that may replace it late."""
    return {
        "current": list(generate.current(SCALE)),
        "first": list(generate.days(DAYS[0], DAYS[-1], SCALE, seed=2)),
        "late": list(generate.days(DAYS[0], DAYS[-1], SCALE, seed=1)),
    }


@pytest.fixture(scope="module")
def from_scratch(sample: dict[str, Any], spark: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counter]:
    """Table -> rows, when everything was there from the start and each table is built once, all days in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKE_HOME", str(tmp_path_factory.mktemp("scratch")))
        for table, rows in sample["current"]:
            load(table, rows)
        for table, _, rows in sample["late"]:
            load(table, rows)
        return build_all(spark)


def build_all(spark: Any) -> dict[str, Counter]:
    for name, value in session.SESSION_CONF.items():
        spark.conf.set(name, value)
    tables = [name for name in lineage.in_order() if not contracts.get(name).is_source]
    assert tables, "there is nothing to test"
    for table in tables:
        runner.build(table, DAYS[0], DAYS[-1], spark=spark, log=lambda line: None)
    lake = Lake()
    assert {lake.state(table, day).state for table in tables for day in DAYS} == {FRESH}
    return {table: rows_of(table) for table in tables}


def test_the_sample_reaches_every_table(from_scratch: dict[str, Counter]) -> None:
    assert all(from_scratch.values()), "a table without a row proves nothing"


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_laws_hold_for_a_random_schedule(
    seed: int, sample: dict[str, Any], from_scratch: dict[str, Counter], spark: Any, lake_home: Path
) -> None:
    chance = random.Random(seed)
    for table, rows in sample["current"]:
        load(table, rows)
    tables = [name for name in lineage.in_order() if not contracts.get(name).is_source]
    arrivals: list[Any] = [*sample["first"]]
    chance.shuffle(arrivals)
    replaced = {(table, day): rows for table, day, rows in sample["late"]}
    late = list(replaced)
    chance.shuffle(late)
    # The first files, in any order; then builds of any table and range, while late files arrive.
    for table, _, rows in arrivals:
        load(table, rows)
    built = 0
    for step in range(8):
        for cell in late[step * len(late) // 8 : (step + 1) * len(late) // 8]:
            load(cell[0], replaced[cell])
        first = chance.choice(DAYS)
        last = chance.choice([day for day in DAYS if day >= first])
        try:
            outcome = runner.build(
                chance.choice(tables), first, last, force=chance.random() < 0.3, spark=spark, log=lambda line: None
            )
            built += len(outcome.days)
        except InputsMissing:
            continue
    assert built, "a schedule that built nothing proves nothing"
    found = build_all(spark)
    for table, rows in from_scratch.items():
        assert found[table] == rows, f"seed {seed}: {table} differs from a build from scratch"
