"""The tasks of the DAG `lake_maintenance`: one per table, one for what dead processes have left, one before all."""

from typing import Any

from airflow.sdk import BaseOperator
from lake_airflow.backfill import SKIPPED, SKIPPED_KEY, failing_well


class SkipFirstWeek(BaseOperator):
    """Skip all other tasks in the first run that the schedule starts.

    Airflow starts it at once, for the last Sunday. A fresh lake has nothing to maintain, and its first builds need the
    machine. A run that a user starts does all its tasks.
    """

    inherits_from_skipmixin = True  # the scheduler reads SKIPPED_KEY only if this is set
    ui_color = "#e3e6ea"

    def execute(self, context: Any) -> None:
        # A proxy of None is not None, but it is false.
        if context["dag_run"].run_type == "scheduled" and not context["prev_start_date_success"]:
            self.log.info("the first run of a new Airflow: nothing is maintained before the next one")
            context["ti"].xcom_push(SKIPPED_KEY, {SKIPPED: sorted(self.downstream_task_ids)})


class MaintainTable(BaseOperator):
    """Make the small files of a table one, and delete files that nobody needs. The log says what was done.

    It runs in the task itself, without an engine. On Databricks the platform does it, and the task only says so.
    """

    ui_color = "#e3e6ea"

    def __init__(self, *, table: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table

    def execute(self, context: Any) -> str:
        from include.lake.build import maintenance  # slow to import: a DAG parse must not need it

        with failing_well(f"the maintenance of {self.table}"):
            line = maintenance.maintain(self.table)
        self.log.info("%s", line)
        return line


class RemoveLeftOver(BaseOperator):
    """Remove files that dead processes have left in the folder of the engine."""

    ui_color = "#e3e6ea"

    def execute(self, context: Any) -> int:
        from include.lake.build import maintenance  # slow to import: a DAG parse must not need it

        with failing_well("the removal of what is left over"):
            removed = maintenance.remove_left_over()
        self.log.info("%d folders of dead processes removed", removed)
        return removed
