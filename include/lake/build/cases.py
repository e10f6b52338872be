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
from include.lake.build import runner
from include.lake.errors import UsageError
from include.lake.project import contracts, lineage, periods
from include.lake.project.contracts import DROP_REASON, RUN_TIMESTAMP

FIELDS = {"about", "start", "end", "inputs", "expect", "dropped"}
ZONES = {"UTC": UTC, "KST": timezone(timedelta(hours=9))}
MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2}) (\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?)(?: (UTC|KST))?")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
WHOLE_NUMBERS = {"tinyint": 8, "int": 32, "bigint": 64}


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


class _Loader(yaml.SafeLoader):
    """YAML in which days and moments are text, so that a zone can follow them and none is guessed; and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for repeated in {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"line {node.start_mark.line + 1}: {repeated} is given twice")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def moment(text: Any, zone_needed: bool) -> datetime | None:
    """The moment that `text` names, or None if it names none."""
    match = MOMENT.fullmatch(text) if isinstance(text, str) else None
    if not match or (zone_needed and not match[3]):
        return None
    return datetime.fromisoformat(f"{match[1]} {match[2]}").replace(tzinfo=ZONES[match[3] or "UTC"])


def _milliseconds(value: Any) -> Any:
    at = moment(value, zone_needed=True)
    return value if at is None else (at - EPOCH) // timedelta(milliseconds=1)


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(part) for key, part in value.items()}
    return [_json(part) for part in value] if isinstance(value, list) else _milliseconds(value)


def to_type(value: Any, type_: str) -> Any:
    """A value of a case as a value of a column type; ValueError if it cannot be one."""
    if value is None:
        return None
    if type_.startswith("array<") and isinstance(value, list):
        return [to_type(part, type_[len("array<") : -1]) for part in value]
    if type_ == "string" and isinstance(value, (dict, list)):
        return json.dumps(_json(value), ensure_ascii=False, separators=(",", ":"))
    if type_ == "string" and isinstance(value, str):
        return value
    if type_ in WHOLE_NUMBERS:
        number = _milliseconds(value) if type_ == "bigint" else value
        if type(number) is int and abs(number) < 2 ** (WHOLE_NUMBERS[type_] - 1):
            return number
    if type_ == "double" and type(value) in (int, float):
        return float(value)
    if type_ == "boolean" and isinstance(value, bool):
        return value
    if type_ == "date" and isinstance(value, str):
        return date.fromisoformat(value)
    if type_ == "timestamp" and (at := moment(value, zone_needed=False)):
        return at
    raise ValueError(f"{value!r} is not a {type_}" + (" (quote it)" if type_ == "string" else ""))


def rows_of(table: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a case with typed values, only the columns given; ValueError names row and column."""
    types = {column.name: column.type for column in contracts.get(table).columns}
    typed: list[dict[str, Any]] = []
    for number, row in enumerate(rows or [], 1):
        typed.append({})
        for name, value in row.items():
            if name not in types:
                raise ValueError(f"{table} has no column {name} (row {number})")
            try:
                typed[-1][name] = to_type(value, types[name])
            except ValueError as error:
                raise ValueError(f"{table}.{name} (row {number}): {error}") from None
    return typed


def table_of(path: Path) -> str:
    return f"{path.parent.parent.name}.{path.parent.name}"


def read(path: Path) -> Case:
    """One case; UsageError with its file and the reason if it cannot be one."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        return _case(path, values)
    except (ValueError, TypeError, AttributeError, OSError, yaml.YAMLError, UsageError) as error:
        raise UsageError(f"{settings.shown(path)}: {' '.join(str(error).split())}") from None


def _case(path: Path, values: Any) -> Case:
    if not isinstance(values, dict):
        raise ValueError("is no case: write a mapping with `about`, `start` and `expect`")
    if unknown := set(values) - FIELDS:
        raise ValueError(
            f"unknown fields {', '.join(sorted(map(str, unknown)))}; there are {', '.join(sorted(FIELDS))}"
        )
    if not values.get("about") or "start" not in values or "expect" not in values:
        raise ValueError("a case has `about`, `start` and `expect`")
    table, start = table_of(path), str(values["start"])
    end = str(values.get("end", start))
    periods.keys(contracts.get(table).grain, start, end)
    inputs = {name: rows_of(name, rows) for name, rows in (values.get("inputs") or {}).items()}
    if unread := sorted(inputs.keys() - set(lineage.inputs(table))):
        raise ValueError(f"{table} does not read {', '.join(unread)}")
    expected = rows_of(table, values["expect"])
    return Case(path, table, str(values["about"]).strip(), start, end, inputs, expected, values.get("dropped") or {})


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
    for name in lineage.inputs(case.table):
        _register(spark, name, case.inputs.get(name, []))
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


# Session -> table -> a frame without rows. Most inputs of a case are empty: a frame is made once.
_empty: dict[int, dict[str, Any]] = {}


def _register(spark: SparkSession, table: str, rows: list[dict[str, Any]]) -> None:
    """Make `rows` the view that stands for `table`."""
    columns = contracts.get(table).columns
    schema = ", ".join(f"{column.name} {column.type}" for column in columns)
    if rows:
        frame = spark.createDataFrame([tuple(row.get(c.name) for c in columns) for row in rows], schema)
    else:
        known = _empty.setdefault(id(spark), {})
        if table not in known:
            known[table] = spark.createDataFrame([], schema)
        frame = known[table]
    # One partition, and known to be one: then nothing is shuffled, and the whole SELECT is a single task.
    frame.coalesce(1).createOrReplaceTempView(lineage.view_name(table))
