"""Task lists: what each DAG builds, as plain literals that are read without running them.

They are read here and not beside the DAGs because the engine wants to know them, too: a backfill of "that DAG", and the
timezone whose days a table has.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

from include.lake import contracts, lineage, settings
from include.lake.errors import ContractError, UsageError

FIELDS = ("dag_id", "owner", "schedule", "timezone", "look_back_days", "dag_task_list")
INPUTS = "inputs"  # the task group of the sensors
# Every night looks at this many days at most; older ones are a matter for a backfill.
MAX_LOOK_BACK = 31


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


def zones_of_source(table: str) -> set[str]:
    """The timezones in which days of a source end: those of the task lists whose tables read it; else UTC."""
    lists = read_all()
    return {one.timezone for one in lists if any(table in lineage.inputs(name) for name in one.tables)} or {"UTC"}


def read_all() -> list[TaskList]:
    """Every task list of the project, by DAG id; ContractError for the first that is wrong."""
    return [read(path) for path in sorted(settings.ROOT.glob("dags/utils/dynamic_dag/*/task_list/*.py"))]


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
