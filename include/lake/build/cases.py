"""Cases: hand-made rows with the expected rows beside them: tests/cases/<schema>/<table>/<rule>.yaml, a file each.

    about: the rule proved, in one sentence
    start: 2026-01-05        # the partition built, or with `end` the range of them
    inputs:                  # table -> rows; a column not given is null, a table not listed is empty
      service_log.weverse_server_log:
        - {date_id: 2026-01-05, unix_log_timestamp: 2026-01-05 09:00:00.000 KST, params: {_gcc: KR}}
    expect:                  # exactly these rows, in any order; only the columns named in any of them are compared
      - {log_dt: 2026-01-05 00:00:00.000, gcc: KR}
    dropped: {no_device: 1}  # rows with a drop_reason, by reason; without it no row may be dropped

Ways to write a value:
- a moment is `yyyy-MM-dd HH:mm:ss[.SSS]` and KST or UTC, in a timestamp column, in a bigint column of milliseconds or
  inside JSON; without a zone (timestamp columns only) it is what the table shows, as its session time zone is UTC
- JSON text is a mapping or a list in a string column (a text inside it stays a text); broken JSON is just a text
- YAML anchors shorten rows: `- &call {...}` and then `- {<<: *call, ...}` is the same row but for what follows
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml
from pyspark.sql import SparkSession

from include.lake import settings
from include.lake.build import runner, values
from include.lake.errors import UsageError
from include.lake.project import contracts, lineage, periods
from include.lake.project.contracts import DROP_REASON, RUN_TIMESTAMP, Column

FIELDS = ("about", "start", "end", "inputs", "expect", "dropped")
ZONES = {"UTC": UTC, "KST": timezone(timedelta(hours=9))}
MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2}) (\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?)(?: (UTC|KST))?")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Case:
    """A case with typed rows. `start`, `end`: partition keys of `table`; `dropped`: reason -> rows."""

    path: Path
    table: str
    about: str
    start: str
    end: str
    inputs: dict[str, list[dict[str, Any]]]
    expect: list[dict[str, Any]]
    dropped: dict[str, int]

    @property
    def name(self) -> str:
        return self.path.stem


def folder() -> Path:
    return settings.ROOT / "tests" / "cases"


def paths(tables: Iterable[str] | None = None) -> list[Path]:
    """The files of the cases of some tables, all by default."""
    files = sorted(path for path in folder().glob("*/*/*.yaml") if not contracts.is_leftover(path.name))
    return files if tables is None else [path for path in files if table_of(path) in set(tables)]


def path(table: str, name: str) -> Path:
    """The file of a case of a table; UsageError names the cases that there are."""
    by_name = {path.stem: path for path in paths([table])}
    if name not in by_name:
        raise UsageError(
            f"{table} has no case {name}; it has {', '.join(sorted(by_name)) or 'none'}{_to_rename(table)}"
        )
    return by_name[name]


def require(table: str) -> None:
    """UsageError unless the table has a case."""
    if not paths([table]):
        where = folder() / table.replace(".", "/")
        raise UsageError(f"{table} has no case: write one in {settings.shown(where)}/{_to_rename(table)}")


def _to_rename(table: str) -> str:
    """A hint at a file that is meant as a case of the table, and is none by its ending."""
    near = sorted((folder() / table.replace(".", "/")).glob("*.yml"))
    return f" (a case ends in .yaml: rename {near[0].name})" if near else ""


class _Loader(yaml.SafeLoader):
    """YAML in which days and moments are text, so that a zone can follow them and none is guessed; and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"`{key.value}` is given twice; remove one", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Wrong(Exception):
    """A mistake in a case: names of fields and positions in lists, from the outside in, and the cure."""

    def __init__(self, message: str, *place: int | str) -> None:
        super().__init__(message)
        self.place = place


def _moment(text: Any, zone_needed: bool) -> datetime | None:
    """The moment that `text` names, or None if it names none."""
    match = MOMENT.fullmatch(text) if isinstance(text, str) else None
    if not match or (zone_needed and not match[3]):
        return None
    return datetime.fromisoformat(f"{match[1]} {match[2]}").replace(tzinfo=ZONES[match[3] or "UTC"])


def _milliseconds(value: Any) -> Any:
    at = _moment(value, zone_needed=True)
    return value if at is None else (at - EPOCH) // timedelta(milliseconds=1)


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(part) for key, part in value.items()}
    return [_json(part) for part in value] if isinstance(value, list) else _milliseconds(value)


def _value(column: Column, value: Any) -> Any:
    """A value of a case as a value of a column; ValueError if it cannot be one."""
    if column.type.startswith("array<") and isinstance(value, list):
        item = column.model_copy(update={"type": column.type[len("array<") : -1]})
        return [_value(item, part) for part in value]
    if column.type == "string" and isinstance(value, (dict, list)):
        return json.dumps(_json(value), ensure_ascii=False, separators=(",", ":"))
    if column.type == "bigint":
        value = _milliseconds(value)
    if column.type == "timestamp":
        value = _moment(value, zone_needed=False) or value
    return values.as_value(column, value)


def _rows(table: str, rows: Any, *place: int | str) -> list[dict[str, Any]]:
    """Rows of a case with typed values, only the columns given."""
    columns = {column.name: column for column in contracts.get(table).columns}
    if not isinstance(rows, list):
        raise _Wrong("is no list of rows: write [] for none, or a line `- {column: value}` for each", *place)
    typed: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise _Wrong(f"{row!r} is no row: write {{column: value}}", *place, number)
        typed.append({})
        for name, value in row.items():
            here = (*place, number, name)
            if name not in columns:
                near = difflib.get_close_matches(str(name), columns, n=1) or sorted(columns)
                raise _Wrong(f"{table} has no column {name}; it has {', '.join(near)}", *here)
            try:
                typed[-1][name] = _value(columns[name], value)
            except values.Unfit as error:
                cure = "; quote it" if columns[name].type == "string" else ""
                raise _Wrong(f"{table}.{error}{cure}", *here) from None
            except ValueError as error:  # of a moment such as 25:00:00
                raise _Wrong(f"{table}.{name}: {value!r} is no moment: {error}", *here) from None
    return typed


def table_of(path: Path) -> str:
    return f"{path.parent.parent.name}.{path.parent.name}"


def read(path: Path) -> Case:
    """One case; UsageError with file, line and cure if it cannot be one."""
    shown = settings.shown(path)
    try:
        loader = _Loader(contracts.read_text(path))
        node = loader.get_single_node()
        content = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(contracts.wrong_yaml(error, shown)) from None
    try:
        return _case(path, content)
    except _Wrong as error:
        raise UsageError(f"{shown}:{contracts.line_of(node, error.place)}: {error}") from None


def _case(path: Path, content: Any) -> Case:
    if not isinstance(content, dict):
        raise _Wrong("is no case: write a mapping with `about`, `start` and `expect`")
    for name in content:
        if name not in FIELDS:
            raise _Wrong(f"unknown field `{name}`; the fields are {', '.join(FIELDS)}", name)
    for name in ("about", "start", "expect"):
        if content.get(name) in (None, ""):
            raise _Wrong(f"`{name}` is missing: a case has `about`, `start` and `expect`", name)
    table, start = table_of(path), str(content["start"])
    end = str(content.get("end", start))
    try:
        grain = contracts.get(table).grain
    except UsageError as error:
        raise _Wrong(str(error)) from None
    try:
        periods.keys(grain, start, end)
    except UsageError as error:
        raise _Wrong(str(error), "start") from None
    given, dropped = content.get("inputs") or {}, content.get("dropped") or {}
    if not isinstance(given, dict):
        raise _Wrong("`inputs` is no mapping: write each table with its rows", "inputs")
    if not isinstance(dropped, dict):
        raise _Wrong("`dropped` is no mapping: write {reason: rows}", "dropped")
    inputs = {}
    for name, rows in given.items():
        if name not in (read_by := lineage.inputs(table)):
            raise _Wrong(f"{table} does not read {name}; it reads {', '.join(read_by)}", "inputs", name)
        inputs[name] = _rows(name, rows or [], "inputs", name)
    expected = _rows(table, content["expect"], "expect")
    return Case(path, table, str(content["about"]).strip(), start, end, inputs, expected, dropped)


def _comparable(value: Any) -> Any:
    """Timestamps as microseconds since the epoch: what `collect` makes of them depends on the zone of the machine."""
    if isinstance(value, list):
        return tuple(map(_comparable, value))
    return (value - EPOCH) // MICROSECOND if isinstance(value, datetime) else value


def _shown(value: Any, type_: str) -> str:
    if type_ == "timestamp" and isinstance(value, int):
        return (EPOCH + value * MICROSECOND).replace(tzinfo=None).isoformat(" ", "milliseconds")
    return "null" if value is None else str(value) if isinstance(value, date) else repr(value)


def differences(expected: list[tuple], actual: list[tuple], columns: list[str], types: dict[str, str]) -> list[str]:
    """What differs, for people: rows that agree in most of their columns are shown as one row with other values."""
    missing = list((Counter(expected) - Counter(actual)).elements())
    unexpected = list((Counter(actual) - Counter(expected)).elements())

    def shown(row: tuple, only: list[bool]) -> str:
        return ", ".join(f"{n}: {_shown(v, types[n])}" for n, v, show in zip(columns, row, only, strict=True) if show)

    lines = []
    alike = [
        (sum(a == b for a, b in zip(want, got, strict=True)), -m, -u)
        for m, want in enumerate(missing)
        for u, got in enumerate(unexpected)
    ]
    paired: set[tuple[str, int]] = set()
    for score, m, u in sorted(alike, reverse=True):
        if score and not {("m", m), ("u", u)} & paired:
            paired |= {("m", m), ("u", u)}
            same = [a == b for a, b in zip(missing[-m], unexpected[-u], strict=True)]
            lines.append(f"differs:    {{{shown(missing[-m], same)}}}")
            for name, equal, want, got in zip(columns, same, missing[-m], unexpected[-u], strict=True):
                if not equal:
                    lines.append(f"    {name}: expected {_shown(want, types[name])}, is {_shown(got, types[name])}")
    everything = [True] * len(columns)
    lines += [f"missing:    {{{shown(row, everything)}}}" for m, row in enumerate(missing) if ("m", -m) not in paired]
    lines += [
        f"unexpected: {{{shown(row, everything)}}}" for u, row in enumerate(unexpected) if ("u", -u) not in paired
    ]
    return lines


def run(spark: SparkSession, case: Case) -> list[str]:
    """What differs between the rows that a case expects and those that the SELECT gives; nothing if it holds.

    It reads and writes no table: the case's rows are views of the session.
    """
    register_inputs(spark, case, case.start, case.end)
    frame = runner.compute(spark, case.table, case.start, case.end)
    types = {c.name: c.type for c in contracts.get(case.table).columns if c.name != RUN_TIMESTAMP}
    columns = [name for name in types if any(name in row for row in case.expect)]
    exact = [f"unix_micros({name})" if types[name] == "timestamp" else name for name in columns]
    collected = [tuple(row) for row in frame.selectExpr(DROP_REASON, *exact).collect()]
    actual = [tuple(map(_comparable, row[1:])) for row in collected if row[0] is None]
    expected = [tuple(_comparable(row.get(name)) for name in columns) for row in case.expect]
    problems = differences(expected, actual, columns, types)
    dropped = dict(Counter(row[0] for row in collected if row[0] is not None))
    if dropped != case.dropped:
        problems.append(f"dropped:    expected {case.dropped}, is {dropped}")
    return problems


def register_inputs(spark: SparkSession, case: Case, start: str, end: str) -> None:
    """Make the rows of a case the views that a build of start..end reads."""
    seen = lineage.days_read(case.table, start, end)
    for name in lineage.inputs(case.table):
        rows = case.inputs.get(name, [])
        if name in seen:
            first, last = seen[name]
            rows = [row for row in rows if first <= str(row.get(str(contracts.get(name).day_column))) <= last]
        register(spark, name, rows)


# Session -> table -> a frame without rows. Most inputs of a case are empty: a frame is made once.
_empty: dict[int, dict[str, Any]] = {}


def register(spark: SparkSession, table: str, rows: list[dict[str, Any]]) -> None:
    """Make `rows` the view that stands for `table`."""
    columns = contracts.get(table).columns
    schema = ", ".join(f"{column.name} {column.type}" for column in columns)
    if rows:
        frame = spark.createDataFrame([tuple(row.get(c.name) for c in columns) for row in rows], schema)
    else:
        known = _empty.setdefault(id(spark), {})
        if table not in known:
            # Known to be empty: then Spark leaves out what would be joined with it, and plans in half the time.
            known[table] = spark.createDataFrame([], schema).limit(0)
        frame = known[table]
    # One partition, and known to be one: then nothing is shuffled, and the whole SELECT is a single task.
    frame.coalesce(1).createOrReplaceTempView(lineage.view_name(table))
