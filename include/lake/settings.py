"""Where things are. Every setting of the engine is an environment variable read here, and nowhere else."""

import os
import re
from pathlib import Path

from include.lake.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
SQL = ROOT / "include" / "sql"


def home() -> Path:
    """The folder of everything that a lake keeps (`LAKE_HOME`, `.lake/` by default)."""
    return Path(os.environ.get("LAKE_HOME") or ROOT / ".lake").expanduser().resolve()


def shown(path: Path) -> str:
    """A path as people want to read it: relative to the project, where it is in it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def table_path(table: str) -> Path:
    """Where the Delta table is stored: the path is the table."""
    schema, name = table.split(".")
    return home() / "warehouse" / schema / name


def jars() -> Path:
    """The folder of the two Delta jars, which `make setup` fetches once (`LAKE_JARS`)."""
    return Path(os.environ.get("LAKE_JARS") or Path.home() / ".cache" / "lake" / "jars").expanduser().resolve()


def spark_remote() -> str | None:
    """The Spark Connect server to use (`LAKE_SPARK_REMOTE`, such as sc://localhost:15002); None: the lake's own one."""
    return os.environ.get("LAKE_SPARK_REMOTE") or None


def spark_memory() -> str:
    """Memory of a Spark that we start ourselves (`LAKE_SPARK_MEMORY`): two tasks of a scale-1 day fit into 2 GB."""
    return os.environ.get("LAKE_SPARK_MEMORY") or "2g"


def spark_memory_bytes() -> int:
    """The same as a number. Also stands for a server that somebody else started, whose memory we cannot see."""
    text = spark_memory()
    if not re.fullmatch(r"[1-9]\d*[kmgt]", text, re.IGNORECASE):
        raise UsageError(f"LAKE_SPARK_MEMORY={text} is no amount of memory: give one such as 2g or 512m")
    return int(text[:-1]) << {"k": 10, "m": 20, "g": 30, "t": 40}[text[-1].lower()]


def spark_cores() -> str:
    """Tasks at a time of a Spark that we start ourselves (`LAKE_SPARK_CORES`): as many as there are cores (`*`)."""
    text = os.environ.get("LAKE_SPARK_CORES") or "*"
    if not re.fullmatch(r"\*|[1-9]\d*", text):
        raise UsageError(f"LAKE_SPARK_CORES={text} is no number of cores: give one such as 2, or unset it to take all")
    return text


def spark_token_file() -> Path:
    return home() / "spark" / "token"


def spark_token() -> str | None:
    """What the Spark Connect server asks its clients for (`LAKE_SPARK_TOKEN`, or the file of it in the lake)."""
    if token := os.environ.get("LAKE_SPARK_TOKEN"):
        return token
    return spark_token_file().read_text().strip() if spark_token_file().exists() else None


def spark_port() -> int | None:
    """The port of the Spark Connect server that we start (`LAKE_SPARK_PORT`); None: any that is free."""
    text = os.environ.get("LAKE_SPARK_PORT") or "0"
    if not (text == "0" or (text.isdigit() and 1024 <= int(text) < 65536)):
        raise UsageError(
            f"LAKE_SPARK_PORT={text} is no port for Spark: give one above 1023, such as 15002, or unset it"
        )
    return int(text) or None


def maven_repository() -> str | None:
    """Where `make setup` fetches the Delta jars (`LAKE_MAVEN_REPOSITORY`, a URL); None: Maven Central."""
    return os.environ.get("LAKE_MAVEN_REPOSITORY") or None
