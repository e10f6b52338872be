"""Task lists: what each DAG builds, as plain literals that are read without running them.

They are read here and not beside the DAGs because the engine wants to know them, too: a backfill of "that DAG", and the
timezone whose days a table has.
"""

import ast
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tzdata

from include.lake import settings
from include.lake.errors import ContractError, LakeError
from include.lake.project import current
from include.lake.project.days import days_before, last_finished_day
from include.lake.project.periods import Grain

FIELDS = ("dag_id", "owner", "schedule", "timezone", "look_back_days", "dag_task_list")
INPUTS = "inputs"  # the task group of the sensors
LATE_DAYS = "late_days"  # the task that builds late days
# The DAGs that are no task list. Airflow keeps one DAG of each id: a list of the same name would hide it.
OTHER_DAGS = {"backfill": "dags/backfill.py", "lake_maintenance": "dags/maintenance.py"}
# Every night looks at this many days at most; older ones are a matter for a backfill.
MAX_LOOK_BACK = 31
_SCHEDULES: dict[str, Grain] = {"daily": "day", "weekly": "week", "monthly": "month"}
_LABEL = re.compile(r"[a-z][a-z0-9_]*")
# The dag_id is the name of the file. Airflow's ids have at most 250 characters.
_DAG_ID = re.compile(r"[a-z][a-z0-9_]{0,199}")


@dataclass(frozen=True)
class TaskList:
    """A checked task list. `steps`: label and tables, in the order of the file.

    `grain`: what a run is of, a day, a week or a month.
    `look_back_days`: how many days before its own a run looks at, to build those again that late data made stale.
    """

    about: str
    dag_id: str
    owner: str
    grain: Grain
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
            for name in current.project().inputs(table):
                if name not in self.tables:
                    found.setdefault(name, []).append(table)
        return dict(sorted(found.items()))


def parse(text: str, path: Path, twins: list[Path]) -> tuple[TaskList, tuple[tuple[str, int], ...]]:
    """The task list that a text says, and each of its tables with its line; ContractError names file, line and cure.

    `twins`: other files of the same name.
    """
    shown = settings.shown(path)

    def wrong(what: str, line: int = 1) -> ContractError:
        return ContractError(f"{shown}:{line}: {what}")

    try:
        module = ast.parse(text)
    except SyntaxError as error:
        raise wrong(f"is not Python: {error.msg}", error.lineno or 1) from None
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte, nesting of a thousand levels
        raise wrong(f"is not Python: {error}") from None
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
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise wrong(f"`{name}` must be a plain literal: nothing is computed in a task list", node.lineno) from None
    for name in FIELDS:
        if name not in values:
            raise wrong(f"`{name}` is missing")
        is_text = isinstance(values[name], str) and values[name].strip()
        if name not in ("look_back_days", "dag_task_list") and not is_text:
            raise wrong(f"`{name}` is a text", nodes[name].lineno)
    if values["dag_id"] != path.stem:
        raise wrong(
            f"dag_id is {values['dag_id']!r} and the file {path.stem}.py: name them alike", nodes["dag_id"].lineno
        )
    if not _DAG_ID.fullmatch(path.stem):
        raise wrong(f"dag_id {path.stem!r}: at most 200 of a-z, 0-9 and _, a letter first", nodes["dag_id"].lineno)
    if path.stem in OTHER_DAGS:
        raise wrong(
            f"dag_id {path.stem!r} is that of {OTHER_DAGS[path.stem]}: name file and list otherwise",
            nodes["dag_id"].lineno,
        )
    if twins:
        raise wrong(
            f"{settings.shown(twins[0])} has the same dag_id: name one of them otherwise", nodes["dag_id"].lineno
        )
    if values["schedule"] not in _SCHEDULES:
        raise wrong(
            f"schedule {values['schedule']!r} is unknown: write one of {', '.join(_SCHEDULES)}",
            nodes["schedule"].lineno,
        )
    if values["timezone"] not in _timezones():
        raise wrong(
            f'timezone {values["timezone"]!r} is unknown: write one such as "Asia/Seoul"', nodes["timezone"].lineno
        )

    look_back = values["look_back_days"]
    if type(look_back) is not int or not 0 <= look_back <= MAX_LOOK_BACK:
        raise wrong(f"`look_back_days` is a number from 0 to {MAX_LOOK_BACK}", nodes["look_back_days"].lineno)

    steps: dict[str, tuple[str, ...]] = {}
    lines: dict[str, int] = {}
    written = nodes["dag_task_list"]
    if not isinstance(written, ast.List) or not values["dag_task_list"]:
        raise wrong("`dag_task_list` is a list of steps", written.lineno)
    for step, item in zip(values["dag_task_list"], written.elts, strict=True):
        keys = [ast.literal_eval(key) for key in item.keys if key] if isinstance(item, ast.Dict) else []
        if not (sorted(keys, key=str) == ["list", "step"] and _is_list_of_texts(step["list"])):
            raise wrong('a step is {"step": "a label", "list": ["schema.table", …]}', item.lineno)
        label = step["step"]
        if not (isinstance(label, str) and _LABEL.fullmatch(label)) or label in {INPUTS, LATE_DAYS, *steps}:
            raise wrong(
                f"step {label!r}: a label of a-z, 0-9 and _ that no other step has (nor `{INPUTS}`, nor `{LATE_DAYS}`)",
                item.lineno,
            )
        for table, line in zip(step["list"], _lines_of_tables(item), strict=True):
            if table in lines:
                raise wrong(f"{table} is listed twice", line)
            lines[table] = line
        steps[label] = tuple(step["list"])
    task_list = TaskList(
        about,
        values["dag_id"],
        values["owner"],
        _SCHEDULES[values["schedule"]],
        values["timezone"],
        look_back,
        tuple(steps.items()),
    )
    return task_list, tuple(lines.items())


@cache
def _timezones() -> frozenset[str]:
    """The names of all timezones, as pendulum has them. To ask zoneinfo for them takes 76 ms: it opens 600 files."""
    return frozenset(Path(tzdata.__file__).with_name("zones").read_text(encoding="ascii").split())


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _lines_of_tables(step: ast.expr) -> list[int]:
    """The line of each table of a step that has been checked."""
    return [table.lineno for node in ast.walk(step) if isinstance(node, ast.List) for table in node.elts]


# -- of the project as it is now


def zones_of_source(table: str) -> set[str]:
    """The timezones in which days of a source end: those of the task lists whose tables read it; else UTC."""
    with current.held() as project:
        return {one.timezone for one in read_all() if any(table in project.inputs(name) for name in one.tables)} or {
            "UTC"
        }


def paths(family: str | None = None) -> list[Path]:
    """The files of the task lists of a family, or of all, sorted; without what systems and editors leave behind."""
    return current.project().list_paths(family)


def families() -> list[str]:
    """The folders of task lists, sorted."""
    return sorted({path.parent.parent.name for path in paths()})


def read(path: Path) -> TaskList:
    """Read and check one task list and the tables that it needs; ContractError names file, line and cure."""
    return current.project().task_list(path)


def read_all() -> list[TaskList]:
    """Every good task list of the project, by DAG id."""
    return [task_list for task_list in current.project().lists.values() if isinstance(task_list, TaskList)]


def broken() -> dict[str, str]:
    """DAG id -> what is wrong, of the task lists that `read_all()` leaves out."""
    lists = current.project().lists.items()
    return {path.stem: str(error) for path, error in lists if isinstance(error, LakeError)}


def today() -> str:
    """The newest day that has begun in a timezone of the task lists, or in UTC."""
    return max(days_before(last_finished_day(zone), -1) for zone in {"UTC", *(one.timezone for one in read_all())})


def names() -> list[str]:
    """All that may be asked for: the tables that we build, the DAGs that build them, and the steps of these.

    What is broken cannot be asked for.
    """
    with current.held() as project:
        lists = read_all()
        built = [name for name in project.order if project.contract(name).is_built]
    return [
        *built,
        *sorted({listed.dag_id for listed in lists}),
        *sorted({s for listed in lists for s, _ in listed.steps}),
    ]


def timezones(table: str) -> list[str]:
    """The timezones whose days a table has: of the lists that build it, UTC where none does.

    A list whose tables are broken still says its timezone. ContractError if only a list that cannot be read names it.
    """
    zones, problems = set(), []
    project = current.project()
    for path in project.list_paths():
        try:
            task_list, _ = project.literal(path)
        except ContractError as error:
            with suppress(OSError):
                problems += [str(error)] if table.encode() in path.read_bytes() else []
            continue
        if table in task_list.tables:
            zones.add(task_list.timezone)
    if problems and not zones:
        raise ContractError("\n".join(problems))
    return sorted(zones) or ["UTC"]
