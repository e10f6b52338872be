with logs as (
    select
        log.*,
        try_cast(log.user_id_fill as bigint) as user_number,
        nullif(log.gcc, '') as known_gcc,
        nullif(log.os, '') as known_os,
        nullif(log.post_id, '') as named_post_id,
        -- Orders rows by session, then those of one instant by the columns that follow in the contract and may differ
        -- there. A number, because Sail counts the memory of a struct that max_by keeps many times.
        row_number() over (
            partition by log.date_id
            order by
                log.sess_id, log.log_dt, log.hour, log.user_info_user_key, log.user_sess_id, log.user_info_id,
                log.platform, log.os, log.app_ver, log.user_info_status, log.user_info_ip_address,
                log.user_info_locale, log.user_info_country, log.topic, log.method, log.gcc
        ) as position
    from we_mart.wv_server_log_base as log
    where log.date_id between :start_date and :end_date
),
sessions as (
    select
        date_id,
        sess_id,
        max_by(known_gcc, position) filter (where known_gcc is not null) as sess_ctry,
        max_by(platform, position) filter (where platform is not null) as platform,
        max_by(known_os, position) filter (where known_os is not null) as os,
        max_by(app_ver, position) filter (where app_ver is not null) as app_ver
    from logs
    group by date_id, sess_id
),
devices as (
    select
        date_id,
        user_info_device_id,
        max(cast(user_id_fill is not null as int)) as is_device_login,
        max_by(user_id_fill, position) filter (where user_id_fill is not null) as last_user
    from logs
    group by date_id, user_info_device_id
),
-- A visitor is the user; else the last user of the device on that day; else the device.
visitors as (
    select
        logs.date_id,
        coalesce(logs.user_id_fill, devices.last_user, concat('|', logs.user_info_device_id)) as visitor,
        max_by(
            -- Calls of who is logged in come after all others.
            logs.known_gcc, logs.position + case when logs.user_id_fill is null then 0L else 1000000000000L end
        ) filter (where logs.known_gcc is not null) as user_ctry
    from logs
    inner join devices on devices.date_id = logs.date_id and devices.user_info_device_id = logs.user_info_device_id
    group by 1, 2
),
posts_received as (
    select
        concat_ws('-', post.shard_id, post.post_local_id) as post_id,
        post.data as text,
        -- JSON is read as in wv_server_log_base.
        from_json(
            concat('{"json":[', post.data, '],"end":', length(post.data), '}'),
            'json array<struct<communityId string>>, end int, _corrupt_record string',
            map('allowSingleQuotes', 'false', 'allowNonNumericNumbers', 'false')
        ) as data
    from weverse2.community_content_post as post
),
posts as (
    select
        post_id,
        min(
            case
                when data.end = length(text) and data._corrupt_record is null and size(data.json) = 1
                    then try_cast(get(data.json, 0).communityId as bigint)
            end
        ) as comm_id
    from posts_received
    group by post_id
),
notices as (
    select
        notice.id as notice_id,
        min(try_cast(regexp_extract(notice.parent_id, '^community-([0-9]+)\\z', 1) as bigint)) as comm_id
    from weverse2.community_content_common_notice as notice
    group by notice.id
),
members as (
    select
        member.part_date,
        member.comm_id,
        member.wv_user_id,
        member.art_indi_id,
        member.art_indi_type
    from we_mart.wv_comm_user as member
    where member.part_date between :start_date and :end_date
),
users as (
    select
        account.part_date,
        account.wv_user_id,
        min(account.we_member_id) as we_member_id
    from we_mart.we_user as account
    where account.part_date between :start_date and :end_date and account.wv_user_id is not null
    group by account.part_date, account.wv_user_id
),
numbered_artists as (
    select
        artist.comm_id,
        artist.we_art_id,
        artist.we_art_name,
        row_number() over (partition by artist.comm_id order by artist.we_art_id, artist.we_art_name) as number
    from we_mart.we_artist as artist
    where artist.comm_id is not null
),
artists as (
    select numbered_artists.*
    from numbered_artists
    where number = 1
),
memberships as (
    select distinct
        fc.part_date,
        fc.we_member_id,
        fc.we_art_id
    from we_mart.ws_fc_user_history as fc
    where fc.part_date between :start_date and :end_date
),
-- Calls to the community they belong to, whether the visitor may be counted there or not.
calls as (
    select
        logs.*,
        coalesce(try_cast(logs.comm_id as bigint), posts.comm_id, notices.comm_id) as called_comm_id
    from logs
    left join posts on posts.post_id = logs.named_post_id
    left join notices on notices.notice_id = logs.notice_id
),
visits as (
    select distinct
        calls.date_id,
        calls.user_info_device_id,
        calls.sess_id,
        calls.sess_start_dt,
        calls.sess_end_dt,
        calls.user_sess_id,
        calls.user_sess_start_dt,
        calls.user_sess_end_dt,
        calls.user_id_fill,
        calls.user_number,
        case
            when members.comm_id is not null or calls.named_post_id is not null or calls.notice_id is not null
                then calls.called_comm_id
        end as comm_id
    from calls
    left join members
        on members.part_date = calls.date_id
        and members.comm_id = calls.called_comm_id
        and members.wv_user_id = calls.user_number
)
select
    cast(visits.date_id as date) as key_date,
    try_cast(users.we_member_id as int) as we_member_id,
    try_cast(users.wv_user_id as int) as wv_user_id,
    visitors.user_ctry,
    visits.user_info_device_id as device_id,
    devices.is_device_login,
    artists.we_art_id,
    artists.we_art_name,
    cast(visits.comm_id as string) as comm_id,
    case when visits.comm_id is not null then cast(members.comm_id is not null as int) end as is_comm_user,
    case when users.we_member_id is not null then cast(memberships.we_art_id is not null as int) end as is_fc,
    members.art_indi_id,
    members.art_indi_type,
    visits.sess_id,
    sessions.sess_ctry,
    visits.sess_start_dt,
    visits.sess_end_dt,
    floor(unix_millis(visits.sess_end_dt) / 1000) - floor(unix_millis(visits.sess_start_dt) / 1000) + 1 as sess_dur,
    visits.user_sess_id,
    cast(visits.user_id_fill is not null as int) as is_sess_login,
    visits.user_sess_start_dt,
    visits.user_sess_end_dt,
    floor(unix_millis(visits.user_sess_end_dt) / 1000) - floor(unix_millis(visits.user_sess_start_dt) / 1000) + 1 as user_sess_dur,
    sessions.platform,
    sessions.os,
    sessions.app_ver,
    visits.date_id as part_date
from visits
inner join sessions on sessions.date_id = visits.date_id and sessions.sess_id = visits.sess_id
inner join devices on devices.date_id = visits.date_id and devices.user_info_device_id = visits.user_info_device_id
left join visitors
    on visitors.date_id = visits.date_id
    and visitors.visitor = coalesce(visits.user_id_fill, devices.last_user, concat('|', visits.user_info_device_id))
left join members
    on members.part_date = visits.date_id
    and members.comm_id = visits.comm_id
    and members.wv_user_id = visits.user_number
left join users on users.part_date = visits.date_id and users.wv_user_id = visits.user_number
left join artists on artists.comm_id = visits.comm_id
left join memberships
    on memberships.part_date = visits.date_id
    and memberships.we_member_id = users.we_member_id
    and memberships.we_art_id = artists.we_art_id
