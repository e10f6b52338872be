"""The pages: nobody without a login sees them, and everybody else sees the tables of the DAGs that they may read."""

import shutil
from datetime import date, timedelta
from types import SimpleNamespace

import pytest

from tests import airflow_home  # noqa: F401

# isort: split
from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.common.db.common import _get_session
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.revoked_token import RevokedToken
from airflow.models.team import Team, dag_bundle_team_association_table
from airflow.utils.session import create_session
from fastapi.testclient import TestClient
from lake_airflow import pages

from include.lake import settings
from include.lake.project import contracts
from include.lake.project.days import day_range, last_finished_day
from include.lake.state.look import Look, PartitionState
from tests.pretend import build

YESTERDAY = last_finished_day("UTC")
LOGS = "we_mart.wv_server_log_base"
PATHS = ["/", f"/table?name={LOGS}", "/run?dag_id=d&run_id=r", "/run?dag_id=d&run_id=r&task_id=t"]


@pytest.fixture
def enter(tmp_path, monkeypatch):
    """An empty lake, and a way to enter builds in its ledger."""
    monkeypatch.setenv("LAKE_HOME", str(tmp_path))

    def enter_build(table: str, status: str = "built", **facts) -> None:
        build(table, [YESTERDAY], status, **(facts if status == "failed" else {"code_id": "old"} | facts))

    return enter_build


@pytest.fixture
def stranger(enter):
    return TestClient(pages.app)


@pytest.fixture
def client(stranger, monkeypatch):
    """Somebody who is logged in and may see everything, and a database with one run."""
    run = SimpleNamespace(partition_key=YESTERDAY, conf=None)
    stranger.run = run
    session = SimpleNamespace(scalar=lambda query: stranger.run, scalars=lambda query: [LOGS, "inputs.we_mart.we_user"])
    guards = [guard.dependency for route in pages.app.routes for guard in getattr(route, "dependencies", [])]
    every = frozenset(contracts.load_all())
    overrides = {guard: lambda: None for guard in guards} | {
        get_user: lambda: None,
        pages._rights: lambda: pages.Rights(every, every),
        _get_session: lambda: session,
    }
    monkeypatch.setattr(pages.app, "dependency_overrides", overrides)
    return stranger


def rows(page: str) -> int:
    return page.count("<tr>")


@pytest.mark.parametrize("path", PATHS)
def test_nobody_sees_anything_without_a_login(stranger, path):
    assert stranger.get(path).status_code == 401


def test_no_page_is_without_a_guard():
    for route in pages.app.routes:
        assert route.dependencies, f"{route.path} is open to everyone"


def test_the_grid_has_every_table_with_days(client, enter):
    enter(LOGS, rows=1234)
    page = client.get("/").text
    with_days = [contract for contract in contracts.load_all().values() if contract.has_days]
    assert rows(page) == len(with_days) + 1
    assert all(contract.table in page for contract in with_days)
    assert f"{YESTERDAY} stale: the SELECT or the contract has changed" in page
    assert "1,234" in page
    assert f"{YESTERDAY} missing: never built" in page


def test_the_grid_of_a_dag_has_its_tables(client, monkeypatch):
    dag = SimpleNamespace(dag=SimpleNamespace(task_ids=[LOGS, "inputs.we_mart.we_user"]))
    monkeypatch.setattr(pages.SerializedDagModel, "get", lambda dag_id, session: dag if dag_id == "d" else None)
    page = client.get("/?dag_id=d").text
    assert rows(page) == 3
    assert client.get("/?dag_id=e").status_code == 404


def test_a_table_s_page_says_what_it_is_and_how_its_builds_went(client, enter):
    enter(LOGS, rows=1234, seconds=5.0, run="d/r", dropped={"no_device": 7})
    enter(LOGS, "failed", build_id="c", error="2 rows break the key")
    page = client.get(f"/table?name={LOGS}").text
    for text in (
        "user_sess_id",
        "1,234",
        "d/r",
        "7 no_device",
        "2 rows break the key",
        "service_log.weverse_server_log",
    ):
        assert text in page
    assert client.get("/table?name=service_log.weverse_server_log").status_code == 200
    assert client.get("/table?name=no.table").status_code == 404


def test_a_run_s_page_says_what_its_day_has(client, enter):
    enter(LOGS, rows=1234, seconds=5.0, run="d/r", dropped={"no_device": 7})
    page = client.get("/run?dag_id=d&run_id=r").text
    assert rows(page) == 3
    for text in (YESTERDAY, "1,234", "5.0", "this one", "7 no_device", "stale", "we_mart.we_user", "missing"):
        assert text in page
    assert rows(client.get(f"/run?dag_id=d&run_id=r&task_id={LOGS}").text) == 2


def test_the_run_of_a_backfill_shows_its_days(client):
    client.run = SimpleNamespace(partition_key=None, conf={"first_day": "2026-01-03", "last_day": "2026-01-05"})
    page = client.get("/run?dag_id=d&run_id=r").text
    assert page.index(">01-05<") < page.index(">01-04<") < page.index(">01-03<")
    client.run = SimpleNamespace(partition_key=None, conf={"first_day": "2026-01-06", "last_day": "2026-01-05"})
    assert "This run has no day" in client.get("/run?dag_id=d&run_id=r").text


def test_a_backfill_of_all_days_there_are_shows_the_last_ones(client, monkeypatch):
    made = []
    monkeypatch.setattr(pages, "day_range", lambda first, last: made.append((first, last)) or day_range(first, last))
    client.run = SimpleNamespace(partition_key=None, conf={"first_day": "0001-01-01", "last_day": "9999-12-31"})
    assert client.get("/run?dag_id=d&run_id=r").text.count(">12-31<") == 1
    assert made == [("9999-10-01", "9999-12-31")]
    for wrong in (20260131, "9999-13-01", None):
        client.run = SimpleNamespace(partition_key=None, conf={"first_day": "0001-01-01", "last_day": wrong})
        assert "This run has no day" in client.get("/run?dag_id=d&run_id=r").text


@pytest.mark.parametrize("day", [20260131, 1.5, ["2026-01-31"], {"a": 1}, True])
def test_a_day_that_is_no_text_is_no_day(client, day):
    client.run = SimpleNamespace(partition_key=None, conf={"part_date": day})
    page = client.get("/run?dag_id=d&run_id=r")
    assert page.status_code == 200 and "This run has no day" in page.text


def test_a_week_or_month_that_is_not_over_is_not_missing(client, monkeypatch):
    real = contracts.get
    every = frozenset({LOGS})
    pages.app.dependency_overrides[pages._rights] = lambda: pages.Rights(every, every)
    monkeypatch.setattr(pages.contracts, "get", lambda table: real(table).model_copy(update={"grain": "month"}))
    monkeypatch.setattr(Look, "state", lambda lake, table, day: PartitionState(table, day, "missing", "never built"))
    now = date.fromisoformat(YESTERDAY) + timedelta(days=1)
    month, before = f"{now:%Y-%m}", f"{now.replace(day=1) - timedelta(days=1):%Y-%m}"
    client.run = SimpleNamespace(partition_key=month, conf=None)
    page = client.get("/run?dag_id=d&run_id=r").text
    assert '<td class="open">open</td>' in page and "not over yet" in page and "never built" not in page
    client.run = SimpleNamespace(partition_key=before, conf=None)
    assert "never built" in client.get("/run?dag_id=d&run_id=r").text
    assert f"{month} open: not over yet" in client.get("/").text or YESTERDAY[:7] != month


def test_a_run_without_a_day_and_no_run_at_all(client):
    client.run = SimpleNamespace(partition_key=None, conf={"part_date": "nonsense"})
    assert "This run has no day" in client.get("/run?dag_id=d&run_id=r").text
    client.run = None
    assert client.get("/run?dag_id=d&run_id=r").status_code == 404


def test_what_comes_from_outside_is_text_and_never_markup(client, enter):
    evil = "<script>alert(1)</script>"
    enter(LOGS, "failed", run=evil, error=evil + "x" * 400)
    pages_shown = [
        client.get("/").text,
        client.get(f"/table?name={LOGS}").text,
        client.get(f"/run?dag_id={evil}&run_id={evil}").text,
        client.get(f"/table?name={evil}").text,
    ]
    assert any("&lt;script&gt;alert(1)" in page for page in pages_shown)
    assert not any("<script>alert" in page for page in pages_shown[:3])
    # Not found is JSON, which no browser runs.
    assert client.get(f"/table?name={evil}").headers["content-type"] == "application/json"


def test_an_edit_shows_without_a_restart(client, tmp_path, monkeypatch):
    every = frozenset({*contracts.load_all(), "we_mart.brand_new"})
    pages.app.dependency_overrides[pages._rights] = lambda: pages.Rights(every, every)
    assert client.get("/table?name=we_mart.brand_new").status_code == 404
    shutil.copytree(settings.SQL, tmp_path / "sql")
    user = tmp_path / "sql" / "we_mart" / "we_user.yaml"
    with monkeypatch.context() as patch:
        patch.setattr(settings, "SQL", tmp_path / "sql")
        user.with_name("brand_new.yaml").write_text(user.read_text())
        assert client.get("/table?name=we_mart.brand_new").status_code == 200
        user.with_name("brand_new.yaml").write_text("about: ''")
        broken = client.get("/table?name=we_mart.brand_new")
        assert broken.status_code == 500
        assert "brand_new.yaml:1: `about`:" in broken.text
        assert client.get("/").status_code == 200
    assert client.get("/table?name=we_mart.brand_new").status_code == 404


def test_a_mistake_in_one_table_hides_no_other(client, monkeypatch):
    from include.lake.errors import ContractError

    def broken(self, table, day):
        raise ContractError("a.sql:3: does not parse")

    monkeypatch.setattr(Look, "state", broken)
    assert "a.sql:3: does not parse" in client.get("/").text


SESSIONS, PRIORITY = "analytics_we_mart_wv1_daily", "analytics_we_mart_priority_daily"
# we_mart.wv_comm_user is built by PRIORITY alone, and SESSIONS waits for it. Nothing in SESSIONS reads PROFILES.
MEMBERS, PROFILES = "we_mart.wv_comm_user", "we_mart.ods_wv_member_profile"
MAY_READ = {"nobody": [], "analyst": [SESSIONS], "operator": [SESSIONS, PRIORITY, "backfill"]}


class PerDag(SimpleAuthManager):
    """Airflow's own auth manager, but for rights by DAG, which Airflow keeps in packages that we do not need."""

    def is_authorized_dag(self, *, method, user, access_entity=None, details=None):
        readable = MAY_READ[user.username]
        return details.id in readable if details and details.id else bool(readable)


@pytest.fixture(scope="module")
def database():
    tables = [model.__table__ for model in (DagModel, DagBundleModel, Team, RevokedToken)] + [
        dag_bundle_team_association_table
    ]
    with create_session() as session:
        DagModel.metadata.create_all(session.get_bind(), tables=tables)
        session.add(DagBundleModel(name="dags"))
        session.flush()
        for dag_id in (SESSIONS, PRIORITY, "backfill"):
            session.add(DagModel(dag_id=dag_id, bundle_name="dags", fileloc="wev.py"))


@pytest.fixture
def as_user(database, stranger, monkeypatch):
    """Gives a function that asks for a page with the token of a user."""
    manager = PerDag()
    monkeypatch.setattr(airflow_app._AuthManagerState, "instance", manager)
    run = SimpleNamespace(partition_key=YESTERDAY, conf=None)
    session = SimpleNamespace(scalar=lambda query: run, scalars=lambda query: [f"inputs.{MEMBERS}", LOGS])
    monkeypatch.setattr(pages.app, "dependency_overrides", {_get_session: lambda: session})
    dag = SimpleNamespace(dag=SimpleNamespace(task_ids=[LOGS, f"inputs.{MEMBERS}"]))
    monkeypatch.setattr(pages.SerializedDagModel, "get", lambda dag_id, session: dag)

    def ask(user: str, path: str):
        token = manager.generate_jwt(SimpleAuthManagerUser(username=user, role="VIEWER"))
        return stranger.get(path, headers={"Authorization": f"Bearer {token}"})

    return ask


def test_a_user_sees_the_tables_of_readable_dags_and_no_other_table_s_rows(as_user, enter, monkeypatch):
    """Stands for: a page asks for the right that Airflow's own page with the same content asks for."""
    enter(LOGS, "failed", error="a bad row of the logs")
    enter(MEMBERS, "failed", build_id="c", error="a bad row of the members")
    status = {
        "/": (403, 200, 200),
        f"/?dag_id={SESSIONS}": (403, 200, 200),
        f"/?dag_id={PRIORITY}": (403, 403, 200),
        f"/table?name={LOGS}": (403, 200, 200),
        f"/table?name={MEMBERS}": (403, 200, 200),
        f"/table?name={PROFILES}": (403, 403, 200),
        f"/run?dag_id={SESSIONS}&run_id=r": (403, 200, 200),
        f"/run?dag_id={PRIORITY}&run_id=r": (403, 403, 200),
    }
    answers = {path: [as_user(user, path) for user in MAY_READ] for path in status}
    assert {path: tuple(answer.status_code for answer in row) for path, row in answers.items()} == status
    for path, (forbidden, some, every) in answers.items():
        assert "bad row" not in forbidden.text
        assert "a bad row of the members" not in some.text
        assert PROFILES not in some.text or path.endswith(PROFILES)
        if every.status_code == some.status_code and MEMBERS in every.text:
            assert path == f"/table?name={LOGS}" or "a bad row of the members" in every.text, path
    assert "a bad row of the logs" in answers["/"][1].text and MEMBERS in answers["/"][1].text

    def state(lake, table, day):
        return PartitionState(table, day, "stale", f"{MEMBERS} of {day} is failed: a bad row of the members")

    monkeypatch.setattr(Look, "state", state)
    monkeypatch.setattr(Look, "own_state", lambda lake, table, day: PartitionState(table, day, "fresh", "built"))
    through_an_input = as_user("analyst", f"/run?dag_id={SESSIONS}&run_id=r").text
    assert f"{MEMBERS} of {YESTERDAY} is failed" in through_an_input and "bad row" not in through_an_input
    assert "a bad row of the members" in as_user("operator", f"/run?dag_id={SESSIONS}&run_id=r").text
