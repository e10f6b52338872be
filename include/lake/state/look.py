"""Which days are there, which are missing, stale or failed, and why: from the ledger and the Delta logs alone.

A day of a table changes with each commit that changes its rows, whoever wrote it. A build records which version of each
input it read. So a day is stale if a day that it reads has changed after that version.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy
import pyarrow as pa
import pyarrow.compute as pc

from include.lake.errors import LakeError, UsageError
from include.lake.project import current, periods, task_lists
from include.lake.project.contracts import Contract
from include.lake.project.periods import Grain, Period
from include.lake.state import completeness, ledger
from include.lake.state.ledger import BUILT, CHANGED, EMPTY
from include.lake.storage import ANY_DAY, PartitionFiles, Snapshot, require_days, store
from include.lake.words import counted

MISSING, FRESH, STALE, FAILED = "missing", "fresh", "stale", "failed"
_OTHER_CODE = "the SELECT or the contract has changed since the build"
_OTHER_WRITER = "changed by another writer since the build"
# Days whose builds are read in one go: a look at a few days of a long history reads few.
_BLOCK = 256
# The version of a day that a plan is going to build: newer than any that was read.
_PLANNED = 1 << 62


class PartitionState(NamedTuple):
    """One day of one table. `why` says in words what `state` means here; the rest is of the newest good build."""

    table: str
    day: str
    state: str
    why: str
    rows: int | None = None
    built_at: datetime | None = None
    seconds: float | None = None
    run: str | None = None


class _Build(NamedTuple):
    """What the state of a day needs to know of its newest good build, out of its ledger row."""

    version: int
    code_id: str
    inputs: dict[str, str]
    rows: int
    built_at: datetime
    seconds: float
    run: str


@dataclass(frozen=True)
class _Input:
    """An input with partitions. `earlier`: how many of them before the built period are read, or `all`."""

    name: str
    grain: Grain
    earlier: int | str
    is_source: bool


class _History:
    """What the ledger and the commits after its last row say of one table with days."""

    def __init__(self, contract: Contract, snapshot: Snapshot | None, entered: ledger.Reader) -> None:
        self.version = None if snapshot is None else snapshot.version
        self.table_id = "" if snapshot is None else snapshot.table_id
        data = entered.history(contract.table)
        # What the commits say and the ledger does not know yet.
        self.unrecorded: list[dict[str, Any]] = []
        if snapshot is not None:
            require_days(snapshot, contract)
            self.unrecorded = ledger.unrecorded(contract, snapshot, data)
            if self.unrecorded:
                data = pa.concat_tables([data, ledger.encoded(self.unrecorded)])
        self._data = data
        self.built: dict[str, int] = {}  # day -> position in `_data` of its newest good build
        self.failed: dict[str, int] = {}  # the same of its newest failed one
        self.empty: set[str] = set()  # days without rows, by the newest load of them
        self.changes: dict[str, int] = {}  # day -> the newest version that changed its rows
        self._foreign: dict[str, int] = {}  # the same of other writers
        self._read()
        self._rows: dict[int, dict[str, Any]] = {}
        self._newest: dict[str, _Build] = {}

    def _read(self) -> None:
        """Find the newest row of each day and status. A history has many rows: no Python for each of them."""
        data = self._data.select(["partition", "status", "table_id", "version"]).combine_chunks()
        newest = -1 if self.version is None else self.version
        # A version that is gone was of a torn commit, or the table was moved away: its rows are not there.
        mine = pc.and_(pc.equal(data["table_id"], self.table_id), pc.less_equal(data["version"], newest))
        self._mine = pc.indices_nonzero(pc.fill_null(mine, False)).to_numpy()
        data = data.take(self._mine)
        for status, found in ((BUILT, self.built), (ledger.FAILED, self.failed), (CHANGED, {}), (EMPTY, {})):
            at = pc.indices_nonzero(pc.equal(data["status"], status)).to_numpy()
            if not at.size:
                continue
            days = pc.dictionary_encode(data["partition"].take(at).combine_chunks())
            numbers, versions = days.indices.to_numpy(), data["version"].take(at).to_numpy()
            # Of a day the last row with the highest version comes last, and stays.
            order = versions.argsort(kind="stable")
            last = numpy.zeros(len(days.dictionary), numpy.int64)
            last[numbers[order]] = order
            names = days.dictionary.to_pylist()
            found.update(zip(names, self._mine[at[last]].tolist(), strict=True))
            if status == EMPTY:  # the last status, so that all changes are known
                loaded = zip(names, versions[last].tolist(), strict=True)
                self.empty.update(day for day, version in loaded if version >= self.changes.get(day, -1))
            elif status != ledger.FAILED:
                for day, version in zip(names, versions[last].tolist(), strict=True):
                    self.changes[day] = max(version, self.changes.get(day, -1))
                    if status == CHANGED:
                        self._foreign[day] = version

    @cached_property
    def positions(self) -> dict[str, list[int]]:
        """Day -> positions in `_data` of the rows that speak of this very table, each row once."""
        found: dict[str, list[int]] = {}
        seen = set()
        data = self._data.take(self._mine)
        columns = (data[name].to_pylist() for name in ("partition", "status", "version", "build_id"))
        for position, identity in zip(self._mine.tolist(), zip(*columns, strict=True), strict=True):
            if identity not in seen:
                seen.add(identity)
                found.setdefault(identity[0], []).append(position)
        return found

    def rows(self, positions: Iterable[int]) -> list[dict[str, Any]]:
        """The ledger rows at some positions."""
        wanted = list(positions)
        if new := [position for position in wanted if position not in self._rows]:
            self._rows.update(zip(new, ledger.decoded(self._data.take(new)), strict=True))
        return [self._rows[position] for position in wanted]

    def newest_build(self, day: str) -> "_Build | None":
        """The facts of the newest good build of a day; those of some days around it are read in one go."""
        if day not in self.built:
            return None
        if day not in self._newest:
            block = self._places[day] // _BLOCK
            some = self.days[block * _BLOCK : (block + 1) * _BLOCK]
            self._newest.update(zip(some, self._builds([self.built[one] for one in some]), strict=True))
        return self._newest[day]

    @cached_property
    def days(self) -> list[str]:
        """The days that were built, sorted."""
        return sorted(self.built)

    def columns(self, names: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
        """Day -> these columns of its newest good build."""
        data = self._data.select(list(names)).take(pa.array(list(self.built.values()), pa.int64()))
        return dict(zip(self.built, zip(*(data[name].to_pylist() for name in names), strict=True), strict=True))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {day: place for place, day in enumerate(self.days)}

    def _builds(self, positions: list[int]) -> list[_Build]:
        data = self._data.take(pa.array(positions, pa.int64()))
        columns = {name: data[name].to_pylist() for name in _Build._fields if name not in ("inputs", "built_at")}
        columns["built_at"] = ledger.moments(data["built_at"])
        # All days of a build have the same inputs, and one dict of them.
        inputs: dict[tuple[str, ...], dict[str, str]] = {}
        columns["inputs"] = [inputs.setdefault(tuple(map(str, pairs)), dict(pairs)) for pairs in
                             ledger.pairs(data["inputs"])]  # fmt: skip
        return list(map(_Build._make, zip(*(columns[name] for name in _Build._fields), strict=True)))

    @cached_property
    def newest_of_all(self) -> "_Build | None":
        """The newest good build of the table, whatever its days."""
        if not self.built:
            return None
        versions = self._data["version"].take(pa.array(list(self.built.values()), pa.int64())).to_pylist()
        newest = max(zip(versions, self.built.values(), strict=True), key=lambda pair: pair[0])
        return self._builds([newest[1]])[0]

    def changed_between(self, after: int, before: int) -> set[str]:
        """The days that commits after one version and before another changed."""
        data = self._data.select(["partition", "status", "version"]).take(self._mine)
        of_rows = pc.is_in(data["status"], pa.array([BUILT, CHANGED]))
        between = pc.and_(pc.greater(data["version"], after), pc.less(data["version"], before))
        return set(data["partition"].filter(pc.and_(of_rows, between)).to_pylist())

    def changed_by_others(self, day: str, version: int) -> bool:
        """Has another writer changed rows of the day after a version?"""
        return max(self._foreign.get(day, -1), self._foreign.get(ANY_DAY, -1)) > version


class Look:
    """One look at the lake: what it reads it keeps, so its answers fit together. Make a new one to look again.

    It reads, and never writes. It reads the ledger rows of those tables alone that it is asked for.
    """

    def __init__(self) -> None:
        self.project = current.project()
        self._ledger: ledger.Reader | None = None
        self._snapshots: dict[str, Snapshot | None] = {}
        self._histories: dict[str, _History] = {}
        self._built: dict[str, dict[str, dict[str, Any]]] = {}
        self._files: dict[str, dict[str, PartitionFiles]] = {}
        self._not_ready: dict[str, dict[str, str]] = {}
        self._planned: dict[str, set[str]] = {}
        self._states: dict[tuple[str, str], PartitionState] = {}
        self._own_states: dict[tuple[str, str], PartitionState] = {}
        self._oldest: dict[str, str | None] = {}
        self._inputs: dict[str, list[_Input]] = {}
        self._first_days: dict[str, str | None] = {}
        self._cumulative: dict[str, tuple[list[str], list[int]]] = {}

    def snapshot(self, table: str) -> Snapshot | None:
        """The table at the version that this look speaks of; None if there is no table."""
        if table not in self._snapshots:
            self._snapshots[table] = store().open(table)
        return self._snapshots[table]

    def _reader(self) -> ledger.Reader:
        self._ledger = self._ledger or ledger.reader()
        return self._ledger

    def _history(self, table: str) -> _History:
        if table not in self._histories:
            self._histories[table] = _History(self.project.contract(table), self.snapshot(table), self._reader())
        return self._histories[table]

    def _inputs_with_days(self, table: str) -> list[_Input]:
        if table not in self._inputs:
            earlier = dict(self.project.contract(table).reads)
            self._inputs[table] = [
                _Input(
                    name, self.project.contract(name).grain, earlier.get(name, 0), self.project.contract(name).is_source
                )
                for name in self.project.inputs(table)
                if self.project.contract(name).has_days
            ]
        return self._inputs[table]

    def unrecorded(self, tables: Iterable[str]) -> list[dict[str, Any]]:
        """The rows that are missing in the ledger, for those of `tables` that have days."""
        names = [name for name in tables if self.project.contract(name).has_days]
        self._reader().read(names)
        return [row for name in names for row in self._history(name).unrecorded]

    def builds(self, table: str) -> dict[str, list[dict[str, Any]]]:
        """Day -> its builds, good and failed, oldest first."""
        history = self._history(table)
        found = {}
        for day in history.positions:
            rows = [row for row in self.rows(table, day) if row["status"] in (BUILT, ledger.FAILED)]
            if rows:
                found[day] = rows
        return found

    def rows(self, table: str, day: str) -> list[dict[str, Any]]:
        """The ledger rows of a day, oldest first."""
        history = self._history(table)
        rows = history.rows(history.positions.get(day, ()))
        # A failed build has the version that it started from, so it comes after the build of that version.
        return sorted(rows, key=lambda row: (row["version"], row["status"] == ledger.FAILED, row["built_at"]))

    def built(self, table: str) -> dict[str, dict[str, Any]]:
        """Day -> ledger row of its newest good build."""
        if table not in self._built:
            history = self._history(table)
            rows = history.rows(history.built.values())
            self._built[table] = dict(sorted(zip(history.built, rows, strict=True)))
        return self._built[table]

    def build_of(self, table: str, day: str) -> dict[str, Any] | None:
        """The ledger row of the newest good build of a day."""
        history = self._history(table)
        return history.rows([history.built[day]])[0] if day in history.built else None

    def built_days(self, table: str) -> list[str]:
        """The days that were built, sorted."""
        return self._history(table).days

    def of_builds(self, table: str, *names: str) -> dict[str, tuple[Any, ...]]:
        """Day -> some plain columns of the ledger row of its newest good build: a fraction of what `built` takes."""
        return self._history(table).columns(names)

    def files(self, table: str) -> dict[str, PartitionFiles]:
        """Day -> files of a source."""
        if table not in self._files:
            snapshot = self.snapshot(table)
            self._files[table] = {} if snapshot is None else store().days(snapshot, self.project.contract(table))
        return self._files[table]

    def version(self, table: str) -> int | None:
        """The version of the Delta table that this look speaks of, so that what is read is what is recorded."""
        snapshot = self.snapshot(table)
        return None if snapshot is None else snapshot.version

    def table_id(self, table: str) -> str:
        """Delta's id of the table; empty if there is no table."""
        snapshot = self.snapshot(table)
        return "" if snapshot is None else snapshot.table_id

    def day_versions(self, table: str) -> dict[str, int]:
        """Day -> the newest version that changed its rows, for days that have any or were built."""
        history = self._history(table)
        any_day = history.changes.get(ANY_DAY, -1)
        known = self.files(table) if self.project.contract(table).is_source else history.built
        versions = {day: max(history.changes.get(day, -1), any_day) for day in known}
        return versions | dict.fromkeys(self._planned.get(table, ()), _PLANNED)

    def assume_built(self, table: str, days: list[str]) -> None:
        """Answer from here on as if `days` were built anew: what reads them is stale then, or can be built at last.

        Call it in dependency order, inputs first. Answers that were given for readers before are not computed again.
        """
        self._planned.setdefault(table, set()).update(days)
        self._cumulative.pop(table, None)
        self._first_days.pop(table, None)

    # -- what is there

    def absent(self, table: str, days: list[str]) -> list[str]:
        """Those of `days` that the table does not have; [''] for a table without days that does not exist."""
        return list(self.absent_reasons(table, days))

    def absent_reasons(self, table: str, days: list[str]) -> dict[str, str]:
        """Those of `days` that the table does not have, each with the reason; '' for a table without days."""
        contract = self.project.contract(table)
        if not contract.has_days:
            return {"": "is not loaded"} if self.version(table) is None else {}
        if not contract.is_source:
            built, planned = self._history(table).built, self._planned.get(table, ())
            return {day: "is missing" for day in days if day not in built and day not in planned}
        with_rows = [day for day in days if day in self.files(table)]
        reasons = {day: "is missing" for day in days if day not in self.files(table) and not self.is_empty(table, day)}
        return dict(sorted((reasons | self._unready(table, with_rows)).items()))

    def is_empty(self, table: str, day: str) -> bool:
        """Is it known that a day of a source has no rows: a load said so, or its `empty_after` has passed?"""
        if day in self.files(table) or self.version(table) is None:
            return False
        if day in self._history(table).empty:
            return True
        hours = self.project.contract(table).empty_after
        if hours is None:
            return False
        last_day = Period(self.project.contract(table).grain, day).last_day
        if last_day >= "9999":  # the end of this day is beyond what a datetime holds
            return False
        ends = (datetime.fromisoformat(last_day) + timedelta(days=1)).replace
        last = max(ends(tzinfo=ZoneInfo(zone)) for zone in task_lists.zones_of_source(table))
        return datetime.now(last.tzinfo) >= last + timedelta(hours=hours)

    def _unready(self, table: str, days: list[str]) -> dict[str, str]:
        """Those of `days`, which have rows, that do not yet fulfil `ready_when`, each with how far it is."""
        if not self.project.contract(table).ready_when:
            return {}
        known = self._not_ready.setdefault(table, {})
        if new := [day for day in days if day not in known]:
            snapshot = self.snapshot(table)
            assert snapshot is not None, "there are days with rows"
            known.update(completeness.reasons(snapshot, self.project.contract(table), new, self.day_versions(table)))
        return {day: known[day] for day in days if known[day]}

    def input_days(self, table: str, start: str, end: str) -> dict[str, list[str]]:
        """Input -> the days that a build of start..end needs to be there; [''] for an input without days.

        Of the earlier days that the contract's `reads` names, those before the input's first day are not waited for.
        """
        grain = self.project.contract(table).grain
        needed = {name: [""] for name in self.project.inputs(table)}
        for read in self._inputs_with_days(table):
            first = periods.read_of(grain, start, read.grain)[0]
            if isinstance(read.earlier, int) and read.earlier:
                earliest = periods.read_of(grain, start, read.grain, read.earlier)[0]
                first = min(first, max(earliest, self._first_day(read.name) or first))
            needed[read.name] = periods.keys(read.grain, first, periods.read_of(grain, end, read.grain)[-1])
        return needed

    def newest_day(self, table: str) -> str:
        """The last day of the newest partition of a table; empty if it has none, or cannot be looked at.

        A day that a load said to be empty counts as one.
        """
        try:
            newest = max((*self.day_versions(table), *self._history(table).empty), default="")
        except UsageError:  # of a setting, and so of every table
            raise
        except LakeError:
            return ""
        return Period(self.project.contract(table).grain, newest).last_day if newest else ""

    def _first_day(self, table: str) -> str | None:
        if table not in self._first_days:
            self._first_days[table] = min(self.day_versions(table), default=None)
        return self._first_days[table]

    def absent_inputs(self, table: str, start: str, end: str) -> dict[str, dict[str, str]]:
        """Input -> days that keep start..end from being built, each with the reason; empty when nothing does."""
        needed = self.input_days(table, start, end)
        reasons = {name: self.absent_reasons(name, days) for name, days in needed.items()}
        return {name: days for name, days in reasons.items() if days}

    def why_missing(self, table: str, start: str, end: str) -> str:
        """Why start..end of a table that we build are missing, in words."""
        return f"never built; {describe_absent(self.absent_inputs(table, start, end)) or 'its inputs are there'}"

    # -- what has changed

    def input_versions(self, table: str) -> dict[str, str]:
        """Input -> what a build records of it: the version that it reads, with the id of the Delta table."""
        return {
            name: f"{self.table_id(name)}@{self.version(name)}"
            for name in self.project.inputs(table)
            if self.version(name) is not None
        }

    def changed_inputs(self, table: str, day: str, inputs: dict[str, str]) -> list[str]:
        """The inputs of which a day that `day` reads has changed since the versions that a build recorded.

        Inputs without days do not count: they have no part that belongs to the day.
        """
        changed, grain = [], self.project.contract(table).grain
        for read in self._inputs_with_days(table):
            table_id, _, version = inputs.get(read.name, "@-1").partition("@")
            if table_id != self.table_id(read.name) or self._newest_change(read, grain, day) > int(version):
                changed.append(read.name)
        return changed

    def _newest_change(self, read: _Input, grain: Grain, day: str) -> int:
        """The newest version of an input that changed a partition which the build of the `grain` `day` reads.

        A source may drop its oldest days, which changes nothing: days before the first one that is left do not count.
        """
        if read.earlier == "all":
            days, newest = self._newest_changes(read.name)
            return newest[bisect_right(days, periods.read_of(grain, day, read.grain)[-1])]
        window = periods.read_of(grain, day, read.grain, int(read.earlier))
        if read.is_source and (first_kept := self._first_day(read.name)):
            known_as_empty = self._history(read.name).empty  # a load took its rows away: that is no retention
            window = tuple(other for other in window if other >= first_kept or other in known_as_empty)
        planned = self._planned.get(read.name)
        if planned and not planned.isdisjoint(window):
            return _PLANNED
        changes = self._history(read.name).changes
        return max(changes.get(changed_day, -1) for changed_day in (*window, ANY_DAY))

    def _newest_changes(self, table: str) -> tuple[list[str], list[int]]:
        """Sorted days with, at n, the newest change of the first n of them; made in one go over the history."""
        if table not in self._cumulative:
            history = self._history(table)
            versions = {day: version for day, version in history.changes.items() if day != ANY_DAY}
            versions |= dict.fromkeys(self._planned.get(table, ()), _PLANNED)
            if self.project.contract(table).is_source and (first := self._first_day(table)):
                versions = {day: v for day, v in versions.items() if day >= first or day in history.empty}
            days, newest = [], [history.changes.get(ANY_DAY, -1)]
            for day, version in sorted(versions.items()):
                days.append(day)
                newest.append(max(newest[-1], version))
            self._cumulative[table] = days, newest
        return self._cumulative[table]

    # -- states

    def own_state(self, table: str, day: str) -> PartitionState:
        """The state of a day judged by what its build would read right now: a build is due unless it is fresh.

        A table that cannot be looked at is failed, with the reason: it hides no other table.
        """
        if (table, day) not in self._own_states:
            try:
                self._own_states[table, day] = self._look(table, day)
            except LakeError as error:
                self._own_states[table, day] = PartitionState(table, day, FAILED, str(error))
        return self._own_states[table, day]

    def _look(self, table: str, day: str) -> PartitionState:
        if self.project.contract(table).is_source:
            return self._look_at_source(table, day)
        history = self._history(table)
        build = history.newest_build(day)
        facts = (build.rows, build.built_at, build.seconds, build.run) if build else ()
        failed = history.rows([history.failed[day]])[0] if day in history.failed else None
        if failed and self._still_fails(table, day, failed, build):
            why = f"the build of {failed['built_at']:%F %T} failed: {failed['error']}"
            return PartitionState(table, day, FAILED, why, *facts)
        if build is None:
            return PartitionState(table, day, MISSING, self.why_missing(table, day, day))
        inputs = build.inputs
        if self.project.contract(table).kept_by:
            if reason := self.reason_to_compute_all_keys(table):
                return PartitionState(table, day, STALE, reason, *facts)
            newest = history.newest_of_all
            assert newest, "there is a build of this day"
            inputs = inputs | {name: newest.inputs.get(name, "@-1") for name in self._kept_inputs(table)}
        if build.code_id != self.project.code_id(table):
            return PartitionState(table, day, STALE, _OTHER_CODE, *facts)
        if history.changed_by_others(day, build.version):
            return PartitionState(table, day, STALE, _OTHER_WRITER, *facts)
        if changed := self.changed_inputs(table, day, inputs):
            return PartitionState(table, day, STALE, f"{', '.join(changed)} changed since the build", *facts)
        return PartitionState(table, day, FRESH, f"built {build.built_at:%F %T} by {build.run}", *facts)

    # -- tables kept by key

    def _kept_inputs(self, table: str) -> list[str]:
        return [name for name in self.project.inputs(table) if self.project.contract(name).kept_by]

    def newest_inputs(self, table: str) -> dict[str, str]:
        """Input -> the version that the newest build of the table read, whatever its days; none if it has no build."""
        newest = self._history(table).newest_of_all
        return newest.inputs if newest else {}

    def changed_between(self, table: str, after: int, before: int) -> set[str]:
        """The days of a table that commits after one version and before another changed."""
        return self._history(table).changed_between(after, before)

    def differ(self, table: str, one: str, other: str) -> bool:
        """Has a table other rows at one version that a build recorded than at another?"""
        (id, _, first), (other_id, _, second) = one.partition("@"), other.partition("@")
        if id != other_id or first == second or not self.project.contract(table).has_days:
            return one != other
        low, high = sorted((int(first), int(second)))
        return bool(self.changed_between(table, low, high + 1))

    def inputs_of(self, table: str, day: str) -> dict[str, str]:
        """Input -> the version that the newest build of a day read; none if it has no build."""
        build = self._history(table).newest_build(day)
        return build.inputs if build else {}

    def reason_to_compute_all_keys(self, table: str) -> str:
        """Why a build of a table kept by key has to compute all its keys, and not only those that its days touch."""
        history = self._history(table)
        newest = history.newest_of_all
        if newest is None:
            return "never built"
        if newest.code_id != self.project.code_id(table):
            return _OTHER_CODE
        if history.changed_by_others(ANY_DAY, newest.version):
            return _OTHER_WRITER
        for name in self.project.inputs(table):
            contract = self.project.contract(name)
            recorded = newest.inputs.get(name, "@-1")
            if (contract.kept_by or not contract.has_days) and recorded.partition("@")[0] != self.table_id(name):
                return f"{name} was made again since the build"
        return ""

    def _still_fails(self, table: str, day: str, failed: dict[str, Any], build: _Build | None) -> bool:
        """Would the build that failed fail again: has nothing changed since, and has no later build been good?

        Versions and not clocks say what came later: the clocks of two workers may differ by minutes. A build without a
        commit (see the runner) has the version of the failed one before it; then only the clocks are left.
        """
        if build and (build.version, build.built_at) > (failed["version"], failed["built_at"]):
            return False
        now = self.input_versions(table)
        without_days = [name for name in self.project.inputs(table) if not self.project.contract(name).has_days]
        return (
            failed["code_id"] == self.project.checks_id(table)
            and all(failed["inputs"].get(name) == now.get(name) for name in without_days)
            and not self.changed_inputs(table, day, failed["inputs"])
        )

    def _look_at_source(self, table: str, day: str) -> PartitionState:
        if files := self.files(table).get(day):
            if reason := self._unready(table, [day]).get(day):
                return PartitionState(table, day, MISSING, f"{counted(files.rows, 'row')}, but it {reason}", files.rows)
            return PartitionState(table, day, FRESH, f"loaded, {counted(files.rows, 'row')}", files.rows)
        if self.is_empty(table, day):
            return PartitionState(table, day, FRESH, "empty, and complete", 0)
        return PartitionState(table, day, MISSING, f"not loaded: ./lake load {table} FILE")

    def state(self, table: str, day: str) -> PartitionState:
        """The state of a day, where an input that is itself not fresh makes it stale too, through every level."""
        if (table, day) not in self._states:
            self._states[table, day] = self._through_every_level(table, day)
        return self._states[table, day]

    def _through_every_level(self, table: str, day: str) -> PartitionState:
        own = self.own_state(table, day)
        if own.state != FRESH or self.project.contract(table).is_source:
            return own
        built = [read for read in self._inputs_with_days(table) if not read.is_source]
        needed_days = self.input_days(table, day, day) if built else {}
        for read in built:
            name, days = read.name, needed_days[read.name]
            if read.earlier == "all":
                oldest = self._oldest_due(name)
                days = [oldest, *days] if oldest and oldest <= days[-1] else days
            for needed in days:
                above = self.state(name, needed)
                if above.state != FRESH:
                    facts = (own.rows, own.built_at, own.seconds, own.run)
                    return PartitionState(
                        table, day, STALE, f"{name} of {needed} is {above.state}: {above.why}", *facts
                    )
        return own

    def _oldest_due(self, table: str) -> str | None:
        """The first day that was built and is not fresh any more."""
        if table not in self._oldest:
            due = (day for day in sorted(self.built(table)) if self.state(table, day).state != FRESH)
            self._oldest[table] = next(due, None)
        return self._oldest[table]


def describe_absent(absent: dict[str, dict[str, str]]) -> str:
    """What is missing, in words: `a.b of 2026-01-05, 2026-01-07..2026-01-08 is missing; …`."""
    parts, project = [], current.project()
    for name, reasons in sorted(absent.items()):
        of_reason: dict[str, list[str]] = {}
        for day in sorted(reasons):
            of_reason.setdefault(reasons[day], []).append(day)
        for reason, days in of_reason.items():
            of_days = "" if days == [""] else f" of {periods.spans(project.contract(name).grain, days, periods.SHOWN)}"
            parts.append(f"{name}{of_days} {reason}")
    return "; ".join(parts)
