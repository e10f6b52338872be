"""Traffic that nobody made up: a real web server's log becomes sessions, counted again in plain Python."""

import gzip
import hashlib
import json
import re
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from include.lake.build import runner
from include.lake.cli import main as cli
from include.lake.project import contracts, lineage
from include.lake.storage import delta_files as storage

LOG = Path(__file__).parent / "data" / "apache_access.log.gz"
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


pytestmark = pytest.mark.spark
