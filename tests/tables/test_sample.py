"""The sample: the same rows whatever was asked for, as the contracts want them, like real traffic, dirt included."""

import hashlib
import json
import os
import re
import subprocess
import sys
from functools import cache

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from include.lake import settings
from include.lake.errors import UsageError
from include.lake.project import contracts
from include.lake.project import days as calendar
from include.sample import generate
from include.sample.clock import DAY, KST, day_number, midnight
from include.sample.universe import UNKNOWN_COMMUNITIES, universe

SCALE = 0.05
DAYS = ["2022-01-01", "2026-01-31"]
LOG = "service_log.weverse_server_log"


@cache
def rows(table: str, day: str | None = None, scale: float = SCALE) -> pd.DataFrame:
    found = generate.days(day, day, scale) if day else ((name, None, made) for name, made in generate.current(scale))
    frames = {name: made for name, _, made in found}
    return frames[table].to_pandas(integer_object_nulls=True)


def read(text: str | None) -> dict | None:
    """The JSON object in the text; None if it is broken or something else."""
    try:
        found = json.loads(text or "")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def digest(start: str, end: str, day: str) -> str:
    """Of the rows of one day of a range, and of the tables without days."""
    made = hashlib.sha256()
    dated = ((table, found) for table, rows_of, found in generate.days(start, end, SCALE) if rows_of == day)
    for table, found in [*dated, *generate.current(SCALE)]:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, found.schema) as stream:
            stream.write_table(found.combine_chunks())
        made.update(table.encode() + sink.getvalue())
    return made.hexdigest()


def test_a_day_is_the_same_in_every_range_and_order() -> None:
    alone, within = digest(DAYS[1], DAYS[1], DAYS[1]), digest("2026-01-30", "2026-02-01", DAYS[1])
    universe.cache_clear()
    assert alone == within == digest(DAYS[1], "2026-02-01", DAYS[1])


def test_a_day_is_the_same_in_every_process() -> None:
    code = f"from tests.tables.test_sample import digest; print(digest({DAYS[1]!r}, {DAYS[1]!r}, {DAYS[1]!r}))"
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    env = {**os.environ, "PYTHONHASHSEED": other, "PYTHONPATH": str(settings.ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=env, cwd=settings.ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == digest(DAYS[1], DAYS[1], DAYS[1]), run.stderr


def test_seeds_differ() -> None:
    first, second = (dict(generate.current(SCALE, seed)) for seed in (1, 2))
    assert not first["we_mart.we_artist"].equals(second["we_mart.we_artist"])


def test_every_source_has_a_generator() -> None:
    sources = {table: contract for table, contract in contracts.load_all().items() if contract.is_source}
    daily = {table for table, contract in sources.items() if contract.day_column}
    assert sources, "no contract of a source was found"
    for what, wanted, given in (
        ("DAILY", daily, generate.DAILY),
        ("CURRENT", sources.keys() - daily, generate.CURRENT),
    ):
        missing, extra = sorted(wanted - given.keys()), sorted(given.keys() - wanted)
        assert not missing, f"sources without sample rows: write their generators and add them to {what}: {missing}"
        assert not extra, f"no source (any more): take these out of {what}: {extra}"


def test_tables_are_what_the_contracts_say() -> None:
    named = {"string": "string", "tinyint": "int8", "int": "int32", "bigint": "int64", "double": "double"}
    named |= {"boolean": "bool", "date": "date32[day]", "timestamp": "timestamp[us, tz=UTC]"}
    made = [(table, found) for table, _, found in generate.days(DAYS[0], DAYS[0], SCALE)] + list(
        generate.current(SCALE)
    )
    for table, found in made:
        contract = contracts.get(table)
        wanted = [(c.name, re.sub(r"\w+(?=>$)|^\w+$", lambda m: named[m[0]], c.type)) for c in contract.columns]
        given = [
            (f.name, f"array<{f.type.value_type}>" if pa.types.is_list(f.type) else str(f.type)) for f in found.schema
        ]
        assert given == wanted, table
        assert found.num_rows > 0, table
        for column in contract.columns:
            assert column.nullable or found[column.name].null_count == 0, f"{table}.{column.name}"
        if contract.day_column:
            assert set(found[contract.day_column].to_pylist()) == {DAYS[0]}, table


@pytest.mark.parametrize("scale", [0.05, 0.2])
def test_scale(scale: float) -> None:
    assert len(rows(LOG, DAYS[1], scale)) == pytest.approx(100_000 * scale, rel=0.25)
    assert len(rows("we_mart.we_user", DAYS[1], scale)) == pytest.approx(20_000 * scale, rel=0.25)


def test_the_smallest_scale_works() -> None:
    assert all(found.num_rows for _, _, found in generate.days("2020-01-01", "2020-01-01", 1e-6))
    assert len(list(generate.current(1e-6))) == len(generate.CURRENT)


def test_members_grow() -> None:
    profiles = "we_mart.ods_wv_member_profile"
    sizes = [len(rows(profiles, day)) for day in ("2020-01-01", *DAYS, "2030-01-01")]
    assert sizes == sorted(sizes) and sizes[1] > 10 * len(UNKNOWN_COMMUNITIES)


def test_every_day_has_changes_of_country() -> None:
    seen = universe(1, SCALE).sightings.seen
    found = np.unique((seen + KST) // DAY)
    assert set(range(midnight("2020-01-01") // DAY + 1, midnight("2035-12-31") // DAY + 1)) <= set(found.tolist())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("2019-12-31", "2020-01-02"), "2020-01-01"),
        (("2035-12-31", "2036-01-01"), "2035-12-31"),
        (("2026-01-02", "2026-01-01"), "upside down"),
        (("2026-01-01", "2026-01-01", 0), "scale 0"),
        (("2026-01-01", "2026-01-01", float("nan")), "scale nan"),
        (("2026-01-01", "2026-01-01", float("inf")), "scale inf"),
        (("2026-01-01", "2026-01-01", 1.0, -1), "seed -1"),
    ],
)
def test_impossible_wishes_are_refused_at_once(arguments: tuple, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        generate.days(*arguments)
    assert "\n" not in str(refused.value)
    if len(arguments) > 2:
        with pytest.raises(UsageError, match=said):
            generate.current(*arguments[2:])


def test_evening_peak_and_night_trough() -> None:
    by_hour = rows(LOG, DAYS[1], 0.2).groupby("hour").size()
    assert by_hour.idxmax() in {"20", "21", "22"} and by_hour.idxmin() in {"03", "04", "05"}
    assert by_hour.max() > 5 * by_hour.min()


def test_few_communities_hold_most_members() -> None:
    sizes = rows("we_mart.ods_wv_member_profile", DAYS[1], 0.2).groupby("community_id").size().sort_values()
    assert len(sizes) > 20
    assert sizes.tail(5).sum() > sizes.sum() / 2


def test_visits_look_like_visits() -> None:
    log = rows(LOG, DAYS[1], 0.2)
    users = (
        log[log.user_info_id.str.fullmatch(r"[1-9]\d*", na=False)].groupby("user_info_device_id").user_info_id.nunique()
    )
    assert (users > 1).sum() > 20, "devices of several users"
    log = log[pd.to_numeric(log.unix_log_timestamp) > 0].sort_values(
        ["user_info_device_id", "unix_log_timestamp"], kind="stable"
    )
    gaps = log.groupby("user_info_device_id").unix_log_timestamp.diff()
    limit = 30 * 60_000
    for what, low, high in (
        ("under", limit - 600_000, limit - 1),
        ("exactly", limit, limit),
        ("over", limit + 1, 3 * limit),
    ):
        assert gaps.between(low, high).sum() > 3, f"breaks {what} 30 minutes"
    before = log.user_info_id.isna() & (log.user_info_device_id == log.user_info_device_id.shift(-1))
    assert (before & log.user_info_id.shift(-1).notna()).sum() > 20, "logins in the middle of a session"
    assert log.url.str.contains("/join").sum() > 20 and log.url.str.contains("/leave").sum() > 20
    agents = log.user_info_user_agent
    assert (
        agents.str.contains(r"app; ?\d+\.\d+\.\d+").sum() > agents.str.contains(r"weverse; ?\d+\.\d+\.\d+").sum() > 100
    )
    countries = log[log.user_info_id.notna()].groupby("user_info_id").user_info_country.nunique()
    assert (countries == 1).mean() > 0.8


@pytest.mark.parametrize("day", DAYS)
def test_dirt_of_the_log(day: str) -> None:
    log = rows(LOG, day)
    params = log.params.map(read)
    request = params.map(lambda found: (found or {}).get("_request_body", (found or {}).get("request_body")))
    keys = params.map(lambda found: set(found or ()))
    time, tv = log.unix_log_timestamp, params.map(lambda found: (found or {}).get("consumer_id") == "tvApp")
    is_post = log.url.str.extract(r"/post-(\d+-\d+)")[0]
    posts = rows("weverse2.community_content_post")
    known_posts = set(posts.shard_id.astype(str) + "-" + posts.post_local_id.astype(str))
    comm = log.url.str.extract(r"/community-(\d+)")[0].dropna().astype(int)
    members = set(rows("we_mart.ods_wv_member_profile", day).community_id)
    users = set(rows("we_mart.we_user", day).wv_user_id.dropna().astype(str))
    user = log.user_info_id
    found = {
        "no device": log.user_info_device_id.isna() & ~tv,
        "tvApp without device, with user key": tv & log.user_info_device_id.isna() & log.user_info_user_key.notna(),
        "null timestamps": time.isna(),
        "zero timestamps": time == 0,
        "negative timestamps": time < 0,
        "timestamps of the day before": (time > 0) & (time < midnight(day)),
        "timestamps of the day after": time >= midnight(day) + DAY,
        "exact repeats": log.duplicated(),
        "no user": user.isna(),
        "empty user": user == "",
        "user 0": user == "0",
        "users that are no number": ~user.str.fullmatch(r"\d*", na=True),
        "users missing from we_user": user.str.fullmatch(r"[1-9]\d*", na=False) & ~user.isin(users),
        "broken params": params.isna() & log.params.notna(),
        "no params": log.params.isna(),
        "request as text": request.map(lambda found: isinstance(found, str)),
        "request as object": request.map(lambda found: isinstance(found, dict)),
        "broken request": request.map(lambda found: isinstance(found, str) and read(found) is None),
        "request_body": keys.map(lambda found: "request_body" in found),
        "x": keys.map(lambda found: "x" in found),
        "empty gcc": params.map(lambda found: (found or {}).get("gcc") == ""),
        "unknown communities": ~comm.isin(members),
        "unknown posts": is_post.notna() & ~is_post.isin(known_posts),
    }
    counts = {kind: int(where.sum()) for kind, where in found.items()}
    assert min(counts.values()) >= 1, counts
    rare = {kind: n for kind, n in counts.items() if kind not in {"no user", "request as text", "request as object"}}
    assert max(rare.values()) < 0.05 * len(log), counts


def test_requests_have_the_keys_that_the_build_reads() -> None:
    params = rows(LOG, DAYS[1]).params.map(read).dropna()
    requests = [found["_request_body"] for found in params if "_request_body" in found]
    keys = {key for request in requests for key in (request if isinstance(request, dict) else read(request) or ())}
    wanted = {"body", "mediaType", "time", "videoId", "sessionId", "sectionType", "hasProduct", "hideFromArtist"}
    assert keys >= wanted | {"membershipOnly", "messageCount", "messageList", "communityId", "postId"}


@pytest.mark.parametrize("day", DAYS)
def test_dirt_of_the_members(day: str) -> None:
    profiles, users = rows("we_mart.ods_wv_member_profile", day), rows("we_mart.we_user", day)
    clubs, log = rows("we_mart.ws_fc_user_history", day), rows("weverse2.community_log_member_status_log")
    posts, notices = rows("weverse2.community_content_post"), rows("weverse2.community_content_common_notice")
    artists, special = rows("we_mart.we_artist"), rows("weverse2.community_member_special_member")
    moves = rows("weverse2.community_log_v_member_migration")
    data = profiles.data.map(read)
    known = set(artists.comm_id.dropna())
    home = set(special[special.special_member_type == "ARTIST"].user_id)
    found = {
        "broken profiles": data.isna(),
        "no lastJoinAt": data.map(lambda found: found is not None and "lastJoinAt" not in found),
        "members of unknown communities": ~profiles.community_id.isin(known),
        "members missing from we_user": ~profiles.user_id.isin(set(users.wv_user_id.dropna())),
        "accounts that never came": users.wv_user_id.isna(),
        "left the service": users.wv_leave_dt.notna(),
        "failed payments": clubs.ord_status == "PAYMENT_FAILED",
        "restored memberships": clubs.is_cx_by_restore == 1,
        "two memberships of one member": clubs.duplicated(["we_member_id", "we_art_id"]),
        "ignored events": ~log.type.isin(["subscribe", "unsubscribe"]),
        "unsubscribes": log.type == "unsubscribe",
        "members who come back": log[log.type == "subscribe"].duplicated(["community_id", "user_id"]),
        "broken posts": posts.data.map(read).isna(),
        "posts of unknown communities": ~posts.data.map(lambda text: (read(text) or {}).get("communityId")).isin(known),
        "repeated posts": posts.duplicated(["shard_id", "post_local_id"]),
        "repeated posts in other communities": posts.duplicated(["shard_id", "post_local_id"]) & ~posts.duplicated(),
        "repeated notices": notices.duplicated("id"),
        "notices of no community": ~notices.parent_id.str.match("community-", na=False),
        "repeated artists": artists.comm_id.dropna().duplicated(),
        "artists without community": artists.comm_id.isna(),
        "artists": special.special_member_type == "ARTIST",
        "artists who are guests": (special.special_member_type == "OTHER_COMMUNITY_ARTIST")
        & special.user_id.isin(home),
        "repeated special members": special.duplicated(),
        "broken special members": special.data.map(read).isna(),
        "broken migrations": moves.data.map(read).isna(),
        "migrations before the start": moves.created_at < midnight("2022-11-02"),
        "migrations that are no list": moves.data.map(lambda text: read(text) == {"vChannels": None}),
        "other migrations": moves.type != "MEMBER",
        "broken reports": rows("weverse2.community_common_report").value.map(read).isna(),
        "moved from V": users.vlive_id.notna() | (day < "2022-11-02"),
    }
    counts = {kind: int(where.sum()) for kind, where in found.items()}
    assert min(counts.values()) >= 1, counts


def test_leaving_is_written_in_korean_wall_clock_and_all_else_in_utc() -> None:
    left = rows("we_mart.we_user", DAYS[1]).dropna(subset="wv_leave_dt")
    assert set(left.wv_leave_dt - left.wv_deactivated_dt) == {pd.Timedelta(hours=9)}


def test_artists_visit() -> None:
    special = rows("weverse2.community_member_special_member")
    artists = set(special[special.special_member_type == "ARTIST"].user_id.astype(str))
    assert rows(LOG, DAYS[1]).user_info_id.isin(artists).sum() > 5


def test_snapshots_agree_with_the_status_log() -> None:
    """Who left well before the snapshot is not in it, who was inside all along is; around midnight it may be either."""
    scale, hour = 0.2, 3_600_000
    world = universe(1, scale)
    log = rows("weverse2.community_log_member_status_log", None, scale)
    log = log[log.type.isin(["subscribe", "unsubscribe"])].assign(member=log.community_id * 10**9 + log.user_id)
    stayed = set(world.users.id[world.users.left > midnight("2026-02-01")])
    surprises = {"left": 0, "came": 0}
    for day in calendar.day_range("2026-01-01", "2026-01-31"):
        end = midnight(day) + DAY
        profiles = generate.DAILY["we_mart.ods_wv_member_profile"](world, day_number(day))
        inside = profiles["community_id"] * 10**9 + profiles["user_id"]
        last = log[log.change_at < end - hour].drop_duplicates("member", keep="last")
        last = last[~last.member.isin(log[log.change_at.between(end - hour, end + hour)].member)]
        assert not last[(last.type == "unsubscribe") & last.member.isin(inside)].size, day
        assert not last[(last.type == "subscribe") & last.user_id.isin(stayed) & ~last.member.isin(inside)].size, day
        just_after = log[log.change_at.between(end, end + hour)]
        surprises["left"] += ((just_after.type == "unsubscribe") & ~just_after.member.isin(inside)).sum()
        surprises["came"] += ((just_after.type == "subscribe") & just_after.member.isin(inside)).sum()
    assert min(surprises.values()) > 0, surprises


def tracks_of(days: list[str]) -> pd.DataFrame:
    world = universe(1, SCALE)
    frames = []
    for day in days:
        columns = generate.DAILY["rudder.tracks"](world, day_number(day))
        frames.append(pa.table(columns).to_pandas().assign(day=day))
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize(
    "month", [calendar.day_range("2022-01-01", "2022-01-31"), calendar.day_range("2026-01-01", DAYS[1])]
)
def test_people_and_dirt_of_the_tracks(month: list[str]) -> None:
    """A month has all that the sessions have to get right, and every track is of its UTC day."""
    tracks = tracks_of(month)
    assert set(tracks.timestamp // DAY - tracks.day.map(day_number)) == {0}
    users = tracks[tracks.user_id.fillna("") != ""]
    devices_of = users.groupby("user_id").anonymous_id.nunique()
    users_of = users.groupby("anonymous_id").user_id.nunique()
    known = tracks.anonymous_id.isin(users.anonymous_id)
    gaps = tracks.sort_values("timestamp").groupby("anonymous_id").timestamp.diff() / 60_000
    found = {
        "devices that nobody logs in with": ~known,
        "events of a device before or after its login": known & ~tracks.index.isin(users.index),
        "events with neither id": tracks.anonymous_id.isna() & (tracks.user_id.fillna("") == ""),
        "empty users": tracks.user_id == "",
        "repeated deliveries": tracks.duplicated(["id", "day"]),
        "repeated deliveries of another day": tracks.duplicated("id") & ~tracks.duplicated(["id", "day"]),
        "gaps at the limit of a session": gaps.between(29, 32),
        "new sessions": gaps > 31,
        "viewed products": tracks.event == "viewed_product",
        "signups": tracks.event == "signup",
        "users with two devices": devices_of > 1,
        "devices of two users": users_of > 1,
    }
    counts = {kind: int(where.sum()) for kind, where in found.items()}
    assert min(counts.values()) >= 1, counts


def test_late_tracks_come_after_those_in_time() -> None:
    day = DAYS[1]
    ((table, _, late),) = generate.days(day, day, SCALE, late=True)
    in_time = rows("rudder.tracks", day)
    found = late.to_pandas()
    assert table == "rudder.tracks" and 0.01 < len(found) / len(in_time) - 1 < 0.05
    pd.testing.assert_frame_equal(found.head(len(in_time)), in_time, check_dtype=False)
    new = found.tail(len(found) - len(in_time))
    assert set(new.part_date) == {day} and not set(new.id) & set(in_time.id)
    assert new.anonymous_id.isin(in_time.anonymous_id).any(), "of people who were there"


def test_a_day_of_tracks_knows_few_people_of_long_ago() -> None:
    """So a day has the same volume whenever it is, and what its visitors did before is of the last weeks."""
    days = calendar.day_range("2025-10-01", "2026-01-31")
    tracks = tracks_of(days).dropna(subset="anonymous_id")
    volume = tracks.groupby(tracks.day.str[:7]).size() / tracks.groupby(tracks.day.str[:7]).day.nunique()
    assert volume.max() < 1.2 * volume.min()
    today, before = tracks[tracks.day == days[-1]], tracks[tracks.day < days[-1]]
    seen = before[before.anonymous_id.isin(today.anonymous_id)].groupby("anonymous_id").day.max()
    assert len(seen) > 10 and (seen < days[-45]).sum() < 0.2 * len(seen)


MUSIC = [table for table in generate.DAILY if table.startswith("audio_raw.")]
MONTH = calendar.day_range("2026-01-01", DAYS[1])


@cache
def music(table: str, first: str = MONTH[0], last: str = MONTH[-1], scale: float = SCALE) -> pd.DataFrame:
    """The rows of a range of days, as the contract has them but for the types; times are ms since 1970."""
    world = universe(1, scale)
    made = {
        day: generate.DAILY[f"audio_raw.{table}"](world, day_number(day)) for day in calendar.day_range(first, last)
    }
    frames = [pa.table(columns).to_pandas(integer_object_nulls=True).assign(day=day) for day, columns in made.items()]
    return pd.concat(frames, ignore_index=True)


def test_music_is_of_its_utc_day_and_every_table_has_rows_each_day() -> None:
    assert len(MUSIC) == 4
    for scale in (0.005, SCALE):
        for table in MUSIC:
            found = music(table.partition(".")[2], scale=scale)
            assert set(found.ts // DAY - found.day.map(day_number)) == {0}, table
            assert found.day.nunique() == len(MONTH), table


def test_a_session_is_of_one_user_and_a_song_is_a_page_too() -> None:
    pages, plays = music("page_view_events"), music("listen_events")
    event = ["session_id", "item_in_session"]
    same = [*event, "ts", "user_id", "artist", "song", "duration", "city", "lat", "user_agent", "level", "registration"]
    songs = pages[pages.page == "NextSong"]
    for column in ("artist", "song", "duration"):
        assert songs[column].notna().all() and pages[column].isna().sum() == len(pages) - len(songs)
    pd.testing.assert_frame_equal(
        *(rows[same].drop_duplicates().sort_values(event, ignore_index=True) for rows in (songs, plays))
    )
    assert pages.groupby("session_id").user_id.nunique().max() == 1
    once = pages.drop_duplicates(["session_id", "item_in_session"])
    assert once.sort_values(event).groupby("session_id").ts.diff().min() > 0, "no two at once: a play has a start"
    assert (once.groupby("session_id").item_in_session.max() + 1 == once.groupby("session_id").size()).mean() > 0.95


def test_a_plan_changes_with_the_event_that_says_so() -> None:
    pages, changes = music("page_view_events"), music("status_change_events")
    logged_in = pages.dropna(subset="user_id").drop_duplicates(["session_id", "item_in_session"]).sort_values("ts")
    before = logged_in.groupby("user_id")["level"].shift()
    turns = logged_in[before.notna() & (before != logged_in["level"])]
    assert len(turns) > 20 and set(turns.page) <= {"Submit Upgrade", "Submit Downgrade"}
    assert ((turns.page == "Submit Upgrade") == (turns["level"] == "paid")).all()
    events = changes.drop_duplicates(["session_id", "item_in_session"])
    assert set(turns.session_id) <= set(events.session_id) and set(events["level"]) == {"free", "paid"}
    assert events.user_id.notna().all() and set(events.auth) == {"Logged In"}


def test_people_and_dirt_of_the_music() -> None:
    pages, plays, logins = music("page_view_events"), music("listen_events"), music("auth_events")
    good = logins[logins.success]
    firsts = plays.groupby("session_id").ts.min()
    first_login = good.groupby("session_id").ts.min().reindex(firsts.index)
    places = pages.drop_duplicates(["city", "state", "zip", "lat", "lon"]).dropna(subset="lat")
    of_user = pages.dropna(subset="user_id").groupby("user_id")
    days_of_play = plays.groupby("session_id").day.nunique()
    logged_in = set(zip(good.session_id, good.day, strict=True))
    without = pd.Series([pair not in logged_in for pair in zip(plays.session_id, plays.day, strict=True)])
    is_later = plays.day > plays.groupby("session_id").day.transform("min")
    elsewhere = good.groupby("session_id")[["city", "user_agent"]].nunique()
    names = plays[["song", "artist"]].apply(lambda column: column.str.strip().str.lower())
    found = {
        "failed logins": ~logins.success,
        "guests": pages.auth == "Guest",
        "plays of guests": plays.user_id.isna(),
        "plays of sessions without login": first_login.isna(),
        "plays before the login": first_login > firsts,
        "sessions that go on after midnight": days_of_play > 1,
        "plays after midnight, with no login of that day": is_later & without,
        "sessions with logins from two places": elsewhere.city > 1,
        "sessions with logins from two devices": elsewhere.user_agent > 1,
        "cities of two states": places.groupby("city").state.nunique() > 1,
        "places with two zips": places.groupby(["lat", "lon"]).zip.nunique() > 1,
        "users of two places": of_user.city.nunique() > 1,
        "users of two devices": of_user.user_agent.nunique() > 1,
        "no coordinates": pages.lat.isna() & pages.lon.isna(),
        "songs in another case": plays.song.str.isupper(),
        "songs with a blank at the end": plays.song.str.endswith(" "),
        "artists with a blank at the end": plays.artist.str.endswith(" "),
        "songs of one name by two artists": names.groupby("song").artist.nunique() > 1,
        "half seconds": plays.duration % 1 == 0.5,
        "repeated plays": plays.duplicated(),
        "repeated logins": logins.duplicated(),
        "repeated pages": pages.duplicated(),
        "errors": pages.status == 404,
    }
    counts = {kind: int(where.sum()) for kind, where in found.items()}
    assert min(counts.values()) >= 1, counts
    person = ["user_id", "last_name", "first_name", "gender", "registration"]
    for rows_of in (pages, plays, logins):
        assert (rows_of[person].isna().nunique(axis=1) == 1).all(), "a person is known or not"
    assert (logins.user_id.notna() == logins.success).all()
    assert logins.user_agent.str.fullmatch(r'"[^"]+"').all() and not pages.user_agent.str.contains('"').any()
    assert (pages.dropna(subset="user_id").registration < pages.dropna(subset="user_id").ts).all()
    renamed = [music("page_view_events", day, day, 1.0).dropna(subset="user_id") for day in ("2020-01-01", MONTH[0])]
    surnames = [rows_of.drop_duplicates("user_id").set_index("user_id").last_name for rows_of in renamed]
    both = surnames[0].index.intersection(surnames[1].index)
    assert 0 < (surnames[0][both] != surnames[1][both]).mean() < 0.2


def test_shares_of_the_music() -> None:
    day = (MONTH[4], MONTH[4], 1.0)
    pages, plays, logins = (music(table, *day) for table in ("page_view_events", "listen_events", "auth_events"))
    assert len(plays) == pytest.approx(6_000, rel=0.15)
    assert 0.6 < len(plays) / len(pages) < 0.8
    assert 5 <= len(music("status_change_events", *day)) < 60
    for rows_of in (pages, plays):
        assert rows_of.duplicated().mean() == pytest.approx(0.005, rel=0.3)
    assert 0.003 < pages.lat.isna().mean() < 0.03
    assert 0.02 < (~logins.success).mean() < 0.12
    assert 0.1 < 1 - plays.session_id.isin(logins[logins.success].session_id).mean() < 0.4
    songs = plays.groupby(["artist", "song"]).size().sort_values(ascending=False)
    assert len(songs) > 500 and songs.head(10).sum() > 5 * songs[100:110].sum(), "few songs have most listeners"
    assert 0.04 < (plays.duration % 1 == 0.5).mean() < 0.25
