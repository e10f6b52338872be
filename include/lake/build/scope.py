"""What a build replaces, its scope: the partitions of its days, or the keys that its days touch.

Of a table kept by key, a key is touched by rows of an input that came or went since the table last took them in: those
of the build's days in an input of days, and all of an input that is kept by key itself. The SELECT is computed for the
touched keys alone, over all days taken in, and one commit replaces all their rows. Days taken in that have changed
since are taken in again with it.

A build replaces the partitions (places) in which rows of the touched keys differ from the published ones, and writes
the rows of other keys that lie there again as they are. So a key that a day shows once more costs no file.

A SELECT may read `published`: the rows of the touched keys as the table has them. Then a day that comes after all days
taken in needs no history: the SELECT is computed over its rows and these. A build that reads all days has no rows in
`published`.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from include.lake.engine import engine
from include.lake.errors import InputsMissing, LakeError
from include.lake.project import contracts, lineage
from include.lake.project.contracts import DROP_REASON, RUN_TIMESTAMP, Contract
from include.lake.project.lineage import CHANGED, OURS, PUBLISHED, TOUCHED
from include.lake.state.look import FRESH, Look, describe_absent
from include.lake.storage import ANY_DAY, Snapshot, store

_SIGN = f"{OURS}sign"


@dataclass(frozen=True)
class Scope:
    """`days`: the partitions that the build takes in. `keys`: the touched keys; None if all rows are computed.

    continued: the published rows of the touched keys, if the SELECT goes on from these; None if it needs no such rows.
    """

    contract: Contract
    days: list[str]
    keys: DataFrame | None = None
    continued: DataFrame | None = None

    def of(self, frame: DataFrame) -> DataFrame:
        """The rows of a frame that are of the scope."""
        if self.keys is None:
            return frame
        names = list(self.contract.kept_by)
        if DROP_REASON not in lineage.select(self.contract.table).columns:
            touched = frame.join(self.keys, names, "left_semi")
        else:  # a dropped row is counted, whatever its key: not as a union, for which Sail computes the frame twice
            marked = frame.join(self.keys.withColumn(_SIGN, F.lit(1)), names, "left")
            touched = marked.where(F.col(_SIGN).isNotNull() | F.col(DROP_REASON).isNotNull())
        return touched.select(*_computed(self.contract), DROP_REASON)

    def published(self, frame: DataFrame) -> DataFrame:
        """The rows of the published table that a commit of the scope replaces."""
        if self.keys is not None:
            return frame.join(self.keys, list(self.contract.kept_by), "left_semi").select(*self.contract.column_names)
        if self.contract.kept_by:
            return frame
        return frame.where(F.col(str(self.contract.day_column)).isin(self.days))

    @contextmanager
    def places(self, computed: DataFrame, published: DataFrame) -> Iterator[tuple[list[str], Any]]:
        """The partitions that the commit replaces, and the rows of other keys in them (materialised), which stay."""
        if not self.contract.kept_by:
            yield self.days, None
        elif self.keys is None:
            yield [ANY_DAY], None
        elif not (places := self._changed_places(computed, published)):
            yield [], None
        else:
            staying = published.join(self.keys, list(self.contract.kept_by), "left_anti")
            staying = staying.select(*self.contract.column_names)
            if column := self.contract.place_column:
                staying = staying.where(F.col(column).isin(places))
            with engine().materialise(staying) as rows:
                yield places, rows

    def _changed_places(self, computed: DataFrame, published: DataFrame) -> list[str]:
        """The partitions in which the computed rows are others than the published ones of the same keys."""
        names = _computed(self.contract)
        before = self.published(published).select(*names)
        now = computed.where(F.col(DROP_REASON).isNull()).select(*names)
        column = self.contract.place_column
        place = F.col(column) if column else F.lit(ANY_DAY)
        return sorted(str(row[0]) for row in engine().collect(_different(before, now, names).select(place).distinct()))


# Names of columns come from contracts and Delta logs here: to ask a frame for its own is a question to the server.
def _computed(contract: Contract) -> list[str]:
    return [name for name in contract.column_names if name != RUN_TIMESTAMP]


@contextmanager
def scope(
    spark: SparkSession, contract: Contract, look: Look, target: Snapshot | None, days: list[str], whole: bool = False
) -> Iterator[Scope]:
    """The scope of a build of `days`. Within the block the session has the views that its SELECT and checks read.

    whole: compute all keys of a table kept by key, whatever the days touch.
    """
    views = _Views(spark, look)
    try:
        views.table(lineage.view_name(contract.table), target)
        if contract.kept_by:
            with _scope_of_keys(views, contract, days, whole) as of_keys:
                yield of_keys
        else:
            seen = lineage.days_read(contract.table, days[0], days[-1])
            for name in lineage.inputs(contract.table):
                snapshot = look.snapshot(name)
                assert snapshot is not None, f"{name} is there: absent_inputs was empty"
                views.names += view_of_days(spark, snapshot, seen.get(name))
            yield Scope(contract, days)
    finally:
        views.drop()


def view_of_days(spark: SparkSession, snapshot: Snapshot, days: tuple[str, str] | None) -> list[str]:
    """Make the view of a table, of the days from, to alone if they are given; gives the names of all views."""
    name = lineage.view_name(snapshot.table)
    if days is None:
        engine().view(spark, name, snapshot.address, snapshot.version)
        return [name]
    whole = f"{OURS}all_{name}"
    engine().view(spark, whole, snapshot.address, snapshot.version)
    rows = spark.table(whole).where(F.col(str(contracts.get(snapshot.table).day_column)).between(*days))
    rows.createOrReplaceTempView(name)
    return [whole, name]


class _Views:
    """Views of a session, which go with the build.

    A long session would keep each view, and each view its version of a table.
    """

    def __init__(self, spark: SparkSession, look: Look) -> None:
        self.spark, self.look = spark, look
        self.names = [lineage.view_name(lineage.THIS), lineage.view_name(PUBLISHED)]  # of the audit and of compute()

    def table(self, name: str, snapshot: Snapshot | None) -> DataFrame:
        """Make a view of a table at one version."""
        assert snapshot is not None, f"the table of the view {name} is there: absent_inputs was empty"
        self.names.append(name)
        engine().view(self.spark, name, snapshot.address, snapshot.version)
        return self.spark.table(name)

    def rows(self, name: str, rows: DataFrame) -> None:
        """Make a view of the rows of a frame."""
        self.names.append(name)
        rows.createOrReplaceTempView(name)

    def drop(self) -> None:
        for name in self.names:
            with suppress(PySparkException):  # of Sail, if the view is not there; of both, if the server is dead
                self.spark.catalog.dropTempView(name)


def _taken(name: str) -> str:
    """The view of all rows of an input that are taken in. The SELECT reads another one, which may have fewer rows."""
    return f"{OURS}taken_{lineage.view_name(name)}" if "." in name else lineage.view_name(name)


def _view_of(of_changed: str, name: str) -> str:
    return of_changed if name == CHANGED else _taken(name)


@contextmanager
def _scope_of_keys(views: _Views, contract: Contract, days: list[str], whole: bool) -> Iterator[Scope]:
    table, look, spark = contract.table, views.look, views.spark
    before = look.built_days(table)
    whole = whole or bool(look.reason_to_compute_all_keys(table))
    goes_on = not whole and _can_go_on(table, before, days)
    # A day that goes on from the published rows reads no other days: a source may drop these.
    taken = sorted(days if goes_on else {*before, *days})
    for name in lineage.inputs(table):
        one = contracts.get(name)
        rows = views.table(f"{OURS}all_{lineage.view_name(name)}", look.snapshot(name))
        if one.day_column:
            if absent := look.absent_reasons(name, [day for day in taken if day not in days]):
                raise InputsMissing(
                    f"{table} needs days that it has taken in before: {describe_absent({name: absent})}; load or build "
                    f"these days again, or move {table} away and build it from the days that are there"
                )
            rows = rows.where(F.col(one.day_column).isin(taken))
        views.rows(_taken(name), rows)
    if not whole and not goes_on:
        # Their rows are read as they are now. So the build takes in what has changed there: a key that came with one
        # load, and goes with the next, would be touched by neither.
        days = [day for day in taken if day in days or look.own_state(table, day).state != FRESH]
    changes = None if whole else _changes(views, contract, days)
    if changes is None:
        for name in lineage.inputs(table):
            views.rows(lineage.view_name(name), spark.table(_taken(name)))
        yield Scope(contract, taken)
        return
    touches = lineage.touches(table)
    keys = []
    for name, changed in changes.items():
        # The engine looks names up when it computes: each input has a view of its own of what has changed.
        of_changed = f"{OURS}{CHANGED}_{lineage.view_name(name)}"
        views.rows(of_changed, changed)
        view_of = partial(_view_of, of_changed)
        keys.append(spark.sql(touches[name].keys.over_views(days[0], days[-1], view_of)).select(*contract.kept_by))
    every = reduce(DataFrame.union, keys).where(" and ".join(f"`{name}` is not null" for name in contract.kept_by))
    with ExitStack() as kept:
        touched = kept.enter_context(engine().materialise(every.distinct()))
        views.rows(lineage.view_name(TOUCHED), touched.frame)
        for name in lineage.inputs(table):
            rows = spark.table(_taken(name))
            if name in touches and not goes_on and (needed := touches[name].rows):
                rows = spark.sql(needed.over_views(days[0], days[-1], _taken))
                if lineage.select(table).mentions(name) > 1:  # else an engine may read all days once for each
                    rows = kept.enter_context(engine().materialise(rows)).frame
            views.rows(lineage.view_name(name), rows)
        scope = Scope(contract, days, touched.frame)
        if not goes_on:
            yield scope
            return
        published = kept.enter_context(engine().materialise(scope.published(spark.table(lineage.view_name(table)))))
        yield replace(scope, continued=published.frame)


def _can_go_on(table: str, before: Collection[str], days: list[str]) -> bool:
    """May the SELECT be computed over the rows of `days` and the published ones of the touched keys alone?

    The SELECT has to read `published`, no input may be kept by key, and `days` come after all that were taken in.
    """
    inputs = [contracts.get(name) for name in lineage.inputs(table)]
    by_days = all(one.day_column or not one.has_days for one in inputs)
    return lineage.select(table).reads_published and by_days and bool(before) and max(before) < min(days)


def _changes(views: _Views, contract: Contract, days: list[str]) -> dict[str, DataFrame] | None:
    """Input -> its rows that came or went; None if older rows cannot be read any more."""
    found = {}
    for name in lineage.touches(contract.table):
        find = _changes_of_keys if contracts.get(name).kept_by else _changes_of_days
        changed = find(views, contract, name, days)
        if changed is None:
            return None
        found[name] = changed
    return found


def _changes_of_days(views: _Views, contract: Contract, name: str, days: list[str]) -> DataFrame | None:
    """The rows of some days as they are, and as they were when the table took them in."""
    look, column = views.look, str(contracts.get(name).day_column)
    changed = views.spark.table(_taken(name)).where(F.col(column).isin(days))
    days_by_version: dict[str, list[str]] = {}
    for day in days:
        if version := look.inputs_of(contract.table, day).get(name):
            days_by_version.setdefault(version, []).append(day)
    for version, before in days_by_version.items():
        rows = _older(views, name, version, before)
        if rows is None:
            return None
        names = _columns(views, name)
        changed = changed.select(*names).union(rows.where(F.col(column).isin(before)).select(*names))
    return changed


def _changes_of_keys(views: _Views, contract: Contract, name: str, days: list[str]) -> DataFrame | None:
    """The rows of an input kept by key that differ from those of the newest build of the table."""
    now, snapshot = views.spark.table(_taken(name)), views.look.snapshot(name)
    recorded = views.look.newest_inputs(contract.table).get(name)
    if snapshot is None or recorded is None:
        return None
    since = int(recorded.partition("@")[2])
    places = {place for commit in store().commits(snapshot, contracts.get(name), since) for place in commit.day_bytes}
    if not places:
        return now.limit(0)
    before = _older(views, name, recorded, sorted(places))
    if before is None:
        return None
    if ANY_DAY not in places and (column := contracts.get(name).place_column):
        before, now = (frame.where(F.col(column).isin(sorted(places))) for frame in (before, now))
    return _different(before, now, _columns(views, name))


def _different(before: DataFrame, now: DataFrame, names: list[str]) -> DataFrame:
    """The rows that one of the frames has, or has more often; both have columns of these names."""
    before, now = before.select(*names), now.select(*names)
    # One aggregation: Sail's exceptAll takes twenty times as long.
    both = before.withColumn(_SIGN, F.lit(-1)).union(now.withColumn(_SIGN, F.lit(1)))
    sums = both.groupBy(*names).agg(F.sum(_SIGN).alias(_SIGN))
    return sums.where(F.col(_SIGN) != 0).select(*names)


def _columns(views: _Views, name: str) -> list[str]:
    """The columns that an input has now: its contract may have one more, until the next load."""
    snapshot = views.look.snapshot(name)
    return list(snapshot.columns) if snapshot else []


def _older(views: _Views, name: str, recorded: str, places: list[str]) -> DataFrame | None:
    """An input at the version that a build recorded; None if these partitions of it cannot be read any more.

    None, too, if it had other columns then: the rows cannot be compared.
    """
    table_id, _, version = recorded.partition("@")
    try:
        snapshot = store().open(name, int(version), places)
    except LakeError:  # its log was cleaned, or its files
        return None
    if snapshot is None or snapshot.table_id != table_id or set(snapshot.columns) != set(_columns(views, name)):
        return None
    return views.table(f"{OURS}old{version}_{lineage.view_name(name)}", snapshot)
