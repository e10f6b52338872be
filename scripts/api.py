"""Airflow's REST API."""

import json
import urllib.error
import urllib.request
from typing import Any

from include.lake.errors import LakeError
from include.lake.project import task_lists


class Api:
    """Airflow's REST API."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url, self._login, self._token = url, {"username": user, "password": password}, ""

    def __call__(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer; None if the object does not exist (404) or exists already (409)."""
        if not self._token:
            self._token = self._ask("POST", "/auth/token", self._login)["access_token"]
        try:
            return self._ask(method, "/api/v2" + path, body)
        except urllib.error.HTTPError as error:
            if error.code in (404, 409):
                return None
            raise LakeError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')[:500]}") from None

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


def dag_ids() -> list[str]:
    """The ids of the DAGs of task lists: the file name of a list is the id of its DAG."""
    return sorted(path.stem for path in task_lists.paths())


def is_parsed(api: Api, dag_id: str) -> bool:
    if errors := api("GET", "/importErrors")["import_errors"]:
        raise LakeError("\n".join(f"{error['filename']}: {error['stack_trace'].strip()}" for error in errors))
    return api("GET", f"/dags/{dag_id}") is not None
