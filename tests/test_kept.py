"""Tables kept by key: whatever the history of loads and builds, they equal one build over all days taken in.

A device belongs to the user of its newest event that names one (shop.owner). So an event of today may move what the
device bought on earlier days to another buyer (shop.buyer), and the buyers before and after it are touched.
"""

import os
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from include.lake import settings
from include.lake.build import runner
from include.lake.errors import InputsMissing, WriteConflict
from include.lake.project import contracts
from include.lake.project.days import day_range
from include.lake.state import ledger
from include.lake.state.look import FRESH, MISSING, STALE, Look
from include.lake.storage import delta_files as storage
from tests import builders
from tests.conftest import ENGINES

pytestmark = pytest.mark.spark

SOURCE = """\
about: Purchases.
partitioned_by: [day]
columns:
  - {name: device, type: string}
  - {name: user, type: string}
  - {name: amount, type: bigint}
  - {name: day, type: string}
"""
OWNER = """\
about: The user of each device.
key: [device]
kept_by: [device]
partitioned_by: [newest_day]
columns:
  - {name: device, type: string}
  - {name: buyer, type: string, nullable: false}
  - {name: newest_day, type: string}
"""
OWNER_SQL = """\
with ranked as (
    select
        event.device,
        event.user as buyer,
        max(event.day) over (partition by event.device) as newest_day,
        row_number() over (
            partition by event.device order by event.user is null, event.day desc, event.user
        ) as place
    from shop.event as event
    where event.device is not null
)
select device, coalesce(buyer, device) as buyer, newest_day from ranked where place = 1
"""
BUYER = """\
about: What each buyer has spent.
key: [buyer]
kept_by: [buyer]
columns:
  - {name: buyer, type: string}
  - {name: purchases, type: bigint}
  - {name: spent, type: bigint}
  - {name: run_timestamp, type: timestamp}
touched_by:
  shop.event:
    keys: select owner.buyer from changed inner join shop.owner as owner on owner.device = changed.device
    rows: >
      select event.* from shop.event as event
      left semi join (
          select owner.device from shop.owner as owner left semi join touched on touched.buyer = owner.buyer
      ) as device on device.device = event.device
checks: [spent >= 0]
"""
BUYER_SQL = """\
select owner.buyer, count(*) as purchases, sum(event.amount) as spent
from shop.event as event
inner join shop.owner as owner on owner.device = event.device
group by owner.buyer
"""
LEVEL = """\
about: How much each buyer spends on average.
key: [buyer]
kept_by: [buyer]
columns:
  - {name: buyer, type: string}
  - {name: average, type: double}
"""
LEVEL_SQL = "select buyer.buyer, buyer.spent / buyer.purchases as average from shop.buyer as buyer\n"
FILES = {
    "shop/event.yaml": SOURCE,
    "shop/owner.yaml": OWNER, "shop/owner.sql": OWNER_SQL,
    "shop/buyer.yaml": BUYER, "shop/buyer.sql": BUYER_SQL,
    "shop/level.yaml": LEVEL, "shop/level.sql": LEVEL_SQL,
}  # fmt: skip
TABLES = ["shop.owner", "shop.buyer", "shop.level"]
DAYS = day_range("2026-01-01", "2026-01-06")
HISTORIES = builders.how_many(2)
Events = list[tuple[str | None, str | None, int]]


@pytest.fixture
def shop(project: Any, lake_home: Path) -> Any:
    project(FILES)
    return project


def load(day: str, events: Events) -> None:
    contract = contracts.get("shop.event")
    columns = [list(column) for column in zip(*events, strict=True)] if events else [[], [], []]
    rows = pa.table([*columns, [day] * len(events)], schema=storage.arrow_schema(contract))
    record = {"load_id": "test", "table": "shop.event", "empty_days": [] if events else [day]}
    storage.replace(contract, rows, partitions=[day], record=record)


def build(spark: Any, *days: str, tables: list[str] = TABLES, force: bool = False) -> None:
    for table in tables:
        runner.build(table, days[0], days[-1], spark=spark, force=force, log=lambda line: None)


def rows(table: str) -> list[tuple[Any, ...]]:
    delta = storage.open_table(table)
    assert delta is not None
    names = [name for name in contracts.get(table).column_names if name != "run_timestamp"]
    return sorted(tuple(row.values()) for row in delta.to_pyarrow_table(columns=names).to_pylist())


def expected(world: dict[str, Events]) -> dict[str, list[tuple[Any, ...]]]:
    """The three tables of all events of some days, in plain Python."""
    owner: dict[str, tuple[str, str]] = {}
    events = [(device, user, amount, day) for day in world for device, user, amount in world[day] if device]
    for device in {event[0] for event in events}:
        own = [(day, user) for other, user, _, day in events if other == device]
        named = [(day, user) for day, user in own if user]
        newest = max(day for day, _ in named) if named else ""
        owner[device] = (
            min([user for day, user in named if day == newest], default=device),
            max(day for day, _ in own),
        )
    purchases, spent = Counter[str](), Counter[str]()
    for device, _, amount, _ in events:
        purchases[owner[device][0]] += 1
        spent[owner[device][0]] += amount
    return {
        "shop.owner": sorted((device, *facts) for device, facts in owner.items()),
        "shop.buyer": sorted((buyer, purchases[buyer], spent[buyer]) for buyer in purchases),
        "shop.level": sorted((buyer, spent[buyer] / purchases[buyer]) for buyer in purchases),
    }


def found() -> dict[str, list[tuple[Any, ...]]]:
    return {table: rows(table) for table in TABLES}


def states(*days: str) -> dict[str, list[str]]:
    look = Look()
    return {table: [look.state(table, day).state for day in days] for table in TABLES}


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
        for day in chance.sample(DAYS, 2):  # corrections
            world[day] = some_events(chance)
            load(day, world[day])
            some_builds(chance, world, spark)
        build(spark, DAYS[0], DAYS[-1])
        assert found() == expected(world), f"history {number}"
        assert states(*DAYS) == {table: [FRESH] * len(DAYS) for table in TABLES}
        progress.add()


def some_events(chance: random.Random) -> Events:
    return [
        (
            chance.choice(["a", "b", "c", "d", "e", "f", None]),
            chance.choice(["u", "v", "w", "a", None, None]),
            chance.randint(0, 9),
        )
        for _ in range(chance.randint(0, 4))
    ]


def some_builds(chance: random.Random, world: dict[str, Events], spark: Any) -> None:
    first, last = sorted(chance.choices(DAYS, k=2))
    for table in TABLES[: chance.randint(1, len(TABLES))]:
        with suppress(InputsMissing):
            build(spark, first, last, tables=[table], force=chance.random() < 0.3)
