"""Where LAKE_ENGINE is `databricks`: a task submits its work as a run, and waits for it without a worker.

The run is found again whatever dies. The task keeps a random token before it submits, and Databricks returns the same
run for the same token. The task forgets the token when the run ends, so a cleared task submits anew.
"""

import json
import os
import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from lake_airflow.backfill import BackfillTable
from lake_airflow.tasks import BuildTable, LateDays, partition_and_run

from include.lake import settings
from include.lake.backfill import request
from include.lake.errors import CODE, CONFLICT, INFRASTRUCTURE, LakeError
from include.lake.project import lineage

CONNECTION = "databricks_default"
# The newest environment of serverless: from this one on, it keeps computed rows.
ENVIRONMENT = "5"
_CURES = {
    401: f"the token of the connection {CONNECTION} is not valid (any more): make a new one",
    # Databricks says this of a token that has expired, too.
    403: f"make a new token for the connection {CONNECTION} if it is not valid any more; else its user may not submit "
    "runs: see Permissions in the README",
    429: "the workspace has as many runs as its quota allows: Airflow tries again later",
}
# Which a retry does not cure.
_FINAL = (400, 401, 403)
# Where the task keeps the token of its run between its tries.
_KEY = "lake_run"
# In it: this try has not submitted the run, but found it.
_FOUND = "found"
# A run that is ending belongs to an earlier try. If it has built the day, the new run finds it fresh.
_ENDED = ("TERMINATING", "TERMINATED", "SKIPPED", "INTERNAL_ERROR")
# The words of the entry point alone: Databricks itself writes "status code: 503".
_CLASS = re.compile(r"(?:\A|RunFailed: )(data|code|conflict|infrastructure): ")
# What Databricks says of a run whose code it could not install or import: it does not get as far as the entry point.
_NOT_INSTALLED = re.compile(
    r"library installation failed|LIBRARY_INSTALLATION|PIP_INSTALL|could not install|ModuleNotFoundError|ImportError|"
    r"(no such file|not found|does not exist)[^\n]*\.whl|\.whl[^\n]*(no such file|not found|does not exist)",
    re.IGNORECASE,
)
_INSTALL = "make deploy, and set LAKE_WHEEL to the path that it prints; the run must reach PyPI, or your mirror of it"


def payload(
    work: str, tables: list[str], first: str, last: str, run: str, timeout: timedelta, **options: str | int
) -> dict[str, Any]:  # fmt: skip
    """The body of api/2.2/jobs/runs/submit, a function of its arguments, the settings and the code of the tables.

    timeout: that of the task. Airflow does not count it while a task is deferred, and a dead trigger cancels no run.
    The parameters are the `Options` of include/lake/cli/entry.py. Databricks passes them on as --name=value.
    """
    parameters = {
        "work": work, "first": first, "last": last, "run": run, "catalog": settings.catalog(),
        "codes": ",".join(f"{table}={lineage.code_id(table)}" for table in tables),
        **{name: str(value) for name, value in options.items()},
    }  # fmt: skip
    task: dict[str, Any] = {
        "task_key": work,
        "python_wheel_task": {"package_name": "lake", "entry_point": "lake-run", "named_parameters": parameters},
        # A failed check fails again. Airflow retries what a retry can cure.
        "max_retries": 0,
    }
    body: dict[str, Any] = {
        "run_name": f"{run.partition('/')[0]}/{tables[0] if len(tables) == 1 else work}/{last}",
        "timeout_seconds": int(timeout.total_seconds()),
        "queue": {"enabled": True},
    }
    if cluster := settings.cluster():
        task |= {**cluster, "libraries": [{"whl": settings.wheel()}]}
    else:
        task |= {"environment_key": "lake", "disable_auto_optimization": True}
        spec = {"environment_version": ENVIRONMENT, "dependencies": [settings.wheel()]}
        body["environments"] = [{"environment_key": "lake", "spec": spec}]
    return body | {"tasks": [task]}


def connection() -> tuple[str, str]:
    """Host and token of the connection, as the statement API wants them."""
    try:
        hook = _hook()
        return hook._endpoint_url("").rstrip("/"), hook._get_token(raise_error=True)
    except AirflowException as error:
        raise LakeError(f"the connection {CONNECTION} cannot be used: {error}") from None


def use_connection() -> None:
    """Let the store ask the warehouse with the connection of Airflow, unless the environment names another one."""
    if settings.on_databricks() and not os.environ.get("DATABRICKS_HOST"):
        from include.lake.storage import warehouse

        warehouse.use(connection)


def _hook() -> Any:
    from airflow.providers.databricks.hooks.databricks import DatabricksHook

    return DatabricksHook(CONNECTION, caller="lake")


def _submitted(hook: Any, body: Mapping[str, Any], token: str) -> dict[str, Any]:
    """Submit a run; what Databricks says of it. Submitted with the token of another run, it is that run."""
    try:
        run: dict[str, Any] = hook.get_run(hook.submit_run({**body, "idempotency_token": token}))
        return run
    except AirflowException as error:
        raise _in_one_line(error) from None


def _in_one_line(error: AirflowException) -> AirflowException:
    """An error of the Jobs API with the cure; one that Airflow retries if that helps."""
    status = getattr(error, "http_status_code", None)
    cure = f": {_CURES[status]}" if status in _CURES else ""
    reason = re.sub(r"\s+", " ", str(error))[:400]
    kind = _Refused if status == 400 else AirflowFailException if status in _FINAL else AirflowException
    return kind(f"Databricks refuses the run ({reason}){cure}")


class _Refused(AirflowFailException):
    """What was asked for is wrong: the body, or the token of a run that was deleted."""


class Submitted:
    """What the tasks share that submit a run. They are operators of Airflow."""

    log: Any
    defer: Callable[..., NoReturn]
    execution_timeout: Any
    _run_id: int | None = None

    def body(self, context: Any) -> dict[str, Any]:
        """What is submitted, without the token."""
        raise NotImplementedError

    def execute(self, context: Any) -> NoReturn:
        """Find the run of this task or submit it, and defer until it ends."""
        from airflow.providers.databricks.triggers.databricks import DatabricksExecutionTrigger
        from airflow.sdk.execution_time.context import NEVER_EXPIRE

        body, store, hook, run = self.body(context), context["task_state_store"], _hook(), None
        if token := (store.get(_KEY) or {}).get("token"):
            with suppress(_Refused):  # the run was deleted, or the body is wrong: then the new run says so, too
                run = _submitted(hook, body, token)
        if run and run["state"].get("life_cycle_state") not in _ENDED:
            self.log.info("found the run %s again", run["run_id"])
            store.set(_KEY, {"token": token, _FOUND: True}, retention=NEVER_EXPIRE)
        else:
            # There was none, or it failed, or its inputs may have changed since: this try is a new run.
            token = uuid.uuid4().hex
            store.set(_KEY, {"token": token}, retention=NEVER_EXPIRE)
            run = _submitted(hook, body, token)
        self._run_id, url = run["run_id"], run["run_page_url"]
        context["ti"].xcom_push("run_page_url", url)
        self.log.info("run %s: %s", self._run_id, url)
        self.defer(
            trigger=DatabricksExecutionTrigger(
                run_id=self._run_id, databricks_conn_id=CONNECTION, polling_period_seconds=settings.poll_seconds(),
                run_page_url=url, caller="lake",
            ),
            method_name="ended",
        )  # fmt: skip

    def ended(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Forget the run, and raise what it ended with. Airflow retries what a retry can cure."""
        kept = context["task_state_store"].get(_KEY) or {}
        context["task_state_store"].delete(_KEY)
        state = json.loads(event["run_state"])
        if state["result_state"] == "SUCCESS":
            return self.result(context)
        texts = [error["error"] for error in event.get("errors") or [] if error.get("error")]
        text = "\n".join(texts) or state.get("state_message") or f"the run ended as {state['result_state']}"
        kind = INFRASTRUCTURE
        if found := _CLASS.search(text):
            kind, text = found[1], text[found.start(1) :]
        elif _NOT_INSTALLED.search(text):
            kind, text = CODE, f"{text}\n{_INSTALL}"
        message = f"{text}\nthe run: {event['run_page_url']}"
        # A cleared task may have found the run that its last try was about to cancel.
        retry = kind in (CONFLICT, INFRASTRUCTURE) and (state["result_state"] != "CANCELED" or _FOUND in kept)
        raise (AirflowException if retry else AirflowFailException)(message)

    def result(self, context: Any) -> dict[str, Any]:
        return {}

    def on_kill(self) -> None:
        """Cancel the run, while this worker is still at it. Afterwards the trigger does."""
        if self._run_id:
            _hook().cancel_run(self._run_id)


class SubmitBuild(Submitted, BuildTable):
    """Build one table for the day of the run, as a run of Databricks."""

    def body(self, context: Any) -> dict[str, Any]:
        day, run = partition_and_run(context, self.table)
        return payload("build", [self.table], day, day, run, self.execution_timeout)

    def result(self, context: Any) -> dict[str, Any]:
        """What the ledger says of the build. Without an answer of the warehouse the task is green all the same."""
        from include.lake.state import ledger
        from include.lake.storage import warehouse

        day, run = partition_and_run(context, self.table)
        use_connection()
        warehouse.forget()
        result: dict[str, Any] = {"table": self.table, "day": day}
        try:
            rows = [row for row in ledger.read([self.table]) if (row["partition"], row["run"]) == (day, run)]
        except LakeError as error:
            self.log.warning("built, but the ledger cannot be read: %s", error)
            return result
        if not rows:
            return {**result, "state": "fresh"}
        newest = rows[-1]
        return {**result, "state": newest["status"], "rows": newest["rows"], "seconds": newest["seconds"],
                "dropped": newest["dropped"]}  # fmt: skip


class SubmitBackfill(Submitted, BackfillTable):
    """Build the due days of one table, as one run of Databricks with its batches inside."""

    def body(self, context: Any) -> dict[str, Any]:
        asked, run = self.asked(context)
        return payload(
            "backfill", [self.table], asked.first, asked.last, run, self.execution_timeout,
            mode=asked.mode, days_per_batch=asked.days_per_batch or request.AUTOMATIC,
        )  # fmt: skip


class SubmitLateDays(Submitted, LateDays):
    """Build the stale days before the day of the run, for all tables of a list, as one run of Databricks."""

    def body(self, context: Any) -> dict[str, Any]:
        day, run = partition_and_run(context, self.tables[0])
        return payload("late", self.tables, day, day, run, self.execution_timeout, look_back=self.look_back_days)


# Operator -> the one that submits a run for the same work.
SUBMITTING = {BuildTable: SubmitBuild, BackfillTable: SubmitBackfill, LateDays: SubmitLateDays}
