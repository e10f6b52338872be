"""The audit between computing and publishing: what a contract promises, counted on the rows that would be published."""

from dataclasses import dataclass, field

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from include.lake import lineage
from include.lake.contracts import DROP_REASON, RUN_TIMESTAMP, Contract
from include.lake.errors import CheckFailed, ContractError

_SHOWN_ROWS = 20


@dataclass
class DayAudit:
    """What one day would publish: kept rows, and rows not published by reason."""

    rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass
class Audit:
    """`days`: what each would publish. `broken`: check -> rows or days that break it; only `warn` checks have any."""

    days: dict[str, DayAudit]
    broken: dict[str, int]

    @property
    def warnings(self) -> dict[str, int]:
        return {name: count for name, count in self.broken.items() if count}


@dataclass(frozen=True)
class _Check:
    """A check as the audit needs it. `sql`: true of a good row or day; for a SELECT the rows that break it."""

    name: str
    sql: str
    kind: str
    severity: str = "fail"


def require_types(contract: Contract, frame: DataFrame) -> None:
    """ContractError unless the SELECT gives each column with the contract's type."""
    given = dict(frame.dtypes)
    for column in contract.columns:
        if column.name != RUN_TIMESTAMP and given.get(column.name) != column.type:
            raise ContractError(
                f"{contract.table}.{column.name}: the SELECT gives {given.get(column.name, 'nothing')}, "
                f"the contract says {column.type}; cast it in {contract.select_path.name}"
            )


def audit(spark: SparkSession, contract: Contract, computed: DataFrame, days: list[str]) -> Audit:
    """Count what `computed` would publish for `days`, and check it.

    `computed` has the contract's columns and DROP_REASON; it should be persisted, it is read several times. A
    SELECT of a check finds its inputs and the published table under `lineage.view_name`. Raises CheckFailed.
    """
    day = F.col(str(contract.day_column))
    reason = F.col(DROP_REASON)
    kept = computed.where(reason.isNull()).drop(DROP_REASON)
    checks = _checks(contract, days)
    by_row = [check for check in checks if check.kind == "row"]
    by_day = [check for check in checks if check.kind == "day"]
    told = [
        *(F.count_if(~_holds(check)).alias(f"row{n}") for n, check in enumerate(by_row)),
        *(_holds(check).alias(f"day{n}") for n, check in enumerate(by_day)),
    ]
    # One pass over all rows: it computes and persists them, and counts.
    groups = (
        computed.groupBy(day.alias("day"), reason.alias("reason")).agg(F.count(F.lit(1)).alias("rows"), *told).collect()
    )

    found = {name: DayAudit() for name in days}
    broken = dict.fromkeys((check.name for check in checks), 0)
    outside = f"{contract.day_column} between {days[0]} and {days[-1]}"
    for group in groups:
        if group["reason"] is not None:
            if group["day"] in found:
                found[group["day"]].dropped[group["reason"]] = group["rows"]
            continue
        for n, check in enumerate(by_row):
            broken[check.name] += group[f"row{n}"]
        if group["day"] in found:
            found[group["day"]].rows = group["rows"]
            for n, check in enumerate(by_day):
                broken[check.name] += not group[f"day{n}"]
        else:
            broken[outside] += group["rows"]
    if by_day and (empty := sum(not audited.rows for audited in found.values())):
        nothing = kept.where(F.lit(False)).agg(*told[len(by_row) :]).collect()[0]
        for n, check in enumerate(by_day):
            broken[check.name] += empty * (not nothing[f"day{n}"])
    selects = {check.name: _breaking(spark, contract, kept, check) for check in checks if check.kind == "select"}
    for name, rows in selects.items():
        broken[name] = rows.count()

    failed = [check for check in checks if broken[check.name] and check.severity == "fail"]
    if failed:
        counts = ", ".join(f"`{check.name}` fails {broken[check.name]:,} times" for check in failed)
        rows = selects.get(failed[0].name) or _breaking(spark, contract, kept, failed[0])
        message = f"{contract.table}: check {counts}; nothing was published{_shown(contract, failed[0], rows)}"
        raise CheckFailed(message, broken)
    return Audit(found, broken)


def _checks(contract: Contract, days: list[str]) -> list[_Check]:
    """What every table is checked for, and what its contract adds, those first that explain the others."""
    day = contract.day_column
    inside = f"{day} is not null and {day} between '{days[0]}' and '{days[-1]}'"
    found = [_Check(f"{day} between {days[0]} and {days[-1]}", inside, "row")]
    for column in contract.columns:
        if not column.nullable and column.name not in (day, RUN_TIMESTAMP):
            found.append(_Check(f"{column.name} is not null", f"{column.name} is not null", "row"))
    if contract.key:
        # The day is always part of the key: a range of days must promise no more than its days one by one.
        columns = ", ".join(dict.fromkeys((str(day), *contract.key)))
        repeated = (
            f"select {columns}, count(*) as times from {lineage.view_name(lineage.THIS)} group by all having times > 1"
        )
        found.append(_Check(f"key ({', '.join(contract.key)}) occurs once a day", repeated, "select"))
    for check in lineage.parsed_checks(contract.table):
        name = " ".join(check.text.split())
        found.append(_Check(name, check.over_views(days[0], days[-1]), check.kind, check.severity))
    return found


def _holds(check: _Check) -> "F.Column":
    """True or false: what is null does not hold."""
    return F.coalesce(F.expr(check.sql), F.lit(False))


def _breaking(spark: SparkSession, contract: Contract, kept: DataFrame, check: _Check) -> DataFrame:
    """The rows that break a check; the days, where it has aggregates."""
    if check.kind == "select":
        kept.createOrReplaceTempView(lineage.view_name(lineage.THIS))
        return spark.sql(check.sql)
    if check.kind == "row":
        return kept.where(~_holds(check))
    day = F.col(str(contract.day_column))
    return (
        kept.groupBy(day)
        .agg(_holds(check).alias("holds"), F.count(F.lit(1)).alias("rows"))
        .where("not holds")
        .drop("holds")
    )


def _shown(contract: Contract, check: _Check, rows: DataFrame) -> str:
    """Some of the rows, for people; values of sensitive columns are masked."""
    masked = {column.name for column in contract.columns if column.sensitive}
    lines = [
        ", ".join(f"{name}={'***' if name in masked else value}" for name, value in row.asDict().items())
        for row in rows.limit(_SHOWN_ROWS).collect()
    ]
    return f"; of `{check.name}`, for example:\n" + "\n".join(lines) if lines else ""
