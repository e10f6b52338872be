"""`make run` in a process of its own, and what tests ask of the Airflow that it starts."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from include.lake import settings
from include.lake.local import processes, wait
from include.lake.local.processes import Process
from include.lake.project import task_lists
from scripts.api import Api
from tests.conftest import JAVA_OPTIONS, QUICK

# With caches it takes a minute or two. A busy machine takes longer.
SECONDS = 900


class Lake:
    """A LAKE_HOME, and the runs in it. `families` of DAGs are started; `env` is set for every run.

    `started`: every process that a run has written down.
    """

    def __init__(
        self, home: Path, engine: str, families: list[str], show: Callable[[str], None], env: dict[str, str]
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home, self.show = home, show
        self.dags = sorted(path.stem for family in families for path in task_lists.paths(family))
        assert len(self.dags) > 1
        self.started: set[Process] = set()
        own = ("LAKE_", "DATABRICKS_", "DAYS", "SCALE", "ONCE", "FAMILIES")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        self.env |= {"LAKE_HOME": str(home), "LAKE_UI_PORT": str(self.port), "SCALE": "0.005", "LAKE_ENGINE": engine}
        self.env |= {"FAMILIES": ",".join(families), **env}
        # Settings of Spark for few rows. It reads the tables exactly as the Spark of a user does.
        self.env["JDK_JAVA_OPTIONS"] = " ".join([JAVA_OPTIONS, *(f"-D{name}={value}" for name, value in QUICK.items())])
        if "LAKE_JARS" in os.environ:
            self.env["LAKE_JARS"] = os.environ["LAKE_JARS"]
        self.runs: list[subprocess.Popen[str]] = []

    def run(self, until: str = "", **env: str) -> tuple[str, subprocess.Popen[str]]:
        """Start `make run` without the make; gives its output up to its end, or up to a line with `until`."""
        run = subprocess.Popen(
            [sys.executable, "-m", "scripts.run"], cwd=settings.ROOT, env=self.env | env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.runs.append(run)
        assert run.stdout
        output, began = "", time.monotonic()
        for line in run.stdout:
            output += line
            self.show(line.rstrip())
            self._note()
            assert time.monotonic() - began < SECONDS, "it takes too long"
            if until and until in line:
                return output, run
        run.wait(60)
        return output, run

    def _note(self) -> None:
        for record in (self.home / "run" / "started.json", self.home / "engine" / "server.json"):
            if record.exists():
                told = json.loads(record.read_text())
                found = told["processes"].values() if "processes" in told else [[told["pid"], told["identity"]]]
                self.started |= {Process(*entry) for entry in found}

    def cli(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "include.lake.cli", *arguments],
            env=self.env | {"PYTHONPATH": str(settings.ROOT)}, text=True, capture_output=True, check=True,
        )  # fmt: skip
        return done.stdout

    def status(self, day: str) -> dict[str, dict[str, Any]]:
        return {row["table"]: row for row in json.loads(self.cli("status", "--from", day, "--to", day, "--json"))}

    def process(self, name: str) -> Process:
        """A process of the current `make run`."""
        return Process(*json.loads((self.home / "run" / "started.json").read_text())["processes"][name])

    def api(self) -> Api:
        (user, password), *_ = json.loads((self.home / "airflow" / "passwords.json").read_text()).items()
        return Api(f"http://127.0.0.1:{self.port}", user, password)

    def left(self) -> list[int]:
        return [pid for process in self.started for pid in processes.members(process)]

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def end(self) -> None:
        """Kill all that is left of the runs."""
        for run in self.runs:
            run.kill()
        processes.end(self.started, patience=0)


def until(condition: Callable[[], Any], what: str) -> Any:
    return wait.until(condition, SECONDS, what, pause=0.5)


def trigger_backfill(api: Api, conf: dict[str, Any]) -> str:
    """The id of a new run of the backfill DAG."""
    return str(api("POST", "/dags/backfill/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"])


def states(api: Api, run_id: str, dag_id: str = "backfill") -> dict[str, str]:
    """Task -> its state in a run."""
    path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
    return {task["task_id"]: task["state"] for task in api("GET", path)["task_instances"]}


def ended(api: Api, run_id: str) -> str:
    """How a run of the backfill DAG ends."""

    def state() -> str:
        found = api("GET", f"/dags/backfill/dagRuns/{run_id}")["state"]
        return found if found in ("success", "failed") else ""

    return str(until(state, f"the end of {run_id}"))
