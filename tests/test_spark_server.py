"""The lake's own Spark Connect server, and the processes that we start and end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from include.lake import processes, settings, spark_server
from include.lake.errors import LakeError

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
    assert spark_server.address() is None
    assert spark_server.stop() is False
    (lake_home / "spark").mkdir(parents=True, exist_ok=True)
    record = {"pid": os.getpid(), "identity": "of another boot", "port": 1, "ready": True}
    (lake_home / "spark" / "server.json").write_text(json.dumps(record))
    assert spark_server.address() is None
    assert spark_server.stop() is False


def test_a_port_in_use_is_one_line(lake_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("LAKE_SPARK_PORT", str(other.getsockname()[1]))
        with pytest.raises(LakeError, match=r"port \d+ for Spark Connect cannot be had .*LAKE_SPARK_PORT"):
            spark_server.start(say=lambda line: None)


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
def server_home(lake_home: Path) -> Iterator[Path]:
    yield lake_home
    spark_server.stop()


@pytest.mark.spark
def test_one_server_for_all_that_listens_on_this_machine_alone(server_home: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: spark_server.start(say=lambda line: None), range(2))
    assert first == second == spark_server.address()
    port = int(first.rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    pid = json.loads((server_home / "spark" / "server.json").read_text())["pid"]
    if sys.platform == "linux":
        loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
        assert listeners(pid) and set(listeners(pid)) <= loopback
    # Else what is compiled for one session is of no use to another, and each build has its own.
    ask = "from include.lake import session; print(session.connect().conf.get('spark.sql.artifact.isolation.enabled'))"
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=settings.ROOT)
    assert told.stdout == "false\n"

    server = processes.of(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert spark_server.address() is None
    for _ in range(100):
        if not (left := processes.members(server)):
            break
        time.sleep(0.1)
    assert left == [], "something outlives its server"


@pytest.mark.spark
def test_a_server_that_cannot_start_shows_the_end_of_its_log(
    server_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_SPARK_MEMORY", "1m")
    with pytest.raises(LakeError, match=r"(?s)Spark Connect ended at its start; the end of .*server.log:\n    .*heap"):
        spark_server.start(say=lambda line: None)
    assert spark_server.address() is None


def test_the_settings_need_the_jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_JARS", str(tmp_path))
    with pytest.raises(LakeError, match=r"is missing: run `make setup`"):
        spark_server.spark_conf()
    assert settings.jars() == tmp_path


@pytest.mark.spark
def test_a_server_with_a_token_refuses_whoever_has_not_got_it(
    server_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import grpc
    from pyspark.sql.connect.proto import ConfigRequest, SparkConnectServiceStub

    monkeypatch.setenv("LAKE_SPARK_TOKEN", "to be=told; exactly")
    address = spark_server.start(say=lambda line: None)
    # A process of its own: a session of a server and one of this process, which other tests make, exclude each other.
    code = "from include.lake import session\nprint(session.connect().sql('select 1 + 1').collect()[0][0])"
    env = {**os.environ, "LAKE_SPARK_REMOTE": address, "PYTHONPATH": str(settings.ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout == "2\n"
    request = ConfigRequest(session_id=str(uuid.uuid4()))
    request.operation.get.keys.append("spark.app.name")
    with grpc.insecure_channel(address.removeprefix("sc://")) as channel:
        for told in ((), (("authorization", "Bearer guessed"),)):
            with pytest.raises(grpc.RpcError) as refused:
                SparkConnectServiceStub(channel).Config(request, metadata=told, timeout=30)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        right = (("authorization", "Bearer to be=told; exactly"),)
        assert SparkConnectServiceStub(channel).Config(request, metadata=right, timeout=30).pairs[0].value == "lake"


def test_a_server_for_other_machines_needs_a_token(lake_home: Path) -> None:
    with pytest.raises(LakeError, match=r"wants a token: set LAKE_SPARK_TOKEN"):
        spark_server.serve(15002)


def test_the_token_comes_from_the_environment_or_the_lake(lake_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.spark_token() is None
    settings.spark_token_file().parent.mkdir(parents=True)
    settings.spark_token_file().write_text("kept\n")
    assert settings.spark_token() == "kept"
    monkeypatch.setenv("LAKE_SPARK_TOKEN", "given")
    assert settings.spark_token() == "given"


def test_cores_are_a_number_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("*", "2"):
        monkeypatch.setenv("LAKE_SPARK_CORES", given)
        assert settings.spark_cores() == given
    monkeypatch.setenv("LAKE_SPARK_CORES", "many")
    with pytest.raises(LakeError, match="LAKE_SPARK_CORES=many is no number of cores"):
        settings.spark_cores()


def test_a_server_elsewhere_that_is_being_started_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from include.lake import session

    tries: list[object] = []

    def connection(address: object, timeout: float) -> socket.socket:
        tries.append(address)
        if len(tries) < 3:
            raise ConnectionRefusedError("Connection refused")
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connection)
    session._wait_for("spark", 15002, patience=40)
    assert tries == [("spark", 15002)] * 3
    tries.clear()
    with pytest.raises(LakeError, match=r"Spark Connect at localhost:15002 does not answer \(.*\./lake spark start"):
        session._wait_for("localhost", 15002, patience=0)
    assert len(tries) == 1
    tries.clear()
    with pytest.raises(LakeError, match=r"Spark Connect at spark:15002 does not answer \(.*LAKE_SPARK_REMOTE"):
        session._wait_for("spark", 15002, patience=0)
