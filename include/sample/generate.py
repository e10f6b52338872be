"""Sample rows for every source. They follow the contracts, and come from a made-up universe."""

import math
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include.lake.errors import ContractError, UsageError
from include.lake.project import contracts
from include.lake.project import days as calendar
from include.lake.project.contracts import Contract
from include.lake.storage.arrow import arrow_schema
from include.sample import current as undated
from include.sample import logs, snapshots, streaming
from include.sample.clock import DAY, KST, NEVER, day_number
from include.sample.tracks import tracks, with_late_tracks
from include.sample.universe import FIRST_DAY, LAST_DAY, Universe, universe

# A source with a day column: function of the universe and the day.
DAILY = {
    "audio_raw.auth_events": streaming.auth_events,
    "audio_raw.listen_events": streaming.listen_events,
    "audio_raw.page_view_events": streaming.page_view_events,
    "audio_raw.status_change_events": streaming.status_change_events,
    "rudder.tracks": tracks,
    "service_log.weverse_server_log": logs.server_log,
    "we_mart.ods_wv_member_profile": snapshots.member_profile,
    "we_mart.we_user": snapshots.we_user,
    "we_mart.ws_fc_user_history": snapshots.fan_club_history,
    "we_mart.wv_user_ctry_history": snapshots.country_history,
}
# A source with events that come days late: the same day, with them.
LATE = {"rudder.tracks": with_late_tracks}
# A source without a day column: function of the universe.
CURRENT = {
    "we_mart.we_artist": undated.artists,
    "we_mart.wv1_join_info": undated.wv1_joins,
    "we_meta.v_to_wv_comm_mapping": undated.channel_mapping,
    "weverse2.community_common_report": undated.reports,
    "weverse2.community_content_common_notice": undated.notices,
    "weverse2.community_content_post": undated.posts,
    "weverse2.community_log_member_status_log": undated.status_log,
    "weverse2.community_log_v_member_migration": undated.v_migrations,
    "weverse2.community_member_special_member": undated.special_members,
    "weverse2.notification_push_config": undated.push_settings,
}


def require(tables: Collection[str] = (), late: bool = False) -> Collection[str]:
    """These sources, or all (that have late events) without any; UsageError if there is no sample of one."""
    known = sorted(LATE if late else [*DAILY, *CURRENT])
    if wrong := [table for table in tables if table not in known]:
        what = "with late events " if late else ""
        raise UsageError(f"there is no sample {what}of {wrong[0]}; there is one of {', '.join(known)}")
    return tables or known


def days(
    start: str, end: str, scale: float = 1.0, seed: int = 1, tables: Collection[str] = (), late: bool = False
) -> Iterator[tuple[str, str, pa.Table]]:
    """(table, day, rows) of sources with days, day by day. A day depends on seed and scale, not on the range.

    `tables`: only these. `late`: with the events that come late, of the sources that have such.
    """
    chosen = require(tables, late)
    wanted = calendar.day_range(start, end)
    if wanted[0] < FIRST_DAY or wanted[-1] > LAST_DAY:
        raise UsageError(f"there are sample rows from {FIRST_DAY} to {LAST_DAY} only, not from {start} to {end}")
    world = _universe(scale, seed)
    return (
        (table, day, _table(contracts.get(table), rows(world, day_number(day)), day))
        for day in wanted
        for table, rows in (LATE if late else DAILY).items()
        if table in chosen
    )


def current(scale: float = 1.0, seed: int = 1, tables: Collection[str] = ()) -> Iterator[tuple[str, pa.Table]]:
    """(table, rows) of sources without days. All history and future, so that two ranges never contradict."""
    world, chosen = _universe(scale, seed), require(tables)
    return ((table, _table(contracts.get(table), rows(world))) for table, rows in CURRENT.items() if table in chosen)


def _universe(scale: float, seed: int) -> Universe:
    if not (math.isfinite(scale) and scale > 0):
        raise UsageError(f"scale {scale:g} makes no sense: write a number above 0, such as 0.1")
    if seed < 0:
        raise UsageError(f"seed {seed} makes no sense: write a whole number from 0 on")
    return universe(seed, float(scale))


def _table(contract: Contract, rows: dict[str, Any], day: str | None = None) -> pa.Table:
    """The rows with the contract's columns in its order. Columns that the generator lacks are null."""
    if day is not None:
        rows[str(contract.day_column)] = day
    unknown = rows.keys() - set(contract.column_names)
    missing = {column.name for column in contract.columns if not column.nullable} - rows.keys()
    if unknown or missing:
        raise ContractError(
            f"{contract.table}: include/sample gives {sorted(unknown) or 'nothing'} that the contract lacks and "
            f"lacks {sorted(missing) or 'nothing'} that must not be null: change its generator"
        )
    count = max(len(column) for column in rows.values() if not isinstance(column, (str, int)))
    schema = arrow_schema(contract)
    return pa.table([_column(rows.get(field.name), field.type, count) for field in schema], schema)


def _column(values: Any, wanted: pa.DataType, count: int) -> pa.Array:
    """Convert values to a type. Times are ms since epoch; a date is the day in Korea at that time."""
    if values is None:
        return pa.nulls(count, wanted)
    if isinstance(values, (str, int)):
        values = pa.repeat(values, count)
    if pa.types.is_temporal(wanted):
        times = values if isinstance(values, pa.Array) else pa.array(values, mask=values >= NEVER)
        if pa.types.is_date(wanted):
            return pc.divide(pc.add(times, KST), DAY).cast(pa.int32()).cast(wanted)
        return pc.multiply(times, 1000).cast(wanted)
    return (values if isinstance(values, pa.Array) else pa.array(values)).cast(wanted)
