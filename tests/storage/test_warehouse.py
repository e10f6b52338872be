"""The client of the statement API where Databricks refuses: each error is one line with its cure."""

from collections.abc import Iterator
from typing import Any

import pytest

from include.lake import settings
from include.lake.errors import LakeError, UsageError
from include.lake.project import lineage
from include.lake.state import ledger, presence
from include.lake.storage import unity_catalog, warehouse
from tests.databricks.server import Workspace, serving
from tests.databricks.statements import WAREHOUSE, Statements


class _Answers:
    """In the place of Spark: what the statements give does not matter here."""

    def sql(self, text: str) -> Any:
        raise ValueError(text)


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    with serving(Workspace(Statements(_Answers()))) as workspace:
        monkeypatch.setenv("LAKE_SQL_WAREHOUSE", WAREHOUSE)
        monkeypatch.setattr(warehouse, "BACK_OFF_SECONDS", 0.0)
        monkeypatch.setattr(warehouse, "POLL_SECONDS", 0.0)
        monkeypatch.setattr(warehouse, "_connection", lambda: (workspace.host, workspace.token))
        warehouse.forget()
        yield workspace


def failure(text: str = "select 1", **values: str | int) -> str:
    with pytest.raises(LakeError) as caught:
        warehouse.sql(text, values)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def refused(status: int, message: str) -> tuple[int, dict[str, str], Any]:
    return status, {}, {"error_code": "SOME_CODE", "message": message}


def test_an_expired_token(workspace: Workspace) -> None:
    workspace.script = [refused(401, "Token is expired")]
    assert "says 401 (Token is expired): the token is not valid (any more): make a new one" in failure()
    assert len(workspace.requests) == 1, "another try would not help"


def test_a_missing_right(workspace: Workspace) -> None:
    workspace.script = [refused(403, "no CAN USE")]
    assert "says 403 (no CAN USE): if the token is not valid any more, make a new one; else grant its user" in failure()
    error = {"error_code": "BAD_REQUEST", "message": "[INSUFFICIENT_PERMISSIONS] User lacks SELECT\nand more"}
    workspace.script = [(200, {}, {"statement_id": "1", "status": {"state": "FAILED", "error": error}})]
    assert "[INSUFFICIENT_PERMISSIONS] User lacks SELECT: grant its user CAN USE on the warehouse" in failure()


def test_a_ledger_that_cannot_be_asked_is_not_damaged(workspace: Workspace, on_databricks: None) -> None:
    workspace.script = [refused(401, "Token is expired")]
    with pytest.raises(LakeError, match=r"make a new one, and give it to the connection\Z"):
        ledger.open_ledger()


def test_a_quota(workspace: Workspace) -> None:
    workspace.script = [refused(429, "quota")] * 20
    assert "says 429 (quota): it has more requests than its quota allows" in failure()
    assert len(workspace.requests) == 7, "it was tried again and again before"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_workspace_that_is_busy(workspace: Workspace, status: int) -> None:
    answer = {"statement_id": "1", "status": {"state": "SUCCEEDED"}, "manifest": {"schema": {}}}
    workspace.script = [refused(status, "busy"), (200, {}, answer)]
    assert warehouse.sql("select 1", {}).num_rows == 0 and len(workspace.requests) == 2


@pytest.mark.parametrize(("seconds", "looks"), [(60.0, 1), (-1.0, 5)])
def test_the_connection_is_looked_up_once_a_minute(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, seconds: float, looks: int
) -> None:
    """A token that expires within a long statement is looked up again."""
    asked = []
    monkeypatch.setattr(warehouse, "CONNECTION_SECONDS", seconds)
    monkeypatch.setattr(warehouse, "_connection", lambda: asked.append(1) or (workspace.host, workspace.token))
    running: Any = {"statement_id": "1", "status": {"state": "RUNNING"}}
    done = running | {"status": {"state": "SUCCEEDED"}, "manifest": {"schema": {}}}
    workspace.script = [(200, {}, answer) for answer in (running, running, running, done)]
    warehouse.sql("select 1", {})
    assert (len(workspace.requests), len(asked)) == (4, looks)


def test_a_statement_that_somebody_cancels(workspace: Workspace, on_databricks: None) -> None:
    """Nobody asks for the tables one by one then: there is nothing wrong with any of them."""
    workspace.script = [(200, {}, {"statement_id": "1", "status": {"state": "CANCELED"}})]
    wanted = {table: unity_catalog.Wanted("2026-01-05", "2026-01-05") for table in lineage.in_order()}
    with pytest.raises(LakeError, match="CANCELED"):
        unity_catalog.presence(wanted)
    assert len(workspace.requests) == 1


def test_a_warehouse_that_does_not_start(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    api = workspace.parts[0]
    assert isinstance(api, Statements)
    api.pending = 1_000_000
    monkeypatch.setattr(warehouse, "PATIENCE_SECONDS", 0.2)
    assert f"the warehouse {WAREHOUSE} has not answered for 0 minutes (PENDING): look at its page" in failure()
    assert api.cancelled == 1


def test_a_wrong_host_and_a_wrong_warehouse(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_SQL_WAREHOUSE", "nobody")
    assert "says 404 (SQL warehouse nobody does not exist.): there is no such warehouse" in failure()
    monkeypatch.setattr(warehouse, "_connection", lambda: ("http://127.0.0.1:1", "token"))
    assert "does not answer" in failure()


def test_an_answer_of_something_else(workspace: Workspace) -> None:
    """Such as the page of a proxy. Whoever waits for rows knows one kind of error."""
    workspace.script = [(200, {}, "<html>")]
    assert failure().endswith("does not answer as a workspace of Databricks: correct the host of the connection")


def test_rows_are_kept_from_when_they_came(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warehouse that starts takes minutes. Its answer must not be too old when it comes."""
    ask = warehouse._ask

    def slow(*arguments: Any) -> Any:
        clock[0] += 300
        return ask(*arguments)

    clock = [0.0]
    monkeypatch.setattr(warehouse.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(warehouse, "_ask", slow)
    answer = {"statement_id": "1", "status": {"state": "SUCCEEDED"}, "manifest": {"schema": {}}}
    workspace.script = [(200, {}, answer)] * 2
    for _ in range(2):
        warehouse.sql("select 1", {})
    assert clock == [300.0]


def test_a_look_at_no_table_asks_nothing(workspace: Workspace, on_databricks: None) -> None:
    """As of the page of somebody who may read no DAG."""
    presence.look_at([])
    assert presence.missing([]) == {} and workspace.requests == []


def test_a_statement_that_fails_says_so(workspace: Workspace) -> None:
    assert "the warehouse says FAILED: BAD_REQUEST: select 'x'" in failure("select :name", name="x")
    assert "UNBOUND_SQL_PARAMETER" in failure("select :other", name="x")


@pytest.mark.parametrize(
    ("variable", "text", "read"),
    [
        ("LAKE_CATALOG", "", settings.catalog),
        ("LAKE_CATALOG", "a`; drop table b", settings.catalog),
        ("LAKE_SQL_WAREHOUSE", "/sql/2.0/x", settings.sql_warehouse),
        ("LAKE_LOOK_SECONDS", "0", settings.look_seconds),
        ("LAKE_POLL_SECONDS", "often", settings.poll_seconds),
        ("DATABRICKS_TOKEN", "", warehouse.of_the_environment),
    ],
)
def test_a_wrong_setting_is_named(variable: str, text: str, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(UsageError, match=variable):
        read()


def test_values_keep_their_types() -> None:
    columns = [
        {"name": name, "type_text": kind}
        for name, kind in {
            "a": "BIGINT", "b": "MAP<STRING, BIGINT>", "c": "ARRAY<STRING>", "d": "TIMESTAMP", "e": "BOOLEAN",
            "f": "DECIMAL(38,0)", "g": "DOUBLE", "h": "DATE", "i": "STRING",
        }.items()
    ]  # fmt: skip
    row = ["1", '{"x": "2"}', '["y", null]', "2026-01-05T01:02:03.000004Z", "true", "99", "NaN", "2026-01-05", ""]
    (typed,) = warehouse._table(columns, [row]).to_pylist(maps_as_pydicts="strict")
    assert (typed["a"], typed["b"], typed["c"], typed["e"]) == (1, {"x": 2}, ["y", None], True)
    assert typed["d"].isoformat() == "2026-01-05T01:02:03.000004+00:00" and typed["g"] != typed["g"]
    assert (str(typed["f"]), str(typed["h"]), typed["i"]) == ("99", "2026-01-05", "")
    # Databricks writes what is in maps and lists as texts, too.
    row[1] = '{"x": "2", "y": null}'
    assert warehouse._table(columns, [row, [None] * 9])["b"].to_pylist() == [[("x", 2), ("y", None)], None]
    nested = [{"name": "n", "type_text": "ARRAY<ARRAY<INT>>"}, {"name": "m", "type_text": "MAP<STRING, BOOLEAN>"}]
    table = warehouse._table(nested, [['[["1"], [], null]', '{"x": "true"}'], ["[]", "{}"]])
    assert table.to_pydict() == {"n": ['[["1"], [], null]', "[]"], "m": [[("x", True)], []]}
    assert warehouse._table(columns, [[None] * 9]).to_pylist() == [dict.fromkeys("abcdefghi")]
    assert warehouse._table(columns, []).num_rows == 0
