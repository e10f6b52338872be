"""Traffic that nobody made up: a real web server's log becomes sessions, counted again in plain Python."""

import gzip
import hashlib
import json
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from include.lake.build import runner
from include.lake.cli import main as cli
from include.lake.project import contracts, lineage
from include.lake.storage import delta_files as storage

LOG = Path(__file__).parents[1] / "data" / "apache_access.log.gz"
LINE = re.compile(r'(\S+) \S+ (\S+) \[([^]]+)\] "(?:\S+ )?(\S*)[^"]*" \d+ \S+ "[^"]*" "(.*)"?$')
GAP = timedelta(minutes=30)
KST = timedelta(hours=9)


def log_rows() -> list[dict[str, Any]]:
    """The log as rows of service_log.weverse_server_log; a device is a hash of address and agent."""
    rows = []
    for line in gzip.decompress(LOG.read_bytes()).decode(errors="replace").splitlines():
        match = LINE.match(line)
        assert match, line
        address, _, at, url, agent = match.groups()
        moment = datetime.strptime(at, "%d/%b/%Y:%H:%M:%S %z")
        local = moment + KST
        rows.append(
            {
                "date_id": f"{local:%Y-%m-%d}",
                "hour": f"{local:%H}",
                "unix_log_timestamp": int(moment.timestamp() * 1000),
                "topic": "access",
                "url": url,
                "user_info_device_id": hashlib.md5(f"{address} {agent}".encode()).hexdigest(),
                "user_info_ip_address": address,
                "user_info_user_agent": agent,
            }
        )
    return rows


def sessions_by_day(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Day -> sessions: calls of one device and day without a gap of more than 30 minutes."""
    times = defaultdict(list)
    for row in rows:
        times[row["date_id"], row["user_info_device_id"]].append(row["unix_log_timestamp"])
    count: Counter[str] = Counter()
    for (day, _), moments in times.items():
        moments.sort()
        count[day] += 1 + sum(after - before > GAP.total_seconds() * 1000 for before, after in pairwise(moments))
    return dict(count)


def test_a_real_log_becomes_the_sessions_that_plain_python_counts(lake_home: Path, tmp_path: Path, spark: Any) -> None:
    rows = log_rows()
    assert len(rows) == 10_000
    expected = sessions_by_day(rows)
    assert len(expected) >= 4 and sum(expected.values()) > 1_000
    first, last = min(expected), max(expected)

    def load(table: str, *objects: dict[str, Any]) -> None:
        file = tmp_path / f"{table}.jsonl"
        file.write_text("".join(json.dumps(o) + "\n" for o in objects))
        assert cli.main(["load", table, str(file), *([] if objects else ["--allow-empty"])]) == 0

    # Everything else that wv_sess_daily and wv_comm_user read: nothing, or one row a day where there are days.
    for table in {name for built in lineage.upstream(["we_mart.wv_sess_daily"]) for name in lineage.inputs(built)}:
        contract = contracts.get(table)
        if contract.is_source:
            filler = {
                column.name: {"string": "0", "bigint": 0, "int": 0}[column.type]
                for column in contract.columns
                if not column.nullable
            }
            load(table, *({**filler, contract.day_column: day} for day in expected if contract.day_column))
    load("service_log.weverse_server_log", *rows)
    outcomes = [runner.build(table, first, last, spark=spark) for table in lineage.upstream(["we_mart.wv_sess_daily"])]
    assert [outcome.rows for outcome in outcomes if outcome.table == "we_mart.wv_server_log_base"] == [10_000]

    for table, column in (("we_mart.wv_server_log_base", "date_id"), ("we_mart.wv_sess_daily", "part_date")):
        delta = storage.open_table(table)
        assert delta is not None
        found = delta.to_pyarrow_table(columns=[column, "sess_id"]).to_pylist()
        unique = {(row[column], row["sess_id"]) for row in found}
        assert Counter(day for day, _ in unique) == expected, table


def tracks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The log as RudderStack would have tracked it: the device is the anonymous id, and the path is the event."""
    moments = [datetime.fromtimestamp(row["unix_log_timestamp"] / 1000, UTC).isoformat() for row in rows]
    return [
        {
            "id": f"call-{number}",
            "anonymous_id": row["user_info_device_id"],
            "event": row["url"].partition("?")[0],
            "timestamp": moment,
            "context_ip": row["user_info_ip_address"],
        }
        for number, (row, moment) in enumerate(zip(rows, moments, strict=True))
    ]


def sessions_by_visitor(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, int]]]:
    """Device -> calls and whole minutes of its sessions; 30:59 does not end one, and midnight neither."""
    times = defaultdict(list)
    for row in rows:
        times[row["user_info_device_id"]].append(row["unix_log_timestamp"] // 1000)
    sessions = {}
    for device, moments in times.items():
        moments.sort()
        ends = [n for n, (before, after) in enumerate(pairwise(moments), 1) if after - before >= 31 * 60]
        cuts = pairwise([0, *ends, len(moments)])
        sessions[device] = [(last - first, (moments[last - 1] - moments[first]) // 60) for first, last in cuts]
    return sessions


def test_a_real_log_becomes_the_sessions_of_its_visitors(lake_home: Path, tmp_path: Path, spark: Any) -> None:
    """Days come and are taken in one by one, the last one first: yet sessions go over midnight and are numbered."""
    rows = log_rows()
    expected = sessions_by_visitor(rows)
    by_day = defaultdict(list)
    for track in tracks(rows):
        by_day[track["timestamp"][:10]].append(track)
    tables = lineage.upstream(["rudder.dbt_session_track_facts", "rudder.dbt_session_duration"])
    first, *others = sorted(by_day)
    for day in [*reversed(others), first]:
        file = tmp_path / f"{day}.jsonl"
        file.write_text("".join(json.dumps(track) + "\n" for track in by_day[day]))
        assert cli.main(["load", "rudder.tracks", str(file)]) == 0
        for table in tables:
            runner.build(table, day, day, spark=spark)

    def found(table: str, *columns: str) -> list[tuple[Any, ...]]:
        delta = storage.open_table(table)
        assert delta is not None
        return [tuple(row.values()) for row in delta.to_pyarrow_table(columns=list(columns)).to_pylist()]

    events = {
        f"{number} - {visitor}": calls
        for visitor, sessions in expected.items()
        for number, (calls, _) in enumerate(sessions, 1)
    }
    minutes = {
        (visitor, f"{number} - {visitor}"): duration
        for visitor, sessions in expected.items()
        for number, (_, duration) in enumerate(sessions, 1)
    }
    assert len(events) > 1_000 and sum(events.values()) == 10_000 and max(len(each) for each in expected.values()) > 9
    assert sorted(found("rudder.dbt_session_track_facts", "session_id", "num_pvs")) == sorted(events.items())
    durations = found("rudder.dbt_session_duration", "dbt_visitor_id", "session_id", "session_duration")
    assert sorted(durations) == sorted((*key, duration) for key, duration in minutes.items())


pytestmark = pytest.mark.spark
