"""The tables of schema rudder in plain Python, from a list of tracks: the obvious way, and no word of the SQL.

`oracle` gives the rows of every table after all tracks are taken in, so any history of builds must give them, too.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

Row = dict[str, Any]

LONGEST_IDLE_MINUTES = 30
MINUTE = timedelta(minutes=1)
NOBODY = "nobody"


def oracle(tracks: Iterable[Row]) -> dict[str, list[Row]]:
    """Table -> its rows. A track has id, anonymous_id, user_id, event and timestamp (a column not given is null)."""
    events = [event for event in _unique(tracks) if _alias(event) is not None]
    visitor_of = _visitors(events)
    events_of = defaultdict(list)
    for event in events:
        events_of[visitor_of[_alias(event)]].append(event)
    tables: dict[str, list[Row]] = {
        "rudder.dbt_unique_tracks": [{**event, "part_date": _day(event)} for event in events],
        "rudder.dbt_aliases_mapping": [
            {"alias": alias, "dbt_visitor_id": visitor, "part_date": min(_day(e) for e in events if alias in _ids(e))}
            for alias, visitor in visitor_of.items()
        ],
    }
    for visitor, visits in events_of.items():
        for table, rows in _of_visitor(visitor, visits).items():
            tables.setdefault(f"rudder.{table}", []).extend(rows)
    for table in _of_visitor("nobody", []):
        tables.setdefault(f"rudder.{table}", [])
    return tables


def dropped(tracks: Iterable[Row]) -> dict[str, int]:
    """Reason -> events that no table has."""
    count = sum(_alias(event) is None for event in _unique(tracks))
    return {NOBODY: count} if count else {}


def top_users(durations: Iterable[Row]) -> list[Row]:
    """The view dbt_top_users_by_avg_session_duration, in its order, of the rows of dbt_session_duration."""
    minutes = defaultdict(list)
    for row in durations:
        minutes[row["dbt_visitor_id"]].append(row["session_duration"])
    rows = [{"dbt_visitor_id": visitor, "avg_session_duration": sum(m) / len(m)} for visitor, m in minutes.items()]
    return sorted(rows, key=lambda row: (-row["avg_session_duration"], row["dbt_visitor_id"]))


def _unique(tracks: Iterable[Row]) -> list[Row]:
    """Each event once: the earliest delivery. An empty id is none."""
    deliveries = defaultdict(list)
    for track in tracks:
        event = {
            "event_id": track["id"],
            "anonymous_id": track.get("anonymous_id") or None,
            "user_id": track.get("user_id") or None,
            "event": track.get("event"),
            "timestamp": track["timestamp"],
        }
        deliveries[event["event_id"]].append(event)

    def order(event: Row) -> tuple[Any, ...]:
        texts = [event["anonymous_id"], event["user_id"], event["event"]]
        return event["timestamp"], [(text is None, text or "") for text in texts]

    return [min(same, key=order) for same in deliveries.values()]


def _alias(event: Row) -> Any:
    return event["user_id"] or event["anonymous_id"]


def _ids(event: Row) -> set[str]:
    return {event["user_id"], event["anonymous_id"]} - {None}


def _day(event: Row) -> str:
    moment: datetime = event["timestamp"]
    return moment.date().isoformat()


def _visitors(events: list[Row]) -> dict[str, str]:
    """Alias -> visitor."""
    visitors = {}
    for alias in {alias for event in events for alias in _ids(event)}:
        logins = [event for event in events if event["anonymous_id"] == alias and event["user_id"] is not None]
        latest = max((event["timestamp"] for event in logins), default=None)
        visitors[alias] = min((e["user_id"] for e in logins if e["timestamp"] == latest), default=alias)
    return visitors


def _of_visitor(visitor: str, events: list[Row]) -> dict[str, list[Row]]:
    """The rows of one visitor in every table that is kept by visitor or session."""
    events = sorted(events, key=lambda event: (event["timestamp"], event["event_id"]))
    mapped: list[Row] = []
    number = 0
    for place, event in enumerate(events):
        idle = (event["timestamp"] - events[place - 1]["timestamp"]) // MINUTE if place else None
        number += idle is None or idle > LONGEST_IDLE_MINUTES
        mapped.append({**event, "idle_time_minutes": idle, "session": number, "part_date": _day(event)})

    sessions = [list(session) for _, session in groupby(mapped, key=lambda event: event["session"])]
    starts = [session[0]["timestamp"] for session in sessions]
    names = [f"{number} - {visitor}" for number in range(1, len(sessions) + 1)]
    facts, flow, track_facts, durations = [], [], [], []
    for name, session in zip(names, sessions, strict=True):
        last = session[-1]
        kinds = [event["event"] for event in session]
        track_facts.append(
            {
                "session_id": name,
                "ended_at": last["timestamp"],
                "num_pvs": len({event["event_id"] for event in session}),
                "cnt_viewed_product": kinds.count("viewed_product") + kinds.count("view_product"),
                "cnt_signup": kinds.count("signup"),
                "part_date": last["part_date"],
            }
        )
        durations.append(
            {
                "session_id": name,
                "session_duration": (last["timestamp"] - session[0]["timestamp"]) // MINUTE,
                "part_date": last["part_date"],
            }
        )
        for place, event in enumerate(session):
            fact = {key: event[key] for key in ("timestamp", "event_id", "event", "part_date")}
            fact |= {"session_id": name, "track_sequence_number": place + 1}
            facts.append({**fact, "anonymous_id": event["anonymous_id"]})
            following = dict(
                zip(("event_2", "event_3", "event_4", "event_5"), kinds[place + 1 :] + [None] * 4, strict=False)
            )
            flow.append(fact | following)
    session_tracks = [
        {
            "session_id": name,
            "session_start_at": start,
            "session_sequence_number": number,
            "next_session_start_at": following,
            "part_date": session[0]["part_date"],
        }
        for number, (name, session, start, following) in enumerate(
            zip(names, sessions, starts, [*starts[1:], None], strict=False), 1
        )
    ]
    by_visitor = {
        "dbt_mapped_tracks": [
            {key: value for key, value in event.items() if key not in ("user_id", "session")} for event in mapped
        ],
        "dbt_session_tracks": session_tracks,
        "dbt_track_facts": facts,
        "dbt_user_session_facts": [
            {
                "first_date": first["session_start_at"],
                "last_date": last["session_start_at"],
                "number_of_sessions": len(session_tracks),
                "part_date": last["part_date"],
            }
            for first, last in zip(session_tracks[:1], session_tracks[-1:], strict=True)
        ],
        "dbt_session_duration": durations,
        "dbt_tracks_flow": flow,
    }
    tables = {table: [{**row, "dbt_visitor_id": visitor} for row in rows] for table, rows in by_visitor.items()}
    return {**tables, "dbt_session_track_facts": track_facts}
