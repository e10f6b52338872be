"""Airflow's REST API."""

import http.client
import json
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from include.lake import settings
from include.lake.errors import LakeError, UsageError
from include.lake.project import lineage, task_lists

# The main job. The other families are there, paused.
_FAMILY = "wev"


class NoAnswer(LakeError):
    """The API did not answer. It may a moment later: a laptop that wakes up finds broken connections."""


class Api:
    """Airflow's REST API."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url, self._login, self._token = url, {"username": user, "password": password}, ""

    def __call__(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer; None if the object does not exist (404) or exists already (409)."""
        try:
            if not self._token:
                self._token = self._ask("POST", "/auth/token", self._login)["access_token"]
            return self._ask(method, "/api/v2" + path, body)
        except urllib.error.HTTPError as error:
            if error.code in (404, 409):
                return None
            raise LakeError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')[:500]}") from None
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{method} {path}: Airflow's API at {self.url} does not answer: {error}") from None

    def up(self) -> bool:
        try:
            self._ask("GET", "/api/v2/monitor/health", None)
        except OSError:
            return False
        return True

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        request = urllib.request.Request(self.url + path, method=method)
        request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        # No proxy, because the request stays on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, None if body is None else json.dumps(body).encode(), timeout=30) as answer:
            return json.loads(answer.read() or "null")


def families() -> list[str]:
    """The families of DAGs that a script starts and follows: FAMILIES=wev,rudder,audio, by default wev."""
    there = task_lists.families()
    named = settings.started_families() or [_FAMILY]
    if wrong := [name for name in named if name not in there]:
        raise UsageError(f"FAMILIES={','.join(named)}: there is no family {wrong[0]}; there are {', '.join(there)}")
    return named


def dag_ids() -> list[str]:
    """The ids of the daily DAGs of these families: the file name of a task list is the id of its DAG."""
    return sorted(path.stem for path in _paths() if _is_daily(path))


def longer_dag_ids() -> list[str]:
    """Those of weeks and months, whose runs wait for more days than the sample has."""
    return sorted(path.stem for path in _paths() if not _is_daily(path))


def _paths() -> list[Path]:
    return [path for family in families() for path in task_lists.paths(family)]


def _is_daily(path: Path) -> bool:
    try:
        return task_lists.read(path).grain == "day"
    except LakeError:  # Airflow tells what is wrong with the file
        return True


def built_tables() -> list[str]:
    """The tables that the daily DAGs build, in the order of their inputs."""
    listed = {name for path in _paths() if _is_daily(path) for name in task_lists.read(path).tables}
    return [name for name in lineage.in_order() if name in listed]


def is_parsed(api: Api, dag_id: str, since: datetime | None = None) -> bool:
    """Is the DAG there? With `since`, one of an earlier parse does not count: its file may be broken now."""
    dag = api("GET", f"/dags/{dag_id}")
    return bool(dag) and (since is None or datetime.fromisoformat(dag["last_parsed_time"]) >= since)


class ImportErrors:
    """The import errors of the DAG files. The database keeps those of earlier runs: they do not count."""

    def __init__(self, api: Api) -> None:
        self._api, self.since = api, datetime.now(UTC)
        self.told: list[str] = []

    def new(self) -> list[str]:
        """Those that were not given before."""
        found = []
        for error in self._api("GET", "/importErrors")["import_errors"]:
            text = f"{error['filename']}: {error['stack_trace'].strip()}"
            # Each parse of a file that is still broken renews the time.
            if datetime.fromisoformat(error["timestamp"]) >= self.since and text not in self.told:
                found.append(text)
                self.told.append(text)
        return found
