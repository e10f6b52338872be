"""The environment, the commands and the secrets of Airflow, both on this machine and in a container."""

import base64
import json
import os
import secrets
import sys
from pathlib import Path
from urllib.parse import urlsplit

from include.lake import settings

USER = "admin"
AIRFLOW = ("api-server", "dag-processor", "triggerer", "scheduler")


def home() -> Path:
    return settings.home() / "airflow"


def logs() -> Path:
    return home() / "logs"


def password() -> str:
    """The password of the UI. It is generated once and stored in a file that only we can read."""
    path = home() / "passwords.json"
    if not path.exists():
        write_private(path, json.dumps({USER: secrets.token_urlsafe(12)}))
    return str(json.loads(path.read_text())[USER])


def command(name: str) -> list[str | Path]:
    """The command of one of AIRFLOW."""
    # Airflow reads log files directly here, so it needs no servers that deliver logs.
    more = {"scheduler": ["--skip-serve-logs"], "triggerer": ["--skip-serve-logs"]}.get(name, [])
    return [sys.executable, "-m", "airflow", name, *more]


def new_keys() -> dict[str, str]:
    """New keys with which Airflow encrypts and signs. Fernet requires its key in base64."""
    fernet = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return {"fernet": fernet, "jwt": secrets.token_hex(32), "session": secrets.token_hex(32)}


def of_make_run(port: int, database: str) -> dict[str, str]:
    """The environment of the Airflow of `make run`. Its secrets are made once and stored."""
    path = home() / "secrets.json"
    if not path.exists():
        write_private(path, json.dumps(new_keys()))
    password()
    # A task mostly waits for Spark, which uses the same cores. Two tasks per core keep them busy.
    core: dict[str, object] = {"parallelism": min(16, 2 * (os.cpu_count() or 2))}
    url = f"http://127.0.0.1:{port}"
    return _databricks() | environment(home(), json.loads(path.read_text()), database, url, {"core": core})


def _databricks() -> dict[str, str]:
    """The connection to Databricks, from DATABRICKS_HOST and DATABRICKS_TOKEN. One that the caller sets wins."""
    if not settings.on_databricks():
        return {}
    from include.lake.storage import warehouse  # slow to import: a health check of a container must not need it

    host, token = warehouse.of_the_environment()
    url = urlsplit(host if "://" in host else f"https://{host}")
    connection = {"conn_type": "databricks", "schema": url.scheme, "host": url.hostname, "port": url.port}
    return {"AIRFLOW_CONN_DATABRICKS_DEFAULT": json.dumps({**connection, "password": token})}


def environment(
    home: Path, keys: dict[str, str], database: str, url: str, more: dict[str, dict[str, object]]
) -> dict[str, str]:
    """The environment of an Airflow: all its settings, without those of another Airflow on this machine.

    `keys`: from `new_keys`. `url`: address of the UI. `more`: further options by section.
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
    # The caller may set connections and variables (AIRFLOW_CONN_*, AIRFLOW_VAR_*), so they stay.
    foreign = ("AIRFLOW__", "AIRFLOW_HOME", "AIRFLOW_CONFIG")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {"AIRFLOW_HOME": str(home), "PYTHONPATH": str(settings.ROOT), "LAKE_HOME": str(settings.home())}
    for section, values in options.items():
        env |= {f"AIRFLOW__{section}__{name}".upper(): str(value) for name, value in values.items()}
    return env


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
    new.replace(path)
