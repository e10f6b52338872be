"""A backfill through the real scheduler: 14 days, everything killed half-way, and on with what is left."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from include.lake import ledger, processes
from include.lake.days import day_range
from scripts.run import Api
from tests.test_e2e import Lake, lake  # noqa: F401 - a fixture

pytestmark = pytest.mark.e2e

DAYS = day_range("2026-01-01", "2026-01-14")
TABLES = ["we_mart.wv_server_log_base", "we_mart.wv_comm_user", "we_mart.wv_sess_daily"]
CONF = {"first_day": DAYS[0], "last_day": DAYS[-1], "tables": ["logs", "members", "sessions"], "days_per_batch": 7}
SECONDS = 300


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {SECONDS} s for {what}"
        time.sleep(0.3)
    return found


def start(lake: Lake) -> Api:  # noqa: F811
    """The stack, without days of its own: the daily DAGs run beside the backfill, and wait for theirs."""
    lake.run(until="following", DAYS="0")
    password = json.loads((lake.home / "airflow" / "passwords.json").read_text())["admin"]
    api = Api(f"http://127.0.0.1:{lake.port}", "admin", password)
    until(lambda: api("GET", "/dags/backfill"), "the backfill DAG")
    return api


def trigger(api: Api, conf: dict[str, Any]) -> str:
    return str(api("POST", "/dags/backfill/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"])


def states(api: Api, run_id: str) -> dict[str, str]:
    path = f"/dags/backfill/dagRuns/{run_id}/taskInstances"
    return {task["task_id"]: task["state"] for task in api("GET", path)["task_instances"]}


def ended(api: Api, run_id: str) -> str:
    def state() -> str:
        found = api("GET", f"/dags/backfill/dagRuns/{run_id}")["state"]
        return found if found in ("success", "failed") else ""

    return str(until(state, f"the end of {run_id}"))


def built() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {table: [] for table in TABLES}
    for row in ledger.read():
        found[row["table"]].append(row["day"])
    return found


def test_fourteen_days_killed_half_way(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("LAKE_HOME", str(lake.home))
    lake.cli("sample", "--from", DAYS[0], "--to", DAYS[-1], "--scale", "0.01")
    api = start(lake)

    # What makes no sense by itself is refused there and then, what does not fit together by the plan.
    for wrong in (
        {"tables": ["we_mart.nothing"]},
        {"first_day": "soon"},
        {"mode": "some"},
        {"days_per_batch": 0},
        {"tables": []},
    ):
        with pytest.raises(Exception, match="400"):
            trigger(api, CONF | wrong)
    upside_down = trigger(api, CONF | {"first_day": DAYS[5], "last_day": DAYS[2]})
    dry = trigger(api, CONF | {"dry_run": True})
    assert ended(api, upside_down) == "failed"
    assert states(api, upside_down) == {"plan": "failed", "summary": "failed"} | dict.fromkeys(TABLES, "skipped")
    assert ended(api, dry) == "success"
    assert set(states(api, dry).values()) == {"success", "skipped"}
    assert not any(built().values())

    run_id = trigger(api, CONF)
    until(lambda: built()[TABLES[0]], "the first half")
    lake.runs[-1].kill()
    lake._note()
    processes.end(lake.started, patience=0)
    half = built()
    assert len(half[TABLES[0]]) == 7 and not half[TABLES[2]]
    api = start(lake)
    assert ended(api, run_id) == "success"
    assert set(states(api, run_id).values()) == {"success"}
    assert {table: sorted(days) for table, days in built().items()} == dict.fromkeys(TABLES, DAYS), "each day once"
    value = api("GET", f"/dags/backfill/dagRuns/{run_id}/taskInstances/summary/xcomEntries/return_value")["value"]
    assert "bad_days" in str(value)
