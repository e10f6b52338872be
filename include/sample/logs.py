"""The calls of one day to the Weverse servers: bursts of calls, most in the evening, with the dirt of real logs."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.sample import words
from include.sample.clock import DAY, HOUR, MINUTE, day_number, midnight
from include.sample.draw import either, fill, generator, ms, put, some, take, tear, texts, with_repeats
from include.sample.universe import FIRST_DAY, NO_COMMUNITY, Columns, Universe

ROWS = 100_000
CALLS_A_VISIT = 14
# The SELECT starts a new session after a longer gap between two calls.
SESSION_GAP = 30 * MINUTE
# Visits that start in each hour (KST), in proportion: a minimum at 4:00, a maximum at 21:00.
BY_HOUR = np.array([42, 26, 15, 9, 7, 9, 16, 30, 42, 40, 38, 42, 52, 48, 44, 46, 52, 62, 74, 88, 104, 112, 98, 70])


class Client(NamedTuple):
    """The data that a kind of client sends about itself. Real clients use capitals inconsistently, too."""

    share: float
    consumer: str
    provider: str
    wpf: str
    platform: str
    os: str
    agent: str


_SAFARI = "AppleWebKit/605.1.15 Version/17.4 Safari/605.1.15"
CLIENTS = [
    Client(0.27, "app", "WEVAPP", "app", "ANDROID", "ANDROID", "Dalvik/2.1.0 (Linux; Android 14) (app;<version>)"),
    Client(0.08, "app", "WEVAPP", "app", "Android", "Android", "okhttp/4.12 (Linux; Android 12) (app; <version>)"),
    Client(0.30, "app", "WEVAPP", "app", "iOS", "iOS", "Mozilla/5.0 (iPhone; iPhone OS 17_4) (app;<version>)"),
    Client(0.05, "app", "wevapp", "app", "IOS", "IOS", "CFNetwork/1494.0.7 Darwin/23.4.0 weverse;<version>"),
    Client(0.13, "web", "WEB", "pc", "WEB", "WINDOWS", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/124.0.0.0"),
    Client(0.04, "web", "WEB", "PC", "WEB", "MACOS", f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {_SAFARI}"),
    Client(0.07, "web", "WEB", "mweb", "MOBILEWEB", "IOS", f"Mozilla/5.0 (iPhone; iPhone OS 17_4) {_SAFARI}"),
    Client(0.015, "tvApp", "WEVAPP", "app", "TV", "ANDTV", "Mozilla/5.0 (Linux; Android 12; TV 4K) weverse; <version>"),
    Client(0.015, "tvApp", "WEVAPP", "app", "TV", "TIZEN", "Mozilla/5.0 (SMART-TV; Tizen 7.0) weverse;<version>"),
    Client(0.01, "tvApp", "WEVAPP", "app", "TV", "webOS", "Mozilla/5.0 (Web0S; Linux/SmartTV) weverse;<version>"),
    Client(0.005, "tvApp", "PARTNER", "app", "TV", "", "Mozilla/5.0 (Linux; Android 11; BOX) weverse;<version>"),
    Client(0.01, "tvosApp", "WEVAPP", "app", "tvOS", "APPLETV", "AppleTV14,1/17.4 weverse;<version>"),
    Client(0.005, "partner", "PARTNER", "", "BOT", "", "python-requests/2.31.0"),
]  # fmt: skip
CLIENT_LIMITS = np.cumsum([client.share for client in CLIENTS])[:-1]
# Number of releases that a device is behind the newest. Most devices update at once, some never.
BEHIND = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 5, 7])


class Call(NamedTuple):
    """One kind of call. Url and request each contain at least one <name> of a column of `_facts`."""

    share: float
    topic: str
    method: str
    url: str
    request: str | None = None


PLAYED = '{"mediaType":"<media>","time":<seconds>,"videoId":"0-<number>","sessionId":"<play>"'
WRITTEN = '{"body":"<said>","sectionType":"<section>","hasProduct":<few>,"hideFromArtist":<half>,"membershipOnly":<few>'
CALLS = [
    Call(8, "user", "GET", "/users/v1.0/users/me?ts=<number>"),
    Call(9, "home", "GET", "/home/v1.0/home?fields=feeds&ts=<number>"),
    Call(5, "noti", "GET", "/noti/v1.0/activities?after=<number>"),
    Call(13, "community", "GET", "/community/v1.0/community-<comm>?fieldSet=communityHomeV1"),
    Call(6, "community", "GET", "/community/v1.0/community-<comm>/tabs"),
    Call(0.5, "community", "POST", "/community/v1.0/community-<comm>/join", '{"profileName":"<said>"}'),
    Call(0.3, "community", "POST", "/community/v1.0/community-<comm>/leave"),
    Call(12, "post", "GET", "/post/v1.0/community-<comm>/artistTabPosts?after=<number>"),
    Call(14, "post", "GET", "/post/v1.0/post-<post>?fieldSet=postV1"),
    Call(8, "comment", "GET", "/comment/v1.0/post-<post>/comments?sort=LATEST"),
    Call(3, "comment", "POST", "/comment/v1.0/post-<post>/comments", '{"body":"<said>","postId":"<post>"}'),
    Call(1.5, "post", "POST", "/post/v1.0/community-<comm>/posts", WRITTEN + "}"),
    Call(0.7, "post", "POST", "/post/v1.0/draft?ts=<number>", WRITTEN + ',"communityId":<comm>}'),
    Call(5, "video", "POST", "/cvideo/v1.0/play?ts=<number>", PLAYED + ',"communityId":<comm>}'),
    Call(3, "video", "POST", "/cvideo/v1.0/beat?t=<seconds>", PLAYED + ',"communityId":"<comm>","postId":"<post>"}'),
    Call(4, "notice", "GET", "/notice/v1.0/notice-<notice>?fieldSet=noticeV1"),
    Call(1, "notice", "GET", "/notice/v1.0/community-<comm>/notices?page=<seconds>"),
    Call(3, "chat", "GET", "/chat/v1.0/chat-<chat>/messages?after=<number>"),
    Call(2, "chat", "POST", "/chat/v1.0/chat-<chat>/messages", '{"messageCount":2,"messageList":["<said>","hi"]}'),
]
CALL_SHARES = np.array([call.share for call in CALLS]) / sum(call.share for call in CALLS)


def server_log(world: Universe, day: int) -> dict[str, Any]:
    """The rows of service_log.weverse_server_log that arrive on the day, in the order of their arrival."""
    rng = generator(world.seed, "server log", day)
    visits = _visits(rng, world, day)
    visit = np.repeat(np.arange(visits.calls.size), visits.calls)
    first = np.repeat(np.cumsum(visits.calls) - visits.calls, visits.calls)
    elapsed = np.cumsum(_gaps(rng, visit.size))
    time, nth = visits.start[visit] + elapsed - elapsed[first], np.arange(visit.size) - first
    order = np.argsort(time, kind="stable")
    order = order[time[order] < DAY]  # calls after midnight are in the file of the next day
    visit, time, nth = visit[order], time[order], nth[order]
    user = np.where(nth >= visits.takeover_at[visit], visits.next_user[visit], visits.user[visit])
    user = np.where(nth < visits.login_at[visit], -1, user)

    kind = rng.choice(len(CALLS), time.size, p=CALL_SHARES)
    urls, requests = _by_kind(kind, _facts(rng, world, visits, visit, day))
    # Some TVs have no device id. The log has the key of their user instead, also without a login.
    nameless = np.zeros(visits.calls.size, bool)
    nameless[visits.tvs[some(rng, visits.tvs.size, 0.25)]] = True
    rows = {
        "hour": take([f"{hour:02}" for hour in range(24)], time // HOUR),
        "unix_log_timestamp": _timestamps(rng, time, midnight(day)),
        "topic": take([call.topic for call in CALLS], kind),
        "url": urls,
        "params": _params(rng, visits, visit, nth, kind, requests),
        "user_info_user_key": take(world.users.key, np.where(nameless[visit] & (user < 0), visits.user[visit], user)),
        "user_info_id": take(texts(world.users.id), user),
        "user_info_device_id": take(visits.device, np.where(nameless[visit], -1, visit)),
        "user_info_status": either(user >= 0, "ACTIVE", "ANONYMOUS"),
        "user_info_ip_address": take(visits.ip, visit),
        "user_info_locale": take(words.LOCALES, visits.country[visit]),
        "user_info_country": take(words.COUNTRIES, visits.country[visit]),
        "user_info_user_agent": take(visits.agent, visit),
    }
    for column, nonsense, share in [
        *(("user_info_id", text, 0.002) for text in ("", "0", "undefined", "guest-7", "12.5")),
        *(("user_info_device_id", None, 0.004), ("user_info_device_id", "", 0.001)),
        *(("unix_log_timestamp", number, 0.001) for number in (None, 0, -1)),
        ("params", None, 0.001),
    ]:
        rows[column] = put(rows[column], some(rng, time.size, share), nonsense)
    return with_repeats(rng, rows, 0.005)


def _visits(rng: np.random.Generator, world: Universe, day: int) -> Columns:
    """One row per visit: a user, or an unknown person, uses a device for some calls in a row."""
    users, now = world.users, midnight(day)
    weekend = 1.12 if (day + 3) % 7 >= 5 else 0.95
    count = max(20, round(ROWS * world.scale * weekend * rng.uniform(0.95, 1.05) / CALLS_A_VISIT))
    present = np.flatnonzero((users.account < now) & (users.left > now))
    wish = users.activity[present] / users.activity[present].sum()
    person, next_user = rng.choice(present, (2, count), p=wish)
    # Every day has visits of some artists, and of some users that are missing in we_user.
    for rare in (present < users.artist_comm.size, ~users.listed[present] & (wish > 0)):
        rows = some(rng, count, 0.01)
        person[rows] = rng.choice(present[rare], rows.size) if rare.any() else person[rows]

    calls = 1 + ms(rng, CALLS_A_VISIT - 0.5, count)
    midway = 1 + (rng.random(count) * (calls - 1)).astype(np.int64)
    luck = rng.random(count)
    device = users.devices[person, (rng.random(count) < 0.3).astype(int)]
    bits, client = users.device_bits[device], np.searchsorted(CLIENT_LIMITS, users.device_luck[device])
    stranger = luck < 0.05  # a device that is new in the log
    bits[stranger] = rng.integers(0, 2**63, (stranger.sum(), 2))

    country, seen = users.country.copy(), world.sightings.created < now + DAY // 2
    country[world.sightings.user[seen]] = world.sightings.country[seen]  # sorted by time: the last one wins
    newest = (day - day_number(FIRST_DAY)) // 14
    versions = [f"2.{max(0, newest - behind) // 5}.{max(0, newest - behind) % 5}" for behind in range(BEHIND.max() + 1)]
    agents = [kind.agent.replace("<version>", version) for kind in CLIENTS for version in versions]
    hexes = [f"{a:016x}{b:016x}" for a, b in bits.tolist()]
    hour = rng.choice(24, count, p=BY_HOUR / BY_HOUR.sum())
    return Columns(
        start=hour * HOUR + rng.integers(0, HOUR, count),
        calls=calls,
        user=np.where(luck < 0.10, -1, person),  # -1: never logs in
        login_at=np.where((luck > 0.10) & (luck < 0.25), midway, 0),
        takeover_at=np.where(luck > 0.96, midway, calls),
        next_user=np.where(luck > 0.99, -1, next_user),  # the user who takes over the device; -1: only a logout
        communities=np.stack([_community_of(rng, world, person, now) for _ in range(2)]),
        country=country[person],
        client=client,
        tvs=np.flatnonzero(np.array([kind.consumer == "tvApp" for kind in CLIENTS])[client]),
        device=pa.array([f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}" for h in hexes]),
        agent=take(agents, client * len(versions) + BEHIND[bits[:, 0] % BEHIND.size]),
        # 100.64.0.0/10 is reserved for networks of carriers, so it belongs to no real user.
        ip=pa.array([f"100.{64 + b % 64}.{b // 64 % 256}.{b // 2**14 % 254 + 1}" for b in bits[:, 1].tolist()]),
        play=texts(bits[:, 1] % 10**9 + day),
    )


def _any_community(rng: np.random.Generator, world: Universe, count: int, now: int) -> np.ndarray:
    weight = np.where(world.communities.opened < now, world.communities.weight, 0)
    return rng.choice(weight.size, count, p=weight / weight.sum())


def _community_of(rng: np.random.Generator, world: Universe, person: np.ndarray, now: int) -> np.ndarray:
    """For each person, one of their communities on the day. A person without one gets any community."""
    stays = world.stays
    inside = np.flatnonzero((stays.start < now + DAY) & (stays.end > now))
    inside = inside[np.argsort(stays.user[inside], kind="stable")]
    memberships = np.bincount(stays.user[inside], minlength=world.users.id.size)
    first, choices = (np.cumsum(memberships) - memberships)[person], memberships[person]
    chosen = first + (rng.random(person.size) * choices).astype(np.int64)
    member_of = stays.comm[inside[chosen.clip(max=inside.size - 1)]]
    return np.where(choices > 0, member_of, _any_community(rng, world, person.size, now))


def _gaps(rng: np.random.Generator, count: int) -> np.ndarray:
    """ms before each call: mostly seconds, sometimes 0. Some breaks are below, at, or above half an hour."""
    gap = rng.lognormal(np.log(7_000), 1.4, count).clip(max=20 * MINUTE)
    under, over = SESSION_GAP - rng.uniform(1, 10 * MINUTE, count), SESSION_GAP + rng.uniform(1, 2 * HOUR, count)
    luck = np.searchsorted([0.02, 0.035, 0.055, 0.056, 0.057], rng.random(count))
    return np.choose(luck, [0, under, over, SESSION_GAP, SESSION_GAP + 1, gap]).astype(np.int64)


def _facts(
    rng: np.random.Generator, world: Universe, visits: Columns, visit: np.ndarray, day: int
) -> dict[str, pa.Array]:
    """The contents of the calls: a column for each <name> that urls and requests may use."""
    count, now = visit.size, midnight(day)
    luck = rng.random(count)
    comm = np.where(luck < 0.8, visits.communities[0][visit], visits.communities[1][visit])
    comm = np.where(luck > 0.94, _any_community(rng, world, count, now), comm)
    comm_id = _named(rng, texts(world.communities.id), comm, str(NO_COMMUNITY))
    post_ids = fill("<shard>-<number>", shard=texts(world.posts.shard), number=texts(world.posts.number))
    return {
        "comm": comm_id,
        "post": _named(rng, post_ids, _recent(rng, world.posts, comm, now), "3-999000111"),
        "notice": _named(rng, texts(world.notices.number), _recent(rng, world.notices, comm, now), "999000111"),
        "chat": fill("<comm>c<room>", comm=comm_id, room=texts(rng.integers(1, 9, count))),
        "number": texts(rng.integers(10**8, 10**9, count)),
        "seconds": texts(rng.integers(0, 7200, count)),
        "media": take(["VOD", "LIVE", "YOUTUBE"], rng.integers(0, 3, count)),
        "play": take(visits.play, visit),
        "said": take(words.SAYINGS, rng.integers(0, len(words.SAYINGS), count)),
        "section": take(["FEED", "ARTIST", "MOMENT"], rng.choice(3, count, p=[0.8, 0.1, 0.1])),
        "few": either(rng.random(count) < 0.1),
        "half": either(rng.random(count) < 0.5),
    }


def _recent(rng: np.random.Generator, writings: Columns, comm: np.ndarray, now: int) -> np.ndarray:
    """The row of a post or notice of each community; -1 if it has none yet. Newer ones are more likely."""
    written = np.bincount(writings.comm[writings.created < now], minlength=comm.max() + 1)
    first = np.searchsorted(writings.comm, np.arange(written.size))
    age = np.minimum(ms(rng, 1 + written[comm] / 8, comm.size), written[comm] - 1)
    return np.where(written[comm] > 0, first[comm] + written[comm] - 1 - age, -1)


def _named(rng: np.random.Generator, ids: pa.Array, rows: np.ndarray, unknown: str) -> pa.Array:
    """The ids at the rows. A missing row gets the unknown id, and so does 1% of all rows."""
    return put(pc.fill_null(take(ids, rows), unknown), some(rng, rows.size, 0.01), unknown)


def _by_kind(kind: np.ndarray, facts: dict[str, pa.Array]) -> tuple[pa.Array, pa.Array]:
    """Urls and requests. Each kind of call fills its templates for its rows, then the rows return to their order."""
    urls, requests = [], []
    order = np.argsort(kind, kind="stable")
    for rows, call in zip(np.split(order, np.searchsorted(kind[order], np.arange(1, len(CALLS)))), CALLS, strict=True):
        columns = {name: column.take(pa.array(rows)) for name, column in facts.items()}
        urls.append(fill(call.url, **columns))
        requests.append(fill(call.request, **columns) if call.request else pa.nulls(rows.size, pa.string()))
    back = pa.array(np.argsort(order))
    return pa.concat_arrays(urls).take(back), pa.concat_arrays(requests).take(back)


def _params(
    rng: np.random.Generator, visits: Columns, visit: np.ndarray, nth: np.ndarray, kind: np.ndarray, requests: pa.Array
) -> pa.Array:
    count = visit.size
    # In a few visits the country changes halfway (a VPN), and some calls have no country.
    moves = (rng.random(visits.calls.size) < 0.02)[visit] & (nth >= visits.calls[visit] // 2)
    gcc = take(words.COUNTRIES, (visits.country[visit] + 2 * moves) % len(words.COUNTRIES))
    # The request is an object or, in most calls, a text that contains JSON.
    requests = tear(rng, requests, 0.02)
    escaped = pc.replace_substring(pc.replace_substring(requests, "\\", "\\\\"), '"', '\\"')
    body = pc.if_else(pa.array(rng.random(count) < 0.3), requests, fill('"<text>"', text=escaped))
    name = put(pa.array(["_request_body"] * count), some(rng, count, 0.02), "request_body")
    params = fill(
        '{"method":"<method>","gcc":"<gcc>","language":"<language>","<x>":"<client><request>}',
        method=take([call.method for call in CALLS], kind),
        gcc=put(gcc, some(rng, count, 0.01), ""),
        language=take(words.LANGUAGES, visits.country[visit]),
        x=put(pa.array(["_x"] * count), some(rng, count, 0.01), "x"),
        client=take([_client_json(client) for client in CLIENTS], visits.client[visit]),
        request=pc.fill_null(fill(',"<name>":<body>', name=name, body=body), ""),
    )
    return tear(rng, params, 0.004)


def _client_json(client: Client) -> str:
    """The data of the client about itself, from the value of _x on. Unknown facts are missing."""
    facts = {"consumer_id": client.consumer, "wpf": client.wpf, "platform": client.platform, "os": client.os}
    return f'{client.provider}"' + "".join(f',"{name}":"{value}"' for name, value in facts.items() if value)


def _timestamps(rng: np.random.Generator, times: np.ndarray, now: int) -> pa.Array:
    """ms since epoch. The clocks of the first and last rows of the day are off, so these rows cross midnight."""
    strays = max(2, times.size // 500)
    early, late = -1 - times[:strays] + times[0], DAY + times[-strays:] - times[-strays]
    return pa.array(now + np.concatenate([early, times[strays:-strays], late]))
