"""Tasks that submit runs to Databricks: what they submit, and that a run is found again whatever dies."""

import asyncio
import json
import os
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from tests import airflow_home

# isort: split
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.databricks.hooks.databricks import DatabricksHook
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from lake_airflow.backfill import params as backfill_form
from lake_airflow.databricks import SubmitBuild, Submitted, payload

from include.lake import settings
from include.lake.backfill import run as backfill
from include.lake.cli import entry
from include.lake.engine import databricks
from include.lake.errors import UsageError
from include.lake.project import contracts, lineage, task_lists
from include.lake.state.look import FRESH, Look
from include.lake.storage import store, unity_catalog, warehouse
from scripts import deploy, first_hour
from tests import builders, buyers
from tests.conftest import THOROUGH
from tests.databricks import statements
from tests.databricks.jobs import Jobs
from tests.databricks.server import TOKEN, Workspace, serving
from tests.shop import DAY, FILES, TABLE

APPROVED = settings.ROOT / "tests" / "approved" / "databricks.json"
RUN = "wev/scheduled__2026-01-05T16:00:00+00:00"
HOURS = timedelta(hours=2)


@pytest.fixture
def target(on_databricks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_SQL_WAREHOUSE", statements.WAREHOUSE)
    monkeypatch.setenv("LAKE_WHEEL", "/Volumes/dev/ops/lake/lake-0.0.0+1-py3-none-any.whl")


def test_what_every_task_submits_is_as_it_was_approved(target: None) -> None:
    """A review sees what a change does to production. The ids of the code change with each SELECT, and are left out."""
    found = {}
    for dag in DagBag(airflow_home.ROOT / "dags").dags.values():
        tasks = [task for task in dag.tasks if isinstance(task, Submitted)]
        for task in tasks[: 1 if dag.dag_id == "backfill" else None]:
            run = SimpleNamespace(dag_id=dag.dag_id, run_id="RUN", partition_key=DAY, conf={})
            form = {name: field.value for name, field in backfill_form().items()}
            form |= {"first_day": DAY, "last_day": DAY, "tables": [task.task_id], "yes": True}
            ti = SimpleNamespace(xcom_pull=lambda task_ids: "the plan")
            found[f"{dag.dag_id}/{task.task_id}"] = task.body({"dag_run": run, "dag": dag, "params": form, "ti": ti})
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    for table in lineage.in_order():
        if contracts.get(table).is_built:
            text = text.replace(lineage.code_id(table), "CODE")
    if os.environ.get("APPROVE"):
        APPROVED.write_text(text)
    assert text == APPROVED.read_text(), "if it is meant: make approve"


@pytest.mark.parametrize(
    ("cluster", "wanted"),
    [
        ("0101-123456-abc", {"existing_cluster_id": "0101-123456-abc"}),
        (
            '{"spark_version": "17.3.x"}',
            {"new_cluster": {"spark_version": "17.3.x", "data_security_mode": "DATA_SECURITY_MODE_AUTO"}},
        ),
        (
            '{"spark_version": "17.3.x", "data_security_mode": "SINGLE_USER"}',
            {"new_cluster": {"spark_version": "17.3.x", "data_security_mode": "SINGLE_USER"}},
        ),
    ],
)
def test_compute_of_ones_own(target: None, monkeypatch: pytest.MonkeyPatch, cluster: str, wanted: dict) -> None:
    monkeypatch.setenv("LAKE_CLUSTER", cluster)
    (table, *_) = task_lists.read_all()[0].tables
    body = payload("build", [table], DAY, DAY, RUN, HOURS)
    (task,) = body["tasks"]
    assert wanted.items() <= task.items() and task["libraries"] == [{"whl": settings.wheel()}]
    assert "environments" not in body and "environment_key" not in task


@pytest.mark.parametrize(
    "arguments",
    [
        ["--work=build"],
        [f"--work=build --first={DAY}"],
        ["--work=build", f"--first={DAY}", f"--last={DAY}", "--run=a; b", "--catalog=c", "--codes=a.b=1"],
    ],
)
def test_wrong_parameters_are_an_error_of_code(arguments: list[str]) -> None:
    with pytest.raises(entry.RunFailed, match=r"^code: "):
        entry.main(arguments)


def test_the_same_code_is_the_same_wheel(tmp_path: Path, project: Callable[[dict[str, str]], None]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, again = deploy.build(tmp_path / "a"), deploy.build(tmp_path / "b")
    assert first.name == again.name and first.read_bytes() == again.read_bytes()
    project(FILES)
    assert deploy.build(tmp_path / "a").name != first.name


def test_a_backfill_inside_a_run_takes_no_lock(target: None, lake_home: Path) -> None:
    with backfill._claimed(TABLE, [DAY], print):
        assert not lake_home.exists()


@pytest.mark.parametrize(
    "text",
    [
        "[NOT_SUPPORTED_WITH_SERVERLESS] PERSIST TABLE is not supported on serverless compute. SQLSTATE: 0A000",
        "[CACHE_REQUIRES_NEWER_CLIENT_ON_SERVERLESS_GC] DataFrame caching requires a newer client.",
    ],
)
def test_serverless_that_keeps_no_rows_names_the_cure(text: str) -> None:
    def persist() -> Any:
        raise RuntimeError(text)

    with pytest.raises(UsageError, match=r"environment 5.*LAKE_CLUSTER"):
        databricks.materialise(cast(Any, SimpleNamespace(persist=persist))).__enter__()


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("Library installation failed for library due to user error: lake.whl", True),
        ("Traceback (most recent call last):\nModuleNotFoundError: No module named 'sqlglot'", True),
        ("[Errno 2] No such file or directory: '/Volumes/dev/ops/lake/lake-0.0.0+1-py3-none-any.whl'", True),
        ("RunFailed: infrastructure: ModuleNotFoundError", False),
        ("Could not reach driver of cluster", False),
    ],
)
def test_a_run_without_its_code_is_not_tried_again(text: str, final: bool) -> None:
    state = {"life_cycle_state": "INTERNAL_ERROR", "result_state": "FAILED", "state_message": text}
    event = {"run_state": json.dumps(state), "errors": [], "run_page_url": "https://workspace"}
    with pytest.raises(AirflowException) as raised:
        SubmitBuild(task_id="total", table=TABLE).ended(context(Store()), event)
    assert isinstance(raised.value, AirflowFailException) == final == ("make deploy" in str(raised.value))


# -- on a Spark with Delta


@pytest.fixture
def workspace(
    cluster: tuple[str, str, Any], target: None, project: Any, lake_home: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Jobs]:  # fmt: skip
    """A workspace with the two tables of the shop, whose wheel is deployed."""
    address, token, session = cluster
    project(FILES)
    monkeypatch.setenv("SPARK_CONNECT_MODE_ENABLED", "1")
    monkeypatch.setenv("LAKE_POLL_SECONDS", "1")
    statements.empty_catalog(session)
    jobs = Jobs(tmp_path / "volumes", address, token)
    with serving(Workspace(jobs, statements.Statements(session))) as served:
        host, port = served.host.removeprefix("http://").split(":")
        connection = {"conn_type": "databricks", "schema": "http", "host": host, "port": int(port), "password": TOKEN}
        monkeypatch.setenv("AIRFLOW_CONN_DATABRICKS_DEFAULT", json.dumps(connection))
        monkeypatch.setenv("DATABRICKS_HOST", served.host)
        monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
        wheel = deploy.upload(deploy.build(tmp_path), "/Volumes/dev/ops/lake")
        assert deploy.upload(deploy.build(tmp_path), "/Volumes/dev/ops/lake") == wheel
        monkeypatch.setenv("LAKE_WHEEL", wheel)
        yield jobs
    assert served.mistakes == []
    warehouse.use(warehouse.of_the_environment)
    unity_catalog.use(None)


def load(session: Any, *rows: tuple[str, int]) -> None:
    """Rows of the source, as another writer in the workspace makes them."""
    databricks.enter(session)
    contract = contracts.get("shop.event")
    columns = [list(column) for column in zip(*rows, strict=True)]
    store().replace(contract, pa.table([*columns, [DAY] * len(rows)], names=contract.column_names))
    unity_catalog.use(None)
    databricks._entered = None


class Store(dict[str, Any]):
    """What Airflow keeps for a task between its tries."""

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        self[key] = value

    def delete(self, key: str) -> None:
        self.pop(key, None)


def context(kept: Store) -> dict[str, Any]:
    dag_run = SimpleNamespace(dag_id="wev", run_id="scheduled__2026-01-05T16:00:00+00:00", partition_key=DAY, conf={})
    return {
        "dag_run": dag_run, "dag": SimpleNamespace(timezone=SimpleNamespace(name="UTC")), "task_state_store": kept,
        "ti": SimpleNamespace(xcom_push=lambda key, value: None),
    }  # fmt: skip


def submit(kept: Store) -> tuple[SubmitBuild, TaskDeferred]:
    task = SubmitBuild(task_id="total", table=TABLE, execution_timeout=HOURS)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context(kept))
    return task, deferred.value


def newest(workspace: Jobs) -> int:
    return max(workspace.runs)


def end(kept: Store) -> Any:
    """What the task gives in the end: the trigger polls the run, and wakes the task."""
    task, deferred = submit(kept)
    return task.ended(context(kept), event_of(deferred))


def event_of(deferred: TaskDeferred) -> Any:
    """What the trigger says when the run has ended."""

    async def first() -> Any:
        return await anext(deferred.trigger.run())

    return asyncio.run(first()).payload


@pytest.mark.spark
def test_a_task_submits_its_build_and_a_cleared_one_submits_anew(workspace: Jobs, cluster: Any) -> None:
    load(cluster[2], ("a", 1), ("a", 2))
    kept = Store()
    result = end(kept)
    assert (result["state"], result["rows"], kept) == ("built", 1, {})
    rows = cluster[2].sql(f"select name, total from {statements.CATALOG}.{TABLE}").collect()
    assert [tuple(row) for row in rows] == [("a", 3)]
    load(cluster[2], ("a", 5))
    assert end(kept)["rows"] == 1 and len(workspace.runs) == 2


@pytest.mark.spark
def test_a_failed_check_comes_home_and_is_not_retried(workspace: Jobs, cluster: Any) -> None:
    load(cluster[2], ("a", -1))
    with pytest.raises(AirflowFailException, match=r"(?s)^data: shop.total.*check `total >= 0`.*name=a.*the run: http"):
        end(Store())


@pytest.mark.spark
def test_whatever_dies_there_is_one_run(workspace: Jobs, cluster: Any) -> None:
    """The worker dies between submitting and keeping the run; then while it is deferred, where a retry finds it."""
    load(cluster[2], ("a", 1))
    workspace.held = True
    kept = Store()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabricksHook, "get_run", killed)
        with pytest.raises(KeyboardInterrupt):
            SubmitBuild(task_id="total", table=TABLE, execution_timeout=HOURS).execute(context(kept))
    assert len(workspace.runs) == 1
    submit(kept)
    submit(kept)
    assert len(workspace.runs) == 1
    # A run that Databricks does not know any more.
    workspace.forget()
    submit(kept)
    assert len(workspace.runs) == 1


def killed(*arguments: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.spark
def test_a_killed_task_cancels_its_run(workspace: Jobs) -> None:
    workspace.held = True
    kept = Store()
    task, deferred = submit(kept)
    assert workspace.runs[newest(workspace)]["timeout"] == 7200, "Airflow does not count it while a task is deferred"
    task.on_kill()
    assert workspace.wait(newest(workspace)) == "CANCELED"
    with pytest.raises(AirflowFailException, match="it ended"):
        task.ended(context(kept), event_of(deferred))
    assert kept == {}


@pytest.mark.spark
def test_a_cleared_task_does_not_wait_for_the_run_that_it_cancelled(workspace: Jobs) -> None:
    workspace.held = workspace.lingering = True
    kept = Store()
    task, _ = submit(kept)
    task.on_kill()
    submit(kept)
    assert len(workspace.runs) == 2


@THOROUGH
@pytest.mark.spark
def test_a_cleared_task_whose_run_has_ended_is_a_new_run(workspace: Jobs, cluster: Any) -> None:
    """Its worker died between the end of the run and forgetting it. Its inputs may have changed since."""
    load(cluster[2], ("a", 1))
    kept = Store()
    submit(kept)
    assert workspace.wait(newest(workspace)) == "SUCCESS"
    load(cluster[2], ("a", 5))
    assert end(kept)["rows"] == 1 and len(workspace.runs) == 2
    rows = cluster[2].sql(f"select total from {statements.CATALOG}.{TABLE}").collect()
    assert [tuple(row) for row in rows] == [(5,)]


@pytest.mark.spark
def test_a_cleared_task_that_finds_a_run_which_is_cancelled_later_is_tried_again(workspace: Jobs) -> None:
    workspace.held = True
    kept = Store()
    task, _ = submit(kept)
    again, deferred = submit(kept)
    task.on_kill()
    assert workspace.wait(newest(workspace)) == "CANCELED"
    with pytest.raises(AirflowException) as raised:
        again.ended(context(kept), event_of(deferred))
    assert not isinstance(raised.value, AirflowFailException) and kept == {}


@pytest.mark.spark
def test_a_token_of_a_run_that_was_deleted(workspace: Jobs) -> None:
    workspace.held = True
    kept = Store({"lake_run": {"token": "of a run that was deleted"}})
    workspace.refused = "of a run that was deleted"
    submit(kept)
    assert len(workspace.runs) == 1 and kept["lake_run"]["token"] != workspace.refused


@pytest.mark.spark
def test_a_token_that_is_not_valid_any_more(workspace: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the task looks at the run of an earlier try."""
    name = "AIRFLOW_CONN_DATABRICKS_DEFAULT"
    monkeypatch.setenv(name, os.environ[name].replace(TOKEN, "an old one"))
    why = r"\ADatabricks refuses the run \(.*Invalid access token.*\): make a new token for the connection"
    for state in ({}, {"lake_run": {"token": "x"}}):
        kept = Store(state)
        with pytest.raises(AirflowFailException, match=why):
            submit(kept)
        assert not state or kept == state, "the run may still go on: with a new token there would be two"


@THOROUGH
@pytest.mark.spark
def test_runs_at_once_of_a_table_kept_by_key(
    workspace: Jobs, cluster: Any, project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 5: each day touches every key, so each build has to stand on those before it."""
    for path in (settings.SQL / "shop").glob("*"):
        path.unlink()
    project(buyers.FILES)
    monkeypatch.setenv("LAKE_WHEEL", deploy.upload(deploy.build(tmp_path), "/Volumes/dev/ops/lake"))
    chance = random.Random(1)
    for number in range(builders.how_many(1)):
        cluster[2].sql(f"drop schema if exists {statements.CATALOG}.shop cascade")
        world: dict[str, buyers.Events] = {
            day: [(name, chance.choice(["u", "v", None]), 1) for name in "abc"] for day in buyers.DAYS[:2]
        }
        databricks.enter(cluster[2])
        for day, events in world.items():
            buyers.load(day, events)
        runs = []
        for day in world:
            body = payload("build", ["shop.owner"], day, day, RUN, HOURS) | {"idempotency_token": f"{number} {day}"}
            runs.append(workspace._submit(body)[1]["run_id"])
        assert {workspace.wait(run, 240) for run in runs} == {"SUCCESS"}, workspace.runs
        assert buyers.rows("shop.owner") == buyers.expected(world)["shop.owner"]
        assert {Look().own_state("shop.owner", day).state for day in world} == {FRESH}
        unity_catalog.use(None)


@pytest.mark.spark
def test_a_wheel_of_another_version_refuses(workspace: Jobs, project: Any) -> None:
    project({"shop/total.sql": FILES["shop/total.sql"].replace("sum(", "max(")})  # the DAGs have it, the wheel not
    with pytest.raises(AirflowFailException, match=r"(?s)^code: .*another version than the DAGs: make deploy"):
        end(Store())


@THOROUGH
@pytest.mark.spark
def test_the_first_hour_says_what_is_as_expected(cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """On a Spark with Delta, where it says which of the things that are taken for granted hold in open Delta, too."""
    assert first_hour.main(f"{statements.CATALOG}.first_hour", cluster[2]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "as expected" in line]) == len(first_hour.CHECKS) > 5
    assert "first_hour" not in str(cluster[2].sql("show schemas").collect())
