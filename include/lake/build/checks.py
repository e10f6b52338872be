"""The audit between compute and publish: Spark counts the rows that break the promises of a contract."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from include.lake import settings
from include.lake.build import failures
from include.lake.engine import engine, kinds
from include.lake.errors import CONFLICT, DATA, CheckFailed, ContractError, LakeError
from include.lake.project import contracts, lineage
from include.lake.project.contracts import DROP_REASON, RUN_TIMESTAMP, Contract
from include.lake.project.periods import Period
from include.lake.words import counted

_SHOWN_ROWS = 20
_ALL = 2**31 - 1
_SHOWN_LENGTH = 200
HIDDEN = "***"
# Beginnings of messages of Sail, Arrow and Spark that are the same whatever the rows are. Behind them may be a value.
_BEGINNINGS = (
    r"\[(ARITHMETIC_OVERFLOW|ASSERT_TRUE|CANNOT_PARSE_TIMESTAMP|CAST_INVALID_INPUT|CAST_OVERFLOW|DATETIME_OVERFLOW|"
    r"DIVIDE_BY_ZERO|DUPLICATED_MAP_KEY|INVALID_ARRAY_INDEX|INVALID_TIMEZONE|NUMERIC_VALUE_OUT_OF_RANGE|"
    r"REMAINDER_BY_ZERO|SCALAR_SUBQUERY_TOO_MANY_ROWS|USER_RAISED_EXCEPTION)(\.[A-Z_]+)?\]",
    r"(Caused by: )?(java\.lang|java\.time|org\.apache\.spark)\.[\w.]*(Exception|Error):",
    r"(java\.lang\.OutOfMemoryError: )?Java heap space",
    r"[\w.]+ of memory are too little \([\w :.]+\): give LAKE_ENGINE_MEMORY more, or build fewer days",
    "Cast error:", "Compute error: Regular expression did not compile:", "Compute error:", "Division by zero",
    "Encountered non UTF-8 data:", "Error parsing timestamp:", "Execution error:", "IO error:",
    "Illegal input for day of week:", "Illegal sequence boundaries:", "Invalid argument error:", "Object Store error:",
    "Parquet error:", "Parser error:", "Remainder by zero", "Scalar subquery returned more than one row",
    "Spark `[a-z0-9_]+` function:", "Unable to parse date from", "capacity overflow",
    "expected numeric datetime field", "invalid timestamp:", "regex parse error:", "string size overflow on repeat",
)  # fmt: skip
_BEGINNING = re.compile("|".join(_BEGINNINGS))
# Of a cast the types are shown, too. They stand behind the value, so the last ones are the engine's own words.
_OF_SPARK = (
    r'"(ARRAY<)?(STRING|TINYINT|SMALLINT|INT|BIGINT|FLOAT|DOUBLE|BOOLEAN|DATE|TIMESTAMP(_NTZ)?|BINARY|'
    r'DECIMAL\(\d+, ?\d+\))>?"'
)
_OF_ARROW = r"(U?Int\d+|Float\d+|Boolean|Date32|Timestamp|Utf8|Decimal128)(\([\w, -]+\))?"
_CASTS = [
    re.compile(text, re.DOTALL)
    for text in (
        rf"(?P<before>\[CAST_\w+\] The value )(?P<value>.*)(?P<after> of the type {_OF_SPARK}"
        rf"( cannot be cast to {_OF_SPARK}( because it is malformed| due to an overflow)?)?)",
        r"(?P<before>Cast error: (Cannot|Can't) cast (string|value) )(?P<value>.*)"
        rf"(?P<after> to (value of {_OF_ARROW} type|type {_OF_ARROW}))",
    )
]
# Behind the state Spark shows the place in the SELECT.
_STATE = re.compile(r"(.*)(SQLSTATE: [0-9A-Z]{5})(?:\W*)(\n== SQL.*)?", re.DOTALL)


@dataclass
class DayAudit:
    """The counts of one day: rows to publish, and rows that are dropped, by reason."""

    rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass
class Audit:
    """`days`: the counts of each day. `broken`: check -> rows or days that break it, above 0 only for `warn` checks."""

    days: dict[str, DayAudit]
    broken: dict[str, int]

    @property
    def warnings(self) -> dict[str, int]:
        return {name: count for name, count in self.broken.items() if count}


@dataclass(frozen=True)
class _Check:
    """A check in the form of the audit. `sql`: true for a good row or day; a SELECT gives the rows that break it.

    `hidden`: columns whose values are masked in example rows; None: all columns.
    """

    name: str
    sql: str
    kind: str
    hidden: frozenset[str] | None
    severity: str = "fail"


class MaskedError(PySparkException):
    """An error of Spark without the values of rows. Its SQLSTATE still gives the class of the error."""

    def __init__(self, message: str, state: str | None) -> None:
        super().__init__(message)
        self._state = state

    def getSqlState(self) -> str | None:
        return self._state


def require_types(contract: Contract, frame: DataFrame) -> None:
    """ContractError if the SELECT gives a column with another type than the contract."""
    types = engine().types(frame)
    cure = f"cast it in {settings.shown(contract.select_path)}"
    for column in contract.columns:
        if column.name != RUN_TIMESTAMP and types.get(column.name) != column.type:
            raise ContractError(
                f"{contract.table}.{column.name}: the SELECT gives {types.get(column.name, 'nothing')}, "
                f"the contract says {column.type}; {cure}"
            )
    if types.get(DROP_REASON, "string") not in ("string", "void"):
        raise ContractError(f"{contract.table}: {DROP_REASON} is {types[DROP_REASON]} and not a string; {cure}")


def audit(
    spark: SparkSession, contract: Contract, computed: DataFrame, days: list[str], some_keys: bool = False
) -> Audit:
    """Count what `computed` would publish for `days`, and check it.

    `computed` has the contract's columns and DROP_REASON. `some_keys`: it has the rows of touched keys, of which
    the session has a view, and not of all. The caller should persist it, because the audit reads it
    several times. A check's SELECT reads its inputs and the published table as views, see `lineage.view_name`. Raises
    CheckFailed, or ContractError for a check that Spark does not understand.
    """
    checks = _checks(contract, days, some_keys)
    by_row = [check for check in checks if check.kind == "row"]
    by_day = [check for check in checks if check.kind == "day"]
    computed = _without_values_of_dropped(contract, computed, [*by_row, *by_day])
    kept = computed.where(F.col(DROP_REASON).isNull()).drop(DROP_REASON)
    try:
        results = [
            *(F.count_if(~_holds(check)).alias(f"{lineage.OURS}row{n}") for n, check in enumerate(by_row)),
            *(_holds(check).alias(f"{lineage.OURS}day{n}") for n, check in enumerate(by_day)),
        ]
        # One pass over all rows computes, persists and counts them. All rows outside the range form one group, so that
        # a wrong day column cannot make many groups.
        day = F.lit(days[-1])  # of a table kept by key: its rows are of no day, and count for the last one
        if contract.day_column:
            day = F.when(F.expr(_inside(contract, days)), F.col(contract.day_column))
        groups = engine().collect(
            computed.groupBy(day.alias(f"{lineage.OURS}day"), F.col(DROP_REASON).alias(f"{lineage.OURS}reason")).agg(
                F.count(F.lit(1)).alias(f"{lineage.OURS}rows"), *results
            )
        )
        empty = []
        judged = days[-1:] if contract.kept_by else days
        if by_day and {group[0] for group in groups if group[1] is None and group[0]} != set(judged):
            empty = list(engine().collect(kept.where(F.lit(False)).agg(*results[len(by_row) :]))[0])
    except PySparkException as error:
        _blame(contract, [*by_row, *by_day], computed, kept, error)
        raise

    audited = {name: DayAudit() for name in days}
    broken = dict.fromkeys((check.name for check in checks), 0)
    by_days = {name: empty for name in judged}
    for name, reason, rows, *held in groups:
        if reason is not None:
            dropped = audited[name or days[-1]].dropped  # a dropped row without a day is counted, too
            dropped[reason] = dropped.get(reason, 0) + rows
            continue
        for check, count in zip(by_row, held, strict=False):
            broken[check.name] += count
        if name is not None:
            audited[name].rows = rows
            by_days[name] = held[len(by_row) :]
    for held in by_days.values():
        for check, holds in zip(by_day, held, strict=True):
            broken[check.name] += not holds
    for check in checks:
        if check.kind == "select":
            with _named(contract, check):
                broken[check.name] = _count(_breaking(spark, contract, kept, check))

    failed = [check for check in checks if broken[check.name] and check.severity == "fail"]
    if failed:
        counts = ", ".join(f"`{check.name}` fails {counted(broken[check.name], 'time')}" for check in failed)
        rows = _shown(failed[0], _breaking(spark, contract, kept, failed[0]))
        raise CheckFailed(f"{contract.table}: check {counts}; nothing was published{rows}", broken)
    return Audit(audited, broken)


def _without_values_of_dropped(contract: Contract, computed: DataFrame, checks: list[_Check]) -> DataFrame:
    """The rows, where those with a drop reason have no values in the columns that the checks read.

    Nobody promises anything of a dropped row. A check that casts a text may not be computable over it, and an engine
    computes a check before it leaves rows out.
    """
    if DROP_REASON not in lineage.select(contract.table).columns:
        return computed
    text = " ".join(check.sql for check in checks).lower()
    names = {
        name for name in contract.column_names
        if name not in (RUN_TIMESTAMP, contract.place_column) and name.lower() in text
    }  # fmt: skip
    is_kept = F.col(DROP_REASON).isNull()
    return computed.select(
        *(F.when(is_kept, F.col(name)).alias(name) if name in names else F.col(name) for name in computed.columns)
    )


def masked(error: Exception, contract: Contract) -> Exception:
    """`error`, or a copy without values if Spark's text may show a sensitive column of the table or an input.

    What the engine finds wrong before it reads rows has no value of them, and what is about commits neither.
    """
    if isinstance(error, (LakeError, AnalysisException)) or not isinstance(error, PySparkException):
        return error
    kind = failures.kind(error)
    if kind == CONFLICT or not any(map(_has_sensitive, (contract.table, *lineage.inputs(contract.table)))):
        return error
    state = error.getSqlState() or (kinds.OF_DATA if kind == DATA else None)
    return MaskedError(without_values("\n".join(failures.root_cause(error))), state)


def without_values(message: str) -> str:
    """What of a message is known to be no value of a row: how it begins, the types of a cast, and the SQLSTATE."""
    stated = _STATE.fullmatch(message)
    head, state, place = stated.groups() if stated else (message, "", "")
    head = kinds.plain(head)
    cast = next((found for found in (cast.match(head) for cast in _CASTS) if found), None)
    beginning = _BEGINNING.match(head)
    if cast:
        hidden = f"'{HIDDEN}'" if cast["value"].startswith("'") else HIDDEN
        head = f"{cast['before']}{hidden}{cast['after']}."
    elif not beginning:
        head = HIDDEN
    elif beginning[0] != head.strip(" ."):
        head = f"{beginning[0]} {HIDDEN}"
    else:
        head = f"{beginning[0]}."
    return " ".join(filter(None, [head, state])) + (place or "")


def _has_sensitive(table: str) -> bool:
    return any(column.sensitive for column in contracts.get(table).columns)


def _checks(contract: Contract, days: list[str], some_keys: bool) -> list[_Check]:
    """The checks of every table, then those of its contract. A check that explains others comes first."""
    day = contract.place_column
    hidden = frozenset(column.name for column in contract.columns if column.sensitive)
    found = []
    if contract.day_column:
        found.append(_Check(f"{day} is in the range", _inside(contract, days), "row", hidden))
    elif day:
        found.append(_Check(f"{day} is a day", _is_day(day), "row", hidden))
    for column in contract.columns:
        if not column.nullable and column.name not in (day, RUN_TIMESTAMP):
            found.append(_Check(f"{column.name} is not null", f"`{column.name}` is not null", "row", hidden))
        if column.name in contract.partitioned_by and column.name != day and column.type == "string":
            # Delta writes an empty partition value as null, and it does so after all checks.
            found.append(
                _Check(f"{column.name} is not ''", f"`{column.name}` is null or `{column.name}` <> ''", "row", hidden)
            )
    if contract.key:
        # The day is always part of the key: a range of days must promise the same as its single days.
        key = contract.key if contract.kept_by else dict.fromkeys((str(day), *contract.key))
        columns = ", ".join(f"`{name}`" for name in key)
        repeated = (
            f"select {columns}, count(*) as {lineage.OURS}times from {lineage.view_name(lineage.THIS)} "
            f"group by {columns} having count(*) > 1"
        )
        once = "in the table" if contract.kept_by else f"a {contract.grain}"
        if some_keys and not set(contract.kept_by) <= set(contract.key):
            # The rows of the keys that the build does not touch stay: none of them may have a key of the new rows.
            same, mine = (
                " and ".join(f"{left}.`{name}` <=> {right}.`{name}`" for name in names)
                for left, right, names in (("stays", "new", contract.key), ("stays", "own", contract.kept_by))
            )
            repeated += (
                f" union all select {', '.join(f'new.`{name}`' for name in contract.key)}, 2 "
                f"from {lineage.view_name(lineage.THIS)} as new join {lineage.view_name(contract.table)} as stays "
                f"on {same} left anti join {lineage.view_name(lineage.TOUCHED)} as own on {mine}"
            )
        found.append(_Check(f"key ({', '.join(contract.key)}) occurs once {once}", repeated, "select", hidden))
    first_day, last_day = Period(contract.grain, days[0]).first_day, Period(contract.grain, days[-1]).last_day
    parsed = lineage.parsed_checks(contract.table)
    types = {column.name: column.type for column in contract.columns}
    for double in dict.fromkeys(name for check in parsed for name in check.doubles):
        # Of an array the greatest, for NaN is larger than any number. With `exists` Sail 0.7 shows no example rows.
        nan = f"isnan(`{double}`)" if types[double] == "double" else f"isnan(array_max(`{double}`))"
        severity = "fail" if any(c.severity == "fail" and double in c.doubles for c in parsed) else "warn"
        found.append(_Check(f"{double} is not NaN", f"not coalesce({nan}, false)", "row", hidden, severity))
    readable = any(map(_has_sensitive, (contract.table, *lineage.inputs(contract.table))))
    for check in parsed:
        names: frozenset[str] | None = hidden
        if check.kind == "select":
            secret = {name for name, derives in check.gives or () if derives}
            # Spark names a column without a name, and we do not know this name here.
            names = None if readable and (check.gives is None or "" in secret) else frozenset(secret)
        found.append(_Check(check.name, check.over_views(first_day, last_day), check.kind, names, check.severity))
    # A promise that is made twice counts once, and as the stricter of the two.
    by_name = {check.name: check for check in sorted(found, key=lambda check: check.severity == "fail")}
    return [by_name.pop(check.name) for check in found if check.name in by_name]


def _inside(contract: Contract, days: list[str]) -> str:
    """SQL that is true for a row of one of `days`. It lists the days, because BETWEEN would let 2026-01-05x pass."""
    return f"coalesce(`{contract.day_column}` in ({', '.join(map(repr, days))}), false)"


def _is_day(column: str) -> str:
    """SQL that is true for a day of the calendar, yyyy-MM-dd. Spark's `$` lets a line break follow."""
    written = f"`{column}` rlike '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}$' and length(`{column}`) = 10"
    return f"{written} and try_cast(`{column}` as date) is not null"


def _holds(check: _Check) -> "F.Column":
    """True or false. A check that gives null does not hold."""
    return F.coalesce(F.expr(check.sql), F.lit(False))


def _breaking(spark: SparkSession, contract: Contract, kept: DataFrame, check: _Check) -> DataFrame:
    """The rows that break a check, or the days if the check has aggregates."""
    if check.kind == "select":
        kept.createOrReplaceTempView(lineage.view_name(lineage.THIS))
        return spark.sql(check.sql)
    if check.kind == "row":
        # Sail 0.7 cannot look for rows by a lambda while it reads them from files. A limit comes in between.
        rows = kept.limit(_ALL) if "->" in check.sql else kept
        return rows.where(~_holds(check))
    holds = f"{lineage.OURS}holds"
    groups = kept.groupBy(F.lit("").alias("all") if contract.kept_by else F.col(str(contract.day_column)))
    return (
        groups.agg(_holds(check).alias(holds), F.count(F.lit(1)).alias(f"{lineage.OURS}rows"))
        .where(f"not {holds}")
        .drop(holds)
    )


@contextmanager
def _named(contract: Contract, check: _Check) -> Iterator[None]:
    """Name the check in an error of Spark. Spark does not understand it, or cannot compute it over these rows."""
    try:
        yield
    except PySparkException as error:
        if isinstance(error, AnalysisException):
            reason = str(error).splitlines()[0]
            raise ContractError(f"{settings.shown(contract.path)}: check `{check.name}`: {reason}") from None
        if failures.kind(error) != DATA:
            raise
        reason = str(masked(error, contract)).splitlines()[0]
        message = f"{contract.table}: check `{check.name}` cannot be computed: {reason}; nothing was published"
        raise CheckFailed(message, {check.name: 1}) from None


def _blame(
    contract: Contract, checks: Iterable[_Check], computed: DataFrame, kept: DataFrame, error: PySparkException
) -> None:
    """Raise the error of the check that fails alone, or that of the SELECT itself. Return if neither fails."""
    if not isinstance(error, AnalysisException):
        if failures.kind(error) != DATA:
            return
        _count(computed)
    for check in checks:
        with _named(contract, check):
            _count(_breaking(computed.sparkSession, contract, kept, check))


def _count(frame: DataFrame) -> int:
    return int(engine().collect(frame.agg(F.count(F.lit(1))))[0][0])


def _shown(check: _Check, rows: DataFrame) -> str:
    """Example rows for people, with the values of sensitive columns masked.

    Spark makes the text, because it has times and numbers that Python cannot represent.
    """
    types = rows.dtypes
    columns = [F.col(f"{lineage.OURS}{n}") for n in range(len(types))]
    texts = [
        F.lit(HIDDEN)
        if check.hidden is None or name.lower() in check.hidden
        else F.substring((F.hex(column) if kind == "binary" else column.cast("string")), 1, _SHOWN_LENGTH + 1)
        for column, (name, kind) in zip(columns, types, strict=True)
    ]
    numbered = rows.toDF(*(f"{lineage.OURS}{n}" for n in range(len(types))))
    lines = [
        ", ".join(
            f"{name.removeprefix(lineage.OURS)}={_short(text)}" for (name, _), text in zip(types, row, strict=True)
        )
        for row in numbered.limit(_SHOWN_ROWS).select(*texts).collect()
    ]
    return f"; of `{check.name}`, for example:\n" + "\n".join(lines) if lines else ""


def _short(text: str | None) -> str:
    """The text in one line, cut to its first characters."""
    line = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", str(text))
    return line if len(line) <= _SHOWN_LENGTH else line[:_SHOWN_LENGTH] + "…"
