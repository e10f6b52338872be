"""The main job with `LAKE_ENGINE=databricks make run`: real scheduler and triggerer, and a workspace of the tests that
really runs each submitted wheel. The rows are those of the local target.
"""

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from include.lake import settings
from include.lake.build import runner
from include.lake.engine import databricks
from include.lake.local import processes
from include.lake.project import contracts, lineage, task_lists
from include.lake.project.days import day_range, days_before
from include.lake.state.look import FRESH
from include.lake.storage import store, unity_catalog
from include.sample import generate
from scripts import deploy, seed
from tests import builders
from tests.conftest import THOROUGH
from tests.databricks import statements
from tests.databricks.jobs import Jobs
from tests.databricks.server import TOKEN, Workspace, serving
from tests.make_run import Lake, ended, states, trigger_backfill, until

BACKFILL_DAYS = 14
LISTS = [task_lists.read(path) for path in task_lists.paths("wev")]
TABLES = lineage.in_order([table for listed in LISTS for table in listed.tables])

pytestmark = [pytest.mark.e2e, pytest.mark.spark, THOROUGH]


def test_the_main_job_and_a_backfill(
    cluster: tuple[str, str, Any], on_databricks: None, lake_home: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    address, token, session = cluster
    day = seed.newest_day()
    first = days_before(day, BACKFILL_DAYS)
    statements.empty_catalog(session)
    databricks.enter(session)
    load(first, day)
    unity_catalog.use(None)
    jobs = Jobs(tmp_path / "volumes", address, token)
    with serving(Workspace(jobs, statements.Statements(session))) as served:
        with monkeypatch.context() as environment:
            environment.setenv("DATABRICKS_HOST", served.host)
            environment.setenv("DATABRICKS_TOKEN", TOKEN)
            wheel = deploy.upload(deploy.build(tmp_path), "/Volumes/dev/ops/lake")
        lake = Lake(
            lake_home, settings.DATABRICKS, ["wev"], lambda line: show(line, capfd),
            {
                "DATABRICKS_HOST": served.host, "DATABRICKS_TOKEN": TOKEN, "LAKE_CATALOG": statements.CATALOG,
                "LAKE_SQL_WAREHOUSE": statements.WAREHOUSE, "LAKE_WHEEL": wheel, "LAKE_POLL_SECONDS": "1",
                "LAKE_LOOK_SECONDS": "5",
            },
        )  # fmt: skip
        try:
            work(lake, jobs, first, day)
        finally:
            lake.end()
    assert served.mistakes == []
    requests = Counter(path.rpartition("/")[2] for method, path in served.requests if "/jobs/" in path)
    assert requests["submit"] == len(jobs.runs)

    databricks.enter(session)
    theirs = {table: rows(table) for table in TABLES}
    unity_catalog.use(None)
    monkeypatch.setenv("LAKE_ENGINE", settings.SAIL)
    load(first, day)
    for table in TABLES:
        runner.build(table, first, day, log=lambda line: None)
    for table in TABLES:
        assert theirs[table] == rows(table) and theirs[table], table


def work(lake: Lake, jobs: Jobs, first: str, day: str) -> None:
    """A day and a backfill. Scheduler and triggerer die while the first build is deferred: each task has one run."""
    jobs.held = True
    output, run = lake.run(until="following ")
    until(lambda: jobs.runs, "a submitted run")
    api = lake.api()
    until(lambda: "deferred" in builds_of(api, day).values(), "a deferred build")
    run.kill()
    run.wait()
    processes.end([lake.process(name) for name in ("scheduler", "triggerer")], patience=0)
    jobs.release()
    output, run = lake.run(until="Ctrl-C stops everything")
    assert "an earlier run was killed" in output
    for listed in LISTS:
        assert f"{listed.dag_id} for {day}: success" in output, output[-4000:]
    builds = Counter(run["name"] for run in jobs.runs.values() if run["key"] == "build")
    assert builds == Counter(f"{listed.dag_id}/{table}/{day}" for listed in LISTS for table in listed.tables)
    assert {lake.status(day)[table]["state"] for table in TABLES} == {FRESH}

    api = lake.api()
    conf = {"first_day": first, "last_day": days_before(day, 1), "tables": TABLES, "days_per_batch": 7}
    run_id = trigger_backfill(api, conf)
    assert ended(api, run_id) == "success"
    assert {states(api, run_id)[table] for table in TABLES} == {"success"}
    assert Counter(run["key"] for run in jobs.runs.values())["backfill"] == len(TABLES), "one run a table"
    status = json.loads(lake.cli("status", *TABLES, "--from", first, "--to", day, "--json"))
    found = {(row["table"], row["day"]): row["state"] for row in status}
    assert found == {(table, some): FRESH for table in TABLES for some in day_range(first, day)}
    run.send_signal(signal.SIGINT)
    run.wait(60)
    assert run.returncode == 0 and lake.left() == []


def builds_of(api: Any, day: str) -> dict[str, str]:
    """Table -> the state of its task in the runs of a day."""
    found = dict[str, str]()
    for listed in LISTS:
        answer = api("GET", f"/dags/{listed.dag_id}/dagRuns?partition_key_prefix_pattern={day}")
        for run in (answer or {}).get("dag_runs", ()):
            found |= states(api, run["dag_run_id"], listed.dag_id)
    return {table: state for table, state in found.items() if table in TABLES}


def load(first: str, last: str) -> None:
    """The sources of the main job."""
    needed = {name for table in TABLES for name in lineage.inputs(table) if contracts.get(name).is_source}
    parts: dict[str, list[pa.Table]] = {}
    for table, _, data in generate.days(first, last, 0.005, tables=needed & generate.DAILY.keys()):
        parts.setdefault(table, []).append(data)
    for table, data in generate.current(0.005, tables=needed & generate.CURRENT.keys()):
        parts.setdefault(table, []).append(data)
    assert parts.keys() == needed
    for table, tables in parts.items():
        store().replace(contracts.get(table), pa.concat_tables(tables))


def rows(table: str) -> list[str]:
    return sorted(map(repr, builders.published(table)))


def show(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    with capfd.disabled():
        print("   ", line, flush=True)
