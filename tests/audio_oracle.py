"""The tables of the audio warehouse in plain Python, from raw events: the obvious way, and no word of the SQL.

`oracle` gives the rows of every table after all events are taken in, so any history of builds must give them, too.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

Row = dict[str, Any]
# Source -> its events, with the columns of the raw table; a column not given is null.
Events = dict[str, list[Row]]

LISTEN, LOGIN, PAGE_VIEW, STATUS_CHANGE = "listen_events", "auth_events", "page_view_events", "status_change_events"
SOURCES = (LISTEN, LOGIN, PAGE_VIEW, STATUS_CHANGE)
HUBS = {
    "hub_user": ("user_pk", ["user_id"], SOURCES),
    "hub_session": ("session_pk", ["user_id", "session_id"], SOURCES),
    "hub_song": ("song_pk", ["song_artist", "song_name"], [LISTEN]),
    "hub_song_artist": ("song_artist_pk", ["song_artist"], [LISTEN]),
    "hub_song_play": ("song_play_pk", ["user_id", "session_id", "play_start_ts"], [LISTEN]),
    "hub_plan": ("plan_pk", ["plan_type"], SOURCES),
    "hub_user_agent": ("user_agent_pk", ["user_agent"], SOURCES),
    "hub_location_geo": ("location_geo_pk", ["location_latitude", "location_longitude"], SOURCES),
    "hub_location_zip": ("location_zip_pk", ["location_zip"], SOURCES),
    "hub_location_city": ("location_city_pk", ["location_city"], SOURCES),
    "hub_location_state": ("location_state_pk", ["location_state"], SOURCES),
}
LINKS = {
    "link_song_artist": (["hub_song", "hub_song_artist"], [], [LISTEN]),
    "link_song_play_context": (["hub_song_play", "hub_session", "hub_song"], ["hub_session", "hub_song"], [LISTEN]),
    "link_user_agent_user": (["hub_user_agent", "hub_user"], [], SOURCES),
    "link_location_geo_zip": (["hub_location_geo", "hub_location_zip"], [], SOURCES),
    "link_location_zip_city": (["hub_location_zip", "hub_location_city"], [], SOURCES),
    "link_location_city_state": (["hub_location_city", "hub_location_state"], [], SOURCES),
}
PROFILE = ["user_first_name", "user_last_name", "user_gender", "user_registration_ts"]
SATELLITES = {
    "sat_location_geo": ("hub_location_geo", ["location_latitude", "location_longitude"], SOURCES),
    "sat_song_play_details": ("hub_song_play", ["song_played_sec", "play_start_ts", "play_end_ts"], [LISTEN]),
    "sat_user_profile": ("hub_user", PROFILE, SOURCES),
    "sat_user_plan": ("hub_user", ["plan_type"], [STATUS_CHANGE, LOGIN, LISTEN, PAGE_VIEW]),
}
LOGIN_PARENTS = [
    "hub_session", "hub_user_agent", "hub_user", "hub_location_geo", "hub_location_zip", "hub_location_city",
    "hub_location_state",
]  # fmt: skip
PAGE_VIEW_PARENTS = LOGIN_PARENTS[:4]


def oracle(raw: Events) -> dict[str, list[Row]]:
    """Table -> its rows."""
    events = stage(raw)
    tables = {"stage_events": events}
    tables |= {name: _hub(events, *facts) for name, facts in HUBS.items()}
    tables |= {name: _link(events, name, *facts) for name, facts in LINKS.items()}
    tables |= {name: _satellite(events, *facts) for name, facts in SATELLITES.items()}
    tables["t_link_authorization"] = _logins(events)
    tables["t_link_page_view"] = _transactions(
        [event for event in events if event["record_source"] == PAGE_VIEW],
        "page_view_pk", PAGE_VIEW_PARENTS, ["page_view_ts", "page", "method", "status"],
    )  # fmt: skip
    found = {f"audio_vault.{name}": rows for name, rows in tables.items()}
    plays = _plays(found)
    found["audio_mart.mart_song_play"] = plays
    found["audio_mart.mart_song_play_hourly_metrics"] = _hours(plays)
    found["audio_mart.mart_song_play_top_10_songs"] = _top_songs(plays)
    return found


def stage(raw: Events) -> list[Row]:
    """Each event once, in one form."""
    found = {}
    for source in SOURCES:
        for event in raw.get(source, []):
            row = _staged(source, event)
            found[tuple(map(repr, row.values()))] = row
    return list(found.values())


def _staged(source: str, event: Row) -> Row:
    moment, seconds = event["ts"], event.get("duration") if source == LISTEN else None
    agent = (event.get("user_agent") or "").strip('" ') or None
    ends = None
    if seconds is not None:
        ends = moment + timedelta(seconds=int(Decimal(repr(seconds)).quantize(Decimal(1), ROUND_HALF_UP)))
    logged_in = _lower(event.get("auth")) == "logged in"
    success = {LISTEN: logged_in or None, LOGIN: event.get("success")}.get(source)
    is_login, is_view = source in (LISTEN, LOGIN), source == PAGE_VIEW
    return {
        "record_source": source,
        "event_ts": moment,
        "session_id": event.get("session_id"),
        "user_id": None if success is False else event.get("user_id"),
        "user_agent": agent,
        "plan_type": _lower(event.get("level")),
        "location_latitude": event.get("lat"),
        "location_longitude": event.get("lon"),
        "location_zip": _lower(event.get("zip")),
        "location_city": _lower(event.get("city")),
        "location_state": _lower(event.get("state")),
        "user_first_name": _lower(event.get("first_name")),
        "user_last_name": _lower(event.get("last_name")),
        "user_gender": _lower(event.get("gender")),
        "user_registration_ts": event.get("registration"),
        "song_artist": _lower(event.get("artist")) if source == LISTEN else None,
        "song_name": _lower(event.get("song")) if source == LISTEN else None,
        "song_played_sec": seconds,
        "play_start_ts": moment if source == LISTEN else None,
        "play_end_ts": ends,
        "authorization_ts": moment if is_login else None,
        "is_auth_successful": success,
        "page_view_ts": moment if is_view else None,
        "page": ((event.get("page") or "").strip(" ") or None) if is_view else None,
        "method": ((event.get("method") or "").strip(" ") or None) if is_view else None,
        "status": event.get("status") if is_view else None,
        "part_date": moment.date().isoformat(),
    }


def _lower(text: str | None) -> str | None:
    return (text or "").strip(" ").lower() or None


def key_of(values: Iterable[Any]) -> str | None:
    """The hash key of some business keys."""
    texts = [_key_text(value) for value in values]
    if not any(text is not None for text in texts):
        return None
    return hashlib.md5("||".join("^^" if text is None else text for text in texts).encode()).hexdigest().upper()


def _key_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.") + f"{value.microsecond // 1000:03}"
    if isinstance(value, float):
        return format(Decimal(math.floor(value * 1_000_000 + 0.5)).scaleb(-6), "f")
    return str(value).strip(" ").upper() or None


def _order(*values: Any) -> tuple[Any, ...]:
    """Without a value first."""
    return tuple((value is not None, value if value is not None else 0) for value in values)


def _hub_key(event: Row, hub: str) -> str | None:
    return key_of(event[name] for name in HUBS[hub][1])


def _first(rows: Iterable[Row], names: list[str]) -> Row:
    return min(rows, key=lambda row: _order(row["load_date"], row["record_source"], *(row[name] for name in names)))


def _earliest(rows: list[Row], key: str, names: list[str]) -> list[Row]:
    by_key = defaultdict(list)
    for row in rows:
        by_key[row[key]].append(row)
    return [_first(same, names) for same in by_key.values()]


def _seen(event: Row) -> Row:
    return {"load_date": event["part_date"], "record_source": event["record_source"]}


def _hub(events: list[Row], key: str, names: list[str], sources: Iterable[str]) -> list[Row]:
    rows = [
        {key: key_of(event[name] for name in names), **{name: event[name] for name in names}, **_seen(event)}
        for event in events
        if event["record_source"] in sources
    ]
    return _earliest([row for row in rows if row[key] is not None], key, names)


def _parents(event: Row, hubs: list[str], more: list[str]) -> tuple[str | None, Row]:
    """The key of a link, and those of its hubs."""
    names = list(dict.fromkeys([name for hub in hubs for name in HUBS[hub][1]] + more))
    return key_of(event[name] for name in names), {HUBS[hub][0]: _hub_key(event, hub) for hub in hubs}


def _link(events: list[Row], name: str, hubs: list[str], optional: list[str], sources: Iterable[str]) -> list[Row]:
    rows = []
    for event in events:
        key, parents = _parents(event, hubs, [])
        needed = [HUBS[hub][0] for hub in hubs if hub not in optional]
        if event["record_source"] in sources and all(parents[parent] is not None for parent in needed):
            rows.append({f"{name}_pk": key, **parents, **_seen(event)})
    return _earliest(rows, f"{name}_pk", [])


def _transactions(events: list[Row], key: str, hubs: list[str], payload: list[str]) -> list[Row]:
    rows = []
    for event in events:
        own, parents = _parents(event, hubs, payload)
        rows.append({key: own, **parents, **{name: event[name] for name in payload}, **_seen(event)})
    return _earliest(rows, key, payload)


def _logins(events: list[Row]) -> list[Row]:
    payload = ["authorization_ts", "is_auth_successful"]
    rows = _transactions(
        [event for event in events if event["record_source"] in (LOGIN, LISTEN)],
        "authorization_pk", LOGIN_PARENTS, payload,
    )  # fmt: skip
    by_session = defaultdict(list)
    for row in rows:
        if row["session_pk"] is not None:
            by_session[row["session_pk"]].append(row)
    found = []
    for same in by_session.values():
        if real := [row for row in same if row["record_source"] == LOGIN]:
            found += real
        else:
            found.append(min(same, key=lambda row: _order(row["authorization_ts"], row["authorization_pk"])))
    return found


def _satellite(events: list[Row], hub: str, payload: list[str], sources: Any) -> list[Row]:
    key, rank = HUBS[hub][0], list(sources if sources is not SOURCES else ())
    by_key = defaultdict(lambda: defaultdict(list))
    for event in events:
        own = _hub_key(event, hub)
        if event["record_source"] in sources and own is not None:
            by_key[own][event["event_ts"]].append(event)
    rows = []
    for own, instants in by_key.items():
        before: Any = None
        for moment, same in sorted(instants.items()):
            one = min(
                same,
                key=lambda event: (
                    rank.index(event["record_source"]) if rank else 0,
                    _order(*(event[name] for name in payload), event["record_source"]),
                ),
            )
            values = [one[name] for name in payload]
            if values != before:
                rows.append({key: own, **dict(zip(payload, values, strict=True)), "effective_from": moment,
                             **_seen(one)})  # fmt: skip
            before = values
    return rows


def _plays(vault: dict[str, list[Row]]) -> list[Row]:
    def by(table: str, key: str) -> dict[Any, list[Row]]:
        found = defaultdict(list)
        for row in vault[f"audio_vault.{table}"]:
            found[row[key]].append(row)
        return found

    details, contexts = by("sat_song_play_details", "song_play_pk"), by("link_song_play_context", "song_play_pk")
    songs, logins = by("hub_song", "song_pk"), by("t_link_authorization", "session_pk")
    agents, geos = by("hub_user_agent", "user_agent_pk"), by("hub_location_geo", "location_geo_pk")
    cities, states = by("hub_location_city", "location_city_pk"), by("hub_location_state", "location_state_pk")

    def value(rows: dict[Any, list[Row]], key: Any, name: str) -> Any:
        return rows[key][0][name] if key in rows else None

    found = []
    for play in vault["audio_vault.hub_song_play"]:
        detail = min(details[play["song_play_pk"]], key=lambda row: row["effective_from"])
        candidates = [
            (context, value(songs, context["song_pk"], "song_artist"), value(songs, context["song_pk"], "song_name"))
            for context in contexts[play["song_play_pk"]]
        ]
        context, artist, name = min(
            candidates,
            key=lambda c: (c[1] is None, c[1] or "", c[2] is None, c[2] or "", c[0]["link_song_play_context_pk"]),
        )
        own, start = logins.get(context["session_pk"], []), detail["play_start_ts"]
        until = [login for login in own if login["authorization_ts"] <= start]
        newest = max((login["authorization_ts"] for login in until), default=None)
        first = min((login["authorization_ts"] for login in own), default=None)
        wanted = [login for login in own if login["authorization_ts"] == (newest or first)]
        login: Row = min(wanted, key=lambda row: row["authorization_pk"], default={})
        found.append(
            {
                "song_play_pk": play["song_play_pk"],
                "user_id": play["user_id"],
                "song_played_sec": detail["song_played_sec"],
                "play_start_ts": start,
                "play_end_ts": detail["play_end_ts"],
                "play_start_date": start.date().isoformat(),
                "song_name": name,
                "song_artist": artist,
                "user_agent": value(agents, login.get("user_agent_pk"), "user_agent"),
                "location_city": value(cities, login.get("location_city_pk"), "location_city"),
                "location_state": value(states, login.get("location_state_pk"), "location_state"),
                "location_latitude": value(geos, login.get("location_geo_pk"), "location_latitude"),
                "location_longitude": value(geos, login.get("location_geo_pk"), "location_longitude"),
            }
        )
    return found


def _hours(plays: list[Row]) -> list[Row]:
    by_hour = defaultdict(list)
    for play in plays:
        by_hour[play["play_start_date"], play["play_start_ts"].hour].append(play)
    return [
        {
            "play_date": day,
            "play_hour": hour,
            "uniq_users": len({play["user_id"] for play in same} - {None}),
            "uniq_songs": len({(play["song_artist"], play["song_name"]) for play in same} - {(None, None)}),
            "uniq_user_agents": len({play["user_agent"] for play in same} - {None}),
        }
        for (day, hour), same in by_hour.items()
    ]


def _top_songs(plays: list[Row]) -> list[Row]:
    users: dict[str, dict[tuple[Any, Any], set[Any]]] = defaultdict(lambda: defaultdict(set))
    for play in plays:
        song = play["song_artist"], play["song_name"]
        if song != (None, None):
            users[play["play_start_date"]][song] |= {play["user_id"]} - {None}
    rows = []
    for day, songs in users.items():
        best = sorted(songs.items(), key=lambda item: (-len(item[1]), _order(*item[0])))[:10]
        rows += [
            {"play_date": day, "song_name": name, "song_artist": artist, "uniq_users": len(found)}
            for (artist, name), found in best
        ]
    return rows
