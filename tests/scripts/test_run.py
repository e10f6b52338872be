"""What `make run` says of settings that make no sense, and of the engine when somebody stops it meanwhile."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include.lake import settings
from include.lake.engine import server
from include.lake.errors import LakeError
from include.lake.project import task_lists
from scripts import api as scripts_api
from scripts import postgres, stack
from scripts import run as make_run
from scripts.api import Api, ImportErrors, NoAnswer


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


class PretendApi(Api):
    """Answers as Airflow would: a DAG with a green run, and what `answers` says. An error there is raised once."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def __call__(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        if path == "/importErrors":
            return {"import_errors": self.answers.get("import_errors", [])}
        if path.endswith("limit=1"):
            if errors := self.answers.get("errors"):
                raise errors.pop()
            return {"dag_runs": [{"dag_run_id": "r", "state": "success", "end_date": None}]}
        return {"task_instances": [], "last_parsed_time": self.answers.get("parsed", "2999-01-01T00:00:00Z")}


def followed(monkeypatch: pytest.MonkeyPatch, api: PretendApi) -> bool:
    monkeypatch.setattr(make_run, "dag_ids", lambda: ["there"])
    monkeypatch.setattr(make_run, "DAGS_SECONDS", 0)
    monkeypatch.setattr(make_run.time, "sleep", lambda seconds: None)
    running: Any = SimpleNamespace(check=lambda: None, watch=lambda line: None)
    return make_run.watch(running, make_run.Clock(), api, "2026-01-05", ImportErrors(api))


def import_error(name: str, at: str) -> dict[str, str]:
    return {"filename": name, "stack_trace": "it is broken\n", "timestamp": at}


def test_a_broken_file_of_another_dag_is_told_once_and_ends_no_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = [import_error("stray.py", "2999-01-01T00:00:00Z"), import_error("earlier.py", "2020-01-01T00:00:00Z")]
    assert followed(monkeypatch, PretendApi(import_errors=errors))
    told = capsys.readouterr().out
    assert told.count("stray.py: it is broken") == 1 and "earlier.py" not in told
    with pytest.raises(LakeError, match=r"Airflow to parse there: the logs are in \S+\nstray.py: it is broken$"):
        followed(monkeypatch, PretendApi(import_errors=errors, parsed="2020-01-01T00:00:00Z"))


def test_an_api_that_is_away_for_a_moment_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(f"http://127.0.0.1:{server.free_port()}", "admin", "secret")
    with pytest.raises(NoAnswer, match=r"does not answer: .*refused") as error:
        api("GET", "/dags")
    assert followed(monkeypatch, PretendApi(errors=[error.value, error.value]))
    monkeypatch.setattr(make_run, "ANSWER_SECONDS", -1)
    with pytest.raises(LakeError):
        followed(monkeypatch, PretendApi(errors=[error.value]))


def test_lists_of_weeks_are_switched_on_and_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their runs may wait for days that the sample does not have; and no day is the name of a week."""
    lists = {path: task_lists.read(path) for path in task_lists.paths("wev")}
    weekly = sorted(lists)[0]
    lists[weekly] = replace(lists[weekly], grain="week")
    monkeypatch.setattr(scripts_api.task_lists, "read", lists.__getitem__)
    monkeypatch.setattr(scripts_api, "families", lambda: ["wev"])
    assert scripts_api.longer_dag_ids() == [weekly.stem] and weekly.stem not in scripts_api.dag_ids()
    assert {*scripts_api.built_tables()} == {table for path in lists if path != weekly for table in lists[path].tables}


@pytest.fixture
def cluster(lake_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the database of a `make run` that starts no process."""
    monkeypatch.setattr(postgres, "programs", lambda: ("18", Path("/nowhere")))
    monkeypatch.setattr(postgres, "not_root", lambda: ([], os.geteuid()))
    monkeypatch.setattr(stack.Stack, "wait", lambda *_: None)
    return lake_home / "postgres" / "18"


def test_a_killed_initdb_leaves_no_database(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_over = cluster.with_name("18.new") / "half"
    left_over.mkdir(parents=True)

    class Started(Exception):
        pass

    def spawn(self: stack.Stack, name: str, command: list[str | Path], env: object = None) -> None:
        if name == "postgres":
            raise Started
        folder = Path(command[command.index("-D") + 1])
        assert name == "initdb" and not left_over.exists() and not cluster.exists()
        (folder / "PG_VERSION").write_text("18")

    monkeypatch.setattr(stack.Stack, "spawn", spawn)
    (cluster.parents[1] / "run").mkdir()
    running = stack.Stack(8080, stack.Clock())
    with pytest.raises(Started):
        running.start_postgres()
    running.down()
    assert [path.name for path in cluster.parent.iterdir()] == ["18"]
    assert [path.name for path in cluster.iterdir()] == ["PG_VERSION"]


def test_a_new_database_is_migrated_even_if_one_was_migrated_before(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack.Stack, "spawn", lambda *_: None)
    running = stack.Stack(8080, stack.Clock())
    cluster.mkdir(parents=True)
    assert running.migrate({}) and not running.migrate({})
    shutil.rmtree(cluster)
    cluster.mkdir()
    assert running.migrate({})


def test_the_pid_file_of_a_dead_database_is_removed_without_the_program_ps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    pid_file = tmp_path / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{tmp_path}\n")
    postgres.forget_stale_postmaster(tmp_path)
    assert not pid_file.exists()
    command = [sys.executable, "-c", "input()", "-D", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as alive:
        pid_file.write_text(f"{alive.pid}\n{tmp_path}\n")
        postgres.forget_stale_postmaster(tmp_path)
        alive.kill()
    assert pid_file.exists()
