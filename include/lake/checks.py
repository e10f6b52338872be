"""The audit between computing and publishing: what a contract promises is counted on the rows that would be published."""

from dataclasses import dataclass, field

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from include.lake.contracts import DROP_REASON, RUN_TIMESTAMP, Contract
from include.lake.errors import CheckFailed, ContractError

_SHOWN_ROWS = 20


@dataclass
class DayAudit:
    """What one day would publish: kept rows, and rows not published by reason."""

    rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def require_types(contract: Contract, frame: DataFrame) -> None:
    """ContractError unless the SELECT gives each column with the contract's type."""
    given = dict(frame.dtypes)
    for column in contract.columns:
        if column.name != RUN_TIMESTAMP and given.get(column.name) != column.type:
            raise ContractError(
                f"{contract.table}.{column.name}: the SELECT gives {given.get(column.name, 'nothing')}, "
                f"the contract says {column.type}; cast it in {contract.select_path.name}"
            )


def row_checks(contract: Contract) -> dict[str, str]:
    """Name -> SQL expression that is true of a good row."""
    found = {f"{c.name} is not null": f"{c.name} is not null" for c in contract.columns if not c.nullable}
    found.pop(f"{RUN_TIMESTAMP} is not null", None)
    return found | {check: check for check in contract.checks}


def audit(contract: Contract, frame: DataFrame, days: list[str]) -> tuple[dict[str, DayAudit], dict[str, int]]:
    """Count what `frame` would publish for `days` and check it. Gives the days and check -> broken rows (all 0).

    `frame` has the contract's columns and may have DROP_REASON; it should be persisted, it is read several times.
    Raises CheckFailed with the check, its count and some of the rows.
    """
    assert contract.day_column
    day = F.col(contract.day_column)
    reason = F.col(DROP_REASON) if DROP_REASON in frame.columns else F.lit(None).cast("string")
    checks = row_checks(contract)
    counted = (
        frame.groupBy(day.alias("day"), reason.alias("reason"))
        .agg(
            F.count(F.lit(1)).alias("rows"),
            *(F.count_if(~F.coalesce(F.expr(sql), F.lit(False))).alias(f"c{n}") for n, sql in enumerate(checks.values())),
        )
        .collect()
    )
    found = {name: DayAudit() for name in days}
    broken = dict.fromkeys(checks, 0)
    kept = frame.where(reason.isNull())
    for line in counted:
        if line["reason"] is None:
            for n, name in enumerate(checks):
                broken[name] += line[f"c{n}"]
        if line["day"] not in found:
            outside = kept.where(f"{contract.day_column} is null or {contract.day_column} not between '{days[0]}' and '{days[-1]}'")
            if line["reason"] is None:
                raise _failure(contract, f"{contract.day_column} between {days[0]} and {days[-1]}", line["rows"], outside)
            continue
        if line["reason"] is None:
            found[line["day"]].rows = line["rows"]
        else:
            found[line["day"]].dropped[line["reason"]] = line["rows"]
    for name, count in broken.items():
        if count:
            bad = kept.where(~F.coalesce(F.expr(checks[name]), F.lit(False)))
            raise _failure(contract, name, count, bad)
    if contract.key:
        # The day is always part of the key: a range of days must promise no more than its days one by one.
        columns = list(dict.fromkeys((contract.day_column, *contract.key)))
        repeated = kept.groupBy(*columns).count().where("count > 1")
        name = f"key ({', '.join(contract.key)}) occurs once a day"
        broken[name] = repeated.count()
        if broken[name]:
            raise _failure(contract, name, broken[name], repeated)
    return found, broken


def _failure(contract: Contract, check: str, count: int, rows: DataFrame) -> CheckFailed:
    shown = [row.asDict() for row in rows.limit(_SHOWN_ROWS).collect()]
    some = f"the first {_SHOWN_ROWS}" if count > _SHOWN_ROWS else "these"
    lines = [", ".join(f"{name}={value}" for name, value in row.items() if name != DROP_REASON) for row in shown]
    return CheckFailed(
        f"{contract.table}: check `{check}` fails {count:,} times, nothing was published; {some}:\n" + "\n".join(lines)
    )
