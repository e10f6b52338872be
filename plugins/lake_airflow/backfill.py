"""The tasks of the `backfill` DAG: plan what the form asks for, build it table by table, say what has come of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from airflow.sdk import BaseOperator, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.lake.backfill import request
from include.lake.build import failures
from include.lake.errors import ContractError, UsageError

PLAN, SUMMARY = "plan", "summary"
# Where Airflow's own branching tasks write down what is skipped. The scheduler reads it whatever became of the task,
# and starts no process for what is in it.
_SKIPPED_KEY, _SKIPPED = "skipmixin_key", "skipped"


def params(names: list[str]) -> dict[str, Param]:
    """The form. What is wrong by itself Airflow refuses there and then, and so does the REST API."""
    day: dict[str, Any] = {"type": "string", "format": "date"}
    return {
        "first_day": Param(**day, title="First day"),
        "last_day": Param(**day, title="Last day", description="It is built, too. It has to be over."),
        "tables": Param(
            type="array", items={"type": "string", "enum": names}, minItems=1, examples=names, title="Tables",
            description="Tables, DAGs (all tables of their lists) and steps of these lists.",
        ),
        "downstream": Param(
            False, type="boolean", title="And everything downstream", description="All that is made of these tables."
        ),
        "mode": Param(
            "due", type="string", enum=list(request.MODES), title="Mode", description="Which days are built.",
            values_display={mode: f"{mode}: {what}" for mode, what in request.MODES.items()},
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
    """The checked request of a run; AirflowFailException in one line, since a retry would not help."""
    try:
        return request.check(
            list(conf["tables"]), conf["first_day"], conf["last_day"], conf["mode"], conf["days_per_batch"],
            conf["downstream"], conf["yes"],
        )  # fmt: skip
    except (UsageError, ContractError) as error:
        told = str(error).replace("--yes", '"More than three years are meant" (yes)')
        raise AirflowFailException(told) from None


def _run(context: Any) -> str:
    return f"{context['dag_run'].dag_id}/{context['dag_run'].run_id}"


@contextmanager
def _failing_well(what: str) -> Iterator[None]:
    """End the task with the cause of an error in a few lines; Airflow tries again only what a retry can cure."""
    try:
        yield
    except AirflowException:
        raise
    except Exception as error:
        retry = failures.Failure(failures.kind(error), "").retry
        raise (AirflowException if retry else AirflowFailException)(failures.describe(error, what)) from None


class PlanBackfill(BaseOperator):
    """Show the plan before anything starts, and leave out the tasks of tables that it has nothing for."""

    inherits_from_skipmixin = True  # what is pushed under _SKIPPED_KEY counts
    ui_color = "#f4ecd2"

    def execute(self, context: Any) -> dict[str, Any]:
        with _failing_well("the plan"):
            return self.plan(context)

    def plan(self, context: Any) -> dict[str, Any]:
        from include.lake.backfill import plan  # heavy, and no business of a DAG parse

        tables = sorted(self.downstream_task_ids - {SUMMARY})
        todo: Sequence[str] = []
        try:
            asked = asked_for(context["params"])
            found = plan.plan(asked, _run(context))
            for line in found.lines():
                self.log.info("%s", line)
            if context["params"]["dry_run"]:
                self.log.info("a dry run: nothing is built")
            else:
                # What has nothing to do for want of an input is shown as skipped, like what was not asked for.
                todo = [table.table for table in found.tables if table.batches]
        finally:
            context["ti"].xcom_push(_SKIPPED_KEY, {_SKIPPED: [name for name in tables if name not in todo]})
        return {
            "first_day": asked.first, "last_day": asked.last, "mode": asked.mode, "jobs": found.jobs,
            "partitions": found.partitions, "seconds": found.seconds, "dry_run": context["params"]["dry_run"],
            "tables": [
                {
                    "table": table.table, "partitions": table.partitions, "seconds": table.seconds,
                    "batches": [f"{batch.first}..{batch.last}" for batch in table.batches],
                    "skipped": {reason: plan.ranges(table.table, days) for reason, days in table.skipped.items()},
                }
                for table in found.tables
            ],
        }  # fmt: skip


class BackfillTable(BaseOperator):
    """Build what is due of one table now. It is done by the ledger, so a retry or a cleared task goes on."""

    ui_color = "#d9efe3"

    def __init__(self, *, table: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table

    def execute(self, context: Any) -> dict[str, Any]:
        if context["ti"].xcom_pull(task_ids=PLAN) is None:
            raise AirflowFailException("the plan has failed, so nothing is built")
        from include.lake.backfill import plan
        from include.lake.backfill import run as backfill

        asked, run = asked_for(context["params"]), _run(context)
        with _failing_well(f"{self.table} {asked.first}..{asked.last}"):
            progress = backfill.Progress(plan.plan(replace(asked, tables=(self.table,)), run))
            self.log.info("%s: %s days in %s jobs", self.table, f"{progress.plan.partitions:,}", progress.plan.jobs)
            bad = backfill.run_table(asked, self.table, run, self.log.info, progress)
        if bad:
            raise AirflowFailException(
                f"{self.table} has bad days: {plan.ranges(self.table, sorted(bad))}: {next(iter(bad.values()))}"
            )
        return {"table": self.table, "partitions": progress.done, "rows": progress.rows}


class SummariseBackfill(BaseOperator):
    """Say by table what has come of the run, in the log and as its value; red when a day is bad or left."""

    ui_color = "#f4ecd2"

    def execute(self, context: Any) -> dict[str, Any]:
        planned = context["ti"].xcom_pull(task_ids=PLAN)
        if planned is None:
            raise AirflowFailException("the plan has failed, so nothing was built: its log says why")
        if planned["dry_run"]:
            return {"summary": "a dry run: nothing was built"}
        from include.lake.backfill import plan
        from include.lake.backfill import run as backfill

        with _failing_well("the summary"):
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
