"""Deliver sample rows into sources. They take the place of rows that somebody loaded only if the user says so."""

import uuid
from collections.abc import Collection

import pyarrow as pa

from include.lake import settings
from include.lake.backfill.plan import ranges
from include.lake.errors import LakeError, UsageError
from include.lake.project import contracts
from include.lake.storage import ANY_DAY, Snapshot, load_record, store
from include.lake.storage.arrow import rows_by_day
from include.lake.storage.records import LoadRecord, record_of

# Who delivered a day. Loads of an older version do not say whether they are sample.
_SAMPLE, _LOADED, _UNKNOWN = "sample", "loaded", "unknown"
_OLDER = (
    "\nan older version of the lake delivered some of them, and did not mark its sample: if you loaded none of these, "
    "take --replace"
)
_WHOLE = ""  # stands for the days of a source without days, as in the record of a load


class Delivery:
    """A delivery to some sources for some days. LakeError, before anything is written, if loaded days are in its way.

    keep: it delivers only what is not there, and with `late` also sample rows again. replace: also in the place of
    loaded days. Without these words it replaces sample rows alone. `kept`: source -> days that it has left as they are.
    """

    def __init__(
        self, tables: Collection[str], days: list[str], keep: bool = False, replace: bool = False, late: bool = False
    ) -> None:
        if settings.on_databricks():
            raise UsageError("LAKE_ENGINE=databricks: a workspace has sources of its own, and gets no sample")
        self._sources = {table: _Source(table) for table in tables}
        self._replaced = {None, _SAMPLE}
        if replace:
            self._replaced |= {_LOADED, _UNKNOWN}
        elif keep and not late:
            self._replaced = {None}
        self.kept: dict[str, list[str]] = {}
        if not keep and not replace:
            self._refuse(days)

    def _refuse(self, days: list[str]) -> None:
        loaded: dict[str, list[str]] = {}
        more = ""
        for table, source in self._sources.items():
            for day in days if source.contract.day_column else [_WHOLE]:
                if (origin := source.origin(day)) not in self._replaced:
                    loaded.setdefault(table, []).append(day)
                    if origin == _UNKNOWN:
                        more = _OLDER
        if loaded:
            raise LakeError(
                "what was loaded is in the way of the sample: nothing was written; --keep delivers only what is not "
                "there, --replace puts sample rows in the place of these:\n" + "\n".join(lines(loaded)) + more
            )

    def deliver(self, table: str, day: str, rows: pa.Table) -> int:
        """Write the rows of a day ('' without days) in one commit; gives their number, and 0 if the day is kept."""
        source = self._sources[table]
        # Asked again, because somebody may have loaded the day since the delivery began.
        if source.origin(day) not in self._replaced:
            self.kept.setdefault(table, []).append(day)
            return 0
        contract = source.contract
        record = load_record(contract, uuid.uuid4().hex, rows_by_day(contract, rows), sample=True)
        store().replace(contract, rows, record=record)
        return rows.num_rows


def lines(days_of: dict[str, list[str]]) -> list[str]:
    """Sources and their days, for people."""
    return [f"  {table}{'' if days == [_WHOLE] else f': {ranges(table, days)}'}" for table, days in days_of.items()]


class _Source:
    def __init__(self, table: str) -> None:
        self.contract = contracts.get(table)
        self._snapshot: Snapshot | None = None
        self._origins: dict[str, str] = {}

    def origin(self, day: str) -> str | None:
        """Who delivered what is there of a day; None if nobody did. The last commit of the day says it."""
        read = self._snapshot.version if self._snapshot else -1
        self._snapshot = store().open(self.contract.table)
        for commit in store().commits(self._snapshot, self.contract, read) if self._snapshot else ():
            origin, days = _LOADED, set(commit.day_bytes)
            if isinstance(record := record_of(commit.metadata, self.contract.table), LoadRecord):
                origin = {True: _SAMPLE, False: _LOADED, None: _UNKNOWN}[record.sample]
                days |= {*record.loaded, *record.empty_days}  # an empty day has no rows, and is loaded all the same
            if ANY_DAY in days:
                self._origins.clear()
            self._origins |= dict.fromkeys(days, origin)
        return self._origins.get(day, self._origins.get(ANY_DAY))
