"""Looks at the lake where each statement takes its time and costs money: on Databricks, from outside of its runs.

What all sensors wait for is one statement. The rules are those of every look: only the answers come another way.
"""

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from include.lake import settings
from include.lake.errors import LakeError
from include.lake.project import contracts, lineage
from include.lake.state import completeness
from include.lake.state.look import Look
from include.lake.storage import PartitionFiles, Snapshot, unity_catalog

# Statements at a time: about as many as the smallest warehouse runs at once.
_AT_A_TIME = 10


def look_at(tables: Iterable[str]) -> Look:
    """A look at these tables and what they stand on.

    A look asks for one table after the other. From outside Databricks a page of fifty would take half a minute, so
    there it asks for many at a time.
    """
    look = Look()
    if settings.on_databricks() and not unity_catalog.is_run():
        with suppress(LakeError):  # a broken table says so where it is looked at
            built = lineage.upstream([name for name in tables if not contracts.get(name).is_source])
            wanted = {*tables, *built, *(name for table in built for name in lineage.inputs(table))}

            def ask(table: str) -> None:
                with suppress(LakeError):  # whoever looks at the table meets its error
                    look.day_versions(table) if contracts.get(table).has_days else look.snapshot(table)

            ordered = sorted(wanted, key=lambda table: not contracts.get(table).has_days)
            for table in ordered[:1]:  # it opens the ledger, for all
                ask(table)
            with ThreadPoolExecutor(_AT_A_TIME) as pool:
                list(pool.map(ask, ordered[1:]))
    return look


class Ask(NamedTuple):
    """What one sensor waits for: all that builds of `readers` for `day` need of `table`."""

    table: str
    readers: tuple[str, ...]
    day: str


def missing(asks: Collection[Ask]) -> dict[Ask, dict[str, str] | LakeError]:
    """Ask -> the days that are not there, each with the reason; the error of an ask that makes no sense (any more)."""
    answers: dict[Ask, dict[str, str] | LakeError] = {}
    ranges: dict[str, list[str]] = {}
    widest = _Widest()
    for ask in asks:
        try:
            ranges.setdefault(ask.table, []).extend(_days(widest, ask))
        except LakeError as error:
            answers[ask] = error
    look = _Presence({table: (min(days), max(days)) for table, days in ranges.items() if days}, widest.first_days_of)
    for ask in asks:
        if ask not in answers:
            try:
                answers[ask] = look.absent_reasons(ask.table, _days(look, ask))
            except LakeError as error:
                answers[ask] = error
    return answers


def _days(look: Look, ask: Ask) -> list[str]:
    """The days that the readers need of the table."""
    needed = (look.input_days(reader, ask.day, ask.day) for reader in ask.readers)
    # A reader whose SELECT was edited since may read the table no more.
    return sorted({day for days in needed for day in days.get(ask.table, ())})


class _Widest(Look):
    """A look for which every input goes back to the beginning: it gives the most that can be asked for.

    first_days_of: the tables whose first day matters, because a reader reads earlier days of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first_days_of: set[str] = set()

    def _first_day(self, table: str) -> str | None:
        self.first_days_of.add(table)
        return "0001-01-01"


class _Presence(Look):
    """A look that knows nothing but whether days are there."""

    def __init__(self, ranges: Mapping[str, tuple[str, str]], first_days_of: Collection[str]) -> None:
        super().__init__()
        self._texts: dict[str, list[str]] = {}
        self._there: dict[str, unity_catalog.Presence | LakeError] = {}
        for table in ranges:
            try:
                if (contract := contracts.get(table)).ready_when:
                    self._texts[table] = completeness.expressions(contract, unity_catalog.dialect)
            except LakeError as error:
                self._there[table] = error
        self._there |= unity_catalog.presence(
            {
                table: unity_catalog.Wanted(first, last, tuple(self._texts.get(table, ())), table in first_days_of)
                for table, (first, last) in ranges.items()
                if table not in self._there
            }
        )

    def _of(self, table: str) -> unity_catalog.Presence | None:
        there = self._there.get(table)
        if isinstance(there, LakeError):
            raise there
        return there

    def snapshot(self, table: str) -> Snapshot | None:
        return Snapshot(table, "", 0, "", (), (), {}) if self._of(table) else None

    def files(self, table: str) -> dict[str, PartitionFiles]:
        there = self._of(table)
        return dict.fromkeys(there.days, PartitionFiles(1, 0)) if there else {}

    def _first_day(self, table: str) -> str | None:
        return there.first if (there := self._of(table)) else None

    def _history(self, table: str) -> Any:
        return self._of(table) or unity_catalog.Presence()

    def _unready(self, table: str, days: list[str]) -> dict[str, str]:
        if table not in self._texts:
            return {}
        contract, names = contracts.get(table), self._texts[table][1:]
        known = {
            day: completeness.reason(contract, ready == "true", names, values)
            for day in days
            for ready, *values in [self._history(table).days[day]]
        }
        return {day: why for day, why in known.items() if why}
