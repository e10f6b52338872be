"""The lake's own Spark: its settings, and a Spark Connect server that tasks share.

To start a JVM for each task costs 13 s; a session of a running server costs less than 1 s. This module does not import
pyspark.
"""

import fcntl
import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from include.lake import settings
from include.lake.engine.toolchain import jar_paths, java_home
from include.lake.errors import LakeError
from include.lake.local import locks, processes

# The server listens after 4 s on an idle machine with 2 cores, and after 10 s on a busy one. A later one is stuck.
_START_SECONDS = 120


# -- what Spark needs on this machine


def spark_conf() -> dict[str, str]:
    """The settings of every Spark that we start, the server as well as one inside a process."""
    return {
        # SELECTs take days from UTC. The timezone of the machine must not matter.
        "spark.sql.session.timeZone": "UTC",
        # A timestamp is an instant, as in the contracts, and not a wall clock time.
        "spark.sql.timestampType": "TIMESTAMP_LTZ",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        # On the class path, because spark.jars would copy the jars at every start. We have one process only.
        "spark.driver.extraClassPath": os.pathsep.join(str(path) for path in jar_paths()),
        # Spark reads tables by their path. A catalog on disk would be a second truth, and Derby would lock it.
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.warehouse.dir": str(_folder() / "warehouse"),  # empty: of tables of a catalog
        "spark.driver.memory": settings.spark_memory(),
        # Parallel GC needs a fifth less CPU than G1 on 2 cores. Its longer pauses do not matter for builds.
        "spark.driver.extraJavaOptions": "-XX:+UseParallelGC",
        # A day is small: 200 partitions (the default) cost seconds on 2 cores, and AQE merges small ones anyway.
        "spark.sql.shuffle.partitions": "4",
        # The same for Delta when it reads a log; the default is 50.
        "spark.databricks.delta.snapshotPartitions": "2",
        # Vectored IO is for object stores: on a disk it starts three threads for each small file.
        "spark.hadoop.parquet.hadoop.vectored.io.enabled": "false",
        # Spark listens on this machine only. The Spark UI is off, because it has no login.
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        # Keep compiled classes for the next build. A table has some hundred; Spark keeps 100 by default.
        "spark.sql.codegen.cache.maxEntries": "2000",
        # By default Spark keeps the plans of 1,000 queries for its UI, 2 MB each for a wide SELECT. They filled a
        # server of 2 GB after some hundred builds.
        "spark.sql.ui.retainedExecutions": "10",
        "spark.ui.retainedJobs": "50",
        "spark.ui.retainedStages": "50",
        "spark.ui.retainedTasks": "1000",
        "spark.connect.ui.retainedSessions": "10",
        "spark.connect.ui.retainedStatements": "10",
        # Spark creates up to 1,024 threads per pool before it reuses one. Each thread keeps its session alive, with the
        # table snapshots of its views: about 4 MB per build. 16 threads are enough.
        "spark.sql.shuffleExchange.maxThreadThreshold": "16",
        "spark.sql.broadcastExchange.maxThreadThreshold": "16",
        "spark.sql.resultQueryStage.maxThreadThreshold": "16",
        "spark.log.level": "WARN",
        "spark.ui.showConsoleProgress": "false",
    }


def temporary_folder(name: str) -> Path:
    """An empty folder for Spark's spill files, named `server` or by the pid. Removes those of dead processes."""
    folder = _folder() / "tmp"
    for other in folder.glob("*"):
        if other.name == name or (other.name.isdigit() and not processes.identity(int(other.name))):
            shutil.rmtree(other, ignore_errors=True)
    (folder / name).mkdir(parents=True)
    return folder / name


# -- the server


def address() -> str | None:
    """The address of the server of this LAKE_HOME, such as sc://127.0.0.1:15002; None if it does not run."""
    state = _state()
    return f"sc://127.0.0.1:{state['port']}" if state and state["ready"] else None


def start(say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)) -> str:
    """Start the server unless it runs, and wait until it listens. Gives its address, or LakeError with its log."""
    with _lock():
        if state := _state():
            if state["ready"]:
                return f"sc://127.0.0.1:{state['port']}"
        else:
            say(f"Starting Spark Connect (log: {_folder() / 'server.log'})")
            state = _spawn()
        try:
            _wait(state)
        except BaseException:
            _end(state)
            raise
        _write({**state, "ready": True})
        return f"sc://127.0.0.1:{state['port']}"


def stop(patience: float = 20) -> bool:
    """Stop the server and wait until it is gone. Kill it after `patience` seconds. False if none was running."""
    with _lock():
        if state := _state():
            _end(state, patience)
        return state is not None


def _folder() -> Path:
    return settings.home() / "spark"


@contextmanager
def _lock() -> Iterator[None]:
    """Hold the lock of the server, so that two processes that start at once get one server."""
    _folder().mkdir(parents=True, exist_ok=True)
    with open(_folder() / "server.lock", "w") as file:
        locks.take(
            lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
            f"another process that starts or stops Spark Connect in {_folder()}",
            2 * _START_SECONDS,
        )
        yield


def _state() -> dict[str, Any] | None:
    """The content of server.json if its process still runs; else None."""
    with suppress(FileNotFoundError, PermissionError, json.JSONDecodeError):  # server.json of another user is not ours
        state: dict[str, Any] = json.loads((_folder() / "server.json").read_text())
        if _process(state).alive:
            return state
    return None


def _write(state: dict[str, Any]) -> None:
    _write_private(_folder() / "server.json", json.dumps(state))


def _process(state: dict[str, Any]) -> processes.Process:
    return processes.Process(state["pid"], state["identity"])


def _end(state: dict[str, Any], patience: float = 20) -> None:
    processes.end([_process(state)], patience)
    (_folder() / "server.json").unlink(missing_ok=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _ensure_token() -> None:
    """Make the token that the clients of the server read, unless there is one that no other user can have read.

    Without a token, every user of this machine could reach the port of the server and run code as us.
    """
    if os.environ.get("LAKE_SPARK_TOKEN"):
        return
    with suppress(LakeError):
        if settings.spark_token():
            return
    _write_private(settings.spark_token_file(), secrets.token_urlsafe(32))


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


def serve(port: int) -> NoReturn:
    """Become a server for other machines, with a token: this is the main process of a container."""
    if not settings.spark_token():
        raise LakeError(
            f"a server for other machines wants a token: set LAKE_SPARK_TOKEN or {settings.spark_token_file()}"
        )
    command, environment = _command(port, "0.0.0.0", ui=True)
    os.chdir(_folder())
    os.execve(command[0], command, environment)


def _command(port: int, listen: str = "127.0.0.1", ui: bool = False) -> tuple[list[str], dict[str, str]]:
    """The command that runs a server, and its environment."""
    package = importlib.util.find_spec("pyspark")
    if not package or not package.submodule_search_locations:
        raise LakeError("pyspark is not installed: run `make setup`")
    spark_home = Path(package.submodule_search_locations[0])
    temp = temporary_folder("server")
    conf = spark_conf()
    conf |= {
        "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
        "spark.local.dir": str(temp),
        "spark.driver.extraJavaOptions": f'{conf["spark.driver.extraJavaOptions"]} "-Djava.io.tmpdir={temp}"',
        "spark.connect.grpc.binding.address": listen,
        "spark.connect.grpc.binding.port": str(port),
        "spark.ui.enabled": str(ui).lower(),
    }
    command = [str(spark_home / "bin" / "spark-submit"), "--master", f"local[{settings.spark_cores()}]"]
    command += ["--name", "lake"]
    for name, value in conf.items():
        command += ["--conf", f"{name}={value}"]
    # SPARK_* variables may name another Spark of this machine, which must not replace this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPARK_")}
    # SPARK_LOCAL_IP is where the Spark UI listens.
    environment |= {"SPARK_HOME": str(spark_home), "SPARK_LOCAL_IP": listen, "JAVA_HOME": str(java_home())}
    environment |= {"PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(settings.ROOT)}
    if token := settings.spark_token():  # not as a setting: other users could see it in the list of processes
        environment["SPARK_CONNECT_AUTHENTICATE_TOKEN"] = token
    return [*command, str(settings.ROOT / "include" / "lake" / "engine" / "spark_main.py")], environment


def _spawn() -> dict[str, Any]:
    _ensure_token()
    port = _free_port()
    command, environment = _command(port)
    with open(_folder() / "server.log", "w") as log:
        server = subprocess.Popen(
            command,
            cwd=_folder(),  # Spark leaves an `artifacts` folder in its working directory
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal must not stop the server
        )
    state = {**processes.of(server.pid)._asdict(), "port": port, "ready": False}
    _write(state)
    return state


def _wait(state: dict[str, Any]) -> None:
    began = time.monotonic()
    while True:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", state["port"]), timeout=1).close()
            return
        waited = time.monotonic() - began
        alive = _process(state).alive
        if not alive or waited > _START_SECONDS:
            log = _folder() / "server.log"
            why = f"did not listen on port {state['port']} within {waited:.0f} s" if alive else "ended at its start"
            raise LakeError(f"Spark Connect {why}; the end of {log}:\n{processes.last_lines(log)}")
        time.sleep(0.1)
