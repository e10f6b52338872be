"""The daily snapshots: the part of the universe that has happened by the end of the day.

The widest sources get only the columns that have a meaning in the sample; `generate` leaves the others null.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from include.sample import words
from include.sample.clock import DAY, HOUR, KST, MINUTE, NEVER, YEAR, midnight
from include.sample.draw import either, fill, take, texts
from include.sample.universe import Universe


def member_profile(world: Universe, day: int) -> dict[str, Any]:
    """The source reads each community at its own minute of the hour around midnight.

    So a member who leaves just before is missing already. A member who joins just before is there, even if the join is
    on the next day.
    """
    stays, ids = world.stays, world.communities.id
    read_at = (midnight(day + 1) + (ids * 37 % 61 - 30) * MINUTE)[stays.comm]
    rows = np.flatnonzero((stays.start <= read_at) & (stays.end > read_at))
    return {
        "community_id": ids[stays.comm[rows]],
        "user_id": world.users.id[stays.user[rows]],
        "profile_name": stays.profile_name.take(pa.array(rows)),
        "data": stays.profile.take(pa.array(rows)),
    }


def country_history(world: Universe, day: int) -> dict[str, Any]:
    seen = world.sightings
    rows = np.flatnonzero((seen.seen >= midnight(day)) & (seen.seen < midnight(day + 1)))
    return {
        "user_id": world.users.id[seen.user[rows]],
        "country": take(words.COUNTRIES, seen.country[rows]),
        "created_at": seen.created[rows],
    }


def we_user(world: Universe, day: int) -> dict[str, Any]:
    """Accounts opened by the end of the day. They include closed accounts, and users who never came to Weverse."""
    users, end = world.users, midnight(day + 1)
    rows = np.flatnonzero(users.listed & (users.account < end))
    ids, account = users.id[rows], users.account[rows]
    left = np.where(users.left[rows] < end, users.left[rows], NEVER)
    moved = np.where(users.moved_from_v[rows] < end, users.moved_from_v[rows], NEVER)
    # A time between the opening and now. It follows from the id, so it needs no random stream.
    visited = np.minimum(np.maximum(account, end - ids * 7_919 % 90 * DAY - ids % DAY), left)
    in_weverse = users.activity[rows] > 0
    in_shop = ~in_weverse | (ids % 5 < 3)
    opened, shop_opened = np.where(in_weverse, account, NEVER), np.where(in_shop, account + 5 * MINUTE, NEVER)
    country, language = take(words.COUNTRIES, users.country[rows]), take(words.LANGUAGES, users.country[rows])
    return {
        "we_member_id": users.member_id[rows],
        "we_cre_at": account,
        "ctry_code": country,
        "join_service": either(in_weverse, "weverse", "weverseshop"),
        "wv_user_id": pa.array(ids, mask=~in_weverse),
        "wv_lang": language,
        "wv_status": take(["NORMAL", "DEACTIVATED"], np.where(in_weverse, left < NEVER, -1)),
        **dict.fromkeys(("wv_cre_dt", "wv_first_cre_dt", "wv_join_dt", "wv_first_join_dt"), opened),
        **dict.fromkeys(("wv_upd_dt", "wv_last_access_dt"), np.where(in_weverse, visited, NEVER)),
        "wv_deactivated_dt": np.where(in_weverse, left, NEVER),
        # Only this time of the source is KST wall clock; the others are UTC.
        "wv_leave_dt": np.where(in_weverse, left + KST, NEVER),
        "wv_service_user_key": take(users.key, np.where(in_weverse, rows, -1)),
        "ws_user_id": pa.array(ids + 70_000_000, mask=~in_shop),
        "ws_status": take(["NORMAL"], np.where(in_shop, 0, -1)),
        **dict.fromkeys(("ws_cre_dt", "ws_first_cre_dt", "ws_join_dt", "ws_first_join_dt"), shop_opened),
        "vlive_id": pa.array(ids + 500_000_000, mask=moved == NEVER),
        "vlive_linked_at": moved,
        "run_timestamp": end + HOUR,
    }


def fan_club_history(world: Universe, day: int) -> dict[str, Any]:
    """Memberships in force at the end of the day. They include failed payments and restored memberships."""
    clubs, users, communities, end = world.fan_clubs, world.users, world.communities, midnight(day + 1)
    rows = np.flatnonzero((clubs.start < end) & (clubs.start + YEAR > end))
    user, comm, start, art_id = (
        clubs.user[rows],
        clubs.comm[rows],
        clubs.start[rows],
        communities.art_id[clubs.comm[rows]],
    )
    version = (start - communities.opened[comm]) // YEAR + 1
    name = take(words.band_names(communities.id.size), comm)
    country = take(words.COUNTRIES, users.country[user])
    japan = users.country[user] == words.COUNTRIES.index("JP")
    restored = clubs.restored[rows]
    return {
        "we_member_id": users.member_id[user],
        "user_id": users.id[user] + 70_000_000,
        "user_status": "NORMAL",
        "first_ip_ctry": country,
        "we_art_id": art_id,
        "we_art_name": name,
        "comm_id": communities.id[comm],
        "ws_art_id": art_id + 1000,
        "shop": either(japan, "JP", "GL"),
        "fc_id": art_id * 1000 + version,
        "fc_name": fill("<name> MEMBERSHIP", name=name),
        "fc_ver": version,
        "fc_type": either(japan, "JAPAN", "GLOBAL"),
        "fc_num": fill("<art><number>", art=texts(art_id), number=texts(10_000_000 + rows)),
        **dict.fromkeys(("create_dt", "start_dt"), start),
        **dict.fromkeys(("expire_dt", "end_dt", "raw_expired_at"), start + YEAR),
        "no_refund_dt": start + 7 * DAY,
        "ord_ip_ctry": country,
        "ord_sheet_id": 4_000_000 + rows,
        "pur_type": either(clubs.number[rows] > 1, "RENEW", "NEW"),
        "fc_status": "ACTIVE",
        "ord_status": either(clubs.failed[rows], "PAYMENT_FAILED", "PAYMENT_COMPLETED"),
        "pur_seq": clubs.number[rows],
        **dict.fromkeys(("is_restore_item", "is_cx_by_restore"), restored.astype(int)),
        "restore_dt": np.where(restored, start + 3 * DAY, NEVER),
        "run_timestamp": end + HOUR,
        "part_art_id": art_id,
    }
