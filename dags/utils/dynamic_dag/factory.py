"""Task list -> DAG: what is built, in which order, and what is waited for. The edges come from the SELECTs.

A mistake in a task list is a line with a cure and no traceback.
"""

import re
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, TaskGroup
from lake_airflow.tasks import BuildTable, LateDays, PartitionSensor
from lake_airflow.timetable import DailyPartitions

from include.lake import settings
from include.lake.errors import ContractError, LakeError
from include.lake.project import contracts, lineage
from include.lake.project.contracts import Contract
from include.lake.project.task_lists import INPUTS, TaskList, paths, read

# Airflow wants a first day though catchup is off: any day before the first one that somebody may schedule will do.
START = (2020, 1, 1)
# The night's run, and a week of days at a time from the UI's backfill form, which does not offer more than this.
MAX_ACTIVE_RUNS = 8
# A wrong SELECT or wrong rows are not retried (see BuildTable), so a retry is for infrastructure: after 1, 2, 4, 8
# minutes a restart of Spark or of the storage is over, and after that somebody should look.
RETRIES = {
    "retries": 4,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=15),
}
# The largest day takes minutes. What runs for two hours hangs.
BUILD_TIMEOUT = timedelta(hours=2)

LATE_DAYS = "late_days"
LATE_DAYS_DOCS = "Builds the days before that of the run again where late data made them stale (`look_back_days`)."


def dags_of(family: str) -> dict[str, DAG]:
    """The DAGs of all task lists of a family by id. A broken list becomes an import error and hides no other list."""
    dags: dict[str, DAG] = {}
    problems: list[str] = []
    for path in paths(family):
        try:
            task_list = read(path)
            dags[task_list.dag_id] = make(task_list, tags=[family])
        except LakeError as error:
            problems.append(str(error))
        except Exception as error:  # of Airflow or of ours: it costs this list alone all the same
            problems.append(f"{settings.shown(path)}: cannot become a DAG: {type(error).__name__}: {error}")
    if problems:
        dags["broken"] = BrokenFiles(f"broken_task_lists_of_{family}", problems)
    return dags


class BrokenFiles(DAG):
    """Never becomes a DAG: Airflow validates each DAG of a file by itself and shows what that raises as its error."""

    def __init__(self, dag_id: str, problems: list[str]) -> None:
        super().__init__(dag_id, schedule=None)
        self.problems = problems

    def validate(self) -> None:
        raise ContractError("\n".join(dict.fromkeys(self.problems)))


def make(task_list: TaskList, tags: list[str]) -> DAG:
    """The DAG of a checked task list: a task group per step, a sensor per input that the list does not build."""
    dag = DAG(
        dag_id=task_list.dag_id,
        description=task_list.about.splitlines()[0],
        doc_md=dag_docs(task_list),
        schedule=DailyPartitions(task_list.timezone),
        start_date=pendulum.datetime(*START, tz=task_list.timezone),
        catchup=False,
        max_active_runs=MAX_ACTIVE_RUNS,
        default_args={"owner": task_list.owner, **RETRIES},
        tags=tags,
        auto_register=False,  # a list that fails half way must not leave half a DAG behind
    )
    tasks: dict[str, Any] = {}
    with dag:
        if task_list.waits_for:
            with TaskGroup(INPUTS, tooltip="What other DAGs and the sources deliver"):
                for name, readers in task_list.waits_for.items():
                    tasks[name] = PartitionSensor(
                        task_id=name,
                        table=name,
                        readers=readers,
                        doc_md=table_docs(contracts.get(name)),
                    )
        for label, tables in task_list.steps:
            with TaskGroup(label, prefix_group_id=False):
                for table in tables:
                    tasks[table] = BuildTable(
                        task_id=table,
                        table=table,
                        doc_md=table_docs(contracts.get(table)),
                        execution_timeout=BUILD_TIMEOUT,
                    )
        for table in task_list.tables:
            for name in lineage.inputs(table):
                tasks[name] >> tasks[table]
        if task_list.look_back_days:
            # It waits for nothing and nothing waits for it: yesterday's late data do not wait for today's.
            LateDays(
                task_id=LATE_DAYS,
                tables=task_list.tables,
                look_back_days=task_list.look_back_days,
                doc_md=LATE_DAYS_DOCS,
                execution_timeout=BUILD_TIMEOUT,
            )
    return dag


def dag_docs(task_list: TaskList) -> str:
    """What the DAG's page shows: the docstring of the task list, what it builds and what it waits for."""
    lines = [task_list.about, "", "| step | table | what it is |", "|---|---|---|"]
    for label, tables in task_list.steps:
        lines += [f"| {label} | {table} | {_first_sentence(contracts.get(table))} |" for table in tables]
    lines += ["", "| waits for | at most | what it is |", "|---|---|---|"]
    for name in task_list.waits_for:
        contract = contracts.get(name)
        lines.append(f"| {name} | {contract.patience_hours:g} h | {_first_sentence(contract)} |")
    return "\n".join(lines)


def table_docs(contract: Contract) -> str:
    """What a task's page shows: the contract."""
    lines = [f"**{contract.table}**", "", contract.about, ""]
    if contract.key:
        lines += [f"One row a day per {', '.join(contract.key)}.", ""]
    if inputs := lineage.inputs(contract.table):
        lines += [f"Read from {', '.join(inputs)}.", ""]
    lines += ["| column | type | comment |", "|---|---|---|"]
    lines += [f"| {c.name} | {c.type} | {_cell(c.comment)} |" for c in contract.columns]
    return "\n".join(lines)


def _first_sentence(contract: Contract) -> str:
    return _cell(re.split(r"(?<=\.)\s", " ".join(contract.about.split()), maxsplit=1)[0])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
