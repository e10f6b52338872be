"""Task list -> DAG: the builds, their order and the sensors. The edges come from the SELECTs.

A mistake in a task list becomes one line with a cure, without a traceback.
"""

import ast
import difflib
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pendulum
from airflow.sdk import DAG, TaskGroup
from lake_airflow.tasks import BuildTable, LateDays, PartitionSensor
from lake_airflow.timetable import DailyPartitions, Partitions

from include.lake import settings
from include.lake.errors import ContractError, LakeError
from include.lake.project import contracts, lineage
from include.lake.project.contracts import Contract
from include.lake.project.current import held
from include.lake.project.task_lists import INPUTS, LATE_DAYS, TaskList, families, paths, read

_DAGS = Path(__file__).parents[2]
# Airflow requires a start date although catchup is off. Any day before the first day of a run will do.
START = (2020, 1, 1)
# The run of the night, and seven days at a time of a backfill. The UI's backfill form offers no more than this.
MAX_ACTIVE_RUNS = 8
# BuildTable does not retry a wrong SELECT or wrong rows, so a retry is for infrastructure. Retries come after 1, 2, 4
# and 8 minutes: by then a restart of Spark or of the storage is over. After that a person should look.
RETRIES = {
    "retries": 4,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=15),
}
# The largest day takes minutes. A build that runs for two hours hangs.
BUILD_TIMEOUT = timedelta(hours=2)
LATE_DAYS_DOCS = (
    "Builds the days before that of the run again that late data, or another SELECT or contract, made stale "
    "(`look_back_days`)."
)


@held(save=True)
def dags_of(family: str) -> dict[str, DAG]:
    """The DAGs of all task lists of a family, by DAG id. A broken list becomes an import error and hides no other."""
    dags: dict[str, DAG] = {}
    lists = paths(family)
    problems = [] if lists else [_without_list(family)]
    for path in lists:
        try:
            task_list = read(path)
            dags[task_list.dag_id] = make(task_list, family)
        except LakeError as error:
            problems.append(str(error))
        except Exception as error:  # any other error, of Airflow or of ours, also breaks this list alone
            problems.append(f"{settings.shown(path)}: cannot become a DAG: {type(error).__name__}: {error}")
    if problems:
        dags["broken"] = BrokenFiles(f"broken_task_lists_of_{family}", problems)
    return dags


def _without_list(family: str) -> str:
    near = difflib.get_close_matches(family, families(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(families())}"
    return f'dags_of("{family}"): there is no task list in dags/utils/dynamic_dag/{family}/task_list; {hint}'


def without_dag_file() -> list[str]:
    """What to do about each family whose task lists no DAG file reads. Nothing else says that its DAGs are gone."""
    problems = []
    for family in families():
        file = _DAGS / f"{family}.py"
        if not file.exists():
            problems.append(
                f"dags/{file.name} is missing, so the family {family} has no DAGs: make it like dags/wev.py"
            )
        elif not _reads(file, family):
            problems.append(
                f'dags/{file.name} does not call dags_of("{family}"), so the family {family} has no DAGs: '
                "make it like dags/wev.py"
            )
    return problems


def _reads(file: Path, family: str) -> bool:
    """Does a DAG file ask for the DAGs of a family, as far as its text says?"""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # Airflow says so
        return True
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    arguments = [call.args[:1] for call in calls if ast.unparse(call.func).rpartition(".")[2] == "dags_of"]
    return any(not (asked and isinstance(asked[0], ast.Constant)) or asked[0].value == family for asked in arguments)


class BrokenFiles(DAG):
    """A DAG that fails its validation. Airflow validates each DAG of a file and shows the error as an import error."""

    def __init__(self, dag_id: str, problems: list[str]) -> None:
        super().__init__(dag_id, schedule=None)
        self.problems = problems

    def validate(self) -> None:
        raise ContractError("\n".join(dict.fromkeys(self.problems)))


def make(task_list: TaskList, family: str) -> DAG:
    """The DAG of a checked task list: a task group per step, and a sensor per input that the list does not build."""
    started = settings.started_families()
    dag = DAG(
        dag_id=task_list.dag_id,
        description=task_list.about.splitlines()[0],
        doc_md=dag_docs(task_list),
        schedule=timetable(task_list),
        start_date=pendulum.datetime(*START, tz=task_list.timezone),
        catchup=False,
        max_active_runs=MAX_ACTIVE_RUNS,
        default_args={"owner": task_list.owner, **RETRIES},
        tags=[family],
        is_paused_upon_creation=None if started is None or family in started else True,
        auto_register=False,  # a list that fails halfway must not leave half a DAG
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
                    tasks[table] = of_engine(BuildTable)(
                        task_id=table,
                        table=table,
                        doc_md=table_docs(contracts.get(table)),
                        execution_timeout=BUILD_TIMEOUT,
                    )
        for table in task_list.tables:
            for name in lineage.inputs(table):
                tasks[name] >> tasks[table]
        if task_list.look_back_days:
            # No edges: the late data of earlier days must not wait for the data of today.
            of_engine(LateDays)(
                task_id=LATE_DAYS,
                tables=task_list.tables,
                look_back_days=task_list.look_back_days,
                doc_md=LATE_DAYS_DOCS,
                execution_timeout=BUILD_TIMEOUT,
            )
    return dag


def of_engine(operator: Any) -> Any:
    """The operator that does the same with the engine of this lake: on Databricks, one that submits a run."""
    if not settings.on_databricks():
        return operator
    from lake_airflow.databricks import SUBMITTING

    return SUBMITTING[operator]


def timetable(task_list: TaskList) -> Partitions:
    """A run for each period of the list."""
    if task_list.grain == "day":
        return DailyPartitions(task_list.timezone)
    return Partitions(task_list.timezone, task_list.grain)


def dag_docs(task_list: TaskList) -> str:
    """The text of the DAG's page: the docstring of the task list, the tables and the sensors."""
    lines = [task_list.about, "", "| step | table | what it is |", "|---|---|---|"]
    for label, tables in task_list.steps:
        lines += [f"| {label} | {table} | {_first_sentence(contracts.get(table))} |" for table in tables]
    lines += ["", "| waits for | at most | what it is |", "|---|---|---|"]
    for name in task_list.waits_for:
        contract = contracts.get(name)
        lines.append(f"| {name} | {contract.patience_hours:g} h | {_first_sentence(contract)} |")
    return "\n".join(lines)


def table_docs(contract: Contract) -> str:
    """The text of a task's page: the contract of its table."""
    lines = [f"**{contract.table}**", "", contract.about, ""]
    if contract.key:
        lines += [f"One row a {contract.grain} per {', '.join(contract.key)}.", ""]
    if inputs := lineage.inputs(contract.table):
        lines += [f"Read from {', '.join(inputs)}.", ""]
    lines += ["| column | type | comment |", "|---|---|---|"]
    lines += [f"| {c.name} | {c.type} | {_cell(c.comment)} |" for c in contract.columns]
    return "\n".join(lines)


def _first_sentence(contract: Contract) -> str:
    return _cell(re.split(r"(?<=\.)\s", " ".join(contract.about.split()), maxsplit=1)[0])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
