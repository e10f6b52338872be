"""The tables of the RudderStack sessions: their SELECTs give what plain Python gives, over random histories."""

import os
import random
from collections import Counter
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
from tests import rudder_oracle
from tests.builders import Progress, how_many, require_rows, sample

pytestmark = pytest.mark.spark

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
# Around the limit of a session, and nothing at all: many events of one instant.
STEPS = [
    timedelta(minutes=m, seconds=s) for m, s in ((0, 0), (0, 0), (0, 59), (5, 0), (29, 59), (30, 0), (30, 59), (31, 0))
]
STEPS += [timedelta(hours=7), timedelta(minutes=30, seconds=59, microseconds=999_999), timedelta(days=2)]
# x and y are devices and users, too. '' and None are no ids.
DEVICES = ["a", "b", "c", "x", "y", "", None]
USERS = ["u", "v", "x", "y", "a", "", "", None, None, None, None, None]
EVENTS = ["viewed_product", "view_product", "signup", "page", "Viewed_product", "", None]


def random_tracks(chance: random.Random) -> list[dict[str, Any]]:
    """A small history: visitors that logins join, ties, and deliveries that come twice and contradict each other."""
    moment, tracks = MIDNIGHT, list[dict[str, Any]]()
    for _ in range(chance.randint(0, 14)):
        moment += chance.choice(STEPS)
        tracks.append(
            {
                "id": f"e{chance.randint(0, 12)}",
                "anonymous_id": chance.choice(DEVICES),
                "user_id": chance.choice(USERS),
                "event": chance.choice(EVENTS),
                "timestamp": moment - chance.choice([timedelta(0)] * 9 + [timedelta(days=1)]),
            }
        )
    chance.shuffle(tracks)
    return [{**track, "part_date": track["timestamp"].date().isoformat()} for track in tracks]


TABLES = [name for name in lineage.in_order() if name.startswith("rudder.") and contracts.get(name).kept_by]
VIEW = "rudder.dbt_top_users_by_avg_session_duration"


def computed(spark: Any, table: str, names: list[str]) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    """What the SELECT of a table gives over the views of the session, times as microseconds; and reason -> drops."""
    types = {column.name: column.type for column in contracts.get(table).columns}
    exact = [f"unix_micros({name})" if types[name] == "timestamp" else name for name in names]
    frame = runner.compute(spark, table, "2026-03-02", "2026-03-02").selectExpr(DROP_REASON, *exact)
    rows = [tuple(row) for row in frame.collect()]
    return [row[1:] for row in rows if row[0] is None], dict(Counter(row[0] for row in rows if row[0]))


def exact(value: Any) -> Any:
    return (value - EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else value


def of_history(tracks: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The tracks with ids that no other history has."""
    ids = ("id", "anonymous_id", "user_id")
    return [{**track, **{name: track[name] and f"{track[name]}.{seed}" for name in ids}} for track in tracks]


@pytest.mark.parametrize("bundle", range(8))
def test_the_selects_give_what_plain_python_gives(spark: Any, bundle: int) -> None:
    """Many histories at once: one has no id of another, so each is computed as if it were alone."""
    assert len(TABLES) == 9
    share = -(-sample(how_many(400)) // 8)
    seeds = range(bundle * share, (bundle + 1) * share)
    tracks = [track for seed in seeds for track in of_history(random_tracks(random.Random(seed)), seed)]
    expected = rudder_oracle.oracle(tracks)
    assert expected.keys() == set(TABLES)
    cases.register(spark, "rudder.tracks", tracks)
    for table in TABLES:
        names = contracts.get(table).column_names
        wanted = [tuple(exact(row[name]) for name in names) for row in expected[table]]
        rows, drops = computed(spark, table, names)
        assert wanted and cases.differences(wanted, rows, names, dict.fromkeys(names, "")) == [], table
        assert drops == (rudder_oracle.dropped(tracks) if table == "rudder.dbt_unique_tracks" else {})
        cases.register(spark, table, expected[table])
    longest_first = rudder_oracle.top_users(expected["rudder.dbt_session_duration"])
    rows, _ = computed(spark, VIEW, ["dbt_visitor_id", "avg_session_duration"])
    assert rows == [tuple(row.values()) for row in longest_first]


DAYS = day_range("2026-03-01", "2026-03-04")
HISTORIES = how_many(50)
# Histories that share the builds of a lake: one has no id of another.
OF_A_LAKE = 500 if HISTORIES >= 500 else 50


@pytest.mark.parametrize("spark", [settings.SAIL, *([settings.SPARK] if os.environ.get("N") else [])], indirect=True)
def test_whatever_the_history_of_builds(lake_home: Path, monkeypatch: pytest.MonkeyPatch, spark: Any) -> None:
    """Days come late, in any order, again with other events, and are built in ranges: the tables equal plain Python."""
    progress = Progress(HISTORIES, "histories")
    for lake in range(sample(-(-HISTORIES // OF_A_LAKE))):
        monkeypatch.setenv("LAKE_HOME", str(lake_home / str(lake)))
        chance = random.Random(lake)
        world = {day: events_of(chance, day) for day in DAYS}
        for day in [*chance.sample(DAYS, len(DAYS)), chance.choice(DAYS)]:
            load(day, world[day])
            build_some(chance, spark)
            if chance.random() < 0.5:  # a correction
                world[day] = events_of(chance, day)
                load(day, world[day])
        for table in TABLES:
            runner.build(table, DAYS[0], DAYS[-1], spark=spark, log=lambda line: None)
        look = Look()
        assert {look.state(table, day).state for table in TABLES for day in DAYS} == {FRESH}
        require_rows(rudder_oracle.oracle([track for day in DAYS for track in world[day]]), TABLES, f"lake {lake}")
        progress.add(OF_A_LAKE)


def events_of(chance: random.Random, day: str) -> list[dict[str, Any]]:
    """The events of a day, of all histories."""
    histories = (of_history(random_tracks(chance), number) for number in range(OF_A_LAKE))
    return [track for tracks in histories for track in tracks if track["part_date"] == day]


def load(day: str, tracks: list[dict[str, Any]]) -> None:
    contract = contracts.get("rudder.tracks")
    rows = pa.Table.from_pylist(tracks, schema=storage.arrow_schema(contract))
    record = {"load_id": "test", "table": contract.table, "empty_days": [] if tracks else [day]}
    storage.replace(contract, rows, partitions=[day], record=record)


def build_some(chance: random.Random, spark: Any) -> None:
    first, last = sorted(chance.choices(DAYS, k=2))
    for table in TABLES[: chance.randint(1, 2 * len(TABLES))]:
        with suppress(InputsMissing):
            force = chance.random() < 0.2
            runner.build(table, first, last, force=force, spark=spark, log=lambda line: None)
