"""Where rows are: the port through which the lake reads and writes tables, and the store that is behind it.

Nobody outside this room knows a path of a table, or what keeps its rows.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from include.lake import settings
from include.lake.errors import ContractError
from include.lake.project.contracts import Contract
from include.lake.storage.records import BuildRecord, record_of

if TYPE_CHECKING:
    import pyarrow as pa

# The day of a change that cannot be assigned to days.
ANY_DAY = "*"
# A week, as Delta has it: the longest that a build or a reader of an older version may take.
KEPT = timedelta(days=7)
# Of every table that we make: ten years, because builds and looks read the commits. Delta's own default is 30 days.
PROPERTIES = {"delta.logRetentionDuration": "interval 3650 days"}


@dataclass(frozen=True)
class Snapshot:
    """A table as it is at one version. `table_id`: another one after the table was moved away and made again.

    `address`: a folder or URL, which an engine can read. `handle`: for the store alone.
    """

    table: str
    table_id: str
    version: int
    address: str
    columns: tuple[str, ...]
    partitioned_by: tuple[str, ...]
    handle: Any = field(repr=False, compare=False)


@dataclass(frozen=True)
class PartitionFiles:
    """What the files of one day hold."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class Commit:
    """One commit of a table. `day_bytes`: the days whose rows it changed, with the bytes that it added to each.

    Of a table kept by key they are the places (values of its partition column) whose rows it changed.

    Compaction, comments and the like change no rows: they have no days. ANY_DAY stands for days that the log does not
    name. `metadata`: the JSON object of its userMetadata, empty where it has none. `ids`: what the store wants to know
    of these days when it is asked again, see `Store.commits`. `moved`: the same of days whose rows lie in other files
    now, and are equal.
    """

    version: int
    at: datetime
    metadata: dict[str, Any]
    day_bytes: dict[str, int]
    ids: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Maintained:
    """What maintenance did to a table: its files before and after, and the bytes that were deleted.

    `lost`: partitions that a build changed meanwhile, and that stay as it wrote them. `note`: what else is to say.
    """

    before: int = 0
    after: int = 0
    freed: int = 0
    lost: int = 0
    note: str = ""


class Store(Protocol):
    """What the lake wants of whoever keeps its tables. A damaged table is a LakeError with the cure.

    `dialect`: the SQL that it understands, as sqlglot names it.
    """

    dialect: str

    def open(self, table: str, version: int | None = None, places: Collection[str] | None = None) -> Snapshot | None:
        """The table at a version (the newest by default); None if it does not exist.

        places: partitions of an older version that are to be read. LakeError if their files are not there any more.
        """

    def ensure(self, contract: Contract) -> Snapshot:
        """The table, made with the contract's types and comments if it is not there, and aligned with them if it is.

        New columns are added and comments follow the contract; another type or a column taken away is a ContractError.
        """

    def days(self, snapshot: Snapshot, contract: Contract) -> dict[str, PartitionFiles]:
        """The days that have rows, with what their files hold; empty for a table without days."""

    def commits(
        self, snapshot: Snapshot, contract: Contract, after: int = -1, ids: Callable[[], Mapping[str, str]] = dict
    ) -> list[Commit]:
        """Every commit after version `after`, up to that of the snapshot; oldest first.

        ids: gives the newest ids of each day that this store has given; by them it knows days that others changed.

        Where older commits were cleaned away, the first one that is left stands for them: it changed every day.
        """

    def rows(
        self, snapshot: Snapshot, where: Mapping[str, Collection[str]] | None = None, limit: int | None = None
    ) -> "pa.Table":
        """The rows; of those columns that `where` names, only the rows with one of its values.

        limit: more rows are not needed. A store may give them all the same.
        """

    def values(self, snapshot: Snapshot, column: str, keys: Sequence[str], expressions: Sequence[str]) -> "pa.Table":
        """The values of some aggregates, in the SQL of the store (`dialect`), for each of some keys of a column."""

    def write(
        self,
        table: str,
        rows: "pa.Table | Callable[[Snapshot], pa.Table]",
        *,
        about: str,
        partitioned_by: Sequence[str],
        anew: bool = False,
    ) -> None:
        """Append rows to a table without a contract, in one commit. It is made with their types if it is not there.

        rows: also a function of the newest version. It gives all rows that the table has from then on, and is called
        again when another writer came first. anew: move away what is there, which nobody can read.
        """

    def replace(
        self,
        contract: Contract,
        rows: "pa.Table | Callable[[], pa.RecordBatchReader]",
        *,
        partitions: Collection[str] = (),
        record: Mapping[str, Any] | None = None,
        since: Snapshot | None = None,
        guard: Callable[[dict[str, int]], None] | None = None,
    ) -> int:
        """Replace partitions (all of a source without days) in one commit that carries `record`; gives its version.

        partitions: days, or the places of a table kept by key; ANY_DAY stands for the whole table.
        rows: a function gives them anew for every try. A table without `record` is a load of what it holds.
        since: WriteConflict if another commit has changed one of the partitions since then. Without it the newest
        version is replaced, whatever it is. guard: sees the rows of each day as they are, and may raise.
        """

    def maintain(self, table: str, older_than: timedelta = KEPT) -> Maintained | None:
        """Make small files one, cluster them, delete what nobody needs any more; None if the table does not exist.

        It changes no rows, and gives way to builds. Only files older than `older_than` are deleted: younger ones may
        be read by a build that began before they were replaced, or belong to a commit that is on its way.
        """


def load_record(
    contract: Contract, load_id: str, loaded: Mapping[str, int], empty_days: Sequence[str] = (), sample: bool = False
) -> dict[str, Any]:
    """What the commit of a load says: the rows of each day ('' without days), and the days that are to have none.

    sample: the rows are made up, so that a later sample may replace them.
    """
    return {
        "load_id": load_id, "table": contract.table, "loaded": dict(sorted(loaded.items())),
        "empty_days": sorted(empty_days), "sample": sample,
    }  # fmt: skip


def store() -> Store:
    """The store of this lake: Delta files below `LAKE_WAREHOUSE`, or on Databricks the catalog `LAKE_CATALOG`."""
    if settings.on_databricks():
        from include.lake.storage import unity_catalog

        return unity_catalog
    from include.lake.storage import delta_files  # heavy, and no business of who wants the types alone

    return delta_files


def overtaken(contract: Contract, since: int, partitions: Collection[str]) -> bool:
    """Has a commit after version `since` changed one of the partitions? Maintenance changes none."""
    newest = store().open(contract.table)
    if newest is None or newest.version == since:
        return False  # as nearly always, and without reading the log
    for commit in store().commits(newest, contract, since):
        record = record_of(commit.metadata, contract.table)
        built = set(record.days) if isinstance(record, BuildRecord) else set[str]()
        if contract.kept_by:  # the keys of other days may be the same ones
            if commit.day_bytes or built:
                return True
        elif {*partitions, ANY_DAY} & commit.day_bytes.keys() or built & set(partitions):
            return True
    return False


def may_try_again(contract: Contract, since: Snapshot, partitions: Collection[str]) -> bool:
    """May a commit that met another one be made again with the rows that are computed? After maintenance it may."""
    newest = store().open(contract.table)
    if newest is None or (newest.table_id, newest.columns) != (since.table_id, since.columns):
        return False
    return not overtaken(contract, since.version, partitions)


def require_days(snapshot: Snapshot, contract: Contract) -> None:
    """ContractError unless the table is partitioned by the day column of its contract."""
    if contract.day_column and contract.day_column not in snapshot.partitioned_by:
        layout = (
            f"partitioned by {', '.join(snapshot.partitioned_by)}" if snapshot.partitioned_by else "not partitioned"
        )
        raise ContractError(
            f"{settings.shown(contract.path)}: the day is {contract.day_column}, but the table is {layout}: "
            f"correct partitioned_by, or move {snapshot.address} away and make the table again"
        )
