"""Which days are there, which are missing, stale or failed, and why: from the ledger and the sources' files alone."""

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from include.lake import contracts, ledger, lineage, storage
from include.lake.days import day_range, days_before

MISSING, FRESH, STALE, FAILED = "missing", "fresh", "stale", "failed"


@dataclass(frozen=True)
class DayState:
    """One day of one table. `why` says in words what `state` means here; the rest is of the newest good build."""

    table: str
    day: str
    state: str
    why: str
    rows: int | None = None
    built_at: datetime | None = None
    seconds: float | None = None
    run: str | None = None


class Lake:
    """One look at the lake: what it reads it keeps, so its answers fit together. Make a new one to look again."""

    def __init__(self) -> None:
        self._versions: dict[str, int | None] = {}
        self._rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self._built: dict[str, dict[str, dict[str, Any]]] = {}
        self._files: dict[str, dict[str, storage.DayFiles]] = {}
        self._day_ids: dict[str, dict[str, str]] = {}
        self._states: dict[tuple[str, str], DayState] = {}
        self._oldest: dict[str, str | None] = {}
        self._cumulative: dict[str, tuple[list[str], list[str]]] = {}
        self._own_states: dict[tuple[str, str], DayState] = {}

    @cached_property
    def _ledger(self) -> dict[str, list[dict[str, Any]]]:
        by_table: dict[str, list[dict[str, Any]]] = {}
        for row in ledger.read():
            by_table.setdefault(row["table"], []).append(row)
        return by_table

    def builds(self, table: str) -> dict[str, list[dict[str, Any]]]:
        """Day -> ledger rows of a table that we build, oldest first. What is committed and not entered is entered."""
        if table not in self._rows:
            rows = self._ledger.get(table, [])
            added, self._versions[table] = ledger.heal(table, rows)
            self._rows[table] = {}
            for row in rows + added:
                self._rows[table].setdefault(row["day"], []).append(row)
        return self._rows[table]

    def built(self, table: str) -> dict[str, dict[str, Any]]:
        """Day -> ledger row of its newest good build."""
        if table not in self._built:
            self._built[table] = {}
            for day, rows in sorted(self.builds(table).items()):
                if good := [row for row in rows if row["status"] == "built"]:
                    self._built[table][day] = max(good, key=lambda row: row["version"])
        return self._built[table]

    def files(self, table: str) -> dict[str, storage.DayFiles]:
        """Day -> files of a source."""
        if table not in self._files:
            delta = storage.open_table(table)
            self._versions[table] = None if delta is None else delta.version()
            self._files[table] = {} if delta is None else storage.days(delta, contracts.get(table))
        return self._files[table]

    def version(self, table: str) -> int | None:
        """The version of the Delta table that this look speaks of, so that what is read is what is recorded."""
        if contracts.get(table).is_source:
            self.files(table)
        else:
            self.builds(table)
        return self._versions[table]

    def day_ids(self, table: str) -> dict[str, str]:
        """Day -> an id that changes when its rows may have: of a source's files, of the build of our tables."""
        if table not in self._day_ids:
            if contracts.get(table).is_source:
                self._day_ids[table] = {day: files.id for day, files in self.files(table).items()}
            else:
                self._day_ids[table] = {day: row["build_id"] for day, row in sorted(self.built(table).items())}
        return self._day_ids[table]

    def assume_built(self, table: str, days: list[str]) -> None:
        """Answer from here on as if `days` were built anew: what reads them is stale then, or can be built at last.

        For plans, which go from inputs to readers: what was said of the readers before is not taken back.
        """
        self._day_ids[table] = self.day_ids(table) | {day: f"to be built of {table} {day}" for day in days}

    def absent(self, table: str, days: list[str]) -> list[str]:
        """Those of `days` that the table does not have; [''] for a table without days that does not exist."""
        if not contracts.get(table).day_column:
            return [""] if self.version(table) is None else []
        there = self.day_ids(table)
        return [day for day in days if day not in there]

    def input_days(self, table: str, start: str, end: str) -> dict[str, list[str]]:
        """Input -> the days that a build of start..end needs to be there; [''] for an input without days.

        Of the earlier days that the contract's `reads` names, those before the input's first day are not waited for.
        """
        needed = {}
        for name in lineage.inputs(table):
            if not contracts.get(name).day_column:
                needed[name] = [""]
                continue
            earlier = dict(contracts.get(table).reads).get(name, 0)
            first = start
            if isinstance(earlier, int) and earlier:
                history = min(self.day_ids(name), default=start)
                first = min(start, max(days_before(start, earlier), history))
            needed[name] = day_range(first, end)
        return needed

    def absent_inputs(self, table: str, start: str, end: str) -> dict[str, list[str]]:
        """Input -> days that keep start..end from being built; empty when nothing does."""
        needed = self.input_days(table, start, end)
        found = {name: self.absent(name, days) for name, days in needed.items()}
        return {name: days for name, days in found.items() if days}

    def input_ids(self, table: str, day: str) -> dict[str, str]:
        """Input -> id of all that a build of `day` reads of it. Inputs without days do not count."""
        ids = {}
        for name in lineage.inputs(table):
            if not contracts.get(name).day_column:
                continue
            there = self.day_ids(name)
            earlier = dict(contracts.get(table).reads).get(name, 0)
            if not earlier:
                ids[name] = there.get(day, "")
                continue
            if earlier == "all":
                ids[name] = self._ids_up_to(name, day)
                continue
            window = [known for known in day_range(days_before(day, int(earlier)), day) if known in there]
            text = "".join(f"{known} {there[known]}\n" for known in window)
            ids[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return ids

    def _ids_up_to(self, table: str, day: str) -> str:
        """An id of all days of a table up to `day`; those of all days are made in one go over its history."""
        if table not in self._cumulative:
            running = hashlib.sha256()
            known: list[str] = []
            ids: list[str] = [running.hexdigest()[:16]]
            for known_day, known_id in sorted(self.day_ids(table).items()):
                running.update(f"{known_day} {known_id}\n".encode())
                known.append(known_day)
                ids.append(running.hexdigest()[:16])
            self._cumulative[table] = known, ids
        known, ids = self._cumulative[table]
        return ids[bisect_right(known, day)]

    def own_state(self, table: str, day: str) -> DayState:
        """The state of a day judged by what its build would read right now: a build is due unless it is fresh."""
        if (table, day) not in self._own_states:
            self._own_states[table, day] = self._look(table, day)
        return self._own_states[table, day]

    def _look(self, table: str, day: str) -> DayState:
        if contracts.get(table).is_source:
            files = self.files(table).get(day)
            if files:
                return DayState(table, day, FRESH, f"loaded, {files.rows:,} rows", files.rows)
            return DayState(table, day, MISSING, f"not loaded: ./lake load {table} FILE")
        row = self.built(table).get(day)
        facts = (row["rows"], row["built_at"], row["seconds"], row["run"]) if row else ()
        last = max(self.builds(table).get(day, []), key=lambda row: row["built_at"], default=None)
        if last and last["status"] == "failed":
            return DayState(
                table, day, FAILED, f"the build of {last['built_at']:%F %T} failed: {last['error']}", *facts
            )
        if row is None:
            absent = self.absent_inputs(table, day, day)
            return DayState(table, day, MISSING, f"never built; {describe_absent(absent) or 'its inputs are there'}")
        if row["code_id"] != lineage.code_id(table):
            return DayState(table, day, STALE, "the SELECT or the contract has changed since the build", *facts)
        now = self.input_ids(table, day)
        if changed := sorted(name for name in now if row["inputs"].get(name) != now[name]):
            return DayState(table, day, STALE, f"{', '.join(changed)} changed since the build", *facts)
        return DayState(table, day, FRESH, f"built {row['built_at']:%F %T} by {row['run']}", *facts)

    def state(self, table: str, day: str) -> DayState:
        """The state of a day, where an input that is itself not fresh makes it stale too, through every level."""
        if (table, day) not in self._states:
            self._states[table, day] = self._through_every_level(table, day)
        return self._states[table, day]

    def _through_every_level(self, table: str, day: str) -> DayState:
        own = self.own_state(table, day)
        if own.state != FRESH or contracts.get(table).is_source:
            return own
        for name, days in self.input_days(table, day, day).items():
            if contracts.get(name).is_source:
                continue
            if dict(contracts.get(table).reads).get(name) == "all":
                oldest = self._oldest_due(name)
                days = [oldest, *days] if oldest and oldest <= day else days
            for needed in days:
                above = self.state(name, needed)
                if above.state != FRESH:
                    facts = (own.rows, own.built_at, own.seconds, own.run)
                    return DayState(table, day, STALE, f"{name} of {needed} is {above.state}: {above.why}", *facts)
        return own

    def _oldest_due(self, table: str) -> str | None:
        """The first day that was built and is not fresh any more."""
        if table not in self._oldest:
            due = (day for day in sorted(self.built(table)) if self.state(table, day).state != FRESH)
            self._oldest[table] = next(due, None)
        return self._oldest[table]


def describe_absent(absent: dict[str, list[str]]) -> str:
    """What is missing, in words: `a.b of 2026-01-05 (and 2 more days) is missing; c.d is not loaded`."""
    parts = []
    for name, days in sorted(absent.items()):
        if days == [""]:
            parts.append(f"{name} is not loaded")
        else:
            more = f" and {len(days) - 1} more days up to {days[-1]}" if len(days) > 1 else ""
            parts.append(f"{name} of {days[0]}{more} is missing")
    return "; ".join(parts)
