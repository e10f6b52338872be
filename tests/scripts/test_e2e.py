"""The real thing: `make run` from an empty LAKE_HOME to green runs under a real scheduler, a backfill that is cut
half-way by the death of scheduler and run and goes on after the next start, and what is left behind: nothing.
"""

import json
import os
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.lake import settings
from include.lake.local import processes
from include.lake.project import contracts, lineage, task_lists
from include.lake.project.days import day_range, days_before
from include.lake.state import ledger
from scripts.api import Api
from tests.conftest import THOROUGH
from tests.make_run import Lake, ended, states, trigger_backfill, until

# The families of DAGs that `make run` starts on an engine. On Spark it is the main job alone, as without FAMILIES.
# The 27 tables of the audio warehouse are with `make thorough` alone.
FAMILIES = {settings.SAIL: ["wev", "rudder", *["audio"] * ("N" in os.environ)], settings.SPARK: ["wev"]}
BACKFILL_DAYS, DAYS_PER_BATCH = 14, 7
TABLES = ["we_mart.wv_server_log_base", "we_mart.wv_comm_user", "we_mart.wv_sess_daily"]

pytestmark = pytest.mark.e2e


@pytest.fixture
def lake(tmp_path: Path, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Iterator[Lake]:
    def show(line: str) -> None:
        with capfd.disabled():
            print("   ", line, flush=True)

    # A path that is too long for a socket in it, with a space: nobody's home is as short as /tmp.
    engine = getattr(request, "param", settings.SAIL)
    lake = Lake(tmp_path / ("a lake in " + "a folder " * 10).strip(), engine, FAMILIES[engine], show, {})
    with capfd.disabled():
        print()
    yield lake
    lake.end()


@THOROUGH
@pytest.mark.parametrize("lake", [settings.SPARK], indirect=True)
def test_from_nothing_to_green_runs_on_spark(lake: Lake) -> None:
    day = first_run(lake, days=3)
    status = lake.status(day)
    assert {status[table]["state"] for table in TABLES} == {"fresh"} and all(status[table]["rows"] for table in TABLES)
    assert lake.left() == [] and not lake.answers()


def test_from_nothing_to_green_runs_and_on_after_a_crash(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_HOME", str(lake.home))
    day = first_run(lake)
    status = lake.status(day)
    followed = {table for family in FAMILIES[settings.SAIL] for path in task_lists.paths(family)
                for table in task_lists.read(path).tables}  # fmt: skip
    built = [name for name in lineage.in_order() if name in followed]
    assert {name: status[name]["state"] for name in built} == dict.fromkeys(built, "fresh")
    assert all(status[name]["rows"] for name in built)
    assert len(lake.started) > 5
    assert lake.left() == []
    assert not lake.answers()

    # The second start keeps the data, stays until it is stopped, and keeps others out of its folder.
    second, api = start_again(lake, day)
    assert lake.status(day) == status
    listed = airflow(lake, "dags", "list", "--output", "json")
    assert {dag["dag_id"] for dag in json.loads(listed.stdout[listed.stdout.index("[{") :])} >= set(lake.dags)
    for secret in ("passwords.json", "secrets.json"):
        assert (lake.home / "airflow" / secret).stat().st_mode & 0o077 == 0
    output, other = lake.run()
    assert other.returncode == 1
    assert re.fullmatch(r"make run: another `make run` is at work in .*Ctrl-C there.*\n", output)

    # Cut half-way: the scheduler dies with its tasks, the run leaves the rest behind, the next start ends it.
    before = built_days()
    asked = day_range(days_before(day, BACKFILL_DAYS), days_before(day, 1))
    run_id = a_backfill(api, asked)
    until(lambda: built_days()[TABLES[0]] > before[TABLES[0]], "the first half")
    second.kill()
    second.wait()
    processes.end([lake.process("scheduler")], patience=0)
    assert lake.left()
    half = built_days()
    assert (half[TABLES[0]] - before[TABLES[0]]).total() == DAYS_PER_BATCH and half[TABLES[2]] == before[TABLES[2]]
    third, api = start_again(lake, day, "an earlier run was killed")
    assert ended(api, run_id) == "success"
    of_tasks = states(api, run_id)
    assert {of_tasks[name] for name in (*TABLES, "plan", "summary")} == {"success"}
    assert built_days() == {table: Counter([*asked, day]) for table in TABLES}, "each day once"
    value = api("GET", f"/dags/backfill/dagRuns/{run_id}/taskInstances/summary/xcomEntries/return_value")["value"]
    assert "bad_days" in str(value)
    assert lake.status(day) == status

    third.send_signal(signal.SIGINT)
    third.wait(60)
    assert third.returncode == 0
    assert lake.left() == []
    assert not lake.answers()
    assert airflow(lake, "version").stderr.startswith("scripts/airflow: no Airflow runs in ")


def first_run(lake: Lake, days: int = BACKFILL_DAYS + 1) -> str:
    """From nothing to green runs, and everything stopped; gives their day."""
    output, run = lake.run(ONCE="1", DAYS=str(days))
    assert run.returncode == 0, output[-4000:]
    day = re.search(r"following .* for (\d{4}-\d\d-\d\d)", output)
    assert day
    for dag_id in lake.dags:
        assert f"{dag_id} for {day[1]}: success" in output
    return day[1]


def start_again(lake: Lake, day: str, told: str = "") -> tuple["subprocess.Popen[str]", Api]:
    """A start over what is there, up to its last line, which has `told` in what it says, and its API."""
    output, run = lake.run(until="Ctrl-C stops everything")
    assert told in output
    for dag_id in lake.dags:
        assert f"{dag_id} for {day}: green from before" in output
    assert lake.answers()
    login = re.search(r"user: (\w+)   password: (\S+)", output)
    assert login
    assert token(lake.port, login[1], login[2])
    assert not token(lake.port, login[1], "guessed")
    api = Api(f"http://127.0.0.1:{lake.port}", login[1], login[2])
    until(lambda: api("GET", "/dags/backfill"), "the backfill DAG")
    return run, api


def a_backfill(api: Api, days: list[str]) -> str:
    """Start one, after some that make no sense."""
    conf = {
        "first_day": days[0],
        "last_day": days[-1],
        "tables": ["logs", "members", "analytics_we_mart_wv1_daily.sessions"],
        "days_per_batch": DAYS_PER_BATCH,
    }
    # What makes no sense by itself is refused there and then, what does not fit together by the plan.
    for wrong in (
        {"tables": ["we_mart.nothing"]},
        {"first_day": "soon"},
        {"mode": "some"},
        {"days_per_batch": 0},
        {"tables": []},
    ):
        with pytest.raises(Exception, match="400"):
            trigger_backfill(api, conf | wrong)
    before = built_days()
    upside_down = trigger_backfill(api, conf | {"first_day": days[5], "last_day": days[2]})
    dry = trigger_backfill(api, conf | {"dry_run": True})
    assert ended(api, upside_down) == "failed"
    skipped = dict.fromkeys((name for name in lineage.in_order() if contracts.get(name).is_built), "skipped")
    assert states(api, upside_down) == {"plan": "failed", "summary": "failed"} | skipped
    assert ended(api, dry) == "success"
    assert set(states(api, dry).values()) == {"success", "skipped"}
    assert built_days() == before
    return trigger_backfill(api, conf)


def built_days() -> dict[str, Counter]:
    """Table -> day -> how often it was built."""
    found = {table: Counter[str]() for table in TABLES}
    for row in ledger.read(TABLES):
        found[row["table"]][row["partition"]] += 1
    return found


def airflow(lake: Lake, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = settings.ROOT / "scripts" / "airflow"
    return subprocess.run([program, *arguments], env=lake.env, text=True, capture_output=True)


def token(port: int, user: str, password: str) -> bool:
    """Does the UI let this user in?"""
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, Request, build_opener

    body = json.dumps({"username": user, "password": password}).encode()
    request = Request(f"http://127.0.0.1:{port}/auth/token", body, {"Content-Type": "application/json"})
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=30) as answer:
            return bool(json.loads(answer.read())["access_token"])
    except HTTPError:
        return False


def test_a_port_in_use_is_told_before_anything_starts(lake: Lake) -> None:
    with socket.create_server(("127.0.0.1", lake.port)):
        output, run = lake.run(ONCE="1")
    assert run.returncode == 1
    assert re.fullmatch(rf"make run: port {lake.port} for the Airflow UI cannot be had .*LAKE_UI_PORT=\d+\n", output)
    assert lake.started == set()
