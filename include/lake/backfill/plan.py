"""What a backfill is going to do: which tables and days, in which order, in how few jobs, what not and why.

A plan comes from one look at the lake, without Spark. The look is told table by table what the plan builds, so that the
tables above see it as they will find it: an input that is built anew makes its readers stale, through every level.
"""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from include.lake import settings
from include.lake.backfill.request import MODES, Request
from include.lake.errors import LakeError
from include.lake.project import contracts, lineage, periods
from include.lake.project.current import held
from include.lake.state.look import FAILED, FRESH, MISSING, STALE, Look
from include.lake.state.presence import look_at
from include.lake.words import counted, span

# Parquet takes five to ten times its size once it is rows, and Spark spills what does not fit: a batch of an eighth of
# Spark's memory is computed about in memory.
_BATCH_SHARE = 1 / 8
# A quarter: a batch is also what is done again after a kill, and what is halved to find a bad day.
_MAX_BATCH_DAYS = 92
# What a build costs however few its days are: session, audit, commit and ledger, as measured on a warm server.
_SECONDS_PER_JOB = 3.0
# Builds that the estimate looks at, the newest ones of each table.
_BUILDS_LOOKED_AT = 20


@dataclass(frozen=True)
class Batch:
    """Consecutive days that are one Spark job and one commit. `seconds`: the estimate, None with nothing to go by."""

    first: str
    last: str
    days: int
    seconds: float | None


@dataclass(frozen=True)
class TablePlan:
    """One table's batches, and the days that are not built by reason."""

    table: str
    batches: tuple[Batch, ...]
    skipped: dict[str, list[str]] = field(default_factory=dict)

    @property
    def _grain(self) -> periods.Grain:
        return contracts.get(self.table).grain

    @property
    def partitions(self) -> int:
        return sum(batch.days for batch in self.batches)

    @property
    def days(self) -> list[str]:
        return [day for batch in self.batches for day in periods.keys(self._grain, batch.first, batch.last)]

    @property
    def seconds(self) -> float | None:
        """The estimate; None if there is none for some batch."""
        known = [batch.seconds for batch in self.batches if batch.seconds is not None]
        return sum(known) if len(known) == len(self.batches) else None


@dataclass(frozen=True)
class Plan:
    request: Request
    tables: tuple[TablePlan, ...]

    @property
    def jobs(self) -> int:
        return sum(len(table.batches) for table in self.tables)

    @property
    def partitions(self) -> int:
        return sum(table.partitions for table in self.tables)

    @property
    def seconds(self) -> float | None:
        known = [table.seconds for table in self.tables if table.seconds is not None]
        return sum(known) if len(known) == len(self.tables) else None

    def lines(self) -> list[str]:
        """The plan for people."""
        rows = [["table", "days", "jobs", "estimate", "from", "to"]]
        for table in self.tables:
            first, last = (table.batches[0].first, table.batches[-1].last) if table.batches else ("", "")
            rows.append([table.table, f"{table.partitions:,}", f"{len(table.batches):,}",
                         clock(table.seconds), first, last])  # fmt: skip
        rows.append(["together", f"{self.partitions:,}", f"{self.jobs:,}", clock(self.seconds), "", ""])
        days = counted(len(self.request.days), "day")
        mode = self.request.mode
        head = f"backfill of {span(self.request.first, self.request.last)} ({days}), mode {mode}: {MODES[mode]}"
        skips = [line for table in self.tables for line in skip_lines(table.table, table.skipped)]
        return [head, *columns(rows), *(["not built:", *skips] if skips else [])]


# -- the plan


@held()
def plan(asked: Request, run: str = "") -> Plan:
    """The plan for what is asked for, as things are now. `run`: see `plan_table`."""
    costs = Costs(look_at(asked.tables))
    found = []
    for table in asked.tables:
        found.append(plan_table(costs, table, asked, run))
        costs.lake.assume_built(table, found[-1].days)
    return Plan(asked, tuple(found))


@held()
def runs(asked: Request) -> list[str]:
    """The runs of all builds of what is asked for, good and failed."""
    lake = look_at(asked.tables)
    rows = (row for table in asked.tables for day in asked.partitions(table) for row in lake.rows(table, day))
    return sorted({row["run"] for row in rows if row["run"]})


def plan_table(costs: "Costs", table: str, asked: Request, run: str = "") -> TablePlan:
    """The plan for one table as its inputs are. `run`: with mode `all`, what it has built is not built again."""
    lake = costs.lake
    due, skipped = [], dict[str, list[str]]()
    for day in asked.partitions(table):
        reason = _why_not(lake, table, day, asked.mode, run)
        skipped.setdefault(reason, []).append(day) if reason else due.append(day)
    if early := asked.not_over(table):
        skipped["not over yet"] = early
    batches = tuple(
        Batch(days[0], days[-1], len(days), costs.seconds(table, len(days)))
        for days in _batches(costs, table, due, asked.days_per_batch)
    )
    return TablePlan(table, batches, skipped)


def _why_not(lake: Look, table: str, day: str, mode: str, run: str) -> str:
    """Why a day is not built, in words that are the same for days of the same reason; empty if it is built."""
    own = lake.own_state(table, day)
    kinds = {own.state}
    if own.state == FAILED:
        kinds.add(STALE if day in lake.built_days(table) else MISSING)
    if mode == "all":
        if own.state == FRESH and run and any(row["run"] == run for row in lake.rows(table, day)):
            return "built by this run already"  # and perhaps by somebody else since
    elif own.state == FRESH:
        late = [name for name, days in lake.input_days(table, day, day).items() if _is_late(lake, name, days)]
        return f"fresh, but {', '.join(late)} is not" if late else FRESH
    elif mode != "due" and mode not in kinds:
        return f"{own.state}, and the mode is {mode}"
    try:
        absent = lake.absent_inputs(table, day, day)
    except LakeError as error:  # an input that cannot be looked at
        return str(error)
    # In words that are the same for days of the same reason: the day itself is left out.
    names: dict[str, list[str]] = {}
    for name, reasons in sorted(absent.items()):
        names.setdefault(min(reasons.values()), []).append(name)
    return "; ".join(f"{', '.join(listed)} {reason}" for reason, listed in names.items())


def _is_late(lake: Look, name: str, days: list[str]) -> bool:
    return not contracts.get(name).is_source and any(lake.state(name, day).state != FRESH for day in days)


def _batches(costs: "Costs", table: str, due: list[str], limit: int | None) -> Iterator[list[str]]:
    """`due` cut into consecutive days: `limit` a time, or as many as fit the machine."""
    # The memory of a run of Databricks is not ours to know. There it is a matter of days alone.
    fitting = math.inf if settings.on_databricks() else settings.engine_memory_bytes() * _BATCH_SHARE
    grain = contracts.get(table).grain
    for first, last in periods.key_ranges(grain, due):
        batch: list[str] = []
        size = 0.0
        for day in periods.keys(grain, first, last):
            more = costs.bytes(table, day)
            if batch and (len(batch) >= (limit or _MAX_BATCH_DAYS) or (limit is None and size + more > fitting)):
                yield batch
                batch, size = [], 0.0
            batch.append(day)
            size += more
        yield batch


class Costs:
    """What building takes, judged by the sizes and the seconds of earlier builds."""

    def __init__(self, lake: Look) -> None:
        self.lake = lake
        self._reads: dict[str, list[tuple[str, str]]] = {}
        self._sizes: dict[str, dict[str, int]] = {}
        self._means: dict[str, float] = {}
        self._rates: dict[str, float | None] = {}

    def bytes(self, table: str, day: str) -> float:
        """Bytes that one more day in a build reads and writes; the earlier days that it also reads are in any build."""
        if table not in self._reads:
            self._reads[table] = [(name, contracts.get(name).grain) for name in _inputs_with_days(table)]
        grain, size = contracts.get(table).grain, self._size(table, day)
        for name, read in self._reads[table]:
            parts = [day] if read == grain else periods.read_of(grain, day, read)
            size += sum(self._size(name, part) for part in parts)
        return size

    def _size(self, table: str, day: str) -> float:
        if table not in self._sizes:
            if contracts.get(table).is_source:
                self._sizes[table] = {day: files.bytes for day, files in self.lake.files(table).items()}
            else:
                self._sizes[table] = {day: size for day, (size,) in self.lake.of_builds(table, "bytes").items()}
        known = self._sizes[table].get(day)
        return self._mean(table) if known is None else known

    def _mean(self, table: str) -> float:
        """Of a day; a table that was never built has about as much as its inputs."""
        if table not in self._means:
            known = self._sizes.get(table, {})
            guess = sum(self._size(name, "") for name in _inputs_with_days(table)) if not known else 0.0
            self._means[table] = statistics.fmean(known.values()) if known else guess
        return self._means[table]

    def seconds(self, table: str, days: int) -> float | None:
        """How long a build of so many days takes; None while nothing was built that it could be judged by."""
        rate = self._rate(table)
        if rate is None:  # as long as the tables that were built
            others = [self._rate(name) for name in lineage.in_order() if contracts.get(name).is_built]
            known = [other for other in others if other is not None]
            rate = statistics.median(known) if known else None
        return None if rate is None else _SECONDS_PER_JOB + rate * days

    def _rate(self, table: str) -> float | None:
        """Seconds per day beyond those of any job."""
        if table not in self._rates:
            # A build has a row for each of its days.
            builds = set(self.lake.of_builds(table, "version", "seconds", "build_days").values())
            newest = sorted(builds)[-_BUILDS_LOOKED_AT:]
            rates = [max(0.0, seconds - _SECONDS_PER_JOB) / days for _, seconds, days in newest]
            self._rates[table] = statistics.median(rates) if rates else None
        return self._rates[table]


def _inputs_with_days(table: str) -> list[str]:
    return [name for name in lineage.inputs(table) if contracts.get(name).has_days]


# -- in words


def clock(seconds: float | None) -> str:
    """Seconds as people read them: 0:09, 12:05, 3:00:10."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def columns(rows: list[list[str]]) -> list[str]:
    """Rows as lines, numbers to the right."""
    width = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    numbers = [any(row[n][:1].isdigit() and "-" not in row[n] for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(w) if number else cell.ljust(w) for cell, w, number in zip(row, width, numbers, strict=True)
        ).rstrip()
        for row in rows
    ]


def ranges(table: str, days: list[str]) -> str:
    """Partitions of a table as people write them, no more than some ranges of them."""
    return periods.spans(contracts.get(table).grain, days, periods.SHOWN)


def skip_lines(table: str, skipped: dict[str, list[str]]) -> list[str]:
    grain = contracts.get(table).grain
    return [
        f"  {table}: {counted(len(days), grain)} ({ranges(table, days)}): {reason}" for reason, days in skipped.items()
    ]
