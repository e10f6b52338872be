"""SQL on a warehouse of Databricks by the statement API: what Airflow and the command line read is read so."""

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import pyarrow as pa
import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from include.lake import settings
from include.lake.errors import LakeError, UsageError

_STATEMENTS = "/api/2.0/sql/statements"
# Pages and plans share what was read within this time.
KEPT_SECONDS = 60.0
# A classic warehouse starts within minutes. One that does not in this time needs somebody.
PATIENCE_SECONDS = 600.0
POLL_SECONDS = 2.0
# Databricks says 429 to who asks too often, and 500 to 504 while it is busy: up to 1 + 2 + 4 + 8 + 16 s more then.
_RETRIES = 6
_BUSY = (429, 500, 502, 503, 504)
# To look host and token up may be a request of its own. A token lives longer than this after it is given.
CONNECTION_SECONDS = 60.0
BACK_OFF_SECONDS = 0.5
_GRANT = "grant its user CAN USE on the warehouse, and USE CATALOG, USE SCHEMA and SELECT in the catalog"
_CURES = {
    401: "the token is not valid (any more): make a new one, and give it to the connection",
    # Databricks says this of a token that has expired, too.
    403: f"if the token is not valid any more, make a new one; else {_GRANT}",
    404: "there is no such warehouse (or statement) in this workspace: correct LAKE_SQL_WAREHOUSE, or the connection",
    429: "it has more requests than its quota allows: try again later, or give LAKE_LOOK_SECONDS more",
}
_ARROW = {
    "STRING": pa.string(), "BYTE": pa.int8(), "TINYINT": pa.int8(), "SHORT": pa.int16(), "SMALLINT": pa.int16(),
    "INT": pa.int32(), "LONG": pa.int64(), "BIGINT": pa.int64(), "FLOAT": pa.float32(), "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(), "DATE": pa.date32(), "TIMESTAMP": pa.timestamp("us", "UTC"),
}  # fmt: skip


class StatementFailed(LakeError):
    """The warehouse refused a statement; the text is its own."""


def of_the_environment() -> tuple[str, str]:
    """Host and token of DATABRICKS_HOST and DATABRICKS_TOKEN; UsageError if one is not set."""
    host, token = os.environ.get("DATABRICKS_HOST"), os.environ.get("DATABRICKS_TOKEN")
    if not host or not token:
        raise UsageError("set DATABRICKS_HOST and DATABRICKS_TOKEN to ask the workspace")
    return host, token


def url(host: str) -> str:
    """The address of a workspace, which people also write without https://."""
    return (host if "://" in host else f"https://{host}").rstrip("/")


_connection: Callable[[], tuple[str, str]] = of_the_environment
_kept: dict[tuple[str, tuple[tuple[str, str | int], ...]], tuple[float, pa.Table]] = {}


def use(connection: Callable[[], tuple[str, str]]) -> None:
    """Take host and token from a function, which is called for each statement, and each minute that it takes."""
    global _connection
    _connection = connection


def forget() -> None:
    """Read everything anew from here on."""
    _kept.clear()


def sql(text: str, values: Mapping[str, str | int], kept_seconds: float | None = None) -> pa.Table:
    """The rows of a statement with its values bound (`:name`); those of the last minute if it was asked before."""
    seconds = KEPT_SECONDS if kept_seconds is None else kept_seconds
    key, now = (text, tuple(sorted(values.items()))), time.monotonic()
    for other, (at, _) in list(_kept.items()):
        if now - at > KEPT_SECONDS:
            _kept.pop(other, None)
    kept = _kept.get(key)
    if kept is None or now - kept[0] > seconds:
        rows = _ask(text, values)  # which takes minutes where a warehouse starts
        kept = _kept[key] = time.monotonic(), rows
    return kept[1]


def _ask(text: str, values: Mapping[str, str | int]) -> pa.Table:
    parameters = [
        {"name": name, "value": str(value), "type": "BIGINT" if isinstance(value, int) else "STRING"}
        for name, value in values.items()
    ]
    connection = _for_a_minute(_connection)
    answer = _request(connection, "POST", _STATEMENTS, {
        "warehouse_id": settings.sql_warehouse(), "statement": text, "parameters": parameters,
        "format": "JSON_ARRAY", "disposition": "INLINE", "wait_timeout": "50s", "on_wait_timeout": "CONTINUE",
    })  # fmt: skip
    place, deadline = f"{_STATEMENTS}/{answer['statement_id']}", time.monotonic() + PATIENCE_SECONDS
    while (state := answer["status"]["state"]) in ("PENDING", "RUNNING"):
        if time.monotonic() > deadline:
            _request(connection, "POST", f"{place}/cancel", {})
            raise LakeError(
                f"the warehouse {settings.sql_warehouse()} has not answered for {PATIENCE_SECONDS / 60:.0f} minutes "
                f"({state}): look at its page, start it, or take another one (LAKE_SQL_WAREHOUSE)"
            )
        time.sleep(POLL_SECONDS)
        answer = _request(connection, "GET", place)
    if state != "SUCCEEDED":  # one that somebody has cancelled may be as it should
        kind, error = StatementFailed if state == "FAILED" else LakeError, answer["status"].get("error")
        raise kind(f"the warehouse says {state}: {_line(error) if error else 'somebody has ended it, so try again'}")
    result = answer.get("result") or {}
    lists = list(result.get("data_array") or ())
    while following := result.get("next_chunk_internal_link"):
        result = _request(connection, "GET", following)
        lists += result.get("data_array") or ()
    return _table(answer["manifest"]["schema"].get("columns") or [], lists)


def _line(error: Mapping[str, Any]) -> str:
    text = f"{error.get('error_code')}: {error.get('message')}".splitlines()[0]
    return f"{text}: {_GRANT}" if "INSUFFICIENT_PERMISSIONS" in text or "PERMISSION_DENIED" in text else text


def _for_a_minute(look_up: Callable[[], tuple[str, str]]) -> Callable[[], tuple[str, str]]:
    """The same, looked up again only after a minute."""
    found, at = look_up(), time.monotonic()

    def connection() -> tuple[str, str]:
        nonlocal found, at
        if time.monotonic() - at > CONNECTION_SECONDS:
            found, at = look_up(), time.monotonic()
        return found

    return connection


def _request(
    connection: Callable[[], tuple[str, str]], method: str, path: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """One answer of the workspace; LakeError in one line with the cure."""
    host, token = connection()
    target = url(host) + path
    retry = Retry(
        total=_RETRIES, connect=3, read=2, backoff_factor=BACK_OFF_SECONDS, backoff_max=30, allowed_methods=None,
        status_forcelist=_BUSY, raise_on_status=False, respect_retry_after_header=True,
    )  # fmt: skip
    try:
        with requests.Session() as session:
            session.mount(target.partition("://")[0] + "://", HTTPAdapter(max_retries=retry))
            headers = {"Authorization": f"Bearer {token}", "User-Agent": "lake"}
            answer = session.request(method, target, json=body, headers=headers, timeout=(10, 90))
    except requests.RequestException as error:
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise LakeError(f"{host} does not answer ({reason}): correct the host of the connection") from None
    if answer.ok:
        with suppress(ValueError):
            if isinstance(content := answer.json(), dict):
                return content
        raise LakeError(f"{host} does not answer as a workspace of Databricks: correct the host of the connection")
    try:
        reason = str(answer.json()["message"]).partition("\n")[0][:200]
    except (ValueError, KeyError, TypeError):
        reason = answer.reason
    cure = _CURES.get(answer.status_code, "try again, or look at the status page of Databricks")
    raise LakeError(f"{host} says {answer.status_code} ({reason}): {cure}")


# -- values


def _table(columns: list[dict[str, Any]], lists: list[list[str | None]]) -> pa.Table:
    """The rows with their types: the API gives each value as a text."""
    fields = [(column["name"], _arrow_type(column.get("type_text") or column["type_name"])) for column in columns]
    texts = list(zip(*lists, strict=True)) or [()] * len(fields)
    arrays = [_array(column, kind) for column, (_, kind) in zip(texts, fields, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _array(texts: Sequence[str | None], kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(kind):  # the cast of Arrow takes no offset such as +00:00 in some texts and Z in others
        return pa.array([None if text is None else datetime.fromisoformat(text) for text in texts], kind)
    if not pa.types.is_nested(kind):
        return pa.array(texts, pa.string()).cast(kind)
    # A list or a map. The API gives what is in it as texts, too: `{"dropped":"3"}`.
    values = [None if text is None else json.loads(text) for text in texts]
    if pa.types.is_map(kind):
        return pa.array(values, pa.map_(pa.string(), pa.string())).cast(kind)
    return pa.array(values, pa.list_(pa.string())).cast(kind)


def _arrow_type(text: str) -> pa.DataType:
    name = text.upper()
    if of_map := re.fullmatch(r"MAP<STRING, ?(\w+)>", name):
        return pa.map_(pa.string(), _arrow_type(of_map[1]))
    if of_list := re.fullmatch(r"ARRAY<(\w+)>", name):
        return pa.list_(_arrow_type(of_list[1]))
    if decimal := re.fullmatch(r"DECIMAL\((\d+), ?(\d+)\)", name):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    return _ARROW.get(name, pa.string())  # such as a STRUCT, or a list of lists: as it is written
