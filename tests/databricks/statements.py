"""The statement API of Databricks, as far as the lake uses it: each statement really runs, on one Spark with Delta."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from include.lake import settings
from include.lake.engine import connect, server
from tests.conftest import QUICK

WAREHOUSE = "0123456789abcdef"
CATALOG = "spark_catalog"
_PLACE = "/api/2.0/sql/statements"
_FIELDS = {
    "byte_limit", "catalog", "disposition", "format", "on_wait_timeout", "parameters", "query_tags", "row_limit",
    "schema", "statement", "wait_timeout", "warehouse_id",
}  # fmt: skip
# What is between quotes, and after it the name of a parameter.
_PARAMETER = re.compile(r"('(?:[^'\\]|\\.)*'|`[^`]*`)|(?<![:\w]):([a-z_]\w*)")
_DAY = re.compile(r"'\d{4}-\d\d(-\d\d)?'")


@contextmanager
def spark_server(folder: Path) -> Iterator[tuple[str, str]]:
    """Address and token of a Spark Connect server, whose catalog lives as long as it does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKE_HOME", str(folder))
        patch.setenv("LAKE_ENGINE", settings.SPARK)
        patch.setenv("LAKE_ENGINE_MEMORY", "1500m")
        patch.setenv(
            "JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=4"
        )  # it lives for minutes, so Java's second compiler pays
        address = server.start(settings.SPARK, lambda line: None)
        token = str(settings.engine_token())
    try:
        yield address, token
    finally:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LAKE_HOME", str(folder))
            server.stop(patience=0)


@contextmanager
def session(address: str, token: str) -> Iterator[Any]:
    """A session of the server with the settings that Databricks has: those of a small test."""
    with connect.session(address, {**QUICK, "spark.sql.session.timeZone": "UTC"}, token) as spark:
        yield spark


def empty_catalog(spark: Any) -> None:
    """Drop all schemas, whosever tables are in them."""
    for (schema,) in spark.sql(f"show schemas in {CATALOG}").collect():
        if schema != "default":
            spark.sql(f"drop schema {CATALOG}.{schema} cascade")


class Statements:
    """Answers the statement API. `asked`: the texts of all statements. `pending`: that many answers say PENDING."""

    def __init__(self, spark: Any, chunk_rows: int = 1000) -> None:
        self.asked: list[str] = []
        self.pending = 0
        self.cancelled = 0
        self._spark, self._chunk_rows = spark, chunk_rows
        self._results: dict[str, dict[str, Any]] = {}
        self._chunks: dict[str, list[list[Any]]] = {}
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any] | None:
        """Status and body; None for what is not of the statement API."""
        if not path.startswith(_PLACE):
            return None
        with self._lock:
            rest = path.removeprefix(_PLACE).strip("/").split("/")
            if method == "POST" and rest == [""]:
                return self._execute(body)
            if rest[0] not in self._results:
                return _refused(404, "NOT_FOUND", f"The statement {rest[0]} was not found.")
            if method == "POST" and rest[1:] == ["cancel"]:
                self.cancelled += 1
                return 200, {}
            if method == "GET" and rest[1:3] == ["result", "chunks"]:
                return 200, self._chunk(rest[0], int(rest[3]))
            return 200, self._state(rest[0])

    def _execute(self, body: dict[str, Any]) -> tuple[int, Any]:
        if unknown := body.keys() - _FIELDS:
            return _refused(
                400, "INVALID_PARAMETER_VALUE", f"Could not parse request object: unknown {sorted(unknown)}"
            )
        if body.get("warehouse_id") != WAREHOUSE:
            return _refused(404, "RESOURCE_DOES_NOT_EXIST", f"SQL warehouse {body.get('warehouse_id')} does not exist.")
        text, values = body["statement"], {one["name"]: one for one in body.get("parameters", ())}
        self.asked.append(text)
        number = f"01ef-{len(self.asked):08}"
        if _DAY.search(text):
            raise AssertionError(f"a day is written into a statement instead of bound: {text}")
        used: set[str] = set()

        def bound(part: re.Match[str]) -> str:
            if part[1]:
                return part[0]
            used.add(part[2])
            value = str(values[part[2]]["value"])
            if values[part[2]].get("type", "STRING") != "STRING":
                return str(int(value))
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

        try:
            text = _PARAMETER.sub(bound, text)
            if unused := values.keys() - used:
                raise KeyError(*unused)
            table = self._spark.sql(text).toArrow()
        except KeyError as error:
            return self._failed(
                number, f"[UNBOUND_SQL_PARAMETER] Found the unbound parameter: {error}. SQLSTATE: 42P02"
            )
        except Exception as error:
            return self._failed(number, str(error))
        columns = [_column(place, field.name, str(field.type)) for place, field in enumerate(table.schema)]
        rows = [[_text(value) for value in row.values()] for row in table.to_pylist(maps_as_pydicts="strict")]
        size = self._chunk_rows
        self._chunks[number] = [rows[start : start + size] for start in range(0, len(rows), size)] or [[]]
        manifest = {
            "format": "JSON_ARRAY", "schema": {"column_count": len(columns), "columns": columns},
            "total_row_count": len(rows), "total_chunk_count": len(self._chunks[number]), "truncated": False,
        }  # fmt: skip
        self._results[number] = {
            "status": {"state": "SUCCEEDED"},
            "manifest": manifest,
            "result": self._chunk(number, 0),
        }
        return 200, self._state(number)

    def _failed(self, number: str, message: str) -> tuple[int, Any]:
        self._results[number] = {
            "status": {"state": "FAILED", "error": {"error_code": "BAD_REQUEST", "message": message}}
        }
        return 200, self._state(number)

    def _state(self, number: str) -> dict[str, Any]:
        if self.pending:
            self.pending -= 1
            return {"statement_id": number, "status": {"state": "PENDING"}}
        return {"statement_id": number, **self._results[number]}

    def _chunk(self, number: str, place: int) -> dict[str, Any]:
        chunk = {"chunk_index": place, "row_count": len(self._chunks[number][place])}
        if place + 1 < len(self._chunks[number]):
            chunk |= {"next_chunk_index": place + 1}
            chunk |= {"next_chunk_internal_link": f"{_PLACE}/{number}/result/chunks/{place + 1}"}
        return {**chunk, "data_array": self._chunks[number][place]}


def _refused(status: int, code: str, message: str) -> tuple[int, Any]:
    return status, {"error_code": code, "message": message}


_NAMES = {
    "string": "STRING", "int8": "TINYINT", "int16": "SMALLINT", "int32": "INT", "int64": "BIGINT", "double": "DOUBLE",
    "float": "FLOAT", "bool": "BOOLEAN", "date32[day]": "DATE", "timestamp[us, tz=UTC]": "TIMESTAMP", "null": "VOID",
}  # fmt: skip


def _column(place: int, name: str, kind: str) -> dict[str, Any]:
    text = _sql_type(kind)
    return {"name": name, "type_text": text, "type_name": text.partition("<")[0], "position": place}


def _sql_type(kind: str) -> str:
    """The name that Databricks has for a type of Arrow."""
    if kind.startswith("list<"):
        return f"ARRAY<{_sql_type(kind[5:-1].partition(': ')[2])}>"
    if kind.startswith("map<"):
        return f"MAP<{', '.join(_sql_type(part) for part in kind[4:-1].split(', '))}>"
    if kind.startswith("decimal128"):
        return kind.replace("decimal128", "DECIMAL").replace(" ", "")
    return _NAMES.get(kind, "STRUCT<>")


def _texts(value: Any) -> Any:
    """Databricks writes what is in a list or a map as texts, too."""
    if isinstance(value, dict):
        return {key: _texts(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_texts(one) for one in value]
    return _text(value)


def _text(value: Any) -> str | None:
    """A value as the API writes it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (list, dict)):
        return json.dumps(_texts(value), default=str)
    return str(value)
