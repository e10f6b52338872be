"""The audio warehouse gives what plain Python gives, over random histories, whatever the order of builds."""

import os
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from include.lake import settings
from include.lake.build import cases, runner
from include.lake.errors import InputsMissing
from include.lake.project import contracts, lineage
from include.lake.project.contracts import DROP_REASON
from include.lake.project.days import day_range
from include.lake.state.look import FRESH, Look
from include.lake.storage import delta_files as storage
from tests import audio_oracle
from tests.audio_oracle import SOURCES, Events, Row
from tests.builders import Progress, how_many, require_rows, sample

pytestmark = pytest.mark.spark

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAYS = day_range("2026-03-01", "2026-03-04")
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
TABLES = [name for name in lineage.in_order() if name.startswith("audio_") and contracts.get(name).is_built]
HISTORIES = how_many(100)
OF_A_LAKE = 250  # histories that share the builds of a lake: one has no key of another

# Few values, so that they meet: two spellings of one key, nulls, a city in two states, a place with two zips.
PLACES = [
    {"city": "Springfield", "state": "IL", "zip": "62701", "lat": 39.78, "lon": -89.65},
    {"city": "springfield ", "state": "MA", "zip": "01103", "lat": 42.101483, "lon": -72.589811},
    {"city": "Springfield", "state": "IL", "zip": "62702", "lat": 39.7800004, "lon": -89.65},
    {"city": "Nowhere", "state": None, "zip": None, "lat": None, "lon": None},
    {"city": "", "state": "TX", "zip": " ", "lat": 31.0, "lon": None},
    {"city": "Bodo", "state": None, "zip": None, "lat": 66.3028655, "lon": -129.9474775},
]
AGENTS = ['"Mozilla/5.0 (X11)"', "Mozilla/5.0 (X11)", "mozilla/5.0 (x11)", None, ""]
SONGS = [("Björk", "Hyperballad"), ("björk ", "HYPERBALLAD"), ("Can", "Vitamin C"), (None, "Untitled"), (None, None)]
PROFILES = [("Ann", "Lee", "F"), ("ann", "Lee", "F"), ("Ann", "Ray", "F"), (None, None, None)]
STEPS = [timedelta(milliseconds=m) for m in (0, 0, 1, 499, 60_000, 7_200_000, 40_000_000)]


def random_events(chance: random.Random) -> Events:
    """A small history: few users and sessions, ties, repeated events, and days of any order."""
    found: Events = {source: [] for source in SOURCES}
    moment = MIDNIGHT + chance.choice([timedelta(0), timedelta(hours=23, minutes=59)])
    for _ in range(chance.randint(0, 12)):
        moment += chance.choice(STEPS)
        if moment >= MIDNIGHT + timedelta(days=len(DAYS)):
            break
        source = chance.choice([*SOURCES, "listen_events", "auth_events"])
        first, last, gender = chance.choice(PROFILES)
        artist, song = chance.choice(SONGS)
        event: Row = {
            "ts": moment,
            "session_id": chance.choice([1, 1, 2, None]),
            "user_id": chance.choice([1, 1, 1, 2, None]),
            "level": chance.choice(["free", "Free", "paid", None]),
            "user_agent": chance.choice(AGENTS),
            "first_name": first, "last_name": last, "gender": gender,
            "registration": chance.choice([MIDNIGHT, None]),
            **chance.choice(PLACES),
        }  # fmt: skip
        event |= {
            "listen_events": {"artist": artist, "song": song, "duration": chance.choice([0.5, 1.5, 219.49, None]),
                              "auth": chance.choice(["Logged In", "Guest", None])},
            "auth_events": {"success": chance.choice([True, True, False])},
            "page_view_events": {"page": chance.choice(["Home", "NextSong"]), "method": "GET", "status": 200},
        }.get(source, {})  # fmt: skip
        found[source] += [event] * chance.choice([1, 1, 1, 2])
        if chance.random() < 0.2:  # with the same keys, which take any spelling, and moments to the millisecond
            other = {**event, "ts": moment + timedelta(microseconds=chance.choice([0, 300]))}
            found[source].append({**other, "page": event["page"].lower()} if "page" in event else other)
            chance.shuffle(found[source])
    return found


def of_history(events: Events, number: int) -> Events:
    """The events with keys that no other history has."""
    found: Events = {}
    for source, rows in events.items():
        found[source] = []
        for row in rows:
            own = dict(row)
            for name in ("city", "state", "zip", "artist", "song", "level"):
                if own.get(name) and own[name].strip():
                    own[name] = own[name] if own[name] != own[name].strip() else f"{own[name]}.{number}"
                    own[name] = own[name].replace("springfield ", f"springfield.{number} ")
                    own[name] = own[name].replace("björk ", f"björk.{number} ")
            if own.get("user_agent"):
                own["user_agent"] = own["user_agent"].replace(")", f" {number})")
            for name in ("user_id", "session_id"):
                own[name] = own[name] and number * 10 + own[name]
            own["lat"] = own["lat"] and own["lat"] + number
            found[source].append(own)
    return found


def worlds(chance: random.Random, count: int) -> dict[str, Events]:
    """Day -> the events of all histories."""
    found: dict[str, Events] = {day: {source: [] for source in SOURCES} for day in DAYS}
    for number in range(count):
        for source, rows in of_history(random_events(chance), number).items():
            for row in rows:
                found[row["ts"].date().isoformat()][source].append(row)
    return found


def together(world: dict[str, Events]) -> Events:
    return {source: [row for day in world for row in world[day][source]] for source in SOURCES}


def exact(value: Any) -> Any:
    return (value - EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else value


def with_day(rows: list[Row]) -> list[Row]:
    return [{**row, "part_date": row["ts"].date().isoformat()} for row in rows]


def test_the_selects_give_what_plain_python_gives(spark: Any) -> None:
    """Many histories at once, each table from the expected rows of its inputs."""
    world = together(worlds(random.Random(1), sample(how_many(400))))
    expected = audio_oracle.oracle(world)
    assert expected.keys() == set(TABLES)
    for source in SOURCES:
        cases.register(spark, f"audio_raw.{source}", with_day(world[source]))
    for table in TABLES:
        columns = contracts.get(table).columns
        names = [column.name for column in columns]
        microseconds = [f"unix_micros({c.name})" if c.type == "timestamp" else c.name for c in columns]
        frame = runner.compute(spark, table, DAYS[0], DAYS[-1]).selectExpr(DROP_REASON, *microseconds)
        rows = [tuple(row) for row in frame.collect()]
        wanted = [tuple(exact(row[name]) for name in names) for row in expected[table]]
        found = [row[1:] for row in rows if row[0] is None]
        assert wanted and cases.differences(wanted, found, names, dict.fromkeys(names, "")) == [], table
        assert {row[0] for row in rows} <= {None, "no_session"}
        cases.register(spark, table, expected[table])


@pytest.mark.parametrize("spark", [settings.SAIL, *([settings.SPARK] if os.environ.get("N") else [])], indirect=True)
def test_whatever_the_history_of_builds(lake_home: Path, monkeypatch: pytest.MonkeyPatch, spark: Any) -> None:
    """Days come late, in any order, again with other events, and are built in ranges: the tables equal plain Python."""
    progress = Progress(HISTORIES, "histories")
    for lake in range(sample(-(-HISTORIES // OF_A_LAKE))):
        monkeypatch.setenv("LAKE_HOME", str(lake_home / str(lake)))
        chance = random.Random(lake)
        count = min(OF_A_LAKE, HISTORIES)
        world = worlds(chance, count)
        order = chance.sample(DAYS, len(DAYS)) if lake % 2 else DAYS
        for day in [*order, chance.choice(DAYS)]:
            load(day, world[day])
            build_some(chance, spark)
            if chance.random() < 0.4:  # a correction
                world[day] = worlds(chance, count)[day]
                load(day, world[day])
        build(spark, TABLES, DAYS[0], DAYS[-1])
        look = Look()
        assert {look.state(table, day).state for table in TABLES for day in DAYS} == {FRESH}
        require_rows(audio_oracle.oracle(together(world)), TABLES, f"lake {lake}")
        progress.add(count)


def load(day: str, events: Events) -> None:
    for source in SOURCES:
        contract = contracts.get(f"audio_raw.{source}")
        names = contract.column_names
        rows = [{name: row.get(name) for name in names} for row in with_day(events[source])]
        table = pa.Table.from_pylist(rows, schema=storage.arrow_schema(contract))
        record = {"load_id": "test", "table": contract.table, "empty_days": [] if rows else [day]}
        storage.replace(contract, table, partitions=[day], record=record)


def build_some(chance: random.Random, spark: Any) -> None:
    first, last = sorted(chance.choices(DAYS, k=2))
    build(spark, TABLES[: chance.randint(1, len(TABLES))], first, last)


def build(spark: Any, tables: list[str], first: str, last: str) -> None:
    for table in tables:
        with suppress(InputsMissing):
            runner.build(table, first, last, spark=spark, log=lambda line: None)
