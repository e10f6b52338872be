"""The six laws on every table that we build, found by discovery: whatever the history, the same rows in the end.

A history goes over some weeks of a made-up world: files arrive late, in any order and again, tables are built a day or
a range at a time, again without need, before their inputs are all there. When all has arrived, whatever is due is
built, and each table has to equal, row for row, one that was built at once from what is there. So a history is an
example for each table and day, and the days of a range share the cost of a Spark job: `make test` tries some hundred
of these examples, `make laws N=…` at least N, of other worlds.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from include.lake import settings as lake_settings
from include.lake.build import runner
from include.lake.engine import databricks
from include.lake.errors import InputsMissing
from include.lake.project import contracts, lineage
from include.lake.project.days import day_range
from include.lake.state.look import FRESH, Look
from include.lake.storage import store
from include.sample import generate
from tests import builders
from tests.conftest import EVERYWHERE
from tests.databricks import statements

pytestmark = pytest.mark.spark

DAYS = day_range("2026-03-02", "2026-04-04")
SCALE = 0.002  # some dozens of users, some hundred calls a day
# In `make test` without those of the audio warehouse, of which test_audio.py tries more with fewer builds.
TABLES = [
    name
    for name in lineage.in_order()
    if contracts.get(name).is_built and (os.environ.get("N") or not name.startswith("audio_"))
]
SOURCES = [name for name in lineage.in_order() if contracts.get(name).is_source]
EXAMPLES = builders.how_many(200)
PATHS = 2  # histories that end in the same state of the world, and are compared with one build from scratch
EXAMPLES_OF_A_PATH = len(DAYS) * len(TABLES)
# The sample on Spark, where a build takes ten times as long: a few days, and no table kept by key (see test_kept.py).
# On Databricks (Spark, too, by its own way of commits) as few days, and with N=… the tables kept by key but the vault.
SPARK_DAYS = DAYS[:2]
SPARK_TABLES = [name for name in TABLES if not contracts.get(name).kept_by]
WORLDS = -(-EXAMPLES // (EXAMPLES_OF_A_PATH * PATHS))
STEPS = 3
LATE, ABSENT = 8, 4  # days of each source that arrive (again) in the course of a history; days not there before that

progress = builders.Progress(WORLDS * PATHS * EXAMPLES_OF_A_PATH, "examples")

# table -> day -> rows; the day of a source without days is ''.
World = dict[str, dict[str, pa.Table]]


def tables_of_engine() -> list[str]:
    """All tables on Sail, and with N=…; else a sample of them on Spark, in the order in which they are built."""
    if lake_settings.on_databricks():
        return [name for name in TABLES if not name.startswith("audio_")]
    return TABLES if lake_settings.engine() == lake_settings.SAIL or os.environ.get("N") else SPARK_TABLES


def days_of_engine() -> list[str]:
    """All days on Sail, and with N=…; else a sample of them on Spark."""
    engine = lake_settings.engine()
    on_all = engine == lake_settings.SAIL or (engine == lake_settings.SPARK and os.environ.get("N"))
    return DAYS if on_all else SPARK_DAYS


@cache
def world(number: int) -> World:
    """All sources, made up anew for each number."""
    found: World = {table: {"": rows} for table, rows in generate.current(SCALE, number)}
    for table, day, rows in generate.days(DAYS[0], DAYS[-1], SCALE, number):
        found.setdefault(table, {})[day] = rows
    return found


def load(delivered: dict[str, dict[str, int]]) -> None:
    """Files of these sources and days (source -> day -> number of the world that its rows are of)."""
    for table, days in delivered.items():
        store().replace(
            contracts.get(table), pa.concat_tables(world(number)[table][day] for day, number in days.items())
        )


def rows_of(table: str) -> Counter:
    """The rows of a table, each with how often it is there; without the one column that may differ."""
    return Counter(tuple(map(str, row.values())) for row in builders.published(table))


def build(spark: Any, table: str, days: list[str], force: bool = False) -> int:
    """How many days were built; none where an input is missing."""
    try:
        outcome = runner.build(table, days[0], days[-1], force=force, spark=spark, log=lambda line: None)
    except InputsMissing:
        return 0
    return len(outcome.days)


def build_all(spark: Any) -> dict[str, Counter]:
    """Table -> rows, with all that is due built."""
    for table in tables_of_engine():
        build(spark, table, days_of_engine())
    lake = Look()
    assert {lake.state(table, day).state for table in tables_of_engine() for day in days_of_engine()} == {FRESH}
    return {table: rows_of(table) for table in tables_of_engine()}


def a_build(chance: random.Random) -> tuple[list[str], list[str], bool]:
    """(tables, days, force). A table mostly comes with those that it reads, and now and then without.

    Of a sample of days one, for all tables.
    """
    days = days_of_engine()
    every = tables_of_engine()
    if days != DAYS:
        return every, [chance.choice(days)], False
    until, first = chance.randint(1, len(every)), chance.randrange(len(days))
    tables = every[:until] if chance.random() < 0.8 else [every[until - 1]]
    return tables, days[first : first + chance.randint(1, 10)], chance.random() < 0.3


@pytest.fixture
def empty_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: Any) -> Callable[[], None]:
    """Gives a function that makes an empty lake and enters it."""
    numbers = iter(range(10_000))

    def enter() -> None:
        monkeypatch.setenv("LAKE_HOME", str(tmp_path / str(next(numbers))))
        if lake_settings.on_databricks():
            statements.empty_catalog(spark)
            databricks.enter(spark)  # another run: one knows the columns of its ledger

    return enter


def test_there_is_something_to_test() -> None:
    assert TABLES and set(world(1)) == set(SOURCES)


@EVERYWHERE
@seed(EXAMPLES)
@settings(
    max_examples=WORLDS, deadline=None, database=None, suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # to shrink a history would take an hour
)  # fmt: skip
# A seed is drawn, and not step by step: the first examples of hypothesis are the simplest, and here are few.
@given(chance=st.randoms(use_true_random=True))
def test_whatever_the_history(chance: random.Random, empty_lake: Callable[[], None], spark: Any) -> None:
    number = chance.randrange(10_000)
    early = {table: dict.fromkeys(days, number) for table, days in world(number).items()}
    late = [
        (table, day, number + chance.randint(0, 1))  # the same rows again, or those of a later state of the world
        for table in sorted(generate.DAILY)
        for day in chance.sample(DAYS, LATE)
    ]
    empty_lake()
    load(early)
    load(of_tables(late))
    expected = build_all(spark)
    assert all(expected.values()), "a table without a row proves nothing"

    paths, steps = (PATHS, STEPS) if days_of_engine() == DAYS else (1, 1)
    for _ in range(paths):
        chance.shuffle(late)
        absent = {(table, day) for table, day, _ in late[:ABSENT]}
        arriving, built = iter(chance.sample(late, len(late))), 0
        empty_lake()
        load({table: {day: of for day, of in days.items() if (table, day) not in absent}
              for table, days in early.items()})  # fmt: skip
        for _ in range(steps):
            load(of_tables(islice(arriving, chance.randint(0, LATE))))
            tables, days, force = a_build(chance)
            built += sum(build(spark, table, days, force) for table in tables)
        assert built, "a history without a build proves nothing"
        load(of_tables(arriving))
        found = build_all(spark)
        for table in tables_of_engine():
            assert found[table] == expected[table], f"{table}: {list((found[table] - expected[table]).items())[:3]}"
        progress.add(EXAMPLES_OF_A_PATH)


def of_tables(late: Iterable[tuple[str, str, int]]) -> dict[str, dict[str, int]]:
    """(source, day, number) as `load` wants them."""
    found: dict[str, dict[str, int]] = {}
    for table, day, number in late:
        found.setdefault(table, {})[day] = number
    return found
