"""The sources without days. They have all rows from the first day to the last, independent of today."""

import json
from typing import Any

import numpy as np
import pyarrow as pa

from include.sample import words
from include.sample.clock import DAY, KST, NEVER, midnight
from include.sample.draw import either, fill, generator, ms, put, some, take, tear, texts, with_repeats
from include.sample.universe import HORIZON, NO_COMMUNITY, Columns, Universe

WV1_ENDS = midnight("2022-07-18")
# Ids of V channels: first of a community, second of every fifth community, and channels that became no community.
CHANNEL, SECOND_CHANNEL, LOST_CHANNEL, CLOSED_CHANNEL = 101, 501, 901, 902


def artists(world: Universe) -> dict[str, Any]:
    """Two communities have a second artist, with a larger id but listed first; two artists have no community."""
    communities = world.communities
    known = np.flatnonzero(communities.known)
    comm = np.concatenate([known[:2], known, [-1, -1]])
    art_id = np.concatenate([[901, 902], communities.art_id[known], [903, 904]])
    band = np.concatenate([known.size + np.arange(2), known, known.size + np.arange(2, 4)])
    name, label = take(words.band_names(known.size + 4), band), art_id % 9 + 1
    opened = np.where(comm >= 0, communities.opened[comm], NEVER)
    members = [np.flatnonzero(world.users.artist_comm == c).tolist() if c >= 0 else [] for c in comm.tolist()]
    return {
        "we_art_id": art_id,
        **dict.fromkeys(("we_art_name", "comm_name", "ws_art_name", "ws_art_short_name"), name),
        "comm_id": pa.array(communities.id[comm], mask=comm < 0),
        "ws_art_id": art_id + 1000,
        "fc_artist_code": fill("FC<id>", id=texts(art_id)),
        **dict.fromkeys(("is_comm_enabled", "is_fc_enabled", "is_shop_enabled"), (comm >= 0).astype(int)),
        "is_comm_fronzen": 0,
        **dict.fromkeys(("comm_cre_dt", "comm_cre_date", "comm_open_date", "debut_date", "ws_art_create_dt"), opened),
        "fc_name": fill("<name> MEMBERSHIP", name=name),
        "comm_url_path": fill("art<id>", id=texts(art_id)),
        "ws_label_id": label,
        "ws_label_name": fill("Label <id>", id=texts(label)),
        **dict.fromkeys(("cnt_art_indi", "cnt_art_indi_active"), np.array([len(people) for people in members])),
        "arr_comm_art_indi_id": pa.array([world.users.id[people].tolist() for people in members], pa.list_(pa.int64())),
        "arr_comm_art_indi_name": pa.array([[words.stage_name(n)["ko"] for n in people] for people in members]),
        "ctry_code": "KR",
    }


def special_members(world: Universe) -> dict[str, Any]:
    """Artists in their own community, and as guests in others. Half of the guests have no name there."""
    rng, stays = generator(world.seed, "special members"), world.stays
    rows = np.flatnonzero((stays.user < world.users.artist_comm.size) & stays.is_first)
    user, comm = stays.user[rows], stays.comm[rows]
    at_home = world.users.artist_comm[user] == comm
    data = []
    for artist, home in zip(user.tolist(), at_home.tolist(), strict=True):
        known = ("ko en jp", "ko en jp", "en jp", "jp")[artist % 4].split() if home or artist % 2 else []
        names = words.stage_name(artist)
        data.append(json.dumps({"officialName": {"values": {key: names[key] for key in known}}}, ensure_ascii=False))
    kind = np.where(at_home, 0, 1)
    kind[some(rng, kind.size, 0.01)] = 2
    columns = {
        "community_id": pa.array(world.communities.id[comm]),
        "user_id": pa.array(world.users.id[user]),
        "special_member_type": take(["ARTIST", "OTHER_COMMUNITY_ARTIST", "MANAGER"], kind),
        "data": tear(rng, pa.array(data), 0.01),
    }
    return with_repeats(rng, columns, 0.01)


def status_log(world: Universe) -> dict[str, Any]:
    """Subscribe and unsubscribe events, and events of types to ignore. Some members have no subscribe event."""
    rng, stays = generator(world.seed, "status log"), world.stays
    came = np.flatnonzero(~stays.is_first | (rng.random(stays.user.size) > 0.02))
    went, other = np.flatnonzero(stays.unsubscribes), some(rng, stays.user.size, 0.02)
    until = np.minimum(stays.end[other], HORIZON)
    midway = stays.start[other] + (rng.random(other.size) * (until - stays.start[other])).astype(np.int64)
    stay = np.concatenate([came, went, other])
    kind = np.concatenate([np.full(came.size, 0), np.full(went.size, 1), rng.integers(2, 4, other.size)])
    at = np.concatenate([stays.start[came], stays.end[went], midway])
    order = np.argsort(at, kind="stable")
    return {
        "log_id": 1 + np.arange(order.size),
        "community_id": world.communities.id[stays.comm[stay[order]]],
        "user_id": world.users.id[stays.user[stay[order]]],
        "type": take(["subscribe", "unsubscribe", "block", "profile_update"], kind[order]),
        "change_at": at[order],
    }


def channel_mapping(world: Universe) -> dict[str, Any]:
    """Two in three communities were one V channel before, some were two. One channel appears twice, one is closed."""
    ids = world.communities.id[world.communities.known]
    first, second = np.arange(ids.size * 2 // 3), np.arange(0, ids.size, 5)
    channel = np.concatenate([CHANNEL + first, SECOND_CHANNEL + second, [CHANNEL, CLOSED_CHANNEL]])
    comm_id = np.concatenate([ids[first], ids[second], [ids[0], 0]])
    return {"v_comm_id": texts(channel), "wv_comm_id": pa.array(comm_id, mask=comm_id == 0)}


def v_migrations(world: Universe) -> dict[str, Any]:
    """One event per community of a V user. It also names a second channel, which may be of any community or none."""
    rng, stays, users = generator(world.seed, "v migrations"), world.stays, world.users
    rows = np.flatnonzero(stays.is_first & (users.moved_from_v < NEVER)[stays.user])
    channels = world.communities.known.sum() * 2 // 3
    first = np.where(stays.comm[rows] < channels, CHANNEL + stays.comm[rows], LOST_CHANNEL)
    any_channel = np.append(CHANNEL + np.arange(channels), [LOST_CHANNEL, CLOSED_CHANNEL])
    data = fill('{"vChannels":[<a>,<b>]}', a=texts(first), b=texts(rng.choice(any_channel, rows.size)))
    data = put(tear(rng, data, 0.005), some(rng, rows.size, 0.005), '{"vChannels":null}')
    return {
        "key": users.id[stays.user[rows]],
        "type": either(rng.random(rows.size) < 0.02, "CHANNEL", "MEMBER"),
        "data": data,
        "created_at": users.moved_from_v[stays.user[rows]] + rng.integers(0, DAY, rows.size),
    }


def wv1_joins(world: Universe) -> dict[str, Any]:
    """The facts of the first Weverse about some members. One of the three may be missing."""
    rng, stays = generator(world.seed, "wv1 joins"), world.stays
    early = stays.is_first & (stays.start < WV1_ENDS) & world.communities.known[stays.comm]
    rows = np.flatnonzero(early & (rng.random(early.size) < 0.4))
    # The first Weverse stored times as KST wall clock.
    joined, is_first = stays.start[rows] + KST - ms(rng, 100 * DAY, rows.size), rng.random(rows.size) < 0.6
    unknown = rng.random((3, rows.size)) < 0.04
    columns = {
        "wv_user_id": pa.array(world.users.id[stays.user[rows]]),
        "we_art_id": pa.array(world.communities.art_id[stays.comm[rows]]),
        "comm_user_first_dt": pa.array(joined, mask=unknown[0]),
        "tot_comm_user_first_dt": pa.array(joined - ~is_first * ms(rng, 50 * DAY, rows.size), mask=unknown[1]),
        "is_first_user_comm": pa.array(is_first.astype(int), mask=unknown[2]),
    }
    return with_repeats(rng, columns, 0.001)


def reports(world: Universe) -> dict[str, Any]:
    rng, stays = generator(world.seed, "reports"), world.stays
    rows = some(rng, stays.user.size, 0.02)
    comm_id, user_id = texts(world.communities.id[stays.comm[rows]]), texts(world.users.id[stays.user[rows]])
    letter = either(rng.random(rows.size) < 0.1, "A", "M")
    author = fill("<letter>-<comm>-<user>", letter=letter, comm=comm_id, user=user_id)
    value = fill('{"cumulativeReportCount":<count>}', count=texts(rng.geometric(0.3, rows.size)))
    return {
        "report_type": take(["MEMBER", "POST", "COMMENT"], rng.choice(3, rows.size, p=[0.6, 0.2, 0.2])),
        "author_id": put(author, some(rng, rows.size, 0.01), "M-unknown"),
        "value": tear(rng, value, 0.01),
    }


def push_settings(world: Universe) -> dict[str, Any]:
    rng, stays = generator(world.seed, "push settings"), world.stays
    rows = np.flatnonzero(stays.is_first & (rng.random(stays.user.size) < 0.8))
    by_artist = ["cheering_me", "comment", "live_on_air", "live_reservation", "moment", "post"]
    by_others = ["comment", "community_anniversary", "community_media", "community_notice", "following"]
    columns = {
        "community_id": pa.array(world.communities.id[stays.comm[rows]]),
        "user_id": pa.array(world.users.id[stays.user[rows]]),
    }
    for event in [f"artist_{each}" for each in by_artist] + by_others:
        columns[f"{event}_push_enabled"] = take(
            ["true", "false"], rng.choice([0, 1, -1], rows.size, p=[0.7, 0.28, 0.02])
        )
    return with_repeats(rng, columns, 0.0005)


def posts(world: Universe) -> dict[str, Any]:
    rng = generator(world.seed, "posts")
    rows, comm_id = _doubtful(rng, world, world.posts)
    data = fill('{"communityId":<comm>,"publishedAt":<at>}', comm=comm_id, at=texts(world.posts.created[rows]))
    return {
        "shard_id": world.posts.shard[rows],
        "post_local_id": world.posts.number[rows],
        "data": tear(rng, data, 0.004),
    }


def notices(world: Universe) -> dict[str, Any]:
    rng = generator(world.seed, "notices")
    rows, comm_id = _doubtful(rng, world, world.notices)
    parent = put(fill("community-<comm>", comm=comm_id), some(rng, rows.size, 0.005), None)
    return {"id": texts(world.notices.number[rows]), "parent_id": put(parent, some(rng, rows.size, 0.005), "artist-3")}


def _doubtful(rng: np.random.Generator, world: Universe, writings: Columns) -> tuple[np.ndarray, pa.Array]:
    """Rows of the writings and their community ids. A few rows appear twice, half of these in two communities."""
    rows = np.sort(np.append(np.arange(writings.comm.size), some(rng, writings.comm.size, 0.004)))
    comm = writings.comm[rows]
    twice = np.flatnonzero(np.diff(rows) == 0)[::2]
    comm[twice] = (comm[twice] + 1) % world.communities.id.size
    return rows, put(texts(world.communities.id[comm]), some(rng, rows.size, 0.003), str(NO_COMMUNITY))
