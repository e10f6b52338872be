"""Late data: days that were built, and that later data made stale."""

from collections.abc import Callable
from dataclasses import dataclass, field

from include.lake.build import failures
from include.lake.project import lineage
from include.lake.project.days import consecutive, day_range, days_before
from include.lake.state.look import STALE, Lake


@dataclass
class LateDays:
    """The result for the days before a run: table -> days built, and the builds that failed."""

    built: dict[str, list[str]] = field(default_factory=dict)
    failed: list[failures.Failure] = field(default_factory=list)


def stale_days(table: str, day: str, count: int) -> list[str]:
    """Those of the `count` days before `day` that were built and are not fresh any more."""
    if not count:
        return []
    lake = Lake()
    days = day_range(days_before(day, count), days_before(day, 1))
    return [late_day for late_day in days if lake.own_state(table, late_day).state == STALE]


def build_stale_days(tables: list[str], day: str, count: int, run: str, log: Callable[[str], None]) -> LateDays:
    """Build the stale ones of the `count` days before `day`, table by table, inputs first; a failure stops no other."""
    from include.lake.build import runner  # heavy, and most nights there is no late day

    result = LateDays()
    for table in lineage.in_order(tables):
        for first, last in consecutive(stale_days(table, day, count)):
            log(f"{table}: late data made {first}..{last} stale")
            try:
                runner.build(table, first, last, run=run, log=log)
            except Exception as error:
                failure = failures.explain(error, table, first, last)
                log(failure.text)
                result.failed.append(failure)
            else:
                result.built.setdefault(table, []).extend(day_range(first, last))
    return result
