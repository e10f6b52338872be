"""The `lake_maintenance` DAG: once a week, each table gets fewer files, and old ones are deleted. A task per table."""

from datetime import timedelta
from itertools import groupby

import pendulum
from airflow.sdk import DAG, TaskGroup
from lake_airflow.maintenance import MaintainTable, RemoveLeftOver, SkipFirstWeek
from utils.dynamic_dag.factory import RETRIES, START

from include.lake.project import contracts
from include.lake.project.current import held

DOCS = """\
Makes the small files of each table one, clusters them (`clustered_by` of the contract), and deletes files that no
version of the last seven days needs. The rows stay as they are. Builds may run meanwhile and go on: a partition that
one of them replaces is left to the next week. `./lake maintain TABLE` does the same. Databricks maintains its managed
tables itself: there, each task only says so.
"""
# Sunday afternoon in Seoul. The nightly runs start at 01:00 in the timezone of their list, so they are over by then.
SCHEDULE, TIMEZONE = "0 15 * * 0", "Asia/Seoul"
# Builds have the other workers. Two at a time: one mostly waits for the storage.
MAX_ACTIVE_TASKS = 2
# The lowest priority: where builds wait for a worker, they get it first.
PRIORITY = 0
# A table of years takes minutes in its first week, and seconds after that.
TIMEOUT = timedelta(hours=2)

with (
    held(save=True),
    DAG(
        dag_id="lake_maintenance",
        description="Make the files of all tables few and near, once a week",
        doc_md=DOCS,
        schedule=SCHEDULE,
        start_date=pendulum.datetime(*START, tz=TIMEZONE),
        catchup=False,
        max_active_runs=1,
        max_active_tasks=MAX_ACTIVE_TASKS,
        is_paused_upon_creation=False,  # builds leave small files to it, so no lake should be without it
        default_args={
            "owner": "data-insight",
            **RETRIES,
            "execution_timeout": TIMEOUT,
            "priority_weight": PRIORITY,
            "weight_rule": "absolute",
        },
        tags=["lake"],
    ) as dag,
):
    first = SkipFirstWeek(task_id="first_week", doc_md="Skips all tasks in the first week of an Airflow.")
    for schema, names in groupby(sorted(contracts.that_keep_rows()), key=lambda name: name.partition(".")[0]):
        with TaskGroup(schema, prefix_group_id=False):
            for name in names:
                first >> MaintainTable(task_id=name, table=name, doc_md=f"Maintains `{name}`.")
    first >> RemoveLeftOver(
        task_id="left_over", doc_md="Removes what dead processes have left in the folder of the engine."
    )
