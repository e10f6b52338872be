"""The six laws on every table that we build, found by discovery: whatever the history, the same rows in the end.

A history goes over some weeks of a made-up world: files arrive in any order and again, tables are built in any order, a
day or a range at a time, again without need, before their inputs are all there. In the end whatever is due is built,
and each table has to equal, row for row, one that was built at once from what is there. So a history is an example for
each table and day, and the days of a range share the cost of a Spark job: `make test` tries some hundred of these
examples, `make laws N=…` at least N, of other worlds.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from include.lake import contracts, lineage, runner, session, storage
from include.lake.contracts import RUN_TIMESTAMP
from include.lake.days import day_range
from include.lake.errors import InputsMissing
from include.lake.freshness import FRESH, Lake
from include.sample import generate
from tests import builders

pytestmark = pytest.mark.spark

DAYS = day_range("2026-03-02", "2026-04-04")
SCALE = 0.002  # some dozens of users, some hundred calls a day
TABLES = [name for name in lineage.in_order() if not contracts.get(name).is_source]
SOURCES = [name for name in lineage.in_order() if contracts.get(name).is_source]
EXAMPLES = builders.how_many(200)
STEPS = 7
HISTORIES = -(-EXAMPLES // (len(DAYS) * len(TABLES)))

# table -> day -> rows; the day of a source without days is ''.
World = dict[str, dict[str, pa.Table]]


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
        storage.replace_source(
            contracts.get(table), pa.concat_tables(world(number)[table][day] for day, number in days.items())
        )


def rows_of(table: str) -> Counter:
    """The rows of a table, each with how often it is there; without the one column that may differ."""
    delta = storage.open_table(table)
    assert delta is not None
    names = [name for name in contracts.get(table).column_names if name != RUN_TIMESTAMP]
    return Counter(tuple(map(str, row.values())) for row in delta.to_pyarrow_table(columns=names).to_pylist())


def build(spark: Any, table: str, days: list[str], force: bool = False) -> int:
    """How many days were built; none where an input is missing."""
    try:
        outcome = runner.build(table, days[0], days[-1], force=force, spark=spark, log=lambda line: None)
    except InputsMissing:
        return 0
    return len(outcome.days)


def build_all(spark: Any) -> dict[str, Counter]:
    """Table -> rows, with all that is due built."""
    for table in TABLES:
        build(spark, table, DAYS)
    lake = Lake()
    assert {lake.state(table, day).state for table in TABLES for day in DAYS} == {FRESH}
    return {table: rows_of(table) for table in TABLES}


def a_history(chance: random.Random) -> Iterator[tuple[list[str], list[str], bool]]:
    """Steps in a random order: (sources, days, False) for files that arrive, (tables, days, force) for builds.

    A build of a table mostly comes with those that it reads, and now and then without.
    """
    for _ in range(STEPS):
        first = chance.randrange(len(DAYS))
        if chance.random() < 0.3:
            yield chance.sample(sorted(generate.DAILY), 2), chance.sample(DAYS, chance.randint(1, 9)), False
        else:
            until = chance.randint(1, len(TABLES))
            tables = TABLES[:until] if chance.random() < 0.8 else [TABLES[until - 1]]
            yield tables, DAYS[first : first + chance.randint(1, 10)], chance.random() < 0.3


@pytest.fixture
def empty_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: Any) -> Callable[[], None]:
    """Gives a function that makes an empty lake and enters it."""
    for name, value in session.SESSION_CONF.items():
        spark.conf.set(name, value)
    numbers = iter(range(10_000))
    return lambda: monkeypatch.setenv("LAKE_HOME", str(tmp_path / str(next(numbers))))


def test_there_is_something_to_test() -> None:
    assert TABLES and set(world(1)) == set(SOURCES)


@seed(EXAMPLES)
@settings(
    max_examples=HISTORIES, deadline=None, database=None, suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # to shrink a history would take an hour
)  # fmt: skip
# A seed is drawn, and not step by step: the first examples of hypothesis are the simplest, and here are few.
@given(chance=st.randoms(use_true_random=True))
def test_whatever_the_history(chance: random.Random, empty_lake: Callable[[], None], spark: Any) -> None:
    number = chance.randrange(10_000)
    delivered = {table: dict.fromkeys(days, number) for table, days in world(number).items()}
    missing = {table: dict.fromkeys(chance.sample(DAYS, 3), number) for table in sorted(generate.DAILY)}
    empty_lake()
    load({table: {day: of for day, of in days.items() if day not in missing.get(table, ())}
          for table, days in delivered.items()})  # fmt: skip
    built = 0
    for tables, days, force in a_history(chance):
        if tables[0] in SOURCES:  # files of a later state of the world
            late = {table: dict.fromkeys(sorted(days), number + 1) for table in tables}
            load(late)
            for table in tables:
                delivered[table] |= late[table]
                missing[table] = {day: of for day, of in missing[table].items() if day not in late[table]}
        else:
            built += sum(build(spark, table, days, force) for table in tables)
    load({table: days for table, days in missing.items() if days})
    found = build_all(spark)
    assert built, "a history without a build proves nothing"

    empty_lake()
    load(delivered)
    expected = build_all(spark)
    for table in TABLES:
        assert expected[table], "a table without a row proves nothing"
        assert found[table] == expected[table], f"{table}: {list((found[table] - expected[table]).items())[:3]}"
