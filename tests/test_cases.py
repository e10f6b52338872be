"""Hand-made rows with the expected rows beside them: tests/cases/<schema>/<table>/<rule>.yaml, a file per case.

    about: the rule proved, in one sentence
    start: 2026-01-05        # the day built, or with `end` the range of days
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
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from include.lake.contracts import DROP_REASON, RUN_TIMESTAMP

from include.lake import contracts, days, lineage

CASES = Path(__file__).parent / "cases"
PATHS = sorted(CASES.glob("*/*/*.yaml"))
FIELDS = {"about", "start", "end", "inputs", "expect", "dropped"}
ZONES = {"UTC": UTC, "KST": timezone(timedelta(hours=9))}
MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2}) (\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?)(?: (UTC|KST))?")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
WHOLE_NUMBERS = {"tinyint": 8, "int": 32, "bigint": 64}


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


def read_case(path: Path) -> dict[str, Any]:
    """A case with all its fields and typed rows; ValueError if it cannot be one."""
    case = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    if unknown := set(case) - FIELDS:
        raise ValueError(f"unknown fields {', '.join(sorted(unknown))}; there are {', '.join(sorted(FIELDS))}")
    if not case.get("about") or "start" not in case or "expect" not in case:
        raise ValueError("a case has `about`, `start` and `expect`")
    case.setdefault("end", case["start"])
    days.day_range(case["start"], case["end"])
    case["inputs"] = {table: rows_of(table, rows) for table, rows in (case.get("inputs") or {}).items()}
    case["expect"] = rows_of(table_of(path), case["expect"])
    case.setdefault("dropped", {})
    return case


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


_empty: dict[str, Any] = {}


def register(spark: Any, table: str, rows: list[dict[str, Any]]) -> None:
    """Make `rows` the view that stands for `table`. Empty ones are made once: most inputs of a case are empty."""
    columns = contracts.get(table).columns
    schema = ", ".join(f"{column.name} {column.type}" for column in columns)
    if rows:
        frame = spark.createDataFrame([tuple(row.get(c.name) for c in columns) for row in rows], schema)
    else:
        if table not in _empty:
            _empty[table] = spark.createDataFrame([], schema)
        frame = _empty[table]
    # One partition, and known to be one: then nothing is shuffled, and the whole SELECT is a single task.
    frame.coalesce(1).createOrReplaceTempView(lineage.view_name(table))


@pytest.mark.spark
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(CASES).with_suffix("").as_posix())
def test_case(path: Path, spark: Any) -> None:
    from include.lake import runner

    table, case = table_of(path), read_case(path)
    if unread := set(case["inputs"]) - set(lineage.inputs(table)):
        pytest.fail(f"{table} does not read {', '.join(sorted(unread))}", pytrace=False)
    for name in lineage.inputs(table):
        register(spark, name, case["inputs"].get(name, []))
    frame = runner.compute(spark, table, case["start"], case["end"])

    types = {c.name: c.type for c in contracts.get(table).columns if c.name != RUN_TIMESTAMP}
    found = {field.name: field.dataType.simpleString() for field in frame.schema if field.name != DROP_REASON}
    wrong = [
        f"{name}: {types.get(name)} in the contract, is {found.get(name)}"
        for name in types | found
        if types.get(name) != found.get(name)
    ]
    assert not wrong, "columns differ from the contract:\n" + "\n".join(wrong)

    columns = [name for name in types if any(name in row for row in case["expect"])]
    exact = [f"unix_micros({name})" if types[name] == "timestamp" else name for name in columns]
    collected = [tuple(row) for row in frame.selectExpr(DROP_REASON, *exact).collect()]
    actual = [tuple(map(_comparable, row[1:])) for row in collected if row[0] is None]
    expected = [tuple(_comparable(row.get(name)) for name in columns) for row in case["expect"]]
    problems = differences(expected, actual, columns, types)
    dropped = dict(Counter(row[0] for row in collected if row[0] is not None))
    if dropped != case["dropped"]:
        problems.append(f"dropped:    expected {case['dropped']}, is {dropped}")
    if problems:
        pytest.fail(f"{case['about'].strip()}\n\n" + "\n".join(problems), pytrace=False)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(CASES).with_suffix("").as_posix())
def test_case_can_be_read(path: Path) -> None:
    """Without Spark, in seconds: fields, tables, columns and values of every case exist."""
    assert table_of(path) in contracts.load_all()
    read_case(path)


def test_every_built_table_has_a_case() -> None:
    built = {name for name, contract in contracts.load_all().items() if not contract.is_source}
    assert built, "no table has a SELECT"
    assert not built - set(map(table_of, PATHS)), "tables without a case in tests/cases/<schema>/<table>/"
