"""Where things are. Every setting of the engine is an environment variable read here, and nowhere else."""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from include.lake.errors import LakeError, UsageError

# Variables of before. Whoever still sets one means it.
_RENAMED = {
    "LAKE_SPARK_REMOTE": "LAKE_ENGINE", "LAKE_SPARK_MEMORY": "LAKE_ENGINE_MEMORY",
    "LAKE_SPARK_CORES": "LAKE_ENGINE_CORES", "LAKE_SPARK_TOKEN": "LAKE_ENGINE_TOKEN",
}  # fmt: skip
# The engines that we start ourselves, and the one that runs what a task submits.
SAIL, SPARK = "sail", "spark"
DATABRICKS = "databricks"

ROOT = Path(__file__).resolve().parents[2]
SQL = ROOT / "include" / "sql"


# delta-rs and Sail take a path for a URL or a pattern: on these characters they fail, or read and write another folder.
# The quotation mark ends an option of Java.
_REFUSED_IN_PATHS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\[\]\\^|%#?\"*{}<>~`]")

# Tasks that wait for a disk leave a core free. More than this only share the memory, until it is too little for any.
_TASKS_A_CORE = 8

# Beginnings of URLs that delta-rs reads and writes. Spark wants a jar and settings for each of them.
_OBJECT_STORES = ("s3", "s3a", "gs", "abfss", "az")


def home() -> Path:
    """The folder of everything that a lake keeps (`LAKE_HOME`, `.lake/` by default); UsageError if it cannot be one."""
    return _folder("LAKE_HOME", os.environ.get("LAKE_HOME") or str(ROOT / ".lake"))


def _folder(variable: str, text: str) -> Path:
    """The folder that a variable names; UsageError if Delta cannot use it."""
    try:
        path = Path(text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a user who does not exist, a null byte
        raise UsageError(f"{variable}={text!r} is no folder ({error}): set it to another one") from None
    _refuse(variable, str(path))
    if not _nearest(path).is_dir():
        raise UsageError(
            f"{variable}={text!r} is no folder ({_nearest(path)} is a file): set {variable} to another one"
        )
    return path


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(one for one in (path, *path.parents) if os.path.exists(one))


def run_lock() -> Path:
    """The file that `make run` keeps locked while it is at work."""
    return home() / "run" / "lock"


def require_writable(variable: str, folder: str | Path) -> None:
    """UsageError unless files can be written to the folder, or to the one in which it would be made."""
    try:
        # The system alone knows. This file has no name, so a wrong command leaves nothing.
        tempfile.TemporaryFile(dir=_nearest(Path(folder))).close()
    except OSError as error:
        raise UsageError(
            f"{variable}={str(folder)!r} cannot be written ({error.strerror}): set {variable} to a folder of yours"
        ) from None


def check(writes: bool = False) -> None:
    """UsageError for a setting that makes no sense, before anything starts. writes: tables or files of the lake."""
    folders = {"LAKE_HOME": str(home()), "LAKE_WAREHOUSE": warehouse()}
    for read in (engine, engine_memory_bytes, engine_cores, look_seconds, poll_seconds):
        read()
    for variable, folder in folders.items() if writes else ():
        if "://" not in folder:
            require_writable(variable, folder)


def _refuse(variable: str, path: str) -> None:
    if refused := sorted(set(_REFUSED_IN_PATHS.findall(path))):
        raise UsageError(
            f"{variable}={path!r} has {' '.join(map(repr, refused))} in its path, with which Delta or Spark "
            f"goes wrong: set {variable} to a path without it"
        )


def shown(path: Path) -> str:
    """A path as people want to read it: relative to the project, where it is in it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def warehouse() -> str:
    """Where the tables are kept (`LAKE_WAREHOUSE`, a folder or a URL; `warehouse` in LAKE_HOME by default).

    UsageError if it cannot be one. A URL of this machine's files is given as their folder, without a slash at the end.
    """
    text = os.environ.get("LAKE_WAREHOUSE")
    if not text:
        return str(home() / "warehouse")
    url = re.match(r"(\w[\w+.-]*):/+", text)
    if url is None:
        return str(_folder("LAKE_WAREHOUSE", text))
    scheme, rest = url[1], text.partition(":")[2]
    if scheme == "file" and (rest.startswith("///") or not rest.startswith("//")):
        return str(_folder("LAKE_WAREHOUSE", unquote(rest.removeprefix("//"))))
    if scheme not in _OBJECT_STORES or not re.match("//[^/]", rest):
        examples = ", ".join(f"{name}://BUCKET/FOLDER" for name in _OBJECT_STORES)
        raise UsageError(
            f"LAKE_WAREHOUSE={text!r} is no place for tables: set LAKE_WAREHOUSE to a folder, "
            f"file:///FOLDER, {examples}"
        )
    _refuse("LAKE_WAREHOUSE", text)
    return text.rstrip("/")


def jars() -> Path:
    """The folder of the two Delta jars, which `make setup` fetches once (`LAKE_JARS`)."""
    return _folder("LAKE_JARS", os.environ.get("LAKE_JARS") or str(Path.home() / ".cache" / "lake" / "jars"))


def engine() -> str:
    """Who computes (`LAKE_ENGINE`): `sail`, `spark`, `databricks`, or the address of a Spark Connect server."""
    for old, new in _RENAMED.items():
        if os.environ.get(old):
            raise UsageError(f"{old} has another name now: set {new} instead")
    text = os.environ.get("LAKE_ENGINE") or SAIL
    server = re.fullmatch(r"sc://[\w.-]+(?::(\d{1,5}))?/?", text)
    if text not in (SAIL, SPARK, DATABRICKS) and server is None:
        raise UsageError(f"LAKE_ENGINE={text} is no engine: set it to {SAIL}, {SPARK}, {DATABRICKS} or sc://HOST:PORT")
    if server and server[1] and not 0 < int(server[1]) < 1 << 16:
        raise UsageError(f"LAKE_ENGINE={text} has no port: set it to sc://HOST:PORT with a port from 1 to 65535")
    return text


def server_of_others() -> str | None:
    """The address of the server that LAKE_ENGINE names, which we neither start nor stop; None: the engine is ours."""
    return text if (text := engine()).startswith("sc://") else None


def started_families() -> list[str] | None:
    """The families whose DAGs are not paused at first (FAMILIES); None: all are as Airflow's setting says."""
    text = os.environ.get("FAMILIES") or ""
    return [name.strip() for name in text.split(",") if name.strip()] or None


def engine_memory() -> str:
    """Memory of an engine that we start ourselves (`LAKE_ENGINE_MEMORY`): two tasks of a scale-1 day fit into 2 GB."""
    return os.environ.get("LAKE_ENGINE_MEMORY") or "2g"


def engine_memory_bytes() -> int:
    """The same as a number. Also stands for a server that somebody else started, whose memory we cannot see."""
    text = engine_memory()
    if not re.fullmatch(r"[1-9]\d*[kmgt]", text, re.IGNORECASE):
        raise UsageError(f"LAKE_ENGINE_MEMORY={text} is no amount of memory: give one such as 2g or 512m")
    return int(text[:-1]) << {"k": 10, "m": 20, "g": 30, "t": 40}[text[-1].lower()]


def engine_cores() -> str:
    """Tasks at a time of an engine that we start ourselves (`LAKE_ENGINE_CORES`): as many as there are cores (`*`)."""
    text = os.environ.get("LAKE_ENGINE_CORES") or "*"
    if not re.fullmatch(r"\*|[1-9]\d*", text):
        raise UsageError(f"LAKE_ENGINE_CORES={text} is no number of cores: give one such as 2, or unset it to take all")
    cores = os.cpu_count() or 1
    if text != "*" and int(text) > _TASKS_A_CORE * cores:
        raise UsageError(
            f"LAKE_ENGINE_CORES={text} is too much for the {cores} of this machine: give at most "
            f"{_TASKS_A_CORE * cores}, or unset it to take all"
        )
    return text


def engine_token_file() -> Path:
    return home() / "engine" / "token"


def engine_token() -> str | None:
    """What the server of the engine asks its clients for (`LAKE_ENGINE_TOKEN`, or the file of it in the lake)."""
    if token := os.environ.get("LAKE_ENGINE_TOKEN"):
        return token
    path = engine_token_file()
    try:
        with open(path) as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                anew = "`./lake engine stop` and then `./lake engine start` make a new token"
                if server_of_others():
                    anew = "remove it, give the server another token, and set LAKE_ENGINE_TOKEN to that"
                raise LakeError(f"{path} may be read by other users, who could run code as you: {anew}")
            return file.read().strip() or None
    except FileNotFoundError:
        return None
    except PermissionError:
        raise LakeError(f"{path} is another user's: ask them for the token and set LAKE_ENGINE_TOKEN") from None


def maven_repository() -> str | None:
    """Where `make setup` fetches the Delta jars (`LAKE_MAVEN_REPOSITORY`, a URL); None: Maven Central."""
    return os.environ.get("LAKE_MAVEN_REPOSITORY") or None


# -- Databricks: where LAKE_ENGINE is `databricks`


def on_databricks() -> bool:
    """Are the tables those of a Unity Catalog, and the builds runs of Databricks?"""
    return engine() == DATABRICKS


def catalog() -> str:
    """The Unity Catalog of the tables (`LAKE_CATALOG`), one for each environment: wev_dev, wev_prod."""
    text = os.environ.get("LAKE_CATALOG") or ""
    if not re.fullmatch(r"\w[\w-]{0,254}", text, re.ASCII):
        raise UsageError(f"LAKE_CATALOG={text!r} is no catalog: set it to the name of one, such as wev_dev")
    return text


def sql_warehouse() -> str:
    """The id of the SQL warehouse that Airflow asks (`LAKE_SQL_WAREHOUSE`: the id, or its HTTP path)."""
    text = os.environ.get("LAKE_SQL_WAREHOUSE") or ""
    match = re.fullmatch(r"(?:/sql/1\.0/warehouses/)?(\w{1,64})", text, re.ASCII)
    if not match:
        raise UsageError(
            f"LAKE_SQL_WAREHOUSE={text!r} is no SQL warehouse: set it to the id of one, or to its HTTP path, which its "
            "page shows under Connection details"
        )
    return match[1]


def look_seconds() -> int:
    """Seconds between two looks of the sensors of a triggerer (`LAKE_LOOK_SECONDS`).

    300: a warehouse that stops by itself after ten minutes is up anyway while something waits. See the README for what
    a look costs.
    """
    return _seconds("LAKE_LOOK_SECONDS", "300")


def poll_seconds() -> int:
    """Seconds between two looks of a task at its run (`LAKE_POLL_SECONDS`). Each is a request; a run takes minutes."""
    return _seconds("LAKE_POLL_SECONDS", "20")


def _seconds(variable: str, default: str) -> int:
    text = os.environ.get(variable) or default
    if not re.fullmatch(r"[1-9]\d{0,4}", text, re.ASCII):
        raise UsageError(f"{variable}={text!r} is no number of seconds: set it to one such as {default}")
    return int(text)


def wheel() -> str:
    """The wheel that a run installs (`LAKE_WHEEL`): its path in a Volume or the workspace; `make deploy` prints it."""
    text = os.environ.get("LAKE_WHEEL") or ""
    if not re.fullmatch(r"/(Volumes|Workspace)(/[\w.+@ -]+)+\.whl", text, re.ASCII):
        raise UsageError(f"LAKE_WHEEL={text!r} is no wheel of the lake: set it to the path that `make deploy` prints")
    return text


def cluster() -> dict[str, Any]:
    """The compute of a run (`LAKE_CLUSTER`): nothing for serverless, the id of a cluster, or a new cluster as JSON.

    Databricks gives a new cluster no Unity Catalog unless it has a `data_security_mode`.
    """
    text = os.environ.get("LAKE_CLUSTER") or ""
    if not text:
        return {}
    if re.fullmatch(r"\d{4}-\d{6}-\w+", text, re.ASCII):
        return {"existing_cluster_id": text}
    try:
        new = json.loads(text)
    except ValueError:
        new = None
    if not isinstance(new, dict) or "spark_version" not in new:
        raise UsageError(
            f"LAKE_CLUSTER={text[:60]!r} is no cluster: leave it empty for serverless, or set it to the id of a "
            "cluster, or to a JSON object with spark_version, node_type_id and num_workers"
        )
    return {"new_cluster": {"data_security_mode": "DATA_SECURITY_MODE_AUTO", **new}}
