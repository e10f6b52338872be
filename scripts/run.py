"""`make run`: runs the whole lake on this machine until Ctrl-C, from sample data to green runs in the Airflow UI.

Settings: DAYS and SCALE of the sample data, FAMILIES of DAGs (wev,rudder,audio), ONCE=1 to end after the runs,
LAKE_HOME, LAKE_UI_PORT.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

from include.lake import settings
from include.lake.errors import LakeError, UsageError
from include.lake.local import wait
from scripts import airflow_env, seed, stack
from scripts.api import Api, ImportErrors, NoAnswer, built_tables, dag_ids, families, is_parsed, longer_dag_ids
from scripts.options import ui_port
from scripts.stack import Clock, Stack

# Green runs take one minute from the start, and some more with a big SCALE. After 20 minutes something is stuck.
PATIENCE_SECONDS = 20 * 60
# Airflow parses the DAGs within a few seconds of its start.
DAGS_SECONDS = 120
# The scheduler creates the run of the newest day when a DAG is switched on. After this time we create it.
OWN_RUN_SECONDS = 20
# The API may be away for so long while we follow the runs.
ANSWER_SECONDS = 60
# A sensor that waits a shorter time gets no line.
SENSOR_SECONDS = 15
GREEN, RED = "success", "failed"


class Stopped(Exception):
    """The user pressed Ctrl-C or closed the terminal, or a process sent SIGTERM."""


def main() -> int:
    say = Clock()
    for number in stack.STOP_SIGNALS:
        signal.signal(number, _stopped)
    once = os.environ.get("ONCE", "") not in ("", "0")
    running = None
    try:
        settings.check(writes=True)  # what is wrong is said before anything starts
        families()
        if settings.on_databricks():
            from include.lake.storage import warehouse

            for needed in (settings.catalog, settings.sql_warehouse, settings.wheel, warehouse.of_the_environment):
                needed()
        days, scale = seed.wanted()
        running = Stack(ui_port(), say)
        running.acquire()
        green = up(running, say, days, scale)
        if once:
            return 0 if green else 1
        print("Ctrl-C stops everything.", flush=True)
        while True:
            running.check()
            time.sleep(1)
    except Stopped:
        return 1 if once else 0
    except LakeError as error:
        print(f"make run: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, UsageError) else 1
    finally:
        if running:
            down(running, say)


def _stopped(number: int, frame: FrameType | None) -> None:
    raise Stopped


def down(running: Stack, say: Clock) -> None:
    """Stop all processes. A second Ctrl-C kills them at once."""
    try:
        if running.started:
            say("stopping (Ctrl-C again: at once)")
        running.down()
    except Stopped:
        for number in stack.STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        running.down(patience=0)


def up(running: Stack, say: Clock, days: int, scale: float) -> bool:
    """Start everything and follow the runs of the newest day. True if all of them are green."""
    day = seed.newest_day()
    # The engine, sample data and PostgreSQL do not need each other, so they start at the same time.
    say(f"starting {'' if settings.on_databricks() else f'{settings.engine()}, '}PostgreSQL and Airflow")
    running.start_engine()
    sampling = start_sample(running, say, day, days, scale)
    database = running.start_postgres()
    env = airflow_env.of_make_run(running.port, database)
    is_new = running.migrate(env)
    if is_new:
        say("Airflow's database is made")
    api = Api(running.url, airflow_env.USER, airflow_env.password())
    problems = ImportErrors(api)
    answers = partial(until, running, api.up, DAGS_SECONDS, "the Airflow API to answer")
    for name in airflow_env.AIRFLOW:
        if name == "scheduler":  # last: without the server, each of its tasks would start one of its own
            running.wait_for_engine()
            if not settings.on_databricks():
                say(f"{settings.engine()} listens")
            if not is_new:  # tasks of an earlier run go on at once, and fail if the API does not answer
                answers()
        running.start_airflow(name, env)
    answers()
    say(f"Airflow answers on {running.url}")
    if sampling:
        running.wait("sample")
        seed.finish_sample()
        say("sample data is there")
    green = watch(running, say, api, day, problems)
    show(day)
    print(f"\nAirflow UI: {running.url}   user: {airflow_env.USER}   password: {airflow_env.password()}", flush=True)
    print(f"The lake:   {settings.home()}   (./lake --help)", flush=True)
    return green


def until(running: Stack, condition: Callable[[], Any], seconds: float, what: str, why: Callable[[], str] = str) -> Any:
    """Wait for a condition, and fail if one of our processes dies meanwhile. `why` says more of the reason."""
    return wait.until(
        condition, seconds, what, waiting=running.watch, cure=lambda: f"the logs are in {airflow_env.logs()}{why()}"
    )


# -- sample data


def start_sample(running: Stack, say: Clock, day: str, count: int, scale: float) -> bool:
    """Start a process that makes sample data for the newest days without any. False if all days have data."""
    arguments = seed.missing_sample(say, day, count, scale)
    if arguments:
        running.spawn("sample", running.lake(*arguments), {**os.environ, "PYTHONPATH": str(settings.ROOT)})
    return bool(arguments)


# -- the runs of the newest day


def parsed(api: Api, dag_id: str, problems: ImportErrors) -> bool:
    """Is the DAG there? A broken file of another DAG is told, and does not count."""
    _tell_problems(problems)
    return is_parsed(api, dag_id, problems.since)


def _tell_problems(problems: ImportErrors) -> None:
    for problem in problems.new():
        print(f"a DAG file cannot be read, the other DAGs go on: {problem}", flush=True)


def watch(running: Stack, say: Clock, api: Api, day: str, problems: ImportErrors) -> bool:
    """Switch the DAGs on and follow their runs of `day`. False if a run fails or takes too long."""
    began, followed = time.time(), dag_ids()
    for dag_id in followed:
        is_there = partial(parsed, api, dag_id, problems)
        until(
            running,
            is_there,
            DAGS_SECONDS,
            f"Airflow to parse {dag_id}",
            lambda: "".join(f"\n{p}" for p in problems.told),
        )
        api("PATCH", f"/dags/{dag_id}?update_mask=is_paused", {"is_paused": False})
    for dag_id in longer_dag_ids():
        with suppress(NoAnswer):  # it may not be parsed yet: its switch is in the UI
            api("PATCH", f"/dags/{dag_id}?update_mask=is_paused", {"is_paused": False})
        say(f"{dag_id} is not followed: it runs when its week or month is over")
    say(f"following {', '.join(followed)} for {day}")
    shown: dict[tuple[str, str], str] = {}
    deferred_at: dict[tuple[str, str], float] = {}
    waiting: set[tuple[str, str]] = set()
    states: dict[str, str] = {}
    known_runs: set[str] = set()
    answered = time.monotonic()
    while True:
        running.check()
        try:
            _tell_problems(problems)
            for dag_id in followed:
                run = _run_of(api, dag_id, day)
                if run is None:
                    if time.time() - began > OWN_RUN_SECONDS:
                        api("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "partition_key": day})
                    continue
                path = f"/dags/{dag_id}/dagRuns/{run['dag_run_id']}"
                if run["dag_run_id"] not in known_runs:
                    if run["end_date"] and (why := _why_again(run, day)):
                        say(f"{dag_id} for {day} {why}: running it again")
                        clear = {"dry_run": False, "only_failed": run["state"] == RED}
                        api("POST", f"{path}/clear", clear)
                        known_runs.add(run["dag_run_id"])
                        continue
                    if run["end_date"] and run["state"] == GREEN:
                        say(f"{dag_id} for {day}: green from before")
                        states[dag_id] = GREEN
                    known_runs.add(run["dag_run_id"])
                if states.get(dag_id) == GREEN:
                    continue
                for task in api("GET", f"{path}/taskInstances?limit=1000")["task_instances"]:
                    key, state = (dag_id, task["task_id"]), task["state"] or "none"
                    if shown.get(key) != state:
                        _tell(say, dag_id, task, state)
                        shown[key] = state
                        deferred_at[key] = time.time()
                    if state == "deferred" and time.time() - deferred_at[key] > SENSOR_SECONDS and key not in waiting:
                        waiting.add(key)
                        say(f"{dag_id}: waits for {_table(task)}")
                if states.get(dag_id) != run["state"]:
                    states[dag_id] = run["state"]
                    if run["state"] in (GREEN, RED):
                        say(f"{dag_id} for {day}: {run['state']}")
        except NoAnswer:
            if time.monotonic() - answered > ANSWER_SECONDS:
                raise
            say.still("waiting for the Airflow API to answer")
            time.sleep(1)
            continue
        answered = time.monotonic()
        busy = sorted({task_id for (_, task_id), state in shown.items() if state == "running"})
        say.still(f"building {', '.join(busy)}" if busy else "waiting for the scheduler")
        if RED in states.values():
            return False  # the other DAG waits for a table of the red run
        if all(states.get(dag_id) == GREEN for dag_id in followed):
            return True
        if time.time() - began > PATIENCE_SECONDS:
            left = [
                f"{dag_id} ({states.get(dag_id, 'no run yet')})" for dag_id in followed if states.get(dag_id) != GREEN
            ]
            say(f"not done within {PATIENCE_SECONDS / 60:.0f} minutes: {', '.join(left)}; the UI tells why")
            return False
        time.sleep(1)


def _why_again(run: dict[str, Any], day: str) -> str | None:
    """The reason to run an ended run again; None if there is none. Its builds skip fresh tables."""
    if run["state"] == RED:
        return "failed the last time"
    from include.lake.state.look import Look

    lake = Look()
    old = [name for name in built_tables() if lake.state(name, day).state != "fresh"]
    return f"is green, but {', '.join(old)} changed since" if old else None


def _run_of(api: Api, dag_id: str, day: str) -> dict[str, Any] | None:
    answer = api("GET", f"/dags/{dag_id}/dagRuns?partition_key_prefix_pattern={day}&order_by=-run_after&limit=1")
    return answer["dag_runs"][0] if answer and answer["dag_runs"] else None


def _table(task: dict[str, Any]) -> str:
    """The table of a task: its id, without the group of the sensors."""
    return str(task["task_id"]).removeprefix("inputs.")


def _tell(say: Clock, dag_id: str, task: dict[str, Any], state: str) -> None:
    """Print a line for a build or a failure. Sensors start and end without a line."""
    seconds = f" ({task['duration']:.1f} s)" if task["duration"] and state in (GREEN, RED) else ""
    is_build = _table(task) == task["task_id"]
    if (state in ("running", GREEN) and is_build) or state in (RED, "up_for_retry"):
        say(f"{dag_id}: {_table(task)} {'is being built' if state == 'running' else state.replace('_', ' ')}{seconds}")
    if state in (RED, "up_for_retry"):
        print(_last_words(task), flush=True)


def _last_words(task: dict[str, Any]) -> str:
    """The end of a task's log. The log has JSON lines; we show only their events and errors."""
    folder = (
        airflow_env.logs() / f"dag_id={task['dag_id']}" / f"run_id={task['dag_run_id']}" / f"task_id={task['task_id']}"
    )
    log = folder / f"attempt={task['try_number']}.log"
    events = []
    for line in log.read_text(errors="replace").splitlines() if log.exists() else []:
        try:
            entry = json.loads(line)
            events += [entry["event"]] if not entry["event"].startswith("::") else []
            events += [f"{error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or []]
        except (ValueError, TypeError, KeyError):
            events.append(line)
    lines = [line for event in events[-5:] for line in event.splitlines()[:5]]
    return "\n".join([f"    {line:.200}" for line in lines] + [f"    (the whole log: {log})"])


def show(day: str) -> None:
    """Print the state of each built table for the day."""
    from include.lake.state.look import Look

    if settings.on_databricks():
        from include.lake.storage import warehouse

        warehouse.forget()
    lake = Look()
    rows = [("table", "day", "state", "rows", "seconds")]
    for name in built_tables():
        state = lake.state(name, day)
        count = "" if state.rows is None else f"{state.rows:,}"
        rows.append((name, day, state.state, count, "" if state.seconds is None else f"{state.seconds:.1f}"))
    width = [max(len(row[n]) for row in rows) for n in range(5)]
    print()
    for row in rows:
        print(
            "  ".join(
                cell.rjust(w) if n > 2 else cell.ljust(w) for n, (cell, w) in enumerate(zip(row, width, strict=True))
            )
        )


if __name__ == "__main__":
    sys.exit(main())
