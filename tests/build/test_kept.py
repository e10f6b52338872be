"""Tables kept by key: whatever the history of loads and builds, they equal one build over all days taken in."""

import os
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from include.lake import settings
from include.lake.build import runner
from include.lake.errors import CheckFailed, WriteConflict
from include.lake.project import contracts
from include.lake.state import ledger
from include.lake.state.look import FRESH, MISSING, STALE
from include.lake.storage import delta_files as storage
from tests import builders
from tests.buyers import (
    DAYS,
    FILES,
    TABLES,
    Events,
    build,
    expected,
    found,
    load,
    rows,
    some_builds,
    some_events,
    states,
)
from tests.conftest import ENGINES

pytestmark = pytest.mark.spark

HISTORIES = builders.how_many(2)


@pytest.fixture
def shop(project: Any, lake_home: Path) -> Any:
    project(FILES)
    return project


@ENGINES
def test_a_login_of_today_moves_what_was_bought_before(shop: Any, spark: Any) -> None:
    world: dict[str, Events] = {DAYS[0]: [("phone", None, 5), ("tablet", "ann", 1)]}
    load(DAYS[0], world[DAYS[0]])
    build(spark, DAYS[0])
    assert rows("shop.buyer") == [("ann", 1, 1), ("phone", 1, 5)]
    world[DAYS[1]] = [("phone", "ann", 2)]
    load(DAYS[1], world[DAYS[1]])
    assert states(*DAYS[:2]) == {table: [FRESH, MISSING] for table in TABLES}
    build(spark, DAYS[1])
    assert rows("shop.buyer") == [("ann", 3, 8)]
    assert found() == expected(world)
    assert states(*DAYS[:2]) == {table: [FRESH, FRESH] for table in TABLES}
    # The login is taken back, and with it its purchase: the phone is nobody's again.
    world[DAYS[1]] = []
    load(DAYS[1], [])
    assert states(*DAYS[:2]) == {table: [FRESH, STALE] for table in TABLES}
    build(spark, DAYS[1])
    assert rows("shop.buyer") == [("ann", 1, 1), ("phone", 1, 5)]
    assert found() == expected(world)


def test_a_build_computes_the_touched_keys_alone(shop: Any, spark: Any) -> None:
    load(DAYS[0], [("phone", "ann", 5), ("tablet", "bob", 1)])
    build(spark, DAYS[0])
    before = built_at("shop.buyer")
    load(DAYS[1], [("laptop", "ann", 2)])
    build(spark, DAYS[1])
    after = built_at("shop.buyer")
    assert after["bob"] == before["bob"] and after["ann"] > before["ann"]
    assert [(row["partition"], row["rows"]) for row in ledger.read(["shop.buyer"])] == [(DAYS[0], 2), (DAYS[1], 1)]


def test_what_came_and_went_between_the_builds_of_its_day(shop: Any, spark: Any) -> None:
    """A build of another day has read it in the meantime."""
    world: dict[str, Events] = {}
    for day, events in (
        (DAYS[0], [("tablet", "bob", 1)]),
        (DAYS[0], [("tablet", "bob", 1), ("phone", "ann", 5)]),
        (DAYS[1], [("laptop", "ann", 2), ("phone", None, 3)]),
    ):
        world[day] = events
        load(day, events)
        if day == DAYS[1] or len(events) == 1:
            build(spark, day)
            assert states(day) == {table: [FRESH] for table in TABLES}
    assert states(DAYS[0]) == {table: [FRESH] for table in TABLES}, "its rows are read, so it is taken in again"
    world[DAYS[0]] = [("tablet", "bob", 1)]
    load(DAYS[0], world[DAYS[0]])
    build(spark, *DAYS[:2])
    assert found() == expected(world)


def test_every_line_names_the_days_that_a_build_takes_in(shop: Any, spark: Any) -> None:
    """They are one commit, also with a fresh day between them."""
    for day in DAYS[:4]:
        load(day, [("phone", "ann", 5)])
    build(spark, DAYS[1], tables=["shop.owner"])
    lines: list[str] = []
    runner.build("shop.owner", DAYS[0], DAYS[3], spark=spark, log=lines.append)
    assert lines and all(line.startswith(f"shop.owner {DAYS[0]}, {DAYS[2]}..{DAYS[3]}") for line in lines)
    assert lines[-1].endswith(", already fresh: 1")


def test_a_day_that_is_taken_in_again_is_named(shop: Any, spark: Any) -> None:
    """Its rows may be what fails a check of a build of another day."""
    for day in DAYS[:2]:
        load(day, [("phone", "ann", 5)])
        build(spark, day)
    load(DAYS[0], [("phone", "bob", 5)])
    lines: list[str] = []
    load(DAYS[2], [("phone", "ann", 1)])
    runner.build("shop.owner", DAYS[2], DAYS[2], spark=spark, log=lines.append)
    assert f"shop.owner {DAYS[2]}: computing and checking; with {DAYS[0]}, which changed since (" in lines[0]
    runner.build("shop.owner", DAYS[2], DAYS[2], spark=spark, log=lines.append, force=True)
    assert not any("which changed since" in line for line in lines[1:])


def test_a_check_that_fails_while_inputs_do_not_fit_together_is_tried_again(
    shop: Any, spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owners know a device of the late event only when their own late day is built."""
    shop({"shop/buyer.sql": FILES["shop/buyer.sql"].replace("inner join", "left join")})
    monkeypatch.setattr(runner, "_ATTEMPTS", 1)
    load(DAYS[0], [("phone", "ann", 5)])
    build(spark, DAYS[0])
    load(DAYS[0], [("phone", "ann", 5), ("tablet", "bob", 1)])
    with pytest.raises(WriteConflict, match=r"(?s)buyer is not null.*have read different versions of shop.event"):
        build(spark, DAYS[0], tables=["shop.buyer"], force=True)
    build(spark, DAYS[0])
    assert rows("shop.buyer") == [("ann", 1, 5), ("bob", 1, 1)]
    load(DAYS[0], [("phone", "ann", -5)])
    with pytest.raises(CheckFailed):
        build(spark, DAYS[0])


def built_at(table: str) -> dict[str, Any]:
    """Buyer -> when its row was computed."""
    delta = storage.open_table(table)
    assert delta is not None
    return {row["buyer"]: row["run_timestamp"] for row in delta.to_pyarrow_table().to_pylist()}


@pytest.mark.parametrize("engine", [settings.SAIL, *([settings.SPARK] if os.environ.get("N") else [])])
def test_builds_of_different_days_at_once_lose_and_repeat_nothing(engine: str, project: Any, lake_home: Path) -> None:
    """Law 5: each day touches every key, so each build has to see those before it. And law 4: one is killed."""
    days = DAYS if os.environ.get("N") else DAYS[:4]
    with builders.a_shop(engine, project):
        project(FILES)
        chance = random.Random(1)
        names = ["a", "b", "c", "d"]
        world: dict[str, Events] = {
            day: [(name, chance.choice(["u", "v", None]), chance.randint(0, 9)) for name in names] for day in days
        }
        for day in days:
            load(day, world[day])
        for table in TABLES[:2]:
            running = [builders.start(build_in_a_process, table, day) for day in (*days, days[0])]
            time.sleep(chance.uniform(0.5, 2))
            running.pop().kill()
            for process in running:
                builders.end_well(process)
        build_in_a_process("shop.level", days[0], days[-1])
        assert found() == expected(world)
        for table in TABLES[:2]:
            keys_are_unique_in_every_version(table)


def build_in_a_process(table: str, first: str, last: str = "") -> None:
    while True:
        with suppress(WriteConflict):  # what Airflow would try again
            runner.build(table, first, last or first, log=lambda line: None)
            return


def keys_are_unique_in_every_version(table: str) -> None:
    newest = storage.open_table(table)
    assert newest is not None and newest.version() >= 3
    (key,) = contracts.get(table).key
    for version in range(newest.version() + 1):
        delta = storage.open_table(table, version)
        assert delta is not None
        keys = delta.to_pyarrow_table(columns=[key])[key].to_pylist()
        assert len(keys) == len(set(keys)), f"{table} at version {version}"


def test_whatever_the_history(project: Any, lake_home: Path, monkeypatch: pytest.MonkeyPatch, spark: Any) -> None:
    chance = random.Random(HISTORIES)
    progress = builders.Progress(HISTORIES, "histories")
    for number in range(HISTORIES):
        monkeypatch.setenv("LAKE_HOME", str(lake_home / str(number)))
        project(FILES)
        world: dict[str, Events] = {}
        for day in chance.sample(DAYS, len(DAYS)):
            world[day] = some_events(chance)
            load(day, world[day])
            for _ in range(chance.randint(0, 2)):
                some_builds(chance, world, spark)
        for day in chance.choices(DAYS[:3], k=3):  # corrections, of a day that was corrected before, too
            world[day] = some_events(chance)
            load(day, world[day])
            some_builds(chance, world, spark)
        build(spark, DAYS[0], DAYS[-1])
        assert found() == expected(world), f"history {number}"
        assert states(*DAYS) == {table: [FRESH] * len(DAYS) for table in TABLES}
        progress.add()
