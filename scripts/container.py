"""The program of the containers of docker-compose.yaml: `python -m scripts.container ROLE`, see ROLES.

Secrets come from .env, or the service `secrets` makes them at the first start. It writes each into a file of a volume,
and all services read these files.
"""

import json
import os
import secrets
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import psycopg2

from include.lake import settings
from include.lake.engine import spark_server
from include.lake.errors import LakeError, UsageError
from include.lake.local import wait
from scripts import seed as sample
from scripts.airflow_env import USER, command, environment, new_keys, write_private
from scripts.api import families
from scripts.options import ui_port
from scripts.postgres import END_JOBS
from scripts.stack import Clock

SECRETS = Path("/secrets")
AIRFLOW_HOME = Path("/opt/airflow")
# Names and ports inside the network of docker-compose.yaml.
POSTGRES, API, API_PORT, SPARK_PORT = "postgres", "airflow-api-server", 8080, 15002
# Tasks at a time. Each is a process of a quarter GB, so four fit into the scheduler's memory limit.
PARALLELISM = 4
# A killed database is back in a few seconds. If it takes longer, docker starts this container again.
DATABASE_SECONDS = 60
JOBS = {"scheduler": "SchedulerJob", "triggerer": "TriggererJob", "dag-processor": "DagProcessorJob"}
# Each reports every five seconds, and the DAG processor after each round of parsing. Airflow uses the same limit.
HEARTBEAT_SECONDS = 30


# -- secrets


def secret_files() -> dict[str, Path]:
    """The file of every secret, by its name in .env."""
    names = ["POSTGRES_PASSWORD", "LAKE_FERNET_KEY", "LAKE_JWT_SECRET", "LAKE_SESSION_SECRET", "LAKE_UI_PASSWORD"]
    files = {name: SECRETS / name.removeprefix("LAKE_").lower().replace("_", "-") for name in names}
    # The token is in the lake, because ./lake needs it. Spark must not see the others: a SELECT may read files.
    return {**files, "LAKE_ENGINE_TOKEN": settings.engine_token_file()}


def make_secrets() -> None:
    """Write the secrets of .env. Make the missing ones, unless an earlier start has made them."""
    keys = new_keys()
    made = {
        "LAKE_FERNET_KEY": keys["fernet"],
        "LAKE_JWT_SECRET": keys["jwt"],
        "LAKE_SESSION_SECRET": keys["session"],
    }
    for name, path in secret_files().items():
        configured, stored = os.environ.get(name, ""), path.read_text().strip() if path.exists() else ""
        if name == "POSTGRES_PASSWORD" and configured and stored and configured != stored:
            raise UsageError(
                "POSTGRES_PASSWORD is not the one that the database was made with: leave it empty in .env, "
                "and the one that it was made with is used"
            )
        if (wanted := configured or stored or made.get(name) or secrets.token_urlsafe(18)) != stored:
            write_private(path, wanted)
            print(f"{name}: {'taken from .env' if configured else 'made'}", flush=True)


def secret(name: str) -> str:
    path = secret_files()[name]
    try:
        return path.read_text().strip()
    except OSError as error:
        raise LakeError(
            f"{name} is missing ({path}: {error.strerror}): `docker-compose up secrets` makes it or takes it from .env"
        ) from None


# -- Airflow


def airflow_env() -> dict[str, str]:
    """The environment of Airflow in a container: like that of `make run`, with the addresses of the network."""
    keys = {name: secret(f"LAKE_{key}") for name, key in
            {"fernet": "FERNET_KEY", "jwt": "JWT_SECRET", "session": "SESSION_SECRET"}.items()}  # fmt: skip
    write_private(AIRFLOW_HOME / "passwords.json", json.dumps({USER: secret("LAKE_UI_PASSWORD")}))
    more: dict[str, dict[str, object]] = {
        "core": {
            "parallelism": PARALLELISM,
            "dags_are_paused_at_creation": False,
            "execution_api_server_url": f"http://{API}:{API_PORT}/execution/",
        },
        "api": {"host": "0.0.0.0", "port": API_PORT},
    }
    database = f"postgresql+psycopg2://airflow:{quote(secret('POSTGRES_PASSWORD'), safe='')}@{POSTGRES}/airflow"
    port = ui_port()
    env = environment(AIRFLOW_HOME, keys, database, f"http://127.0.0.1:{port}", more)
    return env | {"FAMILIES": ",".join(families())}


def connect(seconds: float = DATABASE_SECONDS) -> Any:
    """A connection to the database. It waits while the database starts, but not after a refused password."""
    password = secret("POSTGRES_PASSWORD")
    refusal = ""

    def try_once() -> Any:
        nonlocal refusal
        try:
            return psycopg2.connect(
                host=POSTGRES, user="airflow", dbname="airflow", password=password, connect_timeout=5
            )
        except psycopg2.OperationalError as error:
            if "authentication failed" in str(error):
                raise LakeError(
                    "PostgreSQL was made with another password, since its volume is older than the volume `secrets`: "
                    "set POSTGRES_PASSWORD in .env to that password, or remove both volumes"
                ) from None
            refusal = str(error)
            return None

    cure = f"`docker-compose up -d {POSTGRES}`"
    return wait.until(try_once, seconds, "PostgreSQL", pause=0.5, cure=lambda: f"{cure} ({refusal})")


def start_airflow(name: str) -> NoReturn:
    """Replace this process by one of Airflow's."""
    env = airflow_env()
    with connect() as connection, connection.cursor() as cursor:
        if name in JOBS:  # one container runs each, so a job that still counts as running was killed before
            cursor.execute(f"{END_JOBS} and job_type = %s", [JOBS[name]])
    become(command(name), env)


def migrate() -> NoReturn:
    connect().close()
    become([sys.executable, "-m", "airflow", "db", "migrate"], airflow_env())


def become(command: list[Any], env: dict[str, str]) -> NoReturn:
    os.execve(command[0], [str(part) for part in command], env)


def healthy(name: str) -> int:
    """Exit code 0 if the process has reported to the database lately."""
    with connect(seconds=0) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select count(*) from job where state = 'running' and job_type = %s"
            " and latest_heartbeat > now() - %s * interval '1 second'",
            [JOBS[name], HEARTBEAT_SECONDS],
        )
        return 0 if cursor.fetchone()[0] else 1


# -- the lake


def seed() -> int:
    """Create the ledger's table, and make sample data for the newest days that no source has.

    Where Databricks builds, the tables are those of the workspace, which gets none.
    """
    if settings.on_databricks():
        return 0
    if not settings.server_of_others():
        # What the shell exports wins over .env.
        raise UsageError(
            "LAKE_ENGINE of docker-compose is its own Spark (leave it empty in .env and in your shell: "
            "`unset LAKE_ENGINE`), or databricks"
        )
    from include.lake.cli import main as cli
    from include.lake.state import ledger  # slow to import: a health check must not need it

    ledger.create()
    days, scale = sample.wanted()
    if arguments := sample.missing_sample(Clock(), sample.newest_day(), days, scale):
        if failed := cli.main(arguments):
            return failed
        sample.finish_sample()
    return 0


def forwarder(host: str, port: int, listen: tuple[str, int]) -> socketserver.ThreadingTCPServer:
    """A server that forwards every connection to this port of `host`."""

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), socket.create_connection((host, port), timeout=10) as there:
                there.settimeout(None)
                back = threading.Thread(target=pump, args=(there, self.request), daemon=True)
                back.start()
                pump(self.request, there)
                back.join()

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    server = socketserver.ThreadingTCPServer(listen, Connection)
    server.daemon_threads = True
    return server


def forward(host: str, port: str) -> None:
    forwarder(host, int(port), ("0.0.0.0", int(port))).serve_forever()


ROLES: dict[str, Callable[..., int | None]] = {
    "secrets": make_secrets,
    "migrate": migrate,
    "seed": seed,
    "spark": lambda: spark_server.serve(SPARK_PORT),
    "airflow": start_airflow,
    "healthy": healthy,
    "forward": forward,
}


def main(role: str, *arguments: str) -> int:
    try:
        return int(ROLES[role](*arguments) or 0)
    except LakeError as error:
        print(f"lake: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
