"""Track events as RudderStack delivers them: people who visit with several devices, and log in now and then.

Most people come for days and then stay away; few come back after months. So a day has the same volume whenever it is,
and the people of a day have a short history.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from include.sample.clock import DAY, MINUTE
from include.sample.draw import fill, generator, put, some, take, texts
from include.sample.universe import Universe

EVENTS = ("page", "viewed_product", "searched", "added_to_cart", "signup", "order_completed")
_CHANCES = np.array([42, 30, 14, 9, 2, 3]) / 100
_EVENTS_OF_A_VISIT = 7
_EVENTS_OF_A_DAY = 10_000  # at scale 1
# Days since the first visit of a person. Half of all visits are of the first two days.
_LAGS = np.arange(46)
_LAG_CHANCES = 1 / (1 + _LAGS) ** 1.4 / np.sum(1 / (1 + _LAGS) ** 1.4)
_RETURNS_LATE, _LATEST = 0.01, 400  # a share of visits, and days since the first visit
# People of each day who come for the first time. 1 << 20 of them would still have numbers of their own.
_PEOPLE_OF_A_VISIT = 0.5
_NUMBERS_OF_A_DAY = 1 << 20
# Shares of people and visits.
_HAVE_ACCOUNT, _LOG_IN, _SECOND_DEVICE, _USE_IT, _SHARE_A_DEVICE = 0.45, 0.4, 0.2, 0.35, 0.03
_REPEATED, _NO_ID, _EMPTY_TEXT, _OF_THE_DAY_BEFORE = 0.01, 0.002, 0.3, 0.002
# Visits that are delivered after their day was built: as many as this share of those in time.
_LATE_VISITS = 0.02


def _share(people: np.ndarray, salt: int) -> np.ndarray:
    """A number in [0, 1) that belongs to a person: the same on every day."""
    mixed = (people.astype(np.uint64) + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def tracks(world: Universe, day: int) -> dict[str, Any]:
    """The events of a UTC day that come in time, in the order in which they are delivered."""
    return _events(world, day, "tracks", "t", _visits(world))


def with_late_tracks(world: Universe, day: int) -> dict[str, Any]:
    """All events of a UTC day: after those in time the ones of phones without a network, days later."""
    in_time = tracks(world, day)
    late = _events(world, day, "late tracks", "late", max(1, round(_visits(world) * _LATE_VISITS)))
    return {name: pa.concat_arrays([column, late[name]]) for name, column in in_time.items()}


def _visits(world: Universe) -> int:
    return max(4, round(_EVENTS_OF_A_DAY * world.scale / _EVENTS_OF_A_VISIT))


def _events(world: Universe, day: int, stream: str, id_prefix: str, visits: int) -> dict[str, pa.Array]:
    rng = generator(world.seed, stream, day)
    lag = rng.choice(_LAGS, visits, p=_LAG_CHANCES)
    lag = np.where(rng.random(visits) < _RETURNS_LATE, rng.integers(30, _LATEST, visits), lag)
    of_a_day = max(2, round(_visits(world) * _PEOPLE_OF_A_VISIT))
    person = (day - lag) * _NUMBERS_OF_A_DAY + rng.integers(0, of_a_day, visits)

    device = person * 2 + ((_share(person, 1) < _SECOND_DEVICE) & (rng.random(visits) < _USE_IT))
    shared = _share(person, 2) < _SHARE_A_DEVICE  # the tablet in the kitchen is that of the neighbour in numbers
    device = np.where(shared, (person // 8 * 8) * 2, device)
    logs_in = (_share(person, 3) < _HAVE_ACCOUNT) & (rng.random(visits) < _LOG_IN)

    size = rng.geometric(1 / _EVENTS_OF_A_VISIT, visits)
    visit = np.repeat(np.arange(visits), size)
    place = np.arange(visit.size) - np.repeat(np.cumsum(size) - size, size)
    # Half of the gaps are below two minutes, and one in thirty is longer than a session allows.
    gaps = np.where(place > 0, rng.exponential(4 * MINUTE, visit.size), 0)
    gaps = np.where(rng.random(visit.size) < 0.03, gaps + rng.integers(29, 90, visit.size) * MINUTE, gaps)
    since = np.cumsum(gaps) - np.repeat(np.cumsum(gaps)[np.cumsum(size) - size], size)
    times = (rng.integers(0, DAY, visits)[visit] + since).astype(np.int64)
    keep = times < DAY  # what goes on after midnight is of another day, and there others make up for it
    visit, place, times = visit[keep], place[keep], times[keep] + day * DAY

    count = times.size
    is_user = logs_in[visit] & (place >= rng.integers(0, 4, visits)[visit])
    numbers = np.arange(count)
    rows: dict[str, pa.Array] = {
        "id": fill(f"{id_prefix}<day>-<number>", day=texts(np.full(count, day)), number=texts(numbers)),
        "anonymous_id": fill("device-<number>", number=texts(device[visit])),
        "user_id": fill("user-<number>", number=take(texts(person), np.where(is_user, visit, -1))),
        "event": take(EVENTS, rng.choice(len(EVENTS), count, p=_CHANCES)),
        "timestamp": pa.array(times),
    }
    # An empty text instead of no user, and now and then no id at all.
    blank = np.flatnonzero(~is_user & (rng.random(count) < _EMPTY_TEXT))
    rows["user_id"] = put(rows["user_id"], blank, "")
    nobody = some(rng, count, _NO_ID)
    rows["anonymous_id"] = put(rows["anonymous_id"], nobody, None)
    rows["user_id"] = put(rows["user_id"], nobody, "")
    # Deliveries of an event that is there already: a second later, or a day later.
    late = some(rng, count, _OF_THE_DAY_BEFORE)
    rows["id"] = put(
        rows["id"], late, fill(f"{id_prefix}<day>-<number>", day=texts(np.full(late.size, day - 1)), number=texts(late))
    )
    again = some(rng, count, _REPEATED)
    moments = np.minimum(times[again] + 1000, (day + 1) * DAY - 1)
    repeated = {name: column.take(pa.array(again)) for name, column in rows.items()} | {"timestamp": pa.array(moments)}
    return {name: pa.concat_arrays([column, repeated[name]]) for name, column in rows.items()}
