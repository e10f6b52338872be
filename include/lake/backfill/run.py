"""Runs a plan: one build per table and batch; of a batch with a bad day the good days land all the same.

Nothing is kept about a backfill but the ledger: what is done is fresh. So a backfill that was stopped, by whatever,
goes on with what is left when it is started again, and two that overlap do the common part once.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date

from include.lake import settings
from include.lake.backfill import plan as planning
from include.lake.backfill.plan import Costs, Plan, clock, columns, ranges
from include.lake.backfill.request import Request
from include.lake.build import failures, runner
from include.lake.errors import CODE, DATA, InputsMissing
from include.lake.local import locks
from include.lake.project import contracts, periods
from include.lake.project.periods import Period
from include.lake.state.look import FAILED, Look
from include.lake.words import counted, span

Log = Callable[[str], None]
# The largest batch takes an hour or two: what holds its days for longer hangs.
_CLAIM_SECONDS = 6 * 3600


@dataclass
class Progress:
    """How far a plan is. `tell` is called whenever that changes."""

    plan: Plan
    tell: Callable[["Progress"], None] = lambda progress: None
    done: int = 0
    rows: int = 0
    doing: str = ""
    began: float = field(default_factory=time.monotonic)
    _weight_done: float = 0.0

    def __post_init__(self) -> None:
        self._weights = {
            table.table: (table.seconds / table.partitions if table.seconds and self.plan.seconds else 1.0)
            for table in self.plan.tables
            if table.partitions
        }

    def start(self, what: str) -> None:
        self.doing = what
        self.tell(self)

    def add(self, table: str, days: int, rows: int) -> None:
        self.done += days
        self.rows += rows
        self._weight_done += days * self._weights.get(table, 1.0)
        self.tell(self)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    @property
    def left(self) -> float | None:
        """Seconds: by the plan at first, then by how the work so far compared with the plan."""
        whole = sum(self._weights[table.table] * table.partitions for table in self.plan.tables if table.partitions)
        if not self._weight_done:
            return None if self.plan.seconds is None else max(0.0, self.plan.seconds - self.elapsed)
        return max(0.0, whole - self._weight_done) * self.elapsed / self._weight_done

    def line(self) -> str:
        about = "" if self.left is None else f", about {clock(self.left)} left"
        partitions, rows = counted(self.plan.partitions, "partition"), counted(self.rows, "row")
        return f"{self.done:,} of {partitions}, {rows}, {clock(self.elapsed)}{about}"


@dataclass(frozen=True)
class Result:
    """What a run has come to for one table: from the ledger, so that a run that was resumed counts as a whole.

    `bad`: day -> why its build failed; `left`: days that are still due, because the table was stopped;
    `skipped`: reason -> days that the plan left out in the end.
    """

    table: str
    built: list[str]
    rows: int
    jobs: int
    seconds: float
    bad: dict[str, str]
    left: list[str]
    skipped: dict[str, list[str]]


def run(asked: Request, run: str, log: Log, progress: Progress) -> tuple[list[Result], dict[str, str]]:
    """Build what is due of every table; gives the results, and why a table was stopped before its end.

    A table is stopped by an error that other days would meet, too (a wrong SELECT). What is wrong with the machine
    ends everything, since the next table would meet the same: it is raised.
    """
    stopped: dict[str, str] = {}
    for table in asked.tables:
        try:
            run_table(asked, table, run, log, progress)
        except Exception as error:
            if failures.is_bug(error) or failures.kind(error) not in (CODE, DATA):
                raise
            stopped[table] = failures.first_line(error)
            log(f"{table} is stopped: {stopped[table]}")
    return results(asked, run), stopped


def run_table(asked: Request, table: str, run: str, log: Log, progress: Progress) -> dict[str, str]:
    """Build what is due of one table now; gives its bad days with the reason. Raises what is not of some day alone."""
    bad: dict[str, str] = {}
    lake = Look()
    runner.repair(lake, table)  # no build does it where a killed one has left no day due
    found = planning.plan_table(Costs(lake), table, asked, run)
    todo = [(batch.first, batch.last) for batch in reversed(found.batches)]
    if not todo:
        log(f"{table}: nothing to build")
    at_most = len(asked.days)  # in a job
    while todo:
        first, last = todo.pop()
        days = periods.keys(contracts.get(table).grain, first, last)
        if len(days) > at_most:
            todo += _halves(days)
            continue
        progress.start(f"{table} {span(first, last)}")
        try:
            with _claimed(table, days, log):
                outcome = runner.build(table, first, last, run=run, force=asked.mode == "all", log=log)
        except Exception as error:
            of_memory = failures.is_of_memory(error) and len(days) > 1
            if not is_of_the_rows(error) and not of_memory:
                raise
            if of_memory:
                at_most = len(days) // 2
            if len(days) == 1:
                bad[first] = failures.first_line(error)
                log(f"{table} {first} is bad: {error}")
                progress.add(table, 1, 0)
                continue
            log(f"{table} {first}..{last} failed, trying its halves: {failures.first_line(error)}")
            todo += _halves(days)
        else:
            progress.add(table, len(days), outcome.rows)
            log(progress.line())
    return bad


def _halves(days: list[str]) -> list[tuple[str, str]]:
    """The ranges of the later half of some days, and of the earlier one, which comes first from the end of a list."""
    middle = len(days) // 2
    return [(days[middle], days[-1]), (days[0], days[middle - 1])]


@contextmanager
def _claimed(table: str, days: list[str], log: Log) -> Iterator[None]:
    """While this is held, another backfill on this machine that wants one of these days waits, and then finds it fresh.

    The system ends the claim with the process, however it ends. Nothing depends on it but that work is done once.
    """
    if settings.on_databricks():  # a run has a machine of its own, where a lock holds nobody off
        yield
        return
    path = settings.home() / "run" / f"{table}.days"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        # A lock on bytes: one for each day, so that ranges exclude each other where they overlap.
        grain = contracts.get(table).grain
        first, last = (date.fromisoformat(day).toordinal() for day in
                       (Period(grain, days[0]).first_day, Period(grain, days[-1]).last_day))  # fmt: skip
        place = last - first + 1, first
        what = f"another backfill that is at some of the days {span(days[0], days[-1])} of {table}"
        locks.take(
            lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *place),
            what,
            _CLAIM_SECONDS,
            lambda: log(f"waiting for {what}"),
        )
        yield


def is_of_the_rows(error: Exception) -> bool:
    """Did the rows of some day cause this, so that other days can do without them?"""
    return failures.kind(error) == DATA and not isinstance(error, InputsMissing)


def results(asked: Request, run: str) -> list[Result]:
    """What `run` has come to, by table."""
    lake = Look()
    costs, found = Costs(lake), []
    for table in asked.tables:
        planned = planning.plan_table(costs, table, asked, run)
        built, bad, mine = [], {}, {}
        for day in asked.partitions(table):
            rows = lake.rows(table, day)
            last = max((row for row in rows if row["run"] == run), key=lambda row: row["built_at"], default=None)
            if last and last["status"] == "built":
                built.append(day)
                mine[day] = last
            elif last and lake.own_state(table, day).state == FAILED:  # else somebody has built it since
                bad[day] = (last["error"] or "no reason is known").splitlines()[0]
        jobs = {row["build_id"]: row["seconds"] for row in mine.values()}
        skipped = {
            reason: rest
            for reason, days in planned.skipped.items()
            if (rest := [day for day in days if day not in mine and day not in bad])
        }
        found.append(
            Result(
                table, built, sum(row["rows"] for row in mine.values()), len(jobs), sum(jobs.values()),
                bad, [day for day in planned.days if day not in bad and day not in mine], skipped,
            )
        )  # fmt: skip
    return found


def summary(results: list[Result], stopped: dict[str, str] | None = None) -> list[str]:
    """The results for people: a table, then every bad day by name, and what was not built because of it."""
    rows = [["table", "built", "rows", "jobs", "seconds", "bad", "left", "skipped"]]
    for result in results:
        skipped = sum(len(days) for days in result.skipped.values())
        counts = [len(result.built), result.rows, result.jobs, round(result.seconds), len(result.bad)]
        rows.append([result.table, *(f"{count:,}" for count in [*counts, len(result.left), skipped])])
    lines = columns(rows)
    for result in results:
        reasons: dict[str, list[str]] = {}
        for day, reason in result.bad.items():
            reasons.setdefault(reason, []).append(day)
        lines += [f"bad: {result.table} {ranges(result.table, days)}: {reason}" for reason, days in reasons.items()]
    for table, reason in (stopped or {}).items():
        lines.append(f"stopped: {table}: {reason}")
    for result in results:
        if result.left:
            lines.append(f"left: {result.table} {ranges(result.table, result.left)}")
        for reason, days in result.skipped.items():
            if reason != planning.FRESH:
                lines.append(f"skipped: {result.table} {ranges(result.table, days)}: {reason}")
    return lines


def is_good(results: list[Result]) -> bool:
    """No bad day, and nothing left that could have been built."""
    return not any(result.bad or result.left for result in results)
