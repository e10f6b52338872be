"""The tasks of the `backfill` DAG: plan the request of the form, build it table by table, report the results."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from airflow.sdk import BaseOperator, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.lake.backfill import request
from include.lake.build import failures
from include.lake.errors import ContractError, UsageError
from include.lake.project.current import held
from include.lake.words import counted, span

PLAN, SUMMARY = "plan", "summary"
# XCom key of Airflow's SkipMixin. The scheduler skips the tasks that are listed here without starting a process.
# It does so even if this task fails.
SKIPPED_KEY, SKIPPED = "skipmixin_key", "skipped"


def params(names: list[str] | None = None) -> dict[str, Param]:
    """The form, by default with all that may be asked for.

    Airflow validates each field when a user submits the form or calls the REST API.
    """
    names = request.names() if names is None else names
    day: dict[str, Any] = {"type": "string", "format": "date"}
    return {
        "first_day": Param(**day, title="First day"),
        "last_day": Param(**day, title="Last day", description="It is built, too. It has to be over."),
        "tables": Param(
            type="array", items={"type": "string", "enum": names}, minItems=1, examples=names, title="Tables",
            description="Tables, DAGs (all tables of their lists), steps of these lists; sources only with downstream.",
        ),
        "downstream": Param(
            False, type="boolean", title="And everything downstream", description="All that is made of these tables."
        ),
        "mode": Param(
            "due", type="string", enum=list(request.MODES), title="Mode", description="Which days are built.",
            values_display={mode: f"{mode}: {meaning}" for mode, meaning in request.MODES.items()},
        ),
        "days_per_batch": Param(
            request.AUTOMATIC, type=["string", "integer"], pattern=f"^({request.AUTOMATIC}|[1-9][0-9]{{0,3}})$",
            minimum=1, maximum=9999, title="Days per batch",
            description="A number, or automatic: as many as fit the machine.",
        ),
        "dry_run": Param(
            False, type="boolean", title="Dry run", description="Show the plan in the log of its task, and stop."
        ),
        "yes": Param(False, type="boolean", title="More than three years are meant"),
    }  # fmt: skip


def asked_for(conf: dict[str, Any]) -> request.Request:
    """The checked request of a run. AirflowFailException in one line if it is wrong: a retry would not help."""
    known = list(params([]))
    for name in conf:
        # Airflow takes any key of a conf. With a mistyped `dry_run`, the dry run would build.
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            cure = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise AirflowFailException(f"the form has no field {name!r}: {cure}")
    try:
        return request.check(
            list(conf["tables"]), conf["first_day"], conf["last_day"], conf["mode"], conf["days_per_batch"],
            conf["downstream"], conf["yes"],
        )  # fmt: skip
    except (UsageError, ContractError) as error:
        message = str(error).replace("--yes", '"More than three years are meant" (yes)')
        raise AirflowFailException(message) from None


def _run(context: Any) -> str:
    return f"{context['dag_run'].dag_id}/{context['dag_run'].run_id}"


@contextmanager
def failing_well(subject: str) -> Iterator[None]:
    """Hold the project, and end the task with the cause of an error in a few lines.

    Airflow retries only errors that a retry can cure.
    """
    from lake_airflow.databricks import use_connection  # it imports this module

    try:
        use_connection()
        with held():
            yield
    except AirflowException:
        raise
    except Exception as error:
        retry = failures.Failure(failures.kind(error), "").retry
        raise (AirflowException if retry else AirflowFailException)(failures.describe(error, subject)) from None


class PlanBackfill(BaseOperator):
    """Log the plan before any build starts, and skip the tasks of tables that have nothing to build."""

    inherits_from_skipmixin = True  # the scheduler reads SKIPPED_KEY only if this is set
    ui_color = "#f4ecd2"

    def execute(self, context: Any) -> dict[str, Any]:
        with failing_well("the plan"):
            return self.plan(context)

    def plan(self, context: Any) -> dict[str, Any]:
        from include.lake.backfill import plan  # slow to import: a DAG parse must not need it

        tables = sorted(self.downstream_task_ids - {SUMMARY})
        todo: Sequence[str] = []
        try:
            checked = asked_for(context["params"])
            planned = plan.plan(checked, _run(context))
            for line in planned.lines():
                self.log.info("%s", line)
            if context["params"]["dry_run"]:
                self.log.info("a dry run: nothing is built")
            else:
                # Airflow shows a table whose inputs are missing as skipped, like a table that was not requested.
                todo = [table.table for table in planned.tables if table.batches]
        finally:
            context["ti"].xcom_push(SKIPPED_KEY, {SKIPPED: [name for name in tables if name not in todo]})
        return {
            "first_day": checked.first, "last_day": checked.last, "mode": checked.mode, "jobs": planned.jobs,
            "partitions": planned.partitions, "seconds": planned.seconds, "dry_run": context["params"]["dry_run"],
            "tables": [
                {
                    "table": table.table, "partitions": table.partitions, "seconds": table.seconds,
                    "batches": [span(batch.first, batch.last) for batch in table.batches],
                    "skipped": {reason: plan.ranges(table.table, days) for reason, days in table.skipped.items()},
                }
                for table in planned.tables
            ],
        }  # fmt: skip


class BackfillTable(BaseOperator):
    """Build the due days of one table. The ledger knows the finished days, so a retry or a cleared task goes on."""

    ui_color = "#d9efe3"

    def __init__(self, *, table: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table

    def asked(self, context: Any) -> tuple[request.Request, str]:
        """What is asked for, and the name of the run; AirflowFailException without a plan."""
        if context["ti"].xcom_pull(task_ids=PLAN) is None:
            raise AirflowFailException("the plan has failed, so nothing is built")
        return asked_for(context["params"]), _run(context)

    def execute(self, context: Any) -> dict[str, Any]:
        checked, run = self.asked(context)
        from include.lake.backfill import plan
        from include.lake.backfill import run as backfill

        with failing_well(f"{self.table} {span(checked.first, checked.last)}"):
            progress = backfill.Progress(plan.plan(replace(checked, tables=(self.table,)), run))
            partitions, jobs = counted(progress.plan.partitions, "partition"), counted(progress.plan.jobs, "job")
            self.log.info("%s: %s in %s", self.table, partitions, jobs)
            bad = backfill.run_table(checked, self.table, run, self.log.info, progress)
        if bad:
            raise AirflowFailException(
                f"{self.table} has bad days: {plan.ranges(self.table, sorted(bad))}: {next(iter(bad.values()))}"
            )
        return {"table": self.table, "partitions": progress.done, "rows": progress.rows}


class SummariseBackfill(BaseOperator):
    """Report the result of each table in the log and as XCom value. The task fails if a day is bad or left."""

    ui_color = "#f4ecd2"

    def execute(self, context: Any) -> dict[str, Any]:
        planned = context["ti"].xcom_pull(task_ids=PLAN)
        if planned is None:
            raise AirflowFailException("the plan has failed, so nothing was built: its log says why")
        if planned["dry_run"]:
            return {"summary": "a dry run: nothing was built"}
        from include.lake.backfill import plan
        from include.lake.backfill import run as backfill

        with failing_well("the summary"):
            results = backfill.results(asked_for(context["params"]), _run(context))
        lines = backfill.summary(results)
        for line in lines:
            self.log.info("%s", line)
        told = {
            "summary": lines,
            "bad_days": {result.table: result.bad for result in results if result.bad},
            "left_days": {result.table: result.left for result in results if result.left},
        }
        if not backfill.is_good(results):
            context["ti"].xcom_push("summary", told)
            named = [f"{result.table} {plan.ranges(result.table, sorted([*result.bad, *result.left]))}"
                     for result in results if result.bad or result.left]  # fmt: skip
            raise AirflowFailException(f"not built: {'; '.join(named)}")
        return told
