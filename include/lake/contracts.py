"""Contracts: one YAML file per table, include/sql/<schema>/<table>.yaml, beside its SELECT <table>.sql.

A contract without a SELECT is a source. The fields are those of `Contract`; what can be derived is not a field.
"""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from include.lake import settings
from include.lake.errors import ContractError, UsageError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TABLE = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
_TYPE = re.compile(r"(array<)?(string|tinyint|int|bigint|double|boolean|date|timestamp)(?(1)>)")

# The one column that the runner fills: the UTC start of the build, the same for every row of it.
RUN_TIMESTAMP = "run_timestamp"
# A SELECT may give this column: a row with a reason in it is counted under that reason and not published.
DROP_REASON = "drop_reason"
# Hours that a sensor waits for a day of a table whose contract does not say: until the next day's run takes over.
DEFAULT_PATIENCE_HOURS = 20


@dataclass(frozen=True)
class Column:
    """One column. `nullable`: may a row have no value here (by default: yes, but for key and day columns).

    `sensitive`: its values are masked where rows are shown that failed a check.
    """

    name: str
    type: str
    comment: str = ""
    nullable: bool = True
    sensitive: bool = False


@dataclass(frozen=True)
class Check:
    """A promise about the rows of a build. `severity`: `fail` publishes nothing, `warn` publishes and says so."""

    sql: str
    severity: str = "fail"


@dataclass(frozen=True)
class Contract:
    """What a table promises. `table` and `path` come from where the file is, the rest are the fields of the file.

    about: one or more sentences for people: what a row is, and every choice an analyst should know.
    key: columns that together occur once a day (a null counts as a value); empty where rows may repeat.
    partitioned_by: the day column is the last one; empty for a source that has no days.
    columns: name, type, comment, nullable, in order.
    checks: SQL that must hold before anything is published: an expression that is true of every row, or with aggregates
        (`count(*) > 0`) of every day, or a SELECT that gives the rows that break it: from `this` (what would be
        published), the table's inputs, and the table itself (as it is published now). `{warn: …}` only reports.
        What is null does not hold. For Spark NaN is larger than any number: so a column of doubles that a check
        reads must not be NaN, unless the check asks isnan() or nanvl() of it. :start_date and :end_date are the
        days of the build.
    reads: earlier days that the SELECT reads of an input: a number of days, or `all`; the day alone where not listed.
    patience_hours: how long a sensor waits for a day of this table.
    """

    table: str
    path: Path
    about: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    partitioned_by: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    reads: tuple[tuple[str, int | str], ...] = ()
    patience_hours: float = DEFAULT_PATIENCE_HOURS

    @property
    def select_path(self) -> Path:
        return self.path.with_suffix(".sql")

    @cached_property
    def is_source(self) -> bool:
        return not self.select_path.exists()

    @property
    def day_column(self) -> str | None:
        return self.partitioned_by[-1] if self.partitioned_by else None

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]


# The safe loader of C where PyYAML has it: a tenth of the time, at every parse of the DAGs.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_COLUMN_FIELDS = {"name", "type", "comment", "nullable", "sensitive"}
_FIELDS = {"about", "key", "partitioned_by", "columns", "checks", "reads", "patience_hours"}


def parse(text: str, path: Path) -> Contract:
    """The contract in `text`, the content of `path`. ContractError names file, thing and cure."""

    def wrong(what: str, needle: str = "") -> ContractError:
        lines = text.splitlines()
        line = next((f":{n}" for n, content in enumerate(lines, 1) if needle and needle in content), "")
        return ContractError(f"{settings.shown(path)}{line}: {what}")

    try:
        raw: Any = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise wrong(
            f"is not YAML (line {mark.line + 1 if mark else '?'}): {getattr(error, 'problem', error)}"
        ) from None
    if not isinstance(raw, dict):
        raise wrong("a contract is a mapping with the fields " + ", ".join(sorted(_FIELDS)))
    for field in raw:
        if field not in _FIELDS:
            raise wrong(f"unknown field `{field}`; the fields are {', '.join(sorted(_FIELDS))}", f"{field}:")
    if not str(raw.get("about") or "").strip():
        raise wrong("`about` is missing: say in a sentence what a row of the table is")

    names = {part: list(raw.get(part) or []) for part in ("key", "partitioned_by")}
    columns = []
    for item in raw.get("columns") or []:
        if not isinstance(item, dict) or not {"name", "type"} <= set(item) <= _COLUMN_FIELDS:
            raise wrong(f"a column is {{name, type, comment, nullable, sensitive}}, not {item!r}")
        if not _NAME.fullmatch(str(item["name"])):
            raise wrong(f"column name {item['name']!r}: use a-z, 0-9 and _", f"name: {item['name']}")
        if not _TYPE.fullmatch(str(item["type"])):
            raise wrong(f"column {item['name']}: unknown type {item['type']!r}", f"name: {item['name']},")
        fixed = item["name"] in names["key"] + names["partitioned_by"] + [RUN_TIMESTAMP]
        columns.append(Column(**{"nullable": not fixed, **item, "comment": str(item.get("comment", ""))}))
    known = [column.name for column in columns]
    if not columns:
        raise wrong("`columns` is missing: list name and type of each column")
    for repeated in {name for name in known if known.count(name) > 1}:
        raise wrong(f"column {repeated} is listed twice", f"name: {repeated},")
    for part, listed in names.items():
        for name in listed:
            if name not in known:
                raise wrong(f"`{part}` names {name}, which is not a column", f"{part}:")
    checks = []
    for item in raw.get("checks") or []:
        severity, sql = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else ("fail", item)
        if severity not in ("fail", "warn") or not isinstance(sql, str):
            raise wrong(f"a check is SQL, or {{warn: SQL}}, not {item!r}", "checks:")
        checks.append(Check(sql.strip(), severity))
    table = f"{path.parent.name}.{path.stem}"
    if not is_table_name(table):
        raise wrong(f"{table} is not a table name: use a-z, 0-9 and _ for folder and file")
    contract = Contract(
        table=table,
        path=path,
        about=str(raw["about"]).strip(),
        columns=tuple(columns),
        key=tuple(names["key"]),
        partitioned_by=tuple(names["partitioned_by"]),
        checks=tuple(checks),
        reads=tuple(sorted((raw.get("reads") or {}).items())),
        patience_hours=raw.get("patience_hours", DEFAULT_PATIENCE_HOURS),
    )
    day_type = next((c.type for c in columns if c.name == contract.day_column), "string")
    if day_type != "string":
        raise wrong(
            f"the day column {contract.day_column} must be a string yyyy-MM-dd", f"name: {contract.day_column},"
        )
    for table_read, earlier in contract.reads:
        if earlier != "all" and not (isinstance(earlier, int) and earlier > 0):
            raise wrong(
                f"`reads` of {table_read}: a number of earlier days or `all`, not {earlier!r}", f"{table_read}:"
            )
    if not (isinstance(contract.patience_hours, (int, float)) and contract.patience_hours > 0):
        raise wrong("`patience_hours` is a positive number of hours", "patience_hours:")
    if not contract.is_source:
        if "key" not in raw:
            raise wrong("`key` is missing: the columns that occur once a day, or [] where rows may repeat")
        if not contract.partitioned_by:
            raise wrong("`partitioned_by` is missing: the last of its columns is the day")
    return contract


def is_table_name(text: str) -> bool:
    """Is `text` schema.table in a-z, 0-9 and _: safe in SQL, in a path and in a task id."""
    return bool(_TABLE.fullmatch(text))


@cache
def load_all() -> dict[str, Contract]:
    """All contracts by table name, in the order of their names. Read once per process."""
    paths = sorted(settings.SQL.glob("*/*.yaml"))
    found = {}
    for path in paths:
        contract = parse(path.read_text(encoding="utf-8"), path)
        found[contract.table] = contract
    for path in sorted(settings.SQL.glob("*/*.sql")):
        if f"{path.parent.name}.{path.stem}" not in found:
            raise ContractError(f"{settings.shown(path)}: has no contract; write {path.stem}.yaml beside it")
    return found


def get(table: str) -> Contract:
    """The contract of `table`; UsageError with the nearest names if there is none."""
    found = load_all()
    if table in found:
        return found[table]
    import difflib

    near = difflib.get_close_matches(str(table), found, n=1)
    hint = f"did you mean {near[0]}?" if near else "./lake lineage lists the tables"
    raise UsageError(f"there is no table {table!r}: {hint}")
