"""The Jobs API of Databricks, as far as the lake uses it: each submitted run really runs its wheel, on one Spark."""

import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from scripts import deploy
from tests.conftest import QUICK

_RUNS = "/api/2.2/jobs/runs/"
_FILES = "/api/2.0/fs/files/"
# The fields of SubmitRun, SubmitTask, PythonWheelTask and Environment in databricks-sdk 0.162.0, service/jobs.py and
# compute.py: what Databricks refuses otherwise.
_RUN_FIELDS = {
    "access_control_list", "budget_policy_id", "email_notifications", "environments", "git_source", "health",
    "idempotency_token", "notification_settings", "performance_target", "queue", "run_as", "run_name", "tasks",
    "timeout_seconds", "usage_policy_id", "webhook_notifications",
}  # fmt: skip
_TASK_FIELDS = {
    "compute", "depends_on", "description", "disable_auto_optimization", "email_notifications", "environment_key",
    "existing_cluster_id", "health", "libraries", "max_retries", "new_cluster", "python_wheel_task", "task_key",
    "timeout_seconds",
}  # fmt: skip
_WHEEL_FIELDS = {"entry_point", "named_parameters", "package_name", "parameters"}
# What an environment of serverless has by itself, of what a run imports: PySpark, and what its Connect client needs.
_OF_DATABRICKS = (
    "pyspark", "pandas", "pyarrow", "numpy", "grpcio", "grpcio-status", "googleapis-common-protos", "zstandard",
)  # fmt: skip
# What stands in the place of a cluster: its session is there before the code of the run.
_CLUSTER = """
import json, os, sys
sys.modules.update(dict.fromkeys(os.environ["OF_OTHERS"].split(",")))  # to import one of these fails
sys.path.insert(0, sys.argv[1])
from include.lake.engine import connect, databricks
from include.lake.cli import entry
assert entry.__file__.startswith(sys.argv[1]), "the code is not that of the wheel"
enter = databricks.enter
with connect.session(os.environ["OF_SPARK"], json.loads(os.environ["OF_CONF"]), os.environ["OF_TOKEN"]) as session:
    databricks.enter = lambda: enter(session)
    entry.main(sys.argv[2:])
from pathlib import Path
for module in [module for name, module in sys.modules.items() if name.startswith("include.") and module.__file__]:
    source = Path(module.__file__).read_text()
    assert "maps_as_pydicts" not in source, f"{module.__name__}: the pyarrow of a cluster is older than 20"
"""


def _plain(name: str) -> str:
    """The name of a package as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def _others() -> str:
    """The modules here that a run of Databricks has not: neither by itself, nor by the wheel that is deployed."""
    needs = {_plain(one.metadata["Name"]): one.requires or () for one in metadata.distributions()}
    wanted, there = [*_OF_DATABRICKS, *(pin.partition("==")[0] for pin in deploy.needs())], set[str]()
    while wanted:
        name = _plain(wanted.pop())
        if name not in there:
            there.add(name)
            wanted += (re.split(r"[^\w.-]", need)[0] for need in needs.get(name, ()) if "extra ==" not in need)
    modules = metadata.packages_distributions().items()
    return ",".join(sorted(module for module, names in modules if not {_plain(name) for name in names} & there))


class Jobs:
    """Answers runs/submit, get, get-output and cancel, and keeps uploaded files in a folder.

    `held`: no run starts. `lingering`: a cancelled run is ending, and does not end. `refused`: a token that is taken.
    """

    def __init__(self, folder: Path, address: str, token: str) -> None:
        self.folder, self.held, self.lingering, self.refused = folder, False, False, ""
        self.runs: dict[int, dict[str, Any]] = {}
        self._environment = {
            "OF_SPARK": address, "OF_TOKEN": token, "OF_CONF": json.dumps(QUICK), "LAKE_HOME": str(folder / "home"),
            "OF_OTHERS": _others(),
        }  # fmt: skip
        self._tokens: dict[str, int] = {}
        self._numbers = itertools.count(101)
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any] | None:
        if path.startswith(_FILES) and method == "PUT":
            return self._put(path.removeprefix(_FILES), body)
        if not path.startswith(_RUNS):
            return None
        work = path.removeprefix(_RUNS)
        if work == "submit":
            return self._submit(body)
        number = int({**query, **(body or {})}["run_id"])
        run = self.runs.get(number) or next((run for run in self.runs.values() if run["task_id"] == number), None)
        if run is None:
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": f"Run {number} does not exist."}
        if work == "cancel":
            run["cancelled"] = True
            if run["child"]:
                run["child"].kill()
            return 200, {}
        self._look_after(run)
        if work == "get-output":
            assert number == run["task_id"], "the output is that of the task's run, and not of the whole run"
            return 200, {"metadata": self._shown(run), "logs": run["logs"], "error": run["error"]}
        return 200, self._shown(run)

    def _put(self, name: str, content: bytes) -> tuple[int, Any]:
        path = self.folder / name
        if path.exists():
            return 409, {"error_code": "ALREADY_EXISTS", "message": "The file being created already exists."}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return 204, None

    def _submit(self, body: dict[str, Any]) -> tuple[int, Any]:
        assert body.keys() <= _RUN_FIELDS, f"unknown fields {body.keys() - _RUN_FIELDS}"
        (task,) = body["tasks"]
        assert task.keys() <= _TASK_FIELDS, f"unknown fields {task.keys() - _TASK_FIELDS}"
        assert task["python_wheel_task"].keys() <= _WHEEL_FIELDS
        assert len(body["idempotency_token"]) <= 64
        environments = {one["environment_key"]: one["spec"] for one in body["environments"]}
        (wheel,) = environments[task["environment_key"]]["dependencies"]
        if body["idempotency_token"] == self.refused:
            message = "The run of this idempotency token was deleted."
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": message}
        with self._lock:
            number = self._tokens.get(body["idempotency_token"])
            if number is None:
                number = self._tokens[body["idempotency_token"]] = next(self._numbers)
                self.runs[number] = {
                    "id": number, "task_id": number * 1000, "name": body["run_name"], "key": task["task_key"],
                    "wheel": self.folder / wheel.lstrip("/"),
                    "parameters": [f"--{k}={v}" for k, v in task["python_wheel_task"]["named_parameters"].items()],
                    "timeout": body["timeout_seconds"],
                    "child": None, "cancelled": False, "ended": None, "logs": "", "error": None,
                }  # fmt: skip
                self._start(self.runs[number])
        return 200, {"run_id": number}

    def _start(self, run: dict[str, Any]) -> None:
        if self.held:
            return
        code = self.folder / "installed" / run["wheel"].stem
        if not code.exists():
            with zipfile.ZipFile(run["wheel"]) as wheel:
                wheel.extractall(code)
        environment = {name: text for name, text in os.environ.items() if not name.startswith(("LAKE_", "DATABRICKS_"))}
        with open(self.folder / f"run{run['id']}.log", "w") as log:
            run["child"] = subprocess.Popen(
                [sys.executable, "-c", _CLUSTER, str(code), *run["parameters"]], cwd=self.folder,
                env=environment | self._environment, stdout=log, stderr=log,
            )  # fmt: skip

    def forget(self) -> None:
        """Know no run and no token any more, as after 60 days."""
        self.runs.clear()
        self._tokens.clear()

    def release(self) -> None:
        """Start the runs that were held, and hold no more."""
        self.held = False
        for run in list(self.runs.values()):
            if not run["child"] and not run["ended"] and not run["cancelled"]:
                self._start(run)

    def _look_after(self, run: dict[str, Any]) -> None:
        if run["ended"]:
            return
        if run["cancelled"] and not self.lingering:
            run["ended"] = "CANCELED"
        elif run["child"] and run["child"].poll() is not None:
            run["logs"] = (self.folder / f"run{run['id']}.log").read_text()
            if run["child"].returncode:
                run["ended"] = "FAILED"
                at = run["logs"].rfind("RunFailed: ")
                run["error"] = run["logs"][at:] if at >= 0 else run["logs"][-2000:]
            else:
                run["ended"] = "SUCCESS"

    def _shown(self, run: dict[str, Any]) -> dict[str, Any]:
        state = {"life_cycle_state": "TERMINATING" if run["cancelled"] else "RUNNING", "state_message": ""}
        if run["ended"]:
            state = {"life_cycle_state": "TERMINATED", "result_state": run["ended"], "state_message": "it ended"}
        return {
            "job_id": 1, "run_id": run["id"], "run_name": run["name"], "state": state, "start_time": 0,
            "run_page_url": f"https://workspace/#job/1/run/{run['id']}",
            "tasks": [{"run_id": run["task_id"], "task_key": run["key"], "attempt_number": 0, "start_time": 0,
                       "state": state}],
        }  # fmt: skip

    def wait(self, number: int, seconds: float = 60) -> str:
        """How a run has ended."""
        deadline = time.monotonic() + seconds
        while not self.runs[number]["ended"]:
            assert time.monotonic() < deadline, "the run hangs"
            self._look_after(self.runs[number])
            time.sleep(0.1)
        return str(self.runs[number]["ended"])
