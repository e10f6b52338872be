"""The one writer of our tables: build(table, start, end) for the scheduled day, the backfilled month and the laptop.

Inputs are resolved to versions of their Delta logs, the SELECT is computed once over just these, what it gives is
audited, and one commit replaces the days. The commit carries the build record, from which the ledger is written.
"""

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from include.lake import settings
from include.lake.build import failures
from include.lake.engine import engine
from include.lake.errors import CONFLICT, CheckFailed, InputsMissing, LakeError, WriteConflict
from include.lake.project import contracts, lineage
from include.lake.project.contracts import DROP_REASON, RUN_TIMESTAMP, Contract
from include.lake.project.current import held
from include.lake.project.periods import Period, key_ranges, keys, keys_of_days, spans
from include.lake.state import ledger
from include.lake.state.look import FRESH, Look, describe_absent
from include.lake.storage import ANY_DAY, Commit, Snapshot, overtaken, store
from include.lake.words import counted, span

if TYPE_CHECKING:
    # PySpark is imported only by a build that computes: to find out that all is fresh should take less than a second.
    from pyspark.sql import DataFrame, SparkSession

Log = Callable[[str], None]
# Input -> its days that are not there, each with the reason.
Absent = dict[str, dict[str, str]]
# Another writer of the same days wins at most this often before we give up; each time takes a whole build.
_ATTEMPTS = 6


@dataclass
class Outcome:
    """What a call of `build` did. `days` and `rows` are those built; `state` is fresh when nothing had to be.

    `dropped`: reason -> rows not published; `warnings`: check of severity warn -> rows or days that broke it.
    """

    table: str
    start: str
    end: str
    state: str = FRESH
    days: list[str] = field(default_factory=list)
    rows: int = 0
    seconds: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    note: str = ""


@held()
def build(
    table: str,
    start: str,
    end: str,
    run: str = "cli",
    force: bool = False,
    log: Log = print,
    spark: "SparkSession | None" = None,
) -> Outcome:
    """Build those partitions of start..end that are not fresh (all of them with `force`); `run` names who asks.

    Of a table kept by key, `force` computes all keys again, over all days taken in.

    start, end: partition keys of the table: days, Mondays of weeks, or months yyyy-MM.

    Days whose inputs are not there are left out; InputsMissing names them after the others are built.
    Raises UsageError, ContractError, CheckFailed (nothing was published by the failing build; runs of
    consecutive days before it stay built) or WriteConflict.
    """
    contract = contracts.get(table)
    contracts.require_built(contract)
    days = keys(contract.grain, start, end)
    started = time.monotonic()
    outcome = Outcome(table, start, end)
    lake = _look(table)
    due = [day for day in days if force or lake.own_state(table, day).state != FRESH]
    absent = {day: missing for day in due if (missing := lake.absent_inputs(table, day, day))}
    there = [day for day in due if day not in absent]
    try:
        for number, some in enumerate([there] if contract.kept_by and there else _consecutive(contract, there)):
            _build_days(spark, contract, some, run, force, log, outcome, None if number else lake)
    except BaseException:
        if outcome.days:
            stay = f"{table} {spans(contract.grain, outcome.days)} built before that, and stays"
            log(f"{stay}: {counted(outcome.rows, 'row')}")
        raise
    outcome.seconds = round(time.monotonic() - started, 2)
    if outcome.days:
        outcome.state = "built"
        fresh = len(days) - len(absent) - len(outcome.days)
        others = f", already fresh: {fresh:,}" if fresh else ""
        lost = "".join(f", {count:,} dropped ({reason})" for reason, count in sorted(outcome.dropped.items()))
        rows = f"{counted(outcome.rows, 'row')}{lost} in {outcome.seconds:.1f} s"
        outcome.note = f"{table} {spans(contract.grain, outcome.days)} built: {rows}{others}"
    elif not due:
        outcome.note = f"{table} {span(start, end)} is fresh: {lake.own_state(table, days[-1]).why}"
    if outcome.note:
        log(outcome.note)
    if absent:
        raise _inputs_missing(contract, absent, outcome)
    return outcome


def _look(table: str) -> Look:
    """What a build reads. All that others did until now is in the ledger then.

    A change that came before this look, and is taken back after it, would leave no trace in one comparison over both.
    """
    lake = Look()
    lake.version(table)  # before those of its inputs: `_overtaken` notices a commit from here on
    repair(lake, table)
    return lake


def repair(lake: Look, table: str) -> None:
    """Enter in the ledger what a killed build has left out, and what others did to the inputs.

    Delta may clean its logs up some day.
    """
    ledger.append(lake.unrecorded([table, *lineage.inputs(table)]))


def _inputs_missing(contract: Contract, absent: dict[str, Absent], outcome: Outcome) -> InputsMissing:
    """The error that names the days which could not be built, and why."""
    together: Absent = {}
    for missing in absent.values():
        for name, reasons in missing.items():
            together.setdefault(name, {}).update(reasons)
    other = f"other {contract.grain}"
    built = f" ({counted(len(outcome.days), f'{other} is', f'{other}s are')} built)" if outcome.days else ""
    cure = _cure(contract, list(absent), together)
    waiting = f"{contract.table} {spans(contract.grain, list(absent))}"
    return InputsMissing(f"{waiting} has to wait{built}: {describe_absent(together)}; {cure}")


def _consecutive(contract: Contract, days: list[str]) -> list[list[str]]:
    """Sorted partitions as lists without gaps."""
    return [keys(contract.grain, first, last) for first, last in key_ranges(contract.grain, days)]


def _build_days(
    spark: "SparkSession | None", contract: Contract, days: list[str], run: str, force: bool, log: Log,
    outcome: Outcome, first_look: Look | None,
) -> None:  # fmt: skip
    """Build some days in one commit; ends well, too, when another builder has done it meanwhile."""
    table, subject = contract.table, f"{contract.table} {spans(contract.grain, days)}"
    told = WriteConflict(f"{subject}: other builds came first {_ATTEMPTS} times; try again")
    for attempt in range(_ATTEMPTS):
        lake, first_look = first_look or _look(table), None
        # Another run may have built them since the look before. Who forces a build wants it done by this run.
        if not force and all(lake.own_state(table, day).state == FRESH for day in days):
            ledger.append(lake.unrecorded([table]))  # the other may have been killed after its commit
            outcome.note = f"{subject} is fresh: {lake.own_state(table, days[-1]).why}"
            return
        if absent := {day: missing for day in days if (missing := lake.absent_inputs(table, day, day))}:
            raise _inputs_missing(contract, absent, outcome)
        build_id, started_at = uuid.uuid4().hex, datetime.now(UTC)
        # Where no session can be had, nothing was tried: then the days stay what they are.
        with engine().opened(spark) as own:
            try:
                record, target = _publish(own, contract, lake, days, build_id, started_at, run, log, force)
            except Exception as error:
                if isinstance(error, CheckFailed) and (unlike := _of_different_progress(lake, contract)):
                    log(f"{subject}: {unlike}; looking again")
                    told = WriteConflict(f"{error}\n{unlike}: the check may be of that")
                    time.sleep(random.uniform(0.5, 1) * (attempt + 1))
                    continue
                if failures.kind(error) == CONFLICT:
                    log(f"{subject}: another build of these days came first; looking again")
                    time.sleep(random.uniform(0.1, 0.5) * (attempt + 1))
                    continue
                if not _recorded(table, build_id):  # else the connection was lost, and not the commit
                    raise _entered(error, contract, lake, days, build_id, started_at, run) from None
        rows = _recorded(table, build_id) or _recorded_without_commit(contract, target, record)
        if _came_between(lake, table, days, rows[0]):
            log(f"{subject}: another build of these days came right before; looking again")
            continue
        outcome.days += days
        for row in rows:
            outcome.rows += row["rows"]
            _add(outcome.dropped, row["dropped"])
        _add(outcome.warnings, {name: count for name, count in rows[0]["checks"].items() if count})
        return
    raise told


def _entered(
    error: Exception, contract: Contract, lake: Look, days: list[str], build_id: str, started_at: datetime, run: str
) -> Exception:
    """Enter a build that failed in the ledger; gives the error for people."""
    from pyspark.errors import AnalysisException

    from include.lake.build import checks

    table, error = contract.table, checks.masked(error, contract)
    seconds = (datetime.now(UTC) - started_at).total_seconds()
    seen = lake.version(table)
    ledger.failed(
        table, Look().table_id(table), -1 if seen is None else seen, days, build_id, run,
        lineage.checks_id(table), lake.input_versions(table), seconds,
        getattr(error, "broken", {}), "\n".join(failures.root_cause(error)),
    )  # fmt: skip
    if isinstance(error, AnalysisException):
        return failures.wrong_select(error, contract)
    return error


def _recorded(table: str, build_id: str) -> list[dict[str, Any]]:
    """Enter the newest commits of the table in the ledger; gives the rows of a build, none if it has no commit."""
    rows = [row for row in ledger.record(table) if row["build_id"] == build_id]
    if not rows:  # another process may have entered the commit
        rows = ledger.decoded(ledger.reader().history(table).filter(pc.field("build_id") == build_id))
    built = {row["partition"]: row for row in rows if row["status"] == ledger.BUILT}
    return [built[day] for day in sorted(built)]


def _recorded_without_commit(contract: Contract, target: Snapshot, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Enter a build for which the engine made no commit, because it replaced no rows by none (Databricks does so).

    Its version is that of the table that it would have replaced: what others committed since is entered as theirs.
    """
    if any(facts["rows"] for facts in record["days"].values()):
        raise LakeError(f"{contract.table}: the commit of build {record['build_id']} is lost: build its days again")
    commit = Commit(target.version, datetime.now(UTC), record, {})
    rows = ledger.rows_of_commits(contract, target.table_id, [commit])
    ledger.append(rows)
    return rows


def _came_between(lake: Look, table: str, days: list[str], row: dict[str, Any]) -> bool:
    """Did another commit change the days between our look and our own commit?

    Spark makes a commit on top of one that it was not told of. It may have replaced rows of newer inputs.
    """
    seen = lake.version(table)
    after = -1 if seen is None else seen
    if contracts.get(table).kept_by or row["version"] <= after + 1:  # by key, it stands on what it was computed from
        return False
    return not Look().changed_between(table, after, row["version"]).isdisjoint({*days, ANY_DAY})


def _of_different_progress(lake: Look, contract: Contract) -> str:
    """Which inputs kept by key have taken in different versions of a table; empty if none have.

    Another run builds one of them just now, or will. Until then their rows do not fit together.
    """
    read = {name: (version, contract.table) for name, version in lake.input_versions(contract.table).items()}
    for name in lineage.inputs(contract.table):
        for of, version in lake.newest_inputs(name).items() if contracts.get(name).kept_by else ():
            known, reader = read.setdefault(of, (version, name))
            if lake.differ(of, known, version):
                return f"{name} and {reader} have read different versions of {of}"
    return ""


def _overtaken(lake: Look, table: str, days: list[str]) -> bool:
    """Has another commit changed one of `days` since `lake` looked at the table?

    Delta reports a conflict only for commits that happen during our write. A build that was committed while we were
    still computing is not reported, although it may have read newer inputs.
    """
    seen = lake.version(table)
    return overtaken(contracts.get(table), -1 if seen is None else seen, days)


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0) + count


def _cure(contract: Contract, waiting: list[str], absent: Absent) -> str:
    """The commands that make the missing inputs of the partitions that wait."""
    sources = [name for name in sorted(absent) if contracts.get(name).is_source]
    commands = []
    if sources:
        commands.append("./lake load SOURCE FILE for each source" if sources[1:] else f"./lake load {sources[0]} FILE")
    if built := sorted(absent.keys() - sources):
        table, first, last = contract.table, waiting[0], waiting[-1]
        first, last = Period(contract.grain, first).first_day, Period(contract.grain, last).last_day
        for name in built:
            grain, days = contracts.get(name).grain, sorted(absent[name])
            if not {*days} <= {*keys_of_days(grain, first, last)}:  # it reads earlier days, too
                table, first, last = name, Period(grain, days[0]).first_day, Period(grain, days[-1]).last_day
                break
        commands.append(f"./lake build {table} --upstream --from {first} --to {last}")
    return ", then ".join(commands)


def compute(
    spark: "SparkSession", table: str, start: str, end: str, published: "DataFrame | None" = None
) -> "DataFrame":
    """What the SELECT gives for the partitions start..end; nothing is run yet.

    It reads the session's views `lineage.view_name(input)`. published: the rows that it goes on from, if it does.

    The contract's columns in its order, without RUN_TIMESTAMP, and DROP_REASON, null where a row is to be kept.
    """
    from pyspark.sql import functions as F

    contract = contracts.get(table)
    first_day, last_day = Period(contract.grain, start).first_day, Period(contract.grain, end).last_day
    if lineage.select(table).reads_published:
        if published is None:
            published = spark.createDataFrame([], ", ".join(f"{one.name} {one.type}" for one in contract.columns))
        published.createOrReplaceTempView(lineage.view_name(lineage.PUBLISHED))
    frame = selected(spark, contract, first_day, last_day)
    reason = F.col(DROP_REASON) if DROP_REASON in frame.columns else F.lit(None).cast("string").alias(DROP_REASON)
    return frame.select(*(name for name in contract.column_names if name != RUN_TIMESTAMP), reason)


def selected(spark: "SparkSession", contract: Contract, first_day: str, last_day: str) -> "DataFrame":
    """The SELECT over the session's views; ContractError if the engine does not understand it, or gives other types."""
    from pyspark.errors import AnalysisException

    from include.lake.build import checks

    try:
        frame = spark.sql(lineage.select(contract.table).over_views(first_day, last_day))
        checks.require_types(contract, frame)
    except AnalysisException as error:
        raise failures.wrong_select(error, contract) from None
    return frame


def _publish(
    spark: "SparkSession", contract: Contract, lake: Look, days: list[str],
    build_id: str, started_at: datetime, run: str, log: Log, force: bool,
) -> tuple[dict[str, Any], Snapshot]:  # fmt: skip
    """Compute once, audit, and replace `days` in one commit with the build record; gives it and what it replaced."""
    from include.lake.build import checks
    from include.lake.build import scope as scopes

    table, subject, clock = contract.table, f"{contract.table} {spans(contract.grain, days)}", time.monotonic()

    def progress(what: str) -> None:
        log(f"{subject}: {what} ({time.monotonic() - clock:.1f} s)")

    target = store().ensure(contract)
    with scopes.scope(spark, contract, lake, target, days, whole=force) as scope:
        frame = scope.of(compute(spark, table, days[0], days[-1], scope.continued))
        with engine().materialise(frame) as computed:
            again = [] if scope.keys is None else [day for day in scope.days if day not in days]
            with_these = f"; with {spans(contract.grain, again)}, which changed since" if again else ""
            progress(f"computing and checking{with_these}")
            audit = checks.audit(spark, contract, computed.frame, scope.days, scope.keys is not None)
            if _overtaken(lake, table, days):
                raise WriteConflict(f"{subject} was built by another meanwhile")
            progress(f"writing {counted(sum(audited.rows for audited in audit.days.values()), 'row')}")
            for name, count in audit.warnings.items():
                progress(f"WARNING: check `{name}` fails {counted(count, 'time')}; the rows are published all the same")
            record = {
                "build_id": build_id,
                "table": table,
                "run": run,
                "started_at": started_at.isoformat(),
                "engine": settings.engine(),
                "code_id": lineage.code_id(table),
                "inputs": lake.input_versions(table),
                "checks": audit.broken,
                "days": {day: {"rows": rows.rows, "dropped": rows.dropped} for day, rows in audit.days.items()},
            }
            with scope.places(computed.frame, spark.table(lineage.view_name(table))) as (places, staying):
                computed.publish(contract, target, places, started_at, record, staying)
            return record, target
