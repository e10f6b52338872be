"""The people, communities and events from the first day to the last: a pure function of seed and scale.

The universe covers the whole horizon. A day shows the part that has happened by then. So a day has the same rows in
every range, and the tables without days never contradict the days. Here, people and communities are positions in the
arrays `users` and `communities`. They get ids only in the tables.
"""

from functools import lru_cache
from types import SimpleNamespace as Columns  # arrays of the same length
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.sample import words
from include.sample.clock import DAY, HOUR, MINUTE, NEVER, YEAR, midnight, near_midnight
from include.sample.draw import either, fill, generator, ms, tear, texts

FIRST_DAY, LAST_DAY = "2020-01-01", "2035-12-31"
# History starts half a year before the first possible day, so that even this day has rows.
HISTORY, HORIZON = midnight("2019-06-10"), midnight(LAST_DAY) + DAY
# The first users move some days before the official start, which is 2022-11-02.
V_MOVES = midnight("2022-10-25")
# These communities have members, but the table of artists does not contain them.
UNKNOWN_COMMUNITIES = (9001, 9002)
# This community has no members. Only posts, notices and calls name it.
NO_COMMUNITY = 77701


class Universe(NamedTuple):
    seed: int
    scale: float
    communities: Columns
    users: Columns
    stays: Columns
    fan_clubs: Columns
    sightings: Columns
    posts: Columns
    notices: Columns


@lru_cache(maxsize=2)
def universe(seed: int, scale: float) -> Universe:
    communities = _communities(generator(seed, "communities"), scale)
    users = _users(generator(seed, "users"), scale, communities)
    stays = _stays(generator(seed, "stays"), users, communities)
    fan_clubs = _fan_clubs(generator(seed, "fan clubs"), stays, communities)
    sightings = _sightings(generator(seed, "sightings"), users)
    posts = _writings(generator(seed, "posts"), communities, max(2_000, round(40_000 * scale)))
    notices = _writings(generator(seed, "notices"), communities, 25 * communities.id.size)
    return Universe(seed, scale, communities, users, stays, fan_clubs, sightings, posts, notices)


def _growing(rng: np.random.Generator, count: int) -> np.ndarray:
    """Sorted times over the whole horizon. More of them are early, but there are new ones to the end."""
    return np.sort(HISTORY + (rng.random(count) ** 1.5 * (HORIZON - HISTORY)).astype(np.int64))


def _communities(rng: np.random.Generator, scale: float) -> Columns:
    # Each community costs a folder per day. So their number shrinks with the scale, but slower than the rest.
    count = max(6, round(60 * scale**0.5))
    rank = rng.permutation(count) + 1
    weight = np.append(rank**-1.1, [0.02, 0.02])
    opened = HISTORY + np.where(rank <= 4, 0, ms(rng, 700 * DAY, count).clip(max=12 * YEAR))
    return Columns(
        id=np.append(14 + np.arange(count), UNKNOWN_COMMUNITIES),
        art_id=np.append(101 + rng.permutation(count), [0, 0]),
        opened=np.append(opened, [HISTORY, HISTORY]),
        weight=weight / weight.sum(),
        known=np.arange(count + 2) < count,  # true if we_artist contains it
    )


def _users(rng: np.random.Generator, scale: float, communities: Columns) -> Columns:
    """Artists come first, then all other users in the order of their accounts."""
    # Half of all accounts of the horizon are open by the end of 2025: 20,000 at scale 1.
    artist_comm = np.repeat(np.flatnonzero(communities.known), rng.integers(1, 3, communities.known.sum()))
    artists, others = artist_comm.size, max(60, round(40_000 * scale))
    number, count = np.arange(artists + others), artists + others
    is_artist = number < artists
    account = np.append(communities.opened[artist_comm], _growing(rng, others))
    patience = ms(rng, np.where(rng.random(count) < 0.1, YEAR, 18 * YEAR), count) + HOUR
    # These users have an account, but never come to Weverse.
    only_shop = ~is_artist & (rng.random(count) < 0.04)
    from_v = ~is_artist & (account < V_MOVES + YEAR) & (rng.random(count) < 0.2)
    # we_user does not contain these users. More of them are early ones, so that the first days have some, too.
    listed = np.ones(count, bool)
    listed[artists + (others * np.linspace(0, 1, max(4, others // 125), endpoint=False) ** 2).astype(int)] = False
    second = np.where(rng.random(count) < 0.3, number + count, number)
    ids = 1_000_003 + 7 * number
    return Columns(
        id=ids,
        member_id=ids + 30_000_000,
        # The key of a user between services: always the same for a user, and without any order.
        key=pa.array([f"wu{n * 0x9E3779B97F4A7C15 % 2**64:016x}" for n in ids.tolist()]),
        artist_comm=artist_comm,  # shorter than the other arrays: only artists have one
        account=account,
        left=np.where(is_artist, NEVER, near_midnight(rng, account + patience, 0.1).clip(min=account + MINUTE)),
        country=np.where(is_artist, 0, rng.choice(len(words.COUNTRIES), count, p=words.COUNTRY_WEIGHTS)),
        activity=np.where(only_shop, 0, rng.lognormal(0, 1.1, count).clip(max=8)),
        listed=listed,
        moved_from_v=np.where(from_v, np.maximum(account, V_MOVES) + ms(rng, 60 * DAY, count), NEVER),
        # Two devices per user. The second may be the same as the first, or belong to another user of the family.
        devices=np.stack([number, np.where(rng.random(count) < 0.08, rng.integers(0, count, count), second)], axis=1),
        device_bits=rng.integers(0, 2**63, (2 * count, 2)),
        device_luck=rng.random(2 * count),  # decides the kind of client
    )


def _stays(rng: np.random.Generator, users: Columns, communities: Columns) -> Columns:
    """The stays of users in communities, from subscribe to unsubscribe. A user may come back for another stay."""
    artists, size = users.artist_comm.size, communities.id.size
    wanted = np.where(users.activity > 0, rng.geometric(0.3, users.id.size).clip(max=12), 0)
    wanted[:artists] = 1  # artists also join one other community
    fan = np.repeat(np.arange(users.id.size), wanted)
    liked = fan * size + rng.choice(size, fan.size, p=communities.weight)
    own = np.arange(artists) * size + users.artist_comm
    user, comm = np.divmod(np.unique(np.append(liked, own)), size)
    count, left = user.size, users.left[user]

    start = np.maximum(users.account[user], communities.opened[comm]) + MINUTE
    hesitation = ms(rng, np.where(rng.random(count) < 0.4, 30 * MINUTE, 2 * YEAR), count)
    start = first_start = np.maximum(start, near_midnight(rng, start + hesitation, 0.05))
    rounds = []
    for _ in range(5):  # a user has at most five stays in a community
        stay = ms(rng, np.where(rng.random(count) < 0.15, 30 * DAY, 12 * YEAR), count)
        end = np.where(user < artists, NEVER, near_midnight(rng, start + stay, 0.15).clip(min=start + MINUTE))
        unsubscribes = end < np.minimum(left, HORIZON)  # other users stay, or leave the service without an event
        rows = np.stack([user, comm, start, np.minimum(end, left), first_start, unsubscribes])
        rounds.append(rows[:, start < np.minimum(left, HORIZON)])
        start = np.where(unsubscribes & (rng.random(count) < 0.5), end + ms(rng, 60 * DAY, count) + MINUTE, NEVER)
    user, comm, start, end, first_start, unsubscribes = np.concatenate(rounds, axis=1)
    return Columns(
        user=user,
        comm=comm,
        start=start,
        end=end,
        is_first=start == first_start,
        unsubscribes=unsubscribes == 1,
        profile_name=words.nicknames(rng, users.country[user]),
        profile=_profiles(rng, start, first_start),
    )


def _profiles(rng: np.random.Generator, start: np.ndarray, first_start: np.ndarray) -> pa.Array:
    count = start.size
    picture = texts(rng.integers(10**6, 10**7, count))

    def now_and_then(share: float, member: str, value: pa.Array) -> pa.Array:
        return pc.if_else(pa.array(rng.random(count) < share), fill(member, value=value), "")

    profile = fill(
        '{"firstJoinAt":<first><last>,"hidden":<hidden><image><cover>}',
        first=texts(first_start),
        last=now_and_then(0.99, ',"lastJoinAt":<value>', texts(start)),
        hidden=either(rng.random(count) < 0.1),
        image=now_and_then(0.4, ',"profileImageUrl":"https://img.example/p/<value>.jpg"', picture),
        cover=now_and_then(0.2, ',"profileCoverImageUrl":"https://img.example/c/<value>.jpg"', picture),
    )
    return tear(rng, profile, 0.01)


def _fan_clubs(rng: np.random.Generator, stays: Columns, communities: Columns) -> Columns:
    """A membership lasts a year, and most are renewed: some early, so that two are in force, some after a break."""
    buys = stays.is_first & communities.known[stays.comm] & (rng.random(stays.user.size) < 0.25)
    user, comm, start = stays.user[buys], stays.comm[buys], stays.start[buys]
    start = start + ms(rng, 90 * DAY, user.size)
    years = []
    for number in range(1, 13):
        years.append(np.stack([user, comm, start, np.full(user.size, number)])[:, start < HORIZON])
        again = rng.random(user.size) < 0.7
        user, comm, start = user[again], comm[again], start[again] + YEAR
        early = rng.random(user.size) < 0.4
        start = start + np.where(early, -rng.integers(0, 90 * DAY, user.size), ms(rng, 40 * DAY, user.size))
    user, comm, start, number = np.concatenate(years, axis=1)
    failed, restored = rng.random((2, user.size)) < 0.03
    return Columns(user=user, comm=comm, start=start, number=number, failed=failed, restored=restored)


def _sightings(rng: np.random.Generator, users: Columns) -> Columns:
    """The countries in which users were seen, sorted by time: first at home, then on some trips.

    An artist starts a trip each day, so that every day has rows.
    """
    artists, days = users.artist_comm.size, (HORIZON - HISTORY) // DAY
    trips = max(4 * days, round(1.5 * users.id.size))
    departure = HISTORY + (np.arange(trips) % days) * DAY + rng.integers(0, DAY, trips)
    has_account = np.searchsorted(users.account[artists:], departure).clip(min=1)
    traveller = artists + (rng.random(trips) * has_account).astype(np.int64)
    traveller[:days] = rng.choice(np.flatnonzero(users.account[:artists] <= HISTORY), days)
    arrival = departure + ms(rng, 8 * DAY, trips) + HOUR
    everyone = np.arange(users.id.size)
    abroad = rng.choice(len(words.COUNTRIES), trips, p=words.COUNTRY_WEIGHTS)
    user = np.concatenate([everyone, traveller, traveller])
    country = np.concatenate([users.country, abroad, users.country[traveller]])
    created = np.concatenate([users.account, departure, arrival])
    # The server sees it a little later, sometimes on the next day. Some clients' clocks are ahead of the server's.
    seen = created + np.where(rng.random(user.size) < 0.01, -HOUR, ms(rng, 2 * MINUTE, user.size))
    order = np.lexsort([user, created])
    order = order[(users.activity[user[order]] > 0) & (created[order] < users.left[user[order]])]
    return Columns(user=user[order], country=country[order], created=created[order], seen=seen[order])


def _writings(rng: np.random.Generator, communities: Columns, count: int) -> Columns:
    """Posts or notices, sorted by community and time."""
    comm = rng.choice(communities.id.size, count, p=communities.weight)
    created = np.maximum(_growing(rng, count), communities.opened[comm])
    order = np.lexsort([created, comm])
    number = 100_000 + 17 * np.argsort(np.argsort(created, kind="stable"))[order]
    return Columns(comm=comm[order], created=created[order], number=number, shard=number % 4)
