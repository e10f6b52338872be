"""Tables kept by key, shop.event -> shop.owner -> shop.buyer -> shop.level, and what they are in plain Python.

A device belongs to the user of its newest event that names one (shop.owner). So an event of today may move what the
device bought on earlier days to another buyer (shop.buyer), and the buyers before and after it are touched.
"""

import random
from collections import Counter
from contextlib import suppress
from typing import Any

import pyarrow as pa

from include.lake.build import runner
from include.lake.errors import InputsMissing
from include.lake.project import contracts
from include.lake.project.days import day_range
from include.lake.state.look import Look
from include.lake.storage import load_record, store
from include.lake.storage.arrow import arrow_schema

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
Events = list[tuple[str | None, str | None, int]]


def load(day: str, events: Events) -> None:
    contract = contracts.get("shop.event")
    columns = [list(column) for column in zip(*events, strict=True)] if events else [[], [], []]
    rows = pa.table([*columns, [day] * len(events)], schema=arrow_schema(contract))
    record = load_record(contract, "test", {day: len(events)} if events else {}, () if events else [day])
    store().replace(contract, rows, partitions=[day], record=record)


def build(spark: Any, *days: str, tables: list[str] = TABLES, force: bool = False) -> None:
    for table in tables:
        runner.build(table, days[0], days[-1], spark=spark, force=force, log=lambda line: None)


def rows(table: str) -> list[tuple[Any, ...]]:
    snapshot = store().open(table)
    assert snapshot is not None
    names = [name for name in contracts.get(table).column_names if name != "run_timestamp"]
    return sorted(tuple(row.values()) for row in store().rows(snapshot).select(names).to_pylist())


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
