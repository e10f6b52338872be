"""Late data: days that were built, and that later data made stale."""

from collections.abc import Callable
from dataclasses import dataclass, field

from include.lake.build import failures
from include.lake.project import contracts, lineage, periods
from include.lake.project.days import days_before
from include.lake.project.periods import Period
from include.lake.state.look import STALE, Look
from include.lake.words import span


@dataclass
class LateDays:
    """The result for the days before a run: table -> days built, and the builds that failed."""

    built: dict[str, list[str]] = field(default_factory=dict)
    failed: list[failures.Failure] = field(default_factory=list)


def stale_days(table: str, partition: str, count: int) -> list[str]:
    """The stale partitions of a table that have one of the `count` days before `partition`."""
    if not count:
        return []
    lake, grain = Look(), contracts.get(table).grain
    first_day = Period(grain, partition).first_day
    before = periods.keys_of_days(grain, days_before(first_day, count), days_before(first_day, 1))
    return [late for late in before if lake.own_state(table, late).state == STALE]


def build_stale_days(tables: list[str], partition: str, count: int, run: str, log: Callable[[str], None]) -> LateDays:
    """Build the stale partitions of the `count` days before `partition`, inputs first; a failure stops no other."""
    from include.lake.build import runner  # heavy, and most nights there is no late day

    result = LateDays()
    for table in lineage.in_order(tables):
        grain = contracts.get(table).grain
        for first, last in periods.key_ranges(grain, stale_days(table, partition, count)):
            log(f"{table}: late data made {span(first, last)} stale")
            try:
                runner.build(table, first, last, run=run, log=log)
            except Exception as error:
                failure = failures.explain(error, table, first, last)
                log(failure.text)
                result.failed.append(failure)
            else:
                result.built.setdefault(table, []).extend(periods.keys(grain, first, last))
    return result
