"""The pages of the lake in the Airflow UI: the days of each table, and the effect of one run on them.

A user sees the tables of the DAGs that Airflow lets them read. An error text may show rows. So only users who may read
a DAG that builds the table see it: the log of this DAG has the same text.

Only the API server imports this module. Endpoints are plain `def`, because they read files and the database: so FastAPI
runs them in threads.
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader
from lake_airflow.databricks import use_connection
from sqlalchemy import select

from include.lake.errors import LakeError, UsageError
from include.lake.project import contracts, lineage, task_lists
from include.lake.project.current import held
from include.lake.project.days import day_range, days_before, last_finished_day, parse_day
from include.lake.project.periods import Period
from include.lake.state.look import FRESH, Look, PartitionState
from include.lake.state.presence import look_at

DAYS = 14  # two weekly cycles; this many columns fit on a laptop's screen
MAX_DAYS = 92  # the last days of a backfill; a page of several years would be unreadable
BUILDS = 50  # builds shown of one table, newest first
BACKFILL = "backfill"  # this DAG builds any table, so a user who may read it sees every table

use_connection()
app = FastAPI(title="Lake", docs_url=None, redoc_url=None, openapi_url=None)
_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def _page(title: str, kind: str, status_code: int = 200, **values: Any) -> HTMLResponse:
    html = _templates.get_template("pages.html").render(title=title, kind=kind, **values)
    return HTMLResponse(html, status_code)


@dataclass(frozen=True)
class Rights:
    """The tables that a user may see. `shown`: a readable DAG builds or reads them. `explained`: with error texts."""

    shown: frozenset[str]
    explained: frozenset[str]

    @property
    def everything(self) -> bool:
        return len(self.explained) == len(contracts.load_all())


def _rights(user: GetUserDep) -> Rights:
    readable = get_auth_manager().get_authorized_dag_ids(user=user, method="GET")
    if BACKFILL in readable:
        every = frozenset(contracts.load_all())
        return Rights(every, every)
    lists = [listed for listed in task_lists.read_all() if listed.dag_id in readable]
    built = frozenset(table for listed in lists for table in listed.tables)
    shown = built.union(*(listed.waits_for for listed in lists))
    return Rights(shown, built | {table for table in shown if contracts.get(table).is_source})


RightsDep = Annotated[Rights, Depends(_rights)]


def _is_over(table: str, partition: str) -> bool:
    """Is a partition over where its table is made or read? Before that, nobody misses it."""
    contract = contracts.get(table)
    zones = task_lists.zones_of_source(table) if contract.is_source else task_lists.timezones(table)
    return all(Period(contract.grain, partition).is_over(zone) for zone in zones)


def _state(lake: Look, rights: Rights, table: str, day: str) -> PartitionState:
    """The state of the partition with a day; a mistake in a table's files is shown in its row and hides no other."""
    try:
        day = Period.of(contracts.get(table).grain, day).text
        if not contracts.get(table).has_days:
            absent = lake.absent(table, [""])
            return PartitionState(
                table, "", "missing" if absent else "fresh", "not loaded" if absent else "loaded, has no days"
            )
        state = lake.state(table, day)
        if state.state == "missing" and not _is_over(table, day):
            return state._replace(state="open", why="not over yet")
        if table not in rights.explained:
            return state._replace(why="a DAG that you may not read builds it")
        if not rights.everything and state.state != FRESH and lake.own_state(table, day).state == FRESH:
            # An input, or an input of that input, is the reason. The user may not be allowed to see its error.
            return state._replace(why=state.why.partition(":")[0])
        return state
    except LakeError as error:
        return PartitionState(table, day, "failed", str(error))


def _row(lake: Look, rights: Rights, table: str, day: str) -> dict[str, Any]:
    state = _state(lake, rights, table, day)
    source = contracts.get(table).is_source
    build = None if source else lake.build_of(table, state.day)
    return {**state._asdict(), "dropped": build["dropped"] if build else {}, "source": source}


def _tables_of(task_ids: list[str]) -> list[str]:
    """The tables of tasks. The id of a build task is its table; the id of a sensor is `group.table`."""
    names = {part for task_id in task_ids for part in (task_id, task_id.partition(".")[2])}
    return [table for table in lineage.in_order() if table in names]


def _newest(lake: Look, tables: list[str]) -> list[str]:
    """The newest days, newest first: from yesterday, or from today where it is over and built."""
    yesterday = last_finished_day("UTC")
    today = days_before(yesterday, -1)
    daily = [name for name in tables if contracts.get(name).grain == "day" and contracts.get(name).is_built]
    built = {day for name in daily for day in lake.built_days(name)}
    last = today if today in built else yesterday
    return day_range(days_before(last, DAYS - 1), last)[::-1]


def _grid(lake: Look, rights: Rights, tables: list[str], days: list[str] | None = None) -> dict[str, Any]:
    """Some tables by days. Without `days`, the grid shows the newest days."""
    shown = days or _newest(lake, tables)
    rows = [
        (table, contracts.get(table), [_state(lake, rights, table, day) for day in shown])
        for table in sorted(tables, key=lambda table: contracts.get(table).is_source)
        if contracts.get(table).has_days
    ]
    return {"days": [date.fromisoformat(day) for day in shown], "rows": rows}


def _last_days(first: str, last: str) -> list[str]:
    """The last MAX_DAYS days of a range. A conf may name millions of days, so no more of them are made."""
    if (date.fromisoformat(parse_day(last)) - date.fromisoformat(parse_day(first))).days >= MAX_DAYS:
        first = days_before(last, MAX_DAYS - 1)
    return day_range(first, last)


def _day_of_run(key: Any) -> str:
    """The last day of the period that a run is of: a month, or a day, by which a week is named, too."""
    key = str(key)  # a conf may have a number
    return Period.parse("month" if len(key) == len("yyyy-MM") else "day", key).last_day


@app.exception_handler(LakeError)
def mistake(request: Request, error: LakeError) -> HTMLResponse:
    """Show the file and the line of a contract that cannot be read."""
    return _page("The lake cannot be read", "error", status_code=500, note=str(error))


# Without a dag_id, Airflow checks here if the user may read any DAG at all. Its own list of DAGs does the same.
@app.get("/", dependencies=[Depends(requires_access_dag("GET"))])
@held()
def overview(session: SessionDep, rights: RightsDep, dag_id: str | None = None) -> HTMLResponse:
    """Tables by days: of one DAG, or of all DAGs that the user may read."""
    if dag_id:
        serialized = SerializedDagModel.get(dag_id, session=session)
        if serialized is None:
            raise HTTPException(404, f"there is no DAG {dag_id!r}")
        tables = _tables_of(list(serialized.dag.task_ids))
    else:
        tables = [table for table in lineage.in_order() if table in rights.shown]
    return _page(f"Tables of {dag_id}" if dag_id else "Lake", "grid", **_grid(look_at(tables), rights, tables))


@app.get("/table", dependencies=[Depends(requires_access_dag("GET"))])
@held()
def table(rights: RightsDep, name: str) -> HTMLResponse:
    """One table: what it is, its newest days and its newest builds."""
    try:
        contract = contracts.get(name)
    except UsageError as error:
        raise HTTPException(404, str(error)) from None
    if name not in rights.shown:
        raise HTTPException(403, f"no DAG that you may read builds {name} or waits for it")
    lake = look_at([name])
    shows_builds = name in rights.explained and contract.is_built
    builds = [row for rows in lake.builds(name).values() for row in rows] if shows_builds else []
    builds.sort(key=lambda row: row["built_at"], reverse=True)
    inputs = [other for other in lineage.inputs(name) if other in rights.shown]
    readers = [other for other in lineage.in_order() if name in lineage.inputs(other) and other in rights.shown]
    links: dict[str, Any] = {"contract": contract, "inputs": inputs, "readers": readers}
    return _page(name, "table", **links, **_grid(lake, rights, [name]), builds=builds[:BUILDS])


@app.get("/run", dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN))])
@held()
def run(session: SessionDep, rights: RightsDep, dag_id: str, run_id: str, task_id: str | None = None) -> HTMLResponse:
    """The state of each table for the day of a run. With `task_id`, only the table of this task."""
    found = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    if found is None:
        raise HTTPException(404, f"there is no run {run_id!r} of {dag_id!r}")
    task_ids = session.scalars(
        select(TaskInstance.task_id).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
    )
    tables = _tables_of([task_id] if task_id else list(task_ids))
    title = f"{dag_id}, {found.partition_key or run_id}"
    conf = found.conf or {}
    try:
        if "first_day" in conf and "last_day" in conf:  # a backfill, which may have years of days
            days = _last_days(conf["first_day"], conf["last_day"])
            return _page(title, "grid", **_grid(look_at(tables), rights, tables, days[::-1]))
        day = _day_of_run(found.partition_key or conf.get("part_date") or "")
    except LakeError:
        return _page(title, "run", rows=[], this_run="", note="This run has no day, so it builds nothing.")
    lake = look_at(tables)
    rows = [_row(lake, rights, name, day) for name in tables]
    rows.sort(key=lambda row: row["source"])
    note = "" if rows else "No task of this run has a table."
    return _page(title, "run", rows=rows, this_run=f"{dag_id}/{run_id}", note=note)
