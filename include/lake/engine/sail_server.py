"""The lake's own Sail: the command of its server. It does not import pysail."""

import importlib.util
import os
import sys

from include.lake import settings
from include.lake.engine.server import temporary_folder
from include.lake.errors import LakeError

# A session may be idle for a week, such as that of a `./lake try --watch`. By default Sail forgets it after 5 minutes.
SESSION_SECONDS = 7 * 86_400


def command(port: int, token: str, name: str | None = "server") -> tuple[list[str], dict[str, str]]:
    """The command that runs a server, and its environment. `name`: of its folder for files that it spills;
    None: the folder of this process."""
    if importlib.util.find_spec("pysail") is None:
        raise LakeError("pysail is not installed: run `make setup`")
    cores = settings.engine_cores()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "SAIL_"))}
    environment |= {
        "PYTHONPATH": str(settings.ROOT),
        # Operators share the memory. One that gets no more writes to its folder, or the query fails, and not Sail.
        "SAIL_RUNTIME__MEMORY_POOL__TYPE": "greedy",
        "SAIL_RUNTIME__MEMORY_POOL__GREEDY__MAX_SIZE": str(settings.engine_memory_bytes()),
        "SAIL_RUNTIME__TEMPORARY_FILES__PATHS": f'["{temporary_folder(name)}"]',
        # Of a row that a filter leaves out, only the columns of the filter are read: a build of keys needs few rows.
        "SAIL_PARQUET__PUSHDOWN_FILTERS": "true",
        "SAIL_PARQUET__STATISTICS_ENABLED": "none",  # of the stage: they leave NaN out, see storage/delta_files.py
        "LAKE_ENGINE_TOKEN": token,  # not an argument: other users could see it in the list of processes
        "SAIL_EXECUTION__DEFAULT_PARALLELISM": "0" if cores == "*" else cores,
        "SAIL_SPARK__SESSION_TIMEOUT_SECS": str(SESSION_SECONDS),
    }
    program = str(settings.ROOT / "include" / "lake" / "engine" / "sail_main.py")
    # -P: else the modules beside the program would stand for packages of their names.
    return [sys.executable, "-P", program, str(port)], environment
