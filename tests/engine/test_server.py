"""The lake's own Spark Connect server, and the processes that we start and end."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from include.lake import settings
from include.lake.cli import main as cli
from include.lake.engine import server, spark_server
from include.lake.errors import LakeError
from include.lake.local import locks, processes
from tests.strangers import answers_who_has_the_token_alone

FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
                          "print('up', flush=True); time.sleep(60)"], process_group=0)
time.sleep(60)
"""


def start(code: str = "import time; time.sleep(60)") -> processes.Process:
    return processes.of(subprocess.Popen([sys.executable, "-c", code], start_new_session=True).pid)


def test_a_process_is_told_from_a_later_one_with_its_pid() -> None:
    process = start()
    assert process.alive
    assert processes.members(process) == [process.pid]
    later = processes.Process(process.pid, process.identity + "0")
    assert not later.alive
    assert processes.members(later) == []
    processes.end([later])
    assert process.alive, "a process that is not ours was ended"
    began = time.monotonic()
    processes.end([process])
    assert not process.alive
    assert time.monotonic() - began < 10


def test_children_are_ended_too_even_those_that_would_not_and_left_the_group() -> None:
    process = start(FAMILY)
    while len(processes.members(process)) < 2:
        time.sleep(0.05)
    family = processes.members(process)
    time.sleep(1)  # until the child ignores SIGTERM
    processes.end([process], patience=1)
    assert [pid for pid in family if processes.identity(pid)] == []


def test_children_of_a_killed_process_are_found() -> None:
    process = start(FAMILY)
    while len(processes.members(process)) < 2:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)
    assert not process.alive
    assert len(processes.members(process)) == 1
    processes.end([process], patience=0)
    assert processes.members(process) == []


def test_no_server_and_a_record_of_somebody_elses_pid(lake_home: Path) -> None:
    assert server.address() is None
    assert server.stop() is False
    (lake_home / "engine").mkdir(parents=True, exist_ok=True)
    record = {"pid": os.getpid(), "identity": "of another boot", "port": 1, "ready": True}
    (lake_home / "engine" / "server.json").write_text(json.dumps(record))
    assert server.address() is None
    assert server.stop() is False


def listeners(pid: int) -> list[str]:
    """The addresses (hexadecimal, as Linux tells them) on which a process listens."""
    inodes = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.append(fields[1].split(":")[0])
    return found


@pytest.fixture
def server_home(lake_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LAKE_ENGINE", settings.SPARK)
    yield lake_home
    server.stop()


@pytest.mark.spark
def test_one_server_for_all_that_listens_on_this_machine_alone(
    server_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: server.start(settings.SPARK, say=lambda line: None), range(2))
    assert first == second == server.address()
    port = int(first.rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    pid = json.loads((server_home / "engine" / "server.json").read_text())["pid"]
    if sys.platform == "linux":
        loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
        assert listeners(pid) and set(listeners(pid)) <= loopback
    # Else what is compiled for one session is of no use to another, and each build has its own.
    key = "spark.sql.artifact.isolation.enabled"
    ask = f"from include.lake.engine import spark\nwith spark.opened() as s: print(s.conf.get({key!r}))"
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=settings.ROOT)
    assert told.stdout == "false\n"

    with monkeypatch.context() as patch:
        patch.setenv("LAKE_ENGINE", first)  # the same server, as one that others run
        patch.setenv("LAKE_ENGINE_TOKEN", str(settings.engine_token()))
        assert cli.main(["engine", "status"]) == 0
        assert capsys.readouterr().out == f"{first} answers\n"

    process = processes.of(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert server.address() is None
    for _ in range(100):
        if not (left := processes.members(process)):
            break
        time.sleep(0.1)
    assert left == [], "something outlives its server"


@pytest.mark.spark
def test_a_server_that_cannot_start_shows_the_end_of_its_log(
    server_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_ENGINE_MEMORY", "1m")
    with pytest.raises(LakeError, match=r"(?s)Spark ended at its start; the end of .*server.log:\n    .*heap"):
        server.start(settings.SPARK, say=lambda line: None)
    assert server.address() is None


def test_the_settings_need_the_jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_JARS", str(tmp_path))
    with pytest.raises(LakeError, match=r"is missing: run `make setup`"):
        spark_server.spark_conf()
    assert settings.jars() == tmp_path


@pytest.mark.spark
def test_a_server_always_has_a_token_and_refuses_clients_without_it(server_home: Path) -> None:
    address = server.start(settings.SPARK, say=lambda line: None)
    token = settings.engine_token_file().read_text().strip()
    assert len(token) >= 32 and settings.engine_token_file().stat().st_mode & 0o777 == 0o600
    processes_seen = subprocess.run(["ps", "-axww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    assert "spark_main.py" in processes_seen and token not in processes_seen
    # A process of its own: a session of a server and one of this process, which other tests make, exclude each other.
    code = (
        "from include.lake.engine import spark\nwith spark.opened() as s: print(s.sql('select 1 + 1').collect()[0][0])"
    )
    for env, output in ({}, "2\n"), ({"LAKE_ENGINE_TOKEN": "another one; of a=server"}, "refuses our token"):
        client = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **env}, cwd=settings.ROOT, capture_output=True, text=True
        )
        assert output in (client.stdout or client.stderr)
        assert not any(secret in client.stdout + client.stderr for secret in (token, *env.values()))
    assert answers_who_has_the_token_alone(address, token, "spark.app.name")[0].value == "lake"
    assert token not in (server_home / "engine" / "server.log").read_text()
    assert token not in (server_home / "engine" / "server.json").read_text()


def test_a_token_that_others_could_read_is_refused_and_made_anew(
    lake_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings.engine_token_file()
    path.parent.mkdir(parents=True)
    for mode in (0o644, 0o640, 0o606):
        path.write_text("seen by others\n")
        path.chmod(mode)
        with pytest.raises(LakeError, match=r"token may be read by other users.*`\./lake engine start`"):
            settings.engine_token()
        with monkeypatch.context() as patch:
            patch.setenv("LAKE_ENGINE", "sc://spark:15002")
            cure = "run code as you: remove it, give the server another token, and set LAKE_ENGINE_TOKEN to that$"
            with pytest.raises(LakeError, match=cure):
                settings.engine_token()
        server.ensure_token()
        assert path.stat().st_mode & 0o777 == 0o600
        assert (token := settings.engine_token()) and token != "seen by others"
        server.ensure_token()
        assert settings.engine_token() == token, "clients of a running server have read it"
    path.unlink()
    path.symlink_to(lake_home / "elsewhere")
    server.ensure_token()
    assert not path.is_symlink() and settings.engine_token() and not (lake_home / "elsewhere").exists()
    path.unlink()
    monkeypatch.setenv("LAKE_ENGINE_TOKEN", "a secret")
    server.ensure_token()
    assert not path.exists()
    assert [left.name for left in path.parent.iterdir()] == []


def test_a_server_for_other_machines_needs_a_token(lake_home: Path) -> None:
    with pytest.raises(LakeError, match=r"wants a token: set LAKE_ENGINE_TOKEN"):
        spark_server.serve(15002)


def test_the_token_comes_from_the_environment_or_the_lake(lake_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.engine_token() is None
    settings.engine_token_file().parent.mkdir(parents=True)
    settings.engine_token_file().write_text("kept\n")
    settings.engine_token_file().chmod(0o600)
    assert settings.engine_token() == "kept"
    monkeypatch.setenv("LAKE_ENGINE_TOKEN", "given")
    assert settings.engine_token() == "given"


def test_only_a_lock_that_another_holds_is_waited_for(tmp_path: Path) -> None:
    """Stands for: an error of the system is told at once, and is not taken for another process at work."""
    with open(tmp_path / "lock", "w") as holder, open(tmp_path / "lock", "w") as waiter, open(os.devnull) as unwritable:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(LakeError, match=r"waited 0 s for another process"):
            locks.take(lambda: fcntl.flock(waiter, fcntl.LOCK_EX | fcntl.LOCK_NB), "another process", 0.2)
        began = time.monotonic()
        # The system refuses a write lock of a file that is open for reading alone.
        with pytest.raises(LakeError, match=r"cannot lock out another process \(Bad file descriptor\): set LAKE_HOME"):
            locks.take(lambda: fcntl.lockf(unwritable, fcntl.LOCK_EX | fcntl.LOCK_NB), "another process", 60)
        assert time.monotonic() - began < 5


def test_cores_are_a_number_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("*", "2"):
        monkeypatch.setenv("LAKE_ENGINE_CORES", given)
        assert settings.engine_cores() == given
    monkeypatch.setenv("LAKE_ENGINE_CORES", "many")
    with pytest.raises(LakeError, match="LAKE_ENGINE_CORES=many is no number of cores"):
        settings.engine_cores()
    monkeypatch.setenv("LAKE_ENGINE_CORES", "1000000")
    with pytest.raises(LakeError, match=rf"too much for the {os.cpu_count()} of this machine: give at most \d+"):
        settings.engine_cores()


def test_a_server_elsewhere_that_is_being_started_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from include.lake.engine import connect

    tries: list[object] = []

    def connection(address: object, timeout: float) -> socket.socket:
        tries.append(address)
        if len(tries) < 3:
            raise ConnectionRefusedError("Connection refused")
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connection)
    connect._wait_for("spark", 15002, patience=40)
    assert tries == [("spark", 15002)] * 3
    tries.clear()
    with pytest.raises(LakeError, match=r"Spark Connect at localhost:15002 does not answer \(.*\./lake engine start"):
        connect._wait_for("localhost", 15002, patience=0)
    assert len(tries) == 1
    tries.clear()
    # Others run it, be it on this machine or not.
    for host in ("spark", "localhost"):
        monkeypatch.setenv("LAKE_ENGINE", f"sc://{host}:15002")
        cure = rf"Spark Connect at {host}:15002 does not answer \(.*\): start it, or correct LAKE_ENGINE$"
        with pytest.raises(LakeError, match=cure):
            connect._wait_for(host, 15002, patience=0)
