"""Late days: they were built, and are stale since, by late data or by another SELECT."""

from collections.abc import Callable
from dataclasses import dataclass, field

from include.lake.build import failures
from include.lake.errors import LakeError
from include.lake.project import contracts, lineage, periods
from include.lake.project.days import days_before
from include.lake.project.periods import Period
from include.lake.state.look import FAILED, STALE, Look
from include.lake.words import span


@dataclass
class LateDays:
    """The result for the days before a run: table -> days built, and the builds that failed."""

    built: dict[str, list[str]] = field(default_factory=dict)
    failed: list[failures.Failure] = field(default_factory=list)


def stale_days(table: str, partition: str, count: int) -> list[str]:
    """The stale partitions of a table that have one of the `count` days before `partition`.

    One whose rebuild failed is still stale: its old rows are there. Else the task that failed would be green when it is
    tried again, and no later night would build the day.
    """
    if not count:
        return []
    lake, grain = Look(), contracts.get(table).grain
    first_day = Period(grain, partition).first_day
    before = periods.keys_of_days(grain, days_before(first_day, count), days_before(first_day, 1))
    due = [late for late in before if lake.own_state(table, late).state in (STALE, FAILED)]
    built = set(lake.built_days(table)) if due else set[str]()
    return [late for late in due if late in built]


def build_stale_days(tables: list[str], partition: str, count: int, run: str, log: Callable[[str], None]) -> LateDays:
    """Build the stale partitions of the `count` days before `partition`, inputs first; a failure stops no other."""
    from include.lake.build import runner  # heavy, and most nights there is no late day

    result = LateDays()
    for table in lineage.in_order(tables):
        grain = contracts.get(table).grain
        try:
            due = stale_days(table, partition, count)
        except LakeError as error:  # of a table that cannot be looked at
            _add(result, error, table, partition, partition, log)
            continue
        for first, last in periods.key_ranges(grain, due):
            log(f"{table}: {span(first, last)} is stale: {Look().own_state(table, last).why}")
            try:
                runner.build(table, first, last, run=run, log=log)
            except Exception as error:
                _add(result, error, table, first, last, log)
            else:
                result.built.setdefault(table, []).extend(periods.keys(grain, first, last))
    return result


def _add(result: LateDays, error: Exception, table: str, first: str, last: str, log: Callable[[str], None]) -> None:
    failure = failures.explain(error, table, first, last)
    log(failure.text)
    result.failed.append(failure)
