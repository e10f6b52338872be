"""A SELECT tried as it is edited now: computed, checked, compared with what is published, and not published.

It reads the newest versions of the inputs and writes nothing: no commit, no row of the ledger, no table.
"""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from include.lake.build import cases, checks, runner
from include.lake.build import scope as scopes
from include.lake.build.scope import Scope
from include.lake.engine import engine
from include.lake.errors import CheckFailed, UsageError
from include.lake.project import contracts, lineage
from include.lake.project.contracts import DROP_REASON, RUN_TIMESTAMP, Contract
from include.lake.project.periods import keys
from include.lake.state.look import Look, describe_absent
from include.lake.words import counted


@dataclass
class Difference:
    """How the computed rows differ from the published ones. `changed`: rows of one key with other values.

    `columns`: column -> changed rows. `examples`: column -> (published value, computed value), masked if sensitive.
    `edited`: a line for each column that only one side has, or that has another type there; the others are compared.
    """

    published: int
    added: int = 0
    gone: int = 0
    changed: int = 0
    columns: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    edited: list[str] = field(default_factory=list)


@dataclass
class Attempt:
    """What the SELECT gives. `rows`: the first of those to be published. `failure`: the checks that fail, with rows."""

    rows: pa.Table
    count: int
    dropped: dict[str, int]
    notes: list[str]
    failure: str = ""
    difference: Difference | None = None


def attempt(
    spark: SparkSession, table: str, start: str, end: str, shown: int, case: str | None = None, compare: bool = False
) -> Attempt:
    """Compute the partitions start..end of a table; `case`: from the inputs of this hand-made case.

    Raises UsageError, and ContractError for a SELECT or check that the engine does not understand.
    """
    contract = contracts.get(table)
    if contract.is_source:
        raise UsageError(f"{table} is a source, nothing computes it")
    partitions = keys(contract.grain, start, end)
    lake = Look()
    notes = _register_inputs(spark, lake, table, start, end, case)
    published = _register(spark, lake, table)
    with ExitStack() as stack:
        scope = Scope(contract, partitions)
        if contract.kept_by and published and not notes and case is None:
            notes.append("note: all keys are computed, over all days that the table has taken in")
            scope = stack.enter_context(
                scopes.scope(spark, contract, lake, lake.snapshot(table), partitions, whole=True)
            )
        frame = scope.of(runner.compute(spark, table, start, end))
        computed = stack.enter_context(engine().materialise(frame))
        names = [name for name in contract.column_names if name != RUN_TIMESTAMP]
        kept = computed.frame.where(F.col(DROP_REASON).isNull()).select(*names)
        counts: dict[Any, int] = dict(engine().collect(computed.frame.groupBy(DROP_REASON).agg(F.count(F.lit(1)))))
        tried = Attempt(kept.limit(shown).toArrow(), counts.pop(None, 0), counts, notes)
        try:
            audit = checks.audit(spark, contract, computed.frame, scope.days, scope.keys is not None)
            notes += [
                f"warning: check `{name}` fails {counted(count, 'time')}" for name, count in audit.warnings.items()
            ]
        except CheckFailed as error:
            tried.failure = str(error)
        if compare:
            before = scope.published(spark.table(lineage.view_name(table)))
            if published:
                tried.difference = _difference(contract, before, kept)
            else:
                notes.append(f"{table} does not exist yet: there is nothing to compare with")
    return tried


def view(table: str) -> tuple[pa.Table, list[str]]:
    """The rows of a view, computed now, and what is missing of its inputs."""
    look = Look()
    with engine().opened() as spark:
        missing = [name for name in lineage.inputs(table) if not _register(spark, look, name)]
        frame = runner.selected(spark, contracts.get(table), "1970-01-01", "1970-01-01")
        return frame.toArrow(), [f"note: {name} does not exist: it counts as empty" for name in missing]


def _register_inputs(spark: SparkSession, lake: Look, table: str, start: str, end: str, case: str | None) -> list[str]:
    """Make the views of the inputs; gives what is missing in them."""
    if case is not None:
        cases.register_inputs(spark, cases.read(cases.path(table, case)), start, end)
        return []
    seen = lineage.days_read(table, start, end)
    missing = [name for name in lineage.inputs(table) if not _register(spark, lake, name, seen.get(name))]
    notes = [f"note: {name} does not exist: it counts as empty" for name in missing]
    absent = {name: days for name, days in lake.absent_inputs(table, start, end).items() if name not in missing}
    return notes + ([f"note: {describe_absent(absent)}; what is there of it counts"] if absent else [])


def _register(spark: SparkSession, lake: Look, table: str, days: tuple[str, str] | None = None) -> bool:
    """Make the view of a table as it is now, or of no rows; is the table there? days: only the rows from, to."""
    snapshot = lake.snapshot(table)
    if snapshot is None:
        cases.register(spark, table, [])
        return False
    scopes.view_of_days(spark, snapshot, days)
    return True


def _difference(contract: Contract, before: DataFrame, now: DataFrame) -> Difference:
    """Only rows that differ leave the engine: mostly few."""
    found = Difference(int(engine().collect(before.agg(F.count(F.lit(1))))[0][0]))
    old_types, new_types = engine().types(before), engine().types(now)
    both_have = [name for name, kind in new_types.items() if old_types.get(name) == kind]
    found.edited = [
        *(f"{name} is new" for name in new_types if name not in old_types),
        *(f"{name} is gone" for name in old_types if name not in new_types and name != RUN_TIMESTAMP),
        *(
            f"{name} is {kind} and was {old_types[name]}"
            for name, kind in new_types.items() if old_types.get(name, kind) != kind
        ),
    ]  # fmt: skip
    before, now = before.select(*both_have), now.select(*both_have)
    gone, added = before.exceptAll(now).toArrow().to_pylist(), now.exceptAll(before).toArrow().to_pylist()
    day = [contract.day_column] if contract.day_column else []
    key = [*dict.fromkeys((*day, *contract.key))] if contract.key else []
    if not set(key) <= set(both_have):
        key = []
    old, new = _by_key(gone, key), _by_key(added, key)
    both = old.keys() & new.keys()
    found.changed, found.gone, found.added = len(both), len(gone) - len(both), len(added) - len(both)
    hidden = {column.name for column in contract.columns if column.sensitive}
    for place in sorted(both, key=repr):
        for name, value in new[place].items():
            if value != old[place][name]:
                found.columns[name] += 1
                values = (checks.HIDDEN, checks.HIDDEN) if name in hidden else (old[place][name], value)
                found.examples.setdefault(name, values)
    return found


def _by_key(rows: list[dict[str, Any]], key: list[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows by their key; none without a key, or where one key has several rows."""
    found = {tuple(row[name] for name in key): row for row in rows} if key else {}
    return found if len(found) == len(rows) else {}
