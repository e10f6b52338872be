"""Task list -> DAG: what is built, in which order, and what is waited for. The edges come from the SELECTs.

A task list is plain literals, read without running it, so that a mistake in it is a line with a cure and no traceback.
"""

import ast
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import pendulum
from airflow.sdk import DAG, TaskGroup
from lake_airflow.tasks import BuildTable, PartitionSensor
from lake_airflow.timetable import DailyPartitions

from include.lake import contracts, lineage, settings
from include.lake.contracts import Contract
from include.lake.errors import ContractError, LakeError, UsageError

FIELDS = ("dag_id", "owner", "schedule", "timezone", "look_back_days", "dag_task_list")
INPUTS = "inputs"  # the task group of the sensors
# Airflow wants a first day though catchup is off: any day before the first one that somebody may schedule will do.
START = (2020, 1, 1)
# The night's run, and a week of days at a time from the UI's backfill form, which does not offer more than this.
MAX_ACTIVE_RUNS = 8
# Every night looks at this many days at most; older ones are a matter for a backfill.
MAX_LOOK_BACK = 31
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


@dataclass(frozen=True)
class TaskList:
    """A checked task list. `steps`: label and tables, in the order of the file.

    `look_back_days`: how many days before its own a run looks at, to build those again that late data made stale.
    """

    about: str
    dag_id: str
    owner: str
    timezone: str
    look_back_days: int
    steps: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def tables(self) -> list[str]:
        return [table for _, listed in self.steps for table in listed]

    @property
    def waits_for(self) -> dict[str, list[str]]:
        """What the tables read and the list does not build, with the tables that read it."""
        found: dict[str, list[str]] = {}
        for table in self.tables:
            for name in lineage.inputs(table):
                if name not in self.tables:
                    found.setdefault(name, []).append(table)
        return dict(sorted(found.items()))


def dags_of(family: str) -> dict[str, DAG]:
    """The DAGs of all task lists of a family by id. A broken list becomes an import error and hides no other list."""
    dags: dict[str, DAG] = {}
    problems: list[str] = []
    for path in sorted((Path(__file__).parent / family / "task_list").glob("*.py")):
        try:
            task_list = read(path)
            dags[task_list.dag_id] = make(task_list, tags=[family])
        except LakeError as error:
            problems.append(str(error))
    if problems:
        dags["broken"] = BrokenTaskLists(f"broken_task_lists_of_{family}", problems)
    return dags


class BrokenTaskLists(DAG):
    """Never becomes a DAG: Airflow validates each DAG of a file by itself and shows what that raises as its error."""

    def __init__(self, dag_id: str, problems: list[str]) -> None:
        super().__init__(dag_id, schedule=None)
        self.problems = problems

    def validate(self) -> None:
        raise ContractError("\n".join(dict.fromkeys(self.problems)))


def read(path: Path) -> TaskList:
    """Read and check one task list; ContractError names file, line and cure."""
    shown = settings.shown(path)

    def wrong(what: str, line: int = 1) -> ContractError:
        return ContractError(f"{shown}:{line}: {what}")

    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise wrong(f"is not Python: {error.msg}", error.lineno or 1) from None
    about = ast.get_docstring(module)
    if not about:
        raise wrong("say in a docstring at the top what the DAG is for")

    values: dict[str, Any] = {}
    nodes: dict[str, ast.expr] = {}
    for node in module.body[1:]:
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            raise wrong(f"a task list has only assignments to {', '.join(FIELDS)}", node.lineno)
        name = node.targets[0].id
        if name not in FIELDS:
            raise wrong(f"unknown field `{name}`; the fields are {', '.join(FIELDS)}", node.lineno)
        if name in values:
            raise wrong(f"`{name}` is given twice", node.lineno)
        try:
            values[name], nodes[name] = ast.literal_eval(node.value), node.value
        except ValueError:
            raise wrong(f"`{name}` must be a plain literal: nothing is computed in a task list", node.lineno) from None
    for name in FIELDS:
        if name not in values:
            raise wrong(f"`{name}` is missing")
        is_text = isinstance(values[name], str) and values[name]
        if name not in ("look_back_days", "dag_task_list") and not is_text:
            raise wrong(f"`{name}` is a text", nodes[name].lineno)
    if values["dag_id"] != path.stem:
        raise wrong(
            f"dag_id is {values['dag_id']!r} and the file {path.stem}.py: name them alike", nodes["dag_id"].lineno
        )
    if values["schedule"] != "daily":
        raise wrong(f'schedule {values["schedule"]!r} is unknown: write "daily"', nodes["schedule"].lineno)
    if values["timezone"] not in available_timezones():
        raise wrong(
            f'timezone {values["timezone"]!r} is unknown: write one such as "Asia/Seoul"', nodes["timezone"].lineno
        )

    look_back = values["look_back_days"]
    if type(look_back) is not int or not 0 <= look_back <= MAX_LOOK_BACK:
        raise wrong(f"`look_back_days` is a number from 0 to {MAX_LOOK_BACK}", nodes["look_back_days"].lineno)

    steps: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    written = nodes["dag_task_list"]
    if not isinstance(written, ast.List) or not values["dag_task_list"]:
        raise wrong("`dag_task_list` is a list of steps", written.lineno)
    for step, item in zip(values["dag_task_list"], written.elts, strict=True):
        if not (isinstance(step, dict) and set(step) == {"step", "list"} and _is_list_of_texts(step["list"])):
            raise wrong('a step is {"step": "a label", "list": ["schema.table", …]}', item.lineno)
        label = step["step"]
        if not (isinstance(label, str) and re.fullmatch(r"[a-z][a-z0-9_]*", label)) or label in {INPUTS, *steps}:
            raise wrong(
                f"step {label!r}: a label of a-z, 0-9 and _ that no other step has (nor `{INPUTS}`)", item.lineno
            )
        for table, line in zip(step["list"], _lines_of_tables(item), strict=True):
            try:
                contract = contracts.get(table)
            except UsageError as error:
                raise wrong(str(error), line) from None
            if contract.is_source:
                raise wrong(f"{table} is a source: nothing builds it, what reads it waits for it; remove it", line)
            if table in seen:
                raise wrong(f"{table} is listed twice", line)
            lineage.parsed_checks(table)
            seen.add(table)
        steps[label] = tuple(step["list"])
    return TaskList(about, values["dag_id"], values["owner"], values["timezone"], look_back, tuple(steps.items()))


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _lines_of_tables(step: ast.expr) -> list[int]:
    """The line of each table of a step that has been checked."""
    return [table.lineno for node in ast.walk(step) if isinstance(node, ast.List) for table in node.elts]


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
                        look_back_days=task_list.look_back_days,
                        doc_md=table_docs(contracts.get(table)),
                        execution_timeout=BUILD_TIMEOUT,
                    )
        for table in task_list.tables:
            for name in lineage.inputs(table):
                tasks[name] >> tasks[table]
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
