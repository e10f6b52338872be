"""The lake's own server, Sail or Spark, which tasks share: start it, stop it, find it.

To start a JVM for each task costs 13 s; a session of a running server costs less than 1 s. This module does not import
pyspark.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from include.lake import settings
from include.lake.errors import LakeError
from include.lake.local import locks, processes

# The server listens after 4 s on an idle machine with 2 cores, and after 10 s on a busy one. A later one is stuck.
_START_SECONDS = 120


def temporary_folder(name: str | None = None) -> Path:
    """An empty folder for files of an engine: of the server, by its name, or of this process."""
    shutil.rmtree(folder_of_this_process("tmp", name), ignore_errors=True)
    return folder_of_this_process("tmp", name)


def folder_of_this_process(kind: str, name: str | None = None) -> Path:
    """A folder that goes when this process is dead and another one asks for such a folder; `name`: a lasting one."""
    parent, of_ours = state_folder() / kind, f".{_pid_namespace()}"
    for other in processes.left_over(parent):
        # A process of another container looks dead from here. Its folders go later, see `remove_left_over`.
        if other.name.endswith(of_ours):
            shutil.rmtree(other, ignore_errors=True)
    folder = parent / (name or f"{processes.name(os.getpid())}{of_ours}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _pid_namespace() -> str:
    """A name for those processes that see one another; empty where the system does not say."""
    with suppress(OSError):
        return re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    return ""


def remove_left_over(older_than: timedelta) -> int:
    """Remove folders of dead processes without a younger file; gives how many. Living processes keep theirs.

    A process in another container, on the same folder, looks dead from here: so what is young stays as well.
    """
    removed = 0
    for parent in (state_folder() / kind for kind in ("stage", "tmp", "links")):
        for folder in processes.left_over(parent):
            # A link to a folder counts by itself, and not by the table that it leads to.
            newest = max((path.lstat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
            if time.time() - newest > older_than.total_seconds():
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
    return removed


# -- the server


def address(engine: str | None = None) -> str | None:
    """The address of the server of this LAKE_HOME, such as sc://127.0.0.1:15002; None if it does not run.

    engine: only a server of this engine.
    """
    state = _state()
    if state is None or not state["ready"] or engine not in (None, state["engine"]):
        return None
    return _address(state)


def start(engine: str, say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)) -> str:
    """Start the server unless it runs, and wait until it listens. Gives its address, or LakeError with its log."""
    with _lock():
        state = _state()
        if state and state["engine"] != engine:
            raise LakeError(f"a server of {state['engine']} runs here: `./lake engine stop` ends it")
        if state is None:
            say(f"Starting {engine.capitalize()} (log: {_log()})")
            state = _spawn(engine)
        if not state["ready"]:
            try:
                wait_for(engine, state["port"], lambda: _process(state).alive, _log())
            except BaseException:
                _end(state)
                raise
            _write({**state, "ready": True})
        return _address(state)


def stop(patience: float = 20) -> bool:
    """Stop the server and wait until it is gone. Kill it after `patience` seconds. False if none was running."""
    with _lock():
        if state := _state():
            _end(state, patience)
        return state is not None


def state_folder() -> Path:
    return settings.home() / "engine"


def _log() -> Path:
    return state_folder() / "server.log"


def _address(state: dict[str, Any]) -> str:
    return f"sc://127.0.0.1:{state['port']}"


@contextmanager
def _lock() -> Iterator[None]:
    """Hold the lock of the server, so that two processes that start at once get one server."""
    state_folder().mkdir(parents=True, exist_ok=True)
    with open(state_folder() / "server.lock", "w") as file:
        locks.take(
            lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
            f"another process that starts or stops a server in {state_folder()}",
            2 * _START_SECONDS,
        )
        yield


def _state() -> dict[str, Any] | None:
    """The content of server.json if its process still runs; else None."""
    with suppress(FileNotFoundError, PermissionError, json.JSONDecodeError):  # server.json of another user is not ours
        state: dict[str, Any] = json.loads((state_folder() / "server.json").read_text())
        if _process(state).alive:
            return state
    return None


def _write(state: dict[str, Any]) -> None:
    _write_private(state_folder() / "server.json", json.dumps(state))


def _process(state: dict[str, Any]) -> processes.Process:
    return processes.Process(state["pid"], state["identity"])


def _end(state: dict[str, Any], patience: float = 20) -> None:
    processes.end([_process(state)], patience)
    (state_folder() / "server.json").unlink(missing_ok=True)


def ensure_token() -> None:
    """Make the token that the clients of the server read, unless there is one that no other user can have read.

    Without a token, every user of this machine could reach the port of the server and run code as us.
    """
    if os.environ.get("LAKE_ENGINE_TOKEN"):
        return
    with suppress(LakeError):
        if settings.engine_token():
            return
    _write_private(settings.engine_token_file(), secrets.token_urlsafe(32))


def _write_private(path: Path, text: str) -> None:
    """Write a file that only we can read. In one step, because other processes read it without the lock."""
    descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")  # a new file with mode 0600
    try:
        with open(descriptor, "w") as file:
            file.write(text + "\n")
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Does a process of this machine listen on a port?"""
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def _command(engine: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The command that runs a server on this machine, and its environment."""
    if engine == settings.SAIL:
        from include.lake.engine import sail_server

        return sail_server.command(port, settings.engine_token() or "")
    from include.lake.engine import spark_server

    return spark_server.command(port)


def _spawn(engine: str) -> dict[str, Any]:
    ensure_token()
    port = free_port()
    command, environment = _command(engine, port)
    with open(_log(), "w") as log:
        server = subprocess.Popen(
            command,
            cwd=state_folder(),  # Spark leaves an `artifacts` folder in its working directory
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal must not stop the server
        )
    state = {**processes.of(server.pid)._asdict(), "engine": engine, "port": port, "ready": False}
    _write(state)
    return state


def wait_for(engine: str, port: int, alive: Callable[[], bool], log: Path) -> None:
    """Return when the server that has just been started listens. LakeError with its log if it ends, or takes long."""
    began = time.monotonic()
    while True:
        if listens(port):
            return
        waited, lives = time.monotonic() - began, alive()
        if not lives or waited > _START_SECONDS:
            why = f"did not listen on port {port} within {waited:.0f} s" if lives else "ended at its start"
            raise LakeError(f"{engine.capitalize()} {why}; the end of {log}:\n{processes.last_lines(log)}")
        time.sleep(0.02)
