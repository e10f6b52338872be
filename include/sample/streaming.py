"""Events of a music service as eventsim writes them: logins, songs, other pages, and changes of the plan.

The sessions of a day come first, each with its pages from the login to the logout. The four tables are what they show.
A session may go on after midnight. So a day also has the rest of the sessions of the day before.
"""

from functools import lru_cache
from types import SimpleNamespace as Columns  # arrays of the same length
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.sample.clock import DAY, HOUR, day_number
from include.sample.draw import fill, generator, put, take, with_repeats
from include.sample.places import CITIES
from include.sample.universe import HISTORY, HORIZON, Universe
from include.sample.words import band_names

_PLAYS_OF_A_DAY = 6_000  # at scale 1
_PAGES_OF_A_SESSION, _PLAYS_OF_A_SESSION = 16, 13
# A session of as many pages takes half a day: so it ends on the next day at the latest.
_MOST_PAGES = 150
# Half of all users of the horizon have signed up by the end of 2025: about 2,000 at scale 1.
_USERS = 4_000
# Users who try the paid plan every other week, one of them each day. So every day has a change of a plan.
_TRYING, _TRIAL_DAYS = 8, 8
# After as many periods the plans and the homes of a user begin again.
_PERIODS = 16

_PAGES = (
    "NextSong", "Home", "Thumbs Up", "Thumbs Down", "Add to Playlist", "Add Friend", "Roll Advert", "Settings", "Help",
    "About", "Error", "Login", "Logout", "Upgrade", "Submit Upgrade", "Downgrade", "Submit Downgrade", "Register",
)  # fmt: skip
_SONG, _HOME, _ERROR, _LOGIN, _LOGOUT, _UPGRADE, _SUBMIT, _DOWNGRADE = (
    _PAGES.index(page)
    for page in ("NextSong", "Home", "Error", "Login", "Logout", "Upgrade", "Submit Upgrade", "Downgrade")
)
# Pages in the middle of a session, for users and for guests. A user who logs in there was elsewhere in between.
_CHANCES = np.array([805, 45, 40, 10, 25, 15, 25, 10, 8, 5, 4, 8, 0, 0, 0, 0, 0, 0]) / 1000
_CHANCES_OF_GUESTS = np.array([20, 45, 0, 0, 0, 0, 0, 0, 10, 15, 2, 0, 0, 0, 0, 0, 0, 8]) / 100
_SENT = np.isin(_PAGES, ("NextSong", "Thumbs Up", "Thumbs Down", "Add to Playlist", "Add Friend", "Login", "Logout",
                         "Submit Upgrade", "Submit Downgrade", "Register"))  # fmt: skip
# Shares of sessions.
_GUESTS, _LOG_IN, _LOG_OUT, _TRAVEL, _OTHER_DEVICE, _NO_COORDINATES = 0.04, 0.75, 0.25, 0.05, 0.2, 0.01
# Shares of logins, plays and rows.
_FAILED, _SKIPPED, _OTHER_CASE, _BLANK, _REPEATED = 0.06, 0.1, 0.01, 0.01, 0.005

_CHROME, _SAFARI = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome", "AppleWebKit/605.1.15 (KHTML, like Gecko)"
_AGENTS = (
    f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_CHROME}/126.0.0.0 Safari/537.36",
    f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {_SAFARI} Version/17.5 Safari/605.1.15",
    f"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) {_SAFARI} Mobile/15E148",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:127.0) Gecko/20100101 Firefox/127.0",
    f"Mozilla/5.0 (Linux; Android 14; Pixel 8) {_CHROME}/125.0.0.0 Mobile Safari/537.36",
    f"Mozilla/5.0 (iPad; CPU OS 16_7 like Mac OS X) {_SAFARI} Version/16.6 Mobile Safari/604.1",
    f"Mozilla/5.0 (X11; Linux x86_64) {_CHROME}/124.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko",
)
_WOMEN = "Ada Bea Chloe Dana Elena Farah Grace Hanna Ines June Kira Lena Maya Nora Olive Priya Rosa Sofia Tess Zoë"
_MEN = "Adam Ben Carlos Dev Eli Felix Gus Hugo Ivan José Kofi Liam Milo Noah Omar Paul Quinn Ravi Seth Theo"
_LAST_NAMES = (
    "Adams Baker Brown Chen Clark Diaz Evans Flores Garcia Hall Ito Johnson Kim Lopez Martin Nguyen Núñez O'Brien "
    "Patel Quist Rivera Smith Taylor Usman Vega Walker Xu Young Zhou Smith-Lee"
)
_SONG_FIRSTS = "Small Paper Golden Midnight Quiet Electric Broken Summer Hollow Second Velvet Distant"
_SONG_LASTS = "Rain Houses Satellite Garden Letters Highway Mirror Ocean Parade Signal Winter Hearts"
_SONG_KINDS = ("", "", "", " (Live)", " (Remix)", " - Radio Edit")
_ARTISTS, _SONGS = 250, 800


@lru_cache(maxsize=2)
def _people(seed: int, scale: float) -> Columns:
    """The users in the order in which they signed up. What may change has a value for each period of the user."""
    rng = generator(seed, "listeners")
    count = max(60, round(_USERS * scale))
    number = np.arange(count)
    # More of them are early, but there are new ones to the end. The first ones are there before the first day.
    registered = np.sort((HISTORY + rng.random(count) ** 1.5 * (HORIZON - HISTORY)).astype(np.int64))
    registered[: max(24, count // 20)] = HISTORY - DAY
    registered = np.sort(registered - rng.integers(0, DAY, count))
    home = rng.choice(len(CITIES), (count, _PERIODS), p=_falling(len(CITIES), 0.7))
    stays = rng.random((count, _PERIODS)) < 0.5
    for period in range(1, _PERIODS):
        home[:, period] = np.where(stays[:, period], home[:, period - 1], home[:, period])
    trying = number < _TRYING
    paid = np.where(trying[:, None], np.arange(_PERIODS) % 2 == 1, rng.random((count, _PERIODS)) < 0.35)
    woman = rng.random(count) < 0.5
    first_names = [_word(rng, names, count) for names in (_WOMEN, _MEN)]
    return Columns(
        registered=registered,
        home=home,
        days_at_home=rng.integers(300, 900, count),
        paid=paid,
        days_of_plan=np.where(trying, _TRIAL_DAYS, rng.integers(20, 120, count)),
        # The day on which a period of the plan begins, counted from the beginning of all time. No two who try share it.
        first_day=np.where(trying, number, rng.integers(0, 900, count)),
        first_name=pc.if_else(pa.array(woman), *first_names),
        gender=take(["M", "F"], woman.astype(int)),
        last_names=[_word(rng, _LAST_NAMES, count) for _ in range(2)],
        # Some marry and have another name from then on.
        marries=np.where(rng.random(count) < 0.3, HISTORY + rng.integers(0, HORIZON - HISTORY, count), HORIZON),
        agents=rng.choice(len(_AGENTS), (count, 2), p=_falling(len(_AGENTS), 0.6)),
    )


@lru_cache(maxsize=2)
def _catalogue(seed: int) -> Columns:
    """Songs of made-up artists, the most popular ones first. Some songs of two artists have the same name."""
    rng = generator(seed, "songs")
    artists = [*band_names(_ARTISTS - 3), "Señor Kyte", 'The "Voxx"', "Piro, Quin & Hexa"]
    seconds = np.round(rng.normal(230, 55, _SONGS).clip(45, 900), 5)
    return Columns(
        artist=take(artists, rng.integers(0, _ARTISTS, _SONGS)),
        name=fill(
            "<first> <last><kind>",
            first=_word(rng, _SONG_FIRSTS, _SONGS),
            last=_word(rng, _SONG_LASTS, _SONGS),
            kind=take(_SONG_KINDS, rng.integers(0, len(_SONG_KINDS), _SONGS)),
        ),
        # Half seconds, because it matters how these are rounded.
        seconds=np.where(np.arange(_SONGS) % 12 == 3, np.floor(seconds) + 0.5, seconds),
    )


def _word(rng: np.random.Generator, words: str, count: int) -> pa.Array:
    pool = words.split()
    return take(pool, rng.integers(0, len(pool), count))


def _falling(count: int, slope: float) -> np.ndarray:
    """Chances that fall with the rank, as Zipf saw it."""
    weight = (np.arange(count) + 1.0) ** -slope
    chances: np.ndarray = weight / weight.sum()
    return chances


def _changes(people: Columns, day: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each user: is the plan of the day paid, was that of the day before, and does it change on the day?"""
    since = day - people.first_day
    period = since // people.days_of_plan % _PERIODS
    users = np.arange(since.size)
    new, old = people.paid[users, period], people.paid[users, period - 1]
    begins = (since % people.days_of_plan == 0) & (people.registered < day * DAY)
    return new, np.where(begins, old, new), begins & (old != new)


@lru_cache(maxsize=4)
def _sessions(seed: int, scale: float, day: int) -> Columns:
    """The pages of all sessions that begin on a day, also those after midnight. `user` is -1 while nobody is known."""
    rng, people, songs = generator(seed, "sessions", day), _people(seed, scale), _catalogue(seed)
    new, _, changing = _changes(people, day)
    changers = np.flatnonzero(changing)
    others = max(4, round(_PLAYS_OF_A_DAY * scale / _PLAYS_OF_A_SESSION))
    known = int(np.searchsorted(people.registered, day * DAY))
    # The early ones listen more.
    owner = np.append(changers, (rng.random(others) ** 1.3 * known).astype(np.int64))
    count = owner.size
    changes = np.arange(count) < changers.size

    guest = ~changes & (rng.random(count) < _GUESTS)
    logs_in = changes | (~guest & (rng.random(count) < _LOG_IN))
    failed = np.where(logs_in | guest, rng.geometric(1 - _FAILED, count) - 1, 0).clip(max=3)
    logins = failed + logs_in
    pages = rng.geometric(1 / _PAGES_OF_A_SESSION, count).clip(max=_MOST_PAGES)
    # Who changes the plan does so after a few songs, and goes on.
    before = np.where(changes, pages.clip(max=5), pages)
    leaves = ~guest & (rng.random(count) < _LOG_OUT)
    size = logins + before + np.where(changes, 2 + pages, 0) + leaves

    session = np.repeat(np.arange(count), size)
    first = np.cumsum(size) - size
    item = np.arange(session.size) - first[session]
    page = np.where(
        guest[session],
        rng.choice(len(_PAGES), item.size, p=_CHANCES_OF_GUESTS),
        rng.choice(len(_PAGES), item.size, p=_CHANCES),
    )
    page = np.where((item == logins[session]) & ~guest[session], _SONG, page)
    page = np.where(item < logins[session], _LOGIN, page)
    step = np.where(changes[session], item - (logins + before)[session], -1)
    question = np.where(new[owner], _UPGRADE, _DOWNGRADE)[session]
    page = np.where((step == 0) | (step == 1), question + step, page)
    page = np.where(leaves[session] & (item == size[session] - 1), _LOGOUT, page)

    # A song ends before the next one starts, unless somebody skips it. eventsim counts whole seconds.
    song = np.where(page == _SONG, rng.choice(_SONGS, item.size, p=_falling(_SONGS, 0.9)), -1)
    played = songs.seconds[song] * np.where(rng.random(item.size) < _SKIPPED, rng.random(item.size), 1)
    stays = np.where(song >= 0, np.floor(played).clip(min=1), 1 + rng.exponential(15, item.size).astype(np.int64))
    waits = np.cumsum(stays) - stays
    seconds = (waits - waits[first][session]).astype(np.int64)
    # It is evening in America when the day begins and ends in UTC. Who changes the plan does so long before midnight.
    evening = rng.normal(23 * HOUR, 3 * HOUR, count).astype(np.int64) % DAY
    begin = np.where(rng.random(count) < 0.5, evening, rng.integers(0, DAY, count))
    begin = np.where(changes, begin % (20 * HOUR), begin)
    time = day * DAY + (begin[session] // 1000 + seconds) * 1000

    is_login = page == _LOGIN
    success = is_login & ~guest[session] & (item >= failed[session])
    # Who logs in again in the middle is elsewhere by then, with another device.
    again = np.cumsum(success & (item >= logins[session]))
    moved = again - np.append(0, again)[first][session] > 0
    period = (day - people.first_day[owner]) // people.days_at_home[owner] % _PERIODS
    away = rng.choice(len(CITIES), (2, count), p=_falling(len(CITIES), 0.7))
    place = np.where(rng.random(count) < _TRAVEL, away[0], people.home[owner, period])
    device = (rng.random(count) < _OTHER_DEVICE).astype(int)
    known_by_name = ~guest[session] & ~is_login & (item >= logins[session])
    return Columns(
        owner=owner[session],
        user=np.where(known_by_name, owner[session], -1),
        session=(day - day_number("2019-01-01")) * 1_000_000 + session,
        item=item,
        page=page,
        time=time,
        song=song,
        success=success,
        guest=guest[session],
        place=np.where(moved, away[1][session], place[session]),
        no_coordinates=(rng.random(count) < _NO_COORDINATES)[session],
        agent=people.agents[owner[session], np.where(moved, 1 - device[session], device[session])],
    )


@lru_cache(maxsize=2)
def _day(seed: int, scale: float, day: int) -> tuple[Columns, dict[str, pa.Array]]:
    """The pages of a UTC day in the order of their times, and the columns that tables share."""
    people, songs = _people(seed, scale), _catalogue(seed)
    parts = [vars(_sessions(seed, scale, one)) for one in (day - 1, day)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    within = np.flatnonzero(whole["time"] // DAY == day)
    order = within[np.argsort(whole["time"][within], kind="stable")]
    pages = Columns(**{name: values[order] for name, values in whole.items()})

    new, old, _ = _changes(people, day)
    submits = (pages.page == _SUBMIT) | (pages.page == _DOWNGRADE + 1)
    moment = np.full(new.size, (day + 1) * DAY)
    moment[pages.owner[submits]] = pages.time[submits]
    paid = np.where(pages.time < moment[pages.owner], old[pages.owner], new[pages.owner]) & ~pages.guest
    pages.submits = submits

    rng = generator(seed, "streaming", day)
    city, state, zips, latitude, longitude = (pa.array(values) for values in zip(*CITIES, strict=True))
    there = np.where(pages.no_coordinates, -1, pages.place)
    count = pages.time.size
    song, artist = (take(values, pages.song) for values in (songs.name, songs.artist))
    loud, blank = (np.flatnonzero(rng.random(count) < share) for share in (_OTHER_CASE, _BLANK))
    song, artist = put(song, loud, pc.utf8_upper(song.take(loud))), put(artist, loud, pc.utf8_upper(artist.take(loud)))
    song = put(song, blank, fill("<song> ", song=song.take(blank)))
    artist = put(artist, blank[::2], fill("<artist> ", artist=artist.take(blank[::2])))
    shared = {
        "ts": pa.array(pages.time),
        "session_id": pa.array(pages.session),
        "auth": take(["Logged Out", "Logged In", "Guest"], np.where(pages.guest, 2, pages.user >= 0)),
        "level": take(["free", "paid"], paid.astype(int)),
        "item_in_session": pa.array(pages.item),
        "city": take(city, pages.place),
        "zip": take(zips, pages.place),
        "state": take(state, pages.place),
        "user_agent": take(_AGENTS, pages.agent),
        "lon": take(longitude, there),
        "lat": take(latitude, there),
        "artist": artist,
        "song": song,
        "duration": take(pa.array(songs.seconds), pages.song),
    }
    return pages, shared


def _person(world: Universe, user: np.ndarray, time: np.ndarray) -> dict[str, pa.Array]:
    """The columns of the users; nulls where the user is -1."""
    people = _people(world.seed, world.scale)
    maiden_name, last_name = (take(names, user) for names in people.last_names)
    return {
        "user_id": pa.array(user + 1, mask=user < 0),
        "last_name": pc.if_else(pa.array(time < people.marries[user]), maiden_name, last_name),
        "first_name": take(people.first_name, user),
        "gender": take(people.gender, user),
        "registration": pa.array(people.registered[user], mask=user < 0),
    }


_OF_SONGS = ("artist", "song", "duration")


def _rows(world: Universe, day: int, where: np.ndarray, user: np.ndarray, *without: str) -> dict[str, pa.Array]:
    """The rows of the pages `where`, of these users, in the order of their times."""
    pages, shared = _day(world.seed, world.scale, day)
    at = np.flatnonzero(where)
    rows = {name: column.take(pa.array(at)) for name, column in shared.items() if name not in without}
    return rows | _person(world, user[at], pages.time[at])


def listen_events(world: Universe, day: int) -> dict[str, Any]:
    pages, _ = _day(world.seed, world.scale, day)
    rows = _rows(world, day, pages.page == _SONG, pages.user)
    return with_repeats(generator(world.seed, "listen events", day), rows, _REPEATED)


def auth_events(world: Universe, day: int) -> dict[str, Any]:
    pages, _ = _day(world.seed, world.scale, day)
    logins = pages.page == _LOGIN
    rows = _rows(world, day, logins, np.where(pages.success, pages.owner, -1), "auth", *_OF_SONGS)
    rows["user_agent"] = fill('"<agent>"', agent=rows["user_agent"])
    rows["success"] = pa.array(pages.success[logins])
    return with_repeats(generator(world.seed, "auth events", day), rows, _REPEATED)


def page_view_events(world: Universe, day: int) -> dict[str, Any]:
    pages, _ = _day(world.seed, world.scale, day)
    rows = _rows(world, day, pages.page >= 0, pages.user)
    sent = _SENT[pages.page]
    rows["page"] = take(_PAGES, pages.page)
    rows["method"] = take(["GET", "PUT"], sent.astype(int))
    status = np.where(sent & (pages.page != _SONG), 307, 200)
    rows["status"] = pa.array(np.where(pages.page == _ERROR, 404, status))
    return with_repeats(generator(world.seed, "page view events", day), rows, _REPEATED)


def status_change_events(world: Universe, day: int) -> dict[str, Any]:
    pages, _ = _day(world.seed, world.scale, day)
    rows = _rows(world, day, pages.submits, pages.user, *_OF_SONGS)
    # A day has so few of them that two repeats, the least of `with_repeats`, would be most of a small day.
    again = generator(world.seed, "status change events", day).random(len(rows["ts"])) < _REPEATED
    order = pa.array(np.repeat(np.arange(again.size), 1 + again))
    return {name: column.take(order) for name, column in rows.items()}
