"""What `make run` says of settings that make no sense, and of the engine when somebody stops it meanwhile."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from include.lake import settings
from include.lake.engine import server


@pytest.mark.parametrize(
    "wrong",
    [
        {"LAKE_HOME": "/proc/nowhere"},
        {"LAKE_ENGINE_MEMORY": "nonsense"},
        {"LAKE_UI_PORT": "99999"},
        {"LAKE_UI_PORT": "0"},
        {"DAYS": "99999999"},
        {"SCALE": "nan"},
    ],
)
def test_make_run_names_a_wrong_setting_in_one_line_before_anything_starts(
    lake_home: Path, wrong: dict[str, str]
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "scripts.run"], env={**os.environ, **wrong, "ONCE": "1"}, cwd=settings.ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    (name,) = wrong
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith(f"make run: {name}=") and ended.stderr.count("\n") == 1, ended.stderr
    assert not lake_home.exists()


# `make run` with the engine alone: PostgreSQL and Airflow take a minute, and are in test_e2e.py.
WITH_THE_ENGINE_ALONE = """
import sys
from scripts import run

def up(running, *_):
    running.start_engine()
    running.wait_for_engine()

run.up = up
sys.exit(run.main())
"""


@contextmanager
def at_work() -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", WITH_THE_ENGINE_ALONE]
    run = subprocess.Popen(
        command, env={**os.environ, "LAKE_UI_PORT": str(server.free_port())}, cwd=settings.ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert run.stdout
        assert any(line.startswith("Ctrl-C stops everything") for line in run.stdout), run.stderr and run.stderr.read()
        yield run
    finally:
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=60)


def test_make_run_asks_a_server_that_others_run_before_anything_starts(lake_home: Path) -> None:
    address = f"sc://127.0.0.1:{server.free_port()}"
    environment = {**os.environ, "LAKE_ENGINE": address, "LAKE_UI_PORT": str(server.free_port())}
    command = [sys.executable, "-c", WITH_THE_ENGINE_ALONE]
    ended = subprocess.run(command, env=environment, cwd=settings.ROOT, capture_output=True, text=True, timeout=60)
    message = r"make run: Spark Connect at \S+ does not answer .*: start it, or correct LAKE_ENGINE\n"
    assert ended.returncode == 1 and re.fullmatch(message, ended.stderr), ended.stderr


def engine(what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "include.lake.cli", "engine", what]
    return subprocess.run(command, cwd=settings.ROOT, capture_output=True, text=True)


@pytest.fixture(params=["of make run", "of ./lake engine start"])
def starter(request: pytest.FixtureRequest, lake_home: Path) -> Iterator[str]:
    """Who starts the engine that `make run` builds with."""
    if request.param != "of make run":
        assert engine("start").returncode == 0
    yield request.param
    server.stop()


def test_the_engine_is_not_stopped_while_make_run_builds_with_it(starter: str) -> None:
    with at_work() as run:
        address = server.address()
        assert address
        refused = engine("stop")
        assert (refused.returncode, refused.stdout) == (1, "")
        message = rf"lake: `make run` is at work \(process {run.pid}, http\S+\) and builds .*: end it with Ctrl-C .*\n"
        assert re.fullmatch(message, refused.stderr), refused.stderr
        assert server.address() == address and run.poll() is None
    assert run.returncode == 0
    stopped = engine("stop")
    assert stopped.stdout == ("none was running\n" if starter == "of make run" else "stopped\n"), stopped.stderr


def test_make_run_ends_and_says_why_when_its_engine_dies(starter: str, lake_home: Path) -> None:
    with at_work() as run:
        os.kill(json.loads((lake_home / "engine" / "server.json").read_text())["pid"], signal.SIGKILL)
        assert run.wait(timeout=30) == 1
        assert run.stderr
        message = run.stderr.readline()
        assert re.match(r"make run: the server of sail died, .*: start `make run` again; the end of .*\n", message)
    assert server.address() is None
