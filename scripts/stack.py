"""The processes of `make run`: PostgreSQL, Airflow and the engine, each in its own session.

Every started process is written to LAKE_HOME/run/started.json at once. So the next run can end the processes that a
killed run has left.
"""

import fcntl
import importlib.metadata
import importlib.util
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from include.lake import settings
from include.lake.engine import connect, server
from include.lake.errors import LakeError
from include.lake.local import processes, wait
from include.lake.local.processes import Process
from scripts import airflow_env, postgres
from scripts.airflow_env import AIRFLOW, logs

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds for the processes to end by themselves. A build is one commit, so a killed build loses nothing.
STOP_SECONDS = 5
# After this time without a line, print one, so that the user sees that it still works.
QUIET_SECONDS = 10


class Clock:
    """Prints lines that begin with the seconds since the start."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()

    def __call__(self, line: str) -> None:
        self.last = time.monotonic()
        with suppress(OSError):  # a closed terminal must not keep us from stopping our processes
            print(f"{self.last - self.began:5.0f} s  {line}", flush=True)

    def still(self, what: str) -> None:
        """Print a line, but only after QUIET_SECONDS without any other."""
        if time.monotonic() - self.last > QUIET_SECONDS:
            self(f"… {what}")


class Stack:
    """The processes of one `make run`. Call `acquire` first; `down` ends these processes and no others."""

    def __init__(self, port: int, say: Clock) -> None:
        self.port = port
        self.say = say
        self.url = f"http://127.0.0.1:{port}"
        self._children: dict[str, tuple[Process, subprocess.Popen[bytes], Path]] = {}
        self._sockets: Path | None = None
        self._uses_engine = self._engine = False  # whoever has started it; and whether it is this run
        self._lock: IO[str] | None = None

    @property
    def started(self) -> bool:
        return bool(self._children) or self._engine

    # -- one run per LAKE_HOME

    def acquire(self) -> None:
        """Lock the LAKE_HOME for this run, end the processes of a killed run, and check that the port is free."""
        settings.run_lock().parent.mkdir(parents=True, exist_ok=True)
        lock = open(settings.run_lock(), "a+")  # noqa: SIM115 - this process holds it until it ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise LakeError(
                f"another `make run` is at work in {settings.home()} ({lock.read().strip()}): "
                "end it with Ctrl-C there, or give this one a LAKE_HOME and a LAKE_UI_PORT of its own"
            ) from None
        self._lock = lock
        lock.truncate(0)
        lock.write(f"process {os.getpid()}, {self.url}\n")
        lock.flush()
        self._end_left_over()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError as error:
                raise LakeError(
                    f"port {self.port} for the Airflow UI cannot be had ({error.strerror}): "
                    f"stop what uses it, or take another one: make run LAKE_UI_PORT={self.port + 1}"
                ) from None

    def _record(self) -> None:
        record = {
            "port": self.port,
            "processes": {name: process for name, (process, _, _) in self._children.items()},
            "sockets": str(self._sockets) if self._sockets else None,
            "engine": self._engine,
        }
        new = settings.home() / "run" / "started.json.new"
        new.write_text(json.dumps(record))
        new.replace(settings.home() / "run" / "started.json")

    def _end_left_over(self) -> None:
        path = settings.home() / "run" / "started.json"
        with suppress(FileNotFoundError, json.JSONDecodeError):
            record = json.loads(path.read_text())
            left = {name: Process(*entry) for name, entry in record["processes"].items()}
            alive = [name for name, process in left.items() if processes.members(process)]
            if alive:
                self.say(f"an earlier run was killed: ending what it left ({', '.join(alive)})")
            _end(left, STOP_SECONDS)
            if record.get("engine"):
                server.stop(STOP_SECONDS)
            if record["sockets"]:
                shutil.rmtree(record["sockets"], ignore_errors=True)
        path.unlink(missing_ok=True)

    # -- starting

    def spawn(self, name: str, command: list[str | Path], env: dict[str, str] | None = None) -> None:
        """Start a process in its own session, and write its output to a log with its name."""
        logs().mkdir(parents=True, exist_ok=True)
        log = logs() / f"{name}.log"
        with open(log, "wb") as output, _uninterrupted():
            child = subprocess.Popen(
                [str(part) for part in command],
                cwd=settings.ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._children[name] = processes.of(child.pid), child, log
            self._record()

    def done(self, name: str) -> bool:
        """Has this command ended? LakeError with its last lines if it failed."""
        _, child, log = self._children[name]
        if child.poll() is None:
            return False
        if child.returncode:
            raise LakeError(
                f"{name} failed (exit code {child.returncode}); the end of {log}:\n{processes.last_lines(log)}"
            )
        return True

    def wait(self, name: str) -> None:
        log = self._children[name][2]
        wait.until(lambda: self.done(name), math.inf, f"{name} (its log: {log})", pause=0.05, waiting=self.watch)
        del self._children[name]

    def lake(self, *arguments: str) -> list[str | Path]:
        """The command that runs ./lake with these arguments."""
        return [sys.executable, "-P", "-m", "include.lake.cli", *arguments]

    def start_engine(self) -> None:
        """Start the server of the engine, unless it runs already. LakeError if one that others run does not answer."""
        if others := settings.server_of_others():
            connect.require_listening(others)
        self._uses_engine = settings.engine() in (settings.SAIL, settings.SPARK)
        if not self._uses_engine or server.address(settings.engine()):
            return
        self._engine = True
        self.spawn("engine", self.lake("engine", "start"), {**os.environ, "PYTHONPATH": str(settings.ROOT)})

    def wait_for_engine(self) -> None:
        if "engine" in self._children:
            self.wait("engine")

    def start_postgres(self) -> str:
        """Start PostgreSQL on a socket that only we can open. Gives its address for SQLAlchemy."""
        _, programs = postgres.programs()
        folder = _cluster()
        as_user, uid = postgres.not_root()
        if not (folder / "PG_VERSION").exists():
            # A killed initdb leaves half a cluster. So the folder gets its name when initdb is done.
            new = folder.with_name(f"{folder.name}.new")
            for left_over in (folder, new):
                shutil.rmtree(left_over, ignore_errors=True)
            new.mkdir(parents=True, mode=0o700)
            os.chown(new, uid, -1)
            options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
            self.spawn("initdb", [*as_user, programs / "initdb", "-D", new, *options])
            self.wait("initdb")
            new.rename(folder)
        postgres.forget_stale_postmaster(folder)
        # In /tmp, because the path of a socket may have only 100 characters. A LAKE_HOME may be longer.
        self._sockets = Path(tempfile.mkdtemp(prefix="lake-", dir="/tmp"))
        os.chown(self._sockets, uid, -1)
        self._record()
        # A power cut may lose the last moments. That is acceptable for the run history of a laptop.
        options = [
            "-c",
            "listen_addresses=",
            "-c",
            f"unix_socket_directories={self._sockets}",
            "-c",
            "synchronous_commit=off",
        ]
        self.spawn("postgres", [*as_user, programs / "postgres", "-D", folder, *options])
        is_ready: list[str | Path] = [programs / "pg_isready", "-q", "-h", self._sockets]
        log = self._children["postgres"][2]
        wait.until(
            lambda: subprocess.run(is_ready, check=False).returncode == 0,
            60,  # it starts in a second; after a crash it reads its log first
            "PostgreSQL",
            pause=0.05,
            waiting=self.watch,
            cure=lambda: f"the end of {log}:\n{processes.last_lines(log)}",
        )
        # No process of Airflow runs now. In an empty database the table does not exist, and psql fails without harm.
        psql = [str(programs / "psql"), "-h", str(self._sockets), "-U", "postgres", "-qc", postgres.END_JOBS]
        subprocess.run(psql, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return postgres.database(self._sockets)

    def migrate(self, env: dict[str, str]) -> bool:
        """Migrate Airflow's database; False if it is up to date. A file with the last version makes this quick.

        The file is in the folder of the cluster, so it goes when somebody removes the cluster.
        """
        done = _cluster() / "airflow_version"
        version = importlib.metadata.version("apache-airflow-core")
        if done.exists() and done.read_text() == version:
            return False
        self.spawn("db-migrate", [sys.executable, "-m", "airflow", "db", "migrate"], env)
        self.wait("db-migrate")
        done.write_text(version)
        return True

    def start_airflow(self, name: str, env: dict[str, str]) -> None:
        self.spawn(name, airflow_env.command(name), env)

    # -- watching and ending

    def check(self) -> None:
        """LakeError with the name and the last lines of a process that died."""
        for name, (_, child, log) in self._children.items():
            if name in (*AIRFLOW, "postgres") and child.poll() is not None:
                raise LakeError(
                    f"{name} died (exit code {child.returncode}); the end of {log}:\n{processes.last_lines(log)}"
                )
        if self._uses_engine and "engine" not in self._children and not server.address():
            log = server.state_folder() / "server.log"
            raise LakeError(
                f"the server of {settings.engine()} died, and no build works without it, so everything ends: "
                f"start `make run` again; the end of {log}:\n{processes.last_lines(log)}"
            )

    def watch(self, line: str) -> None:
        """Call it while waiting. LakeError if a process died; prints the line after a while without any other."""
        self.check()
        self.say.still(line)

    def down(self, patience: float = STOP_SECONDS) -> None:
        """End all processes of this run. Kill them after `patience` seconds."""
        started = {name: process for name, (process, _, _) in self._children.items()}
        _end(started, patience)
        if self._engine:
            server.stop(patience)
        if self._sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)
        if self._lock:
            (settings.home() / "run" / "started.json").unlink(missing_ok=True)


def _cluster() -> Path:
    """The folder of the database. PostgreSQL cannot read the data of another major version."""
    return settings.home() / "postgres" / postgres.programs()[0]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C during the block. Between the start of a process and its record it would leave it running."""
    pending: list[int] = []
    handlers = {number: signal.signal(number, lambda got, _: pending.append(got)) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if pending:
        signal.raise_signal(pending[0])


def _end(started: dict[str, Process], patience: float) -> None:
    """End the processes. The database is last, because the others log errors without it."""
    processes.end([process for name, process in started.items() if name != "postgres"], patience)
    # SIGINT: do not wait for clients, and leave the files in order.
    processes.end([process for name, process in started.items() if name == "postgres"], patience, signal.SIGINT)


def env_of_running() -> dict[str, str]:
    """The environment of the Airflow that runs in this LAKE_HOME, for the `airflow` command."""
    try:
        record = json.loads((settings.home() / "run" / "started.json").read_text())
        if not Process(*record["processes"]["postgres"]).alive:
            raise FileNotFoundError
    except (FileNotFoundError, KeyError):
        raise LakeError(f"no Airflow runs in {settings.home()}: start it with `make run`") from None
    return airflow_env.of_make_run(record["port"], postgres.database(Path(record["sockets"])))
