"""The `backfill` DAG: a range of days of any tables, in few jobs. One task per table; the form says what is built."""

from datetime import timedelta

from airflow.sdk import DAG
from airflow.sdk.definitions.param import ParamsDict
from lake_airflow.backfill import PLAN, SUMMARY, BackfillTable, PlanBackfill, SummariseBackfill, params
from utils.dynamic_dag.factory import RETRIES, BrokenFiles, of_engine, table_docs, without_dag_file

from include.lake.project import contracts, lineage
from include.lake.project.current import held

DOCS = """\
Builds a range of days of any tables, one task per table. Stop it by marking the run as failed; clear the run to go on:
what is done stays done. The log of `plan` shows what is going to be built, that of `summary` what has come of it.
"""
# Backfills of different days or tables run side by side. They share Spark's cores, so more of them would only wait.
MAX_ACTIVE_RUNS = 4
# Ten years of a large table take hours. A task that runs for a day hangs.
TIMEOUT = timedelta(days=1)
# `all_done`: a table is built even if an upstream table failed, for the days whose inputs exist. `plan` itself skips
# the tables that are not in the plan; Airflow applies that before the trigger rule.
TRIGGER_RULE = "all_done"

with (
    held(save=True),
    DAG(
        dag_id="backfill",
        description="Build a range of days of any tables in few jobs",
        doc_md=DOCS,
        schedule=None,
        catchup=False,
        max_active_runs=MAX_ACTIVE_RUNS,
        is_paused_upon_creation=False,  # it has no schedule, so it does nothing until a user starts it
        default_args={"owner": "data-insight", **RETRIES, "execution_timeout": TIMEOUT},
        tags=["lake"],
    ) as dag,
):
    planned = PlanBackfill(task_id=PLAN)
    summary = SummariseBackfill(task_id=SUMMARY, trigger_rule=TRIGGER_RULE)
    planned >> summary
    operator = of_engine(BackfillTable)
    tasks = {
        name: operator(task_id=name, table=name, trigger_rule=TRIGGER_RULE, doc_md=table_docs(contracts.get(name)))
        for name in lineage.in_order()
        if contracts.get(name).is_built
    }
    for name, task in tasks.items():
        planned >> task >> summary
        for above in lineage.inputs(name):
            if above in tasks:
                tasks[above] >> task

# Not before: Airflow copies the form, which names every table, into each task that is made after it.
dag.params = ParamsDict(params())

# The DAG has no task for a broken table. This import error names the broken files, and the DAG files that are missing.
if problems := [*lineage.broken().values(), *without_dag_file()]:
    broken = BrokenFiles("broken_tables", problems)
