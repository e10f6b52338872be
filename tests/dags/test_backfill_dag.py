"""The `backfill` DAG: what its form takes, what its tasks do with it, and that nonsense starts nothing. No Spark."""

import logging
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import airflow_home

# isort: split
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowException, AirflowFailException, ParamValidationError
from lake_airflow import backfill as tasks

from include.lake.backfill import request
from include.lake.backfill import run as backfill
from include.lake.errors import CheckFailed, ContractError, InputsMissing, WriteConflict
from include.lake.project import lineage, task_lists
from tests.pretend import BASE, DAYS, TOP, build, files_of, load

CONF = {"first_day": "2026-01-05", "last_day": "2026-01-06", "tables": ["members"]}


@pytest.fixture(scope="module")
def dag() -> Any:
    bag = DagBag(airflow_home.ROOT / "dags" / "backfill.py")
    assert bag.import_errors == {}
    return bag.dags["backfill"]


def test_a_task_per_table_between_plan_and_summary(dag: Any) -> None:
    tables = {task.table: task for task in dag.tasks if isinstance(task, tasks.BackfillTable)}
    assert set(tables) == {name for name in task_lists.names() if "." in name}
    assert len(dag.tasks) == len(tables) + 2
    for name, task in tables.items():
        assert task.upstream_task_ids == {"plan", *(above for above in lineage.inputs(name) if above in tables)}
        assert "summary" in task.downstream_task_ids
        assert task.trigger_rule == "all_done" and task.retries and task.execution_timeout
    assert not dag.catchup and dag.schedule is None and dag.max_active_runs > 1


def filled_in(dag: Any, conf: dict[str, Any]) -> dict[str, Any]:
    """The params of a run with this conf, as the form and the REST API make and check them."""
    form = {name: copy(dag.params.get_param(name)) for name in dag.params}  # it remembers what it has resolved
    return {name: param.resolve(conf.get(name, param.value)) for name, param in form.items()}


def test_the_form_has_a_default_for_all_but_days_and_tables(dag: Any) -> None:
    asked = tasks.asked_for(filled_in(dag, CONF))
    assert asked == request.check(["members"], "2026-01-05", "2026-01-06")
    assert tasks.asked_for(filled_in(dag, CONF | {"days_per_batch": 7})).days_per_batch == 7
    assert tasks.asked_for(filled_in(dag, CONF | {"days_per_batch": "7"})).days_per_batch == 7
    assert dag.params.get_param("tables").schema["examples"] == request.names()
    for missing in CONF:
        with pytest.raises(ParamValidationError):
            filled_in(dag, {name: value for name, value in CONF.items() if name != missing})


@pytest.mark.parametrize(
    "wrong",
    [
        {"first_day": "2026-02-30"},
        {"first_day": "yesterday"},
        {"last_day": 20260105},
        {"tables": []},
        {"tables": "members"},
        {"tables": ["we_mart.nothing"]},
        {"tables": ["'; drop table x; --"]},
        {"mode": "everything"},
        {"days_per_batch": 0},
        {"days_per_batch": "many"},
        {"days_per_batch": -1},
        {"downstream": "perhaps"},
        {"dry_run": 1},
    ],
)
def test_what_is_wrong_by_itself_is_refused_by_the_form(dag: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ParamValidationError):
        filled_in(dag, CONF | wrong)


def test_a_source_is_asked_for_with_what_is_made_of_it(dag: Any) -> None:
    source = {"tables": ["service_log.weverse_server_log"]}
    asked = tasks.asked_for(filled_in(dag, CONF | source | {"downstream": True}))
    assert asked.tables == ("we_mart.wv_server_log_base", "we_mart.wv_sess_daily")
    with pytest.raises(AirflowFailException, match=r"is a source, nothing builds it; .* built with downstream$"):
        tasks.asked_for(filled_in(dag, CONF | source))


@pytest.mark.parametrize(
    ("key", "cure"),
    [
        ("dry-run", "did you mean dry_run?"),
        ("dryrun", "did you mean dry_run?"),
        ("x", "there are first_day, last_day,"),
    ],
)
def test_a_key_that_the_form_does_not_have_builds_nothing(dag: Any, lake_home: Path, key: str, cure: str) -> None:
    given = context(dag)
    given["params"][key] = True  # Airflow adds each key of a conf
    with pytest.raises(AirflowFailException) as error:
        dag.get_task("plan").execute(given)
    assert str(error.value).startswith(f"the form has no field '{key}': {cure}") and "\n" not in str(error.value)


class Ti:
    """A task instance: what is pushed, and what others have pushed."""

    def __init__(self, planned: Any = None) -> None:
        self.pushed: dict[str, Any] = {}
        self.planned = planned

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, task_ids: str) -> Any:
        assert task_ids == "plan"
        return self.planned


def context(dag: Any, planned: Any = None, **conf: Any) -> dict[str, Any]:
    run = SimpleNamespace(dag_id="backfill", run_id="manual__1")
    return {"params": filled_in(dag, CONF | conf), "dag_run": run, "ti": Ti(planned), "dag": dag}


@pytest.mark.parametrize(
    ("conf", "told"),
    [
        ({"first_day": "2026-01-07"}, "the range is upside down: 2026-01-07 is after 2026-01-06"),
        ({"last_day": "2999-01-01"}, "2999-01-01 is not over in Asia/Seoul"),
        ({"first_day": "2016-01-01"}, 'say so with "More than three years are meant" (yes)'),
    ],
)
def test_what_makes_no_sense_together_starts_nothing(
    dag: Any, lake_home: Path, conf: dict[str, Any], told: str
) -> None:
    given = context(dag, **conf)
    with pytest.raises(AirflowFailException) as error:
        dag.get_task("plan").execute(given)
    assert told in str(error.value) and "\n" not in str(error.value)
    # What the scheduler reads to skip tasks without starting them.
    skipped = {task.task_id for task in dag.tasks} - {"plan", "summary"}
    assert given["ti"].pushed == {"skipmixin_key": {"skipped": sorted(skipped)}}
    assert dag.get_task("plan").inherits_from_skipmixin
    for name in [*skipped, "summary"]:
        with pytest.raises(AirflowFailException, match="the plan has failed"):
            dag.get_task(name).execute(context(dag))
    assert not lake_home.exists()


@pytest.fixture
def shop(project: Any, lake_home: Path) -> dict[str, Any]:
    """base -> top, and what a form says that wants both."""
    project(files_of({BASE: ["shop.event"], TOP: [BASE]}))
    load("shop.event", *DAYS)
    return {"first_day": DAYS[0], "last_day": DAYS[-1], "tables": [BASE, TOP]}


def with_conf(dag: Any, conf: dict[str, Any], planned: Any = None) -> dict[str, Any]:
    found = context(dag, planned)
    found["params"] |= conf  # these tables are not in the form of the DAG, which was parsed before
    return found


def test_the_plan_is_shown_and_leaves_out_what_has_nothing_to_do(dag: Any, shop: dict[str, Any]) -> None:
    build(BASE, DAYS)
    task = dag.get_task("plan")
    given = with_conf(dag, shop)
    value = task.execute(given)
    assert (value["jobs"], value["partitions"]) == (1, 10)
    assert value["tables"][0] == {
        "table": BASE, "partitions": 0, "seconds": 0, "batches": [], "skipped": {"fresh": "2026-01-01..2026-01-10"},
    }  # fmt: skip
    assert value["tables"][1]["batches"] == ["2026-01-01..2026-01-10"]
    assert set(given["ti"].pushed["skipmixin_key"]["skipped"]) == task.downstream_task_ids - {"summary"}
    dry = with_conf(dag, shop | {"dry_run": True})
    assert task.execute(dry)["dry_run"]
    assert dag.get_task("summary").execute(with_conf(dag, shop, task.execute(dry))) == {
        "summary": "a dry run: nothing was built"
    }


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (ContractError("a.sql:1: wrong"), False),
        (InputsMissing("a day of an input is gone"), False),
        (KeyError("a bug"), False),
        (WriteConflict("others came first"), True),
        (OSError("storage is away"), True),
        (CheckFailed("no", {}), False),
    ],
)
def test_only_what_a_retry_can_cure_is_retried(
    dag: Any, shop: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception, retried: bool
) -> None:
    def build(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(backfill.runner, "build", build)
    task = tasks.BackfillTable(task_id="base", table=BASE)
    with pytest.raises(AirflowException) as raised:
        task.execute(with_conf(dag, shop, {"dry_run": False}))
    assert isinstance(raised.value, AirflowFailException) != retried
    message = str(raised.value)
    if isinstance(error, CheckFailed):
        assert message == f"{BASE} has bad days: 2026-01-01..2026-01-10: no"
    else:
        assert message.startswith(f"{BASE} {DAYS[0]}..{DAYS[-1]} failed (") and message.endswith(str(error))


def test_a_task_says_how_much_it_has_to_build(
    dag: Any, shop: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backfill, "run_table", lambda *arguments: {})
    monkeypatch.setattr(tasks.BackfillTable, "log", logging.getLogger("backfill"))
    task = tasks.BackfillTable(task_id="base", table=BASE)
    with caplog.at_level(logging.INFO):
        for last, said in ((DAYS[0], "1 partition in 1 job"), (DAYS[-1], "10 partitions in 1 job")):
            task.execute(with_conf(dag, shop | {"last_day": last}, {"dry_run": False}))
            assert caplog.messages[-1] == f"{BASE}: {said}"


def test_the_summary_names_the_bad_days(dag: Any, shop: dict[str, Any]) -> None:
    build(BASE, DAYS[:4], run="backfill/manual__1")
    build(BASE, DAYS[4:5], "failed", run="backfill/manual__1")
    build(BASE, DAYS[5:], run="backfill/manual__1")
    build(TOP, [day for day in DAYS if day != DAYS[4]], run="backfill/manual__1")
    summary = dag.get_task("summary")
    given = with_conf(dag, shop, {"dry_run": False})
    with pytest.raises(AirflowFailException, match=rf"^not built: {BASE} 2026-01-05$"):
        summary.execute(given)
    told = given["ti"].pushed["summary"]
    assert told["bad_days"] == {BASE: {DAYS[4]: "rows are bad"}}
    assert f"bad: {BASE} 2026-01-05: rows are bad" in told["summary"]
    assert f"skipped: {TOP} 2026-01-05: {BASE} is missing" in told["summary"]
    build(BASE, DAYS[4:5], run="backfill/manual__1")
    build(TOP, DAYS[4:5], run="backfill/manual__1")
    value = summary.execute(given)
    assert value["summary"][1].split()[:3] == [BASE, "10", "10"] and value["bad_days"] == {}
