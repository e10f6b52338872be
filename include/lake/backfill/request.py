"""What somebody asks a backfill for, checked. Read by the form of the DAG, too, so nothing heavy is imported here."""

import difflib
import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from include.lake.errors import ContractError, UsageError
from include.lake.project import contracts, lineage, periods, task_lists
from include.lake.project.current import held
from include.lake.project.days import day_range, parse_day
from include.lake.project.periods import Period

# Mode -> which days it builds. A day whose newest build failed counts as missing or stale, too: a backfill that was
# stopped or met a bad day goes on in the mode that it was started in.
MODES = {
    "due": "whatever is not fresh: missing, stale and failed days",
    "missing": "days that were never built",
    "stale": "days whose inputs or SELECT have changed since they were built",
    "failed": "days whose last build failed",
    "all": "every day, fresh ones too",
}
AUTOMATIC = "automatic"
# More than this is asked for by mistake more often than not.
MAX_DAYS_UNASKED = 3 * 366


def _mode(text: str) -> str:
    if text not in MODES:
        raise UsageError(f"there is no mode {text!r}: choose one of {', '.join(MODES)}")
    return text


Day = Annotated[str, AfterValidator(parse_day)]


@dataclass(frozen=True)
class Request:
    """What was asked for, checked: `tables` in the order of their inputs. `days_per_batch` None: automatic."""

    tables: tuple[str, ...]
    first: Day
    last: Day
    mode: Annotated[str, AfterValidator(_mode)] = "due"
    days_per_batch: Annotated[int, Field(gt=0)] | None = None

    @property
    def days(self) -> list[str]:
        return day_range(self.first, self.last)

    def partitions(self, table: str) -> list[str]:
        """The partitions of a table that have a day of the range; of weeks and months, those that are over."""
        grain = contracts.get(table).grain
        partitions = periods.keys_of_days(grain, self.first, self.last)
        if grain == "day":
            return partitions
        newest = _newest_over(table)
        return [partition for partition in partitions if partition <= newest.text]

    def not_over(self, table: str) -> list[str]:
        """The weeks or months of the range that are left for another time."""
        every = periods.keys_of_days(contracts.get(table).grain, self.first, self.last)
        return every[len(self.partitions(table)) :]


@held()
def check(
    names: list[str],
    first: str,
    last: str,
    mode: str = "due",
    days_per_batch: str | int = AUTOMATIC,
    downstream: bool = False,
    yes: bool = False,
) -> Request:
    """Check what somebody asks for; UsageError in one line. `yes`: more than three years are meant."""
    days = day_range(first, last)
    _mode(mode)
    size = batch(days_per_batch)
    tables = tables_of(names, downstream)
    too_early: dict[str, str] = {}
    for table in tables:
        grain = contracts.get(table).grain
        for zone in task_lists.timezones(table):
            newest = Period.newest_over(grain, zone)
            # The last week or month of a range may go beyond it: then it is built another time.
            needed = days[-1] if grain == "day" else Period.of(grain, days[0]).text
            if needed > newest.text:
                too_early[table] = (
                    f"{needed} is not over in {zone}: the newest {grain} of {table} that can be built is {newest}"
                )
                if grain == "day":
                    raise UsageError(too_early[table])
    if tables and too_early.keys() >= set(tables):  # else the days are built, and the plan names the weeks
        raise UsageError(too_early[tables[0]])
    if len(days) > MAX_DAYS_UNASKED and not yes:
        raise UsageError(
            f"{first}..{last} are {len(days):,} days: if you mean more than three years, say so with --yes"
        )
    return Request(tuple(tables), first, last, mode, size)


def batch(days: str | int) -> int | None:
    """The days of a batch that somebody asks for; None: automatic. UsageError if it is no number of days."""
    number = str(days)
    if number != AUTOMATIC and not re.fullmatch(r"[1-9]\d{0,3}", number):
        raise UsageError(f"days per batch {number!r}: give a number from 1, or {AUTOMATIC}")
    return None if number == AUTOMATIC else int(number)


def _newest_over(table: str) -> Period:
    """The newest period of a table that is over in all its timezones."""
    return min(Period.newest_over(contracts.get(table).grain, zone) for zone in task_lists.timezones(table))


@held()
def names() -> list[str]:
    """All that may be asked for. A source stands for what is made of it: it is asked for with downstream."""
    # A step that stands in several lists is all of them, and by `dag_id.step` one of them.
    long = sorted(name for of_lists in _steps().values() if len(of_lists) > 1 for name in of_lists)
    return [*task_lists.names(), *long, *(name for name in lineage.in_order() if contracts.get(name).is_source)]


def _steps() -> dict[str, dict[str, tuple[str, ...]]]:
    """Step -> its tables in each list, by `dag_id.step`."""
    steps: dict[str, dict[str, tuple[str, ...]]] = {}
    for listed in task_lists.read_all():
        for label, tables in listed.steps:
            steps.setdefault(label, {})[f"{listed.dag_id}.{label}"] = tables
    return steps


def tables_of(named: list[str], downstream: bool = False) -> list[str]:
    """The tables behind names of tables, steps and DAGs, in order; with `downstream` all made of them, too."""
    if not named:
        raise UsageError("name at least one table, step or DAG")
    lists, broken, steps = task_lists.read_all(), task_lists.broken(), _steps()
    long = {name: tables for of_lists in steps.values() for name, tables in of_lists.items()}
    found: set[str] = set()
    for name in named:
        if of_dag := [table for listed in lists if listed.dag_id == name for table in listed.tables]:
            found |= set(of_dag)
        elif name in broken:
            raise ContractError(broken[name])
        elif name in long:
            found |= set(long[name])
        elif of_lists := steps.get(name):
            found |= {table for tables in of_lists.values() for table in tables}
        elif name not in contracts.load_all() | contracts.load_all().broken:
            near = difflib.get_close_matches(str(name), names(), n=1, cutoff=0.6)
            cure = f"did you mean {near[0]}?" if near else "./lake lineage lists the tables"
            # A step of a list that cannot be read is not known.
            unread = "".join(f"\n{message}" for message in broken.values())
            raise UsageError(f"there is no table, step or DAG {name!r}: {cure}{unread}")
        elif contracts.get(name).view:
            contracts.require_built(contracts.get(name))
        elif contracts.get(name).is_source and not downstream:
            raise UsageError(f"{name} is a source, nothing builds it; what reads it is built with downstream")
        else:
            found.add(name)
    lineage.in_order(sorted(found))  # what is named and broken is an error
    order = lineage.in_order()
    if downstream:
        for name in order:
            if found.intersection(lineage.inputs(name)):
                found.add(name)
    return [name for name in order if name in found and contracts.get(name).is_built]
