"""The real thing: `make run` from an empty LAKE_HOME to green runs under a real scheduler, and what is left behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from include.lake import contracts, lineage, processes, settings
from include.lake.processes import Process

DAGS = sorted(path.stem for path in (settings.ROOT / "dags").glob("utils/dynamic_dag/*/task_list/*.py"))
# With caches it takes a minute or two; this is for a machine that does other things as well.
SECONDS = 900

pytestmark = pytest.mark.e2e


class Lake:
    """A LAKE_HOME, and the runs in it. `started`: every process that a run has written down."""

    def __init__(self, home: Path, show: Callable[[str], None]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home, self.show = home, show
        self.started: set[Process] = set()
        own = ("LAKE_", "DAYS", "SCALE", "ONCE")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        self.env |= {"LAKE_HOME": str(home), "LAKE_UI_PORT": str(self.port), "SCALE": "0.02"}
        if "LAKE_JARS" in os.environ:
            self.env["LAKE_JARS"] = os.environ["LAKE_JARS"]
        self.runs: list[subprocess.Popen[str]] = []

    def run(self, until: str = "", **env: str) -> tuple[str, subprocess.Popen[str]]:
        """Start `make run` without the make; gives its output up to its end, or up to a line with `until`."""
        run = subprocess.Popen(
            [sys.executable, "-m", "scripts.run"], cwd=settings.ROOT, env=self.env | env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.runs.append(run)
        assert run.stdout
        output, began = "", time.monotonic()
        for line in run.stdout:
            output += line
            self.show(line.rstrip())
            self._note()
            assert time.monotonic() - began < SECONDS, "it takes too long"
            if until and until in line:
                return output, run
        run.wait(60)
        return output, run

    def _note(self) -> None:
        for record in (self.home / "run" / "started.json", self.home / "spark" / "server.json"):
            if record.exists():
                told = json.loads(record.read_text())
                found = told["processes"].values() if "processes" in told else [[told["pid"], told["identity"]]]
                self.started |= {Process(*entry) for entry in found}

    def cli(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "include.lake.cli", *arguments],
            env=self.env | {"PYTHONPATH": str(settings.ROOT)}, text=True, capture_output=True, check=True,
        )  # fmt: skip
        return done.stdout

    def status(self, day: str) -> dict[str, dict[str, Any]]:
        return {row["table"]: row for row in json.loads(self.cli("status", "--from", day, "--to", day, "--json"))}

    def left(self) -> list[int]:
        return [pid for process in self.started for pid in processes.members(process)]

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def lake(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Lake]:
    def show(line: str) -> None:
        with capfd.disabled():
            print("   ", line, flush=True)

    # A path that is too long for a socket in it, with a space: nobody's home is as short as /tmp.
    lake = Lake(tmp_path / ("a lake in " + "a folder " * 10).strip(), show)
    with capfd.disabled():
        print()
    yield lake
    for run in lake.runs:
        run.kill()
    processes.end(lake.started, patience=0)


def test_from_nothing_to_green_runs(lake: Lake) -> None:
    output, first = lake.run(ONCE="1")
    assert first.returncode == 0
    day = re.search(r"following .* for (\d{4}-\d\d-\d\d)", output)
    assert day
    assert len(DAGS) > 1
    for dag_id in DAGS:
        assert f"{dag_id} for {day[1]}: success" in output
    status = lake.status(day[1])
    built = [name for name in lineage.in_order() if not contracts.get(name).is_source]
    assert {name: status[name]["state"] for name in built} == dict.fromkeys(built, "fresh")
    assert all(status[name]["rows"] for name in built)
    assert len(lake.started) > 5
    assert lake.left() == []
    assert not lake.answers()

    # The second start keeps the data, stays until it is stopped, and keeps others out of its folder.
    output, second = lake.run(until="Ctrl-C stops everything")
    for dag_id in DAGS:
        assert f"{dag_id} for {day[1]}: green from before" in output
    assert lake.status(day[1]) == status
    assert lake.answers()
    login = re.search(r"user: (\w+)   password: (\S+)", output)
    assert login
    assert token(lake.port, login[1], login[2])
    assert not token(lake.port, login[1], "guessed")
    listed = airflow(lake, "dags", "list", "--output", "json")
    assert {dag["dag_id"] for dag in json.loads(listed.stdout[listed.stdout.index("[{") :])} >= set(DAGS)
    for secret in ("passwords.json", "secrets.json"):
        assert (lake.home / "airflow" / secret).stat().st_mode & 0o077 == 0
    output, other = lake.run()
    assert other.returncode == 1
    assert re.fullmatch(r"make run: another `make run` is at work in .*Ctrl-C there.*\n", output)

    # Killed, it leaves processes behind. The next start ends them and goes on.
    second.kill()
    second.wait()
    assert lake.left()
    output, third = lake.run(until="Ctrl-C stops everything")
    assert "an earlier run was killed" in output
    assert lake.status(day[1]) == status
    third.send_signal(signal.SIGINT)
    third.wait(60)
    assert third.returncode == 0
    assert lake.left() == []
    assert not lake.answers()
    assert airflow(lake, "version").stderr.startswith("scripts/airflow: no Airflow runs in ")


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
