with snapshots as (
    -- A snapshot speaks for its own day and the two after it: who leaves at midnight is missing from the last one.
    select
        day.day,
        profile.community_id as comm_id,
        profile.user_id,
        max(struct(profile.part_date, profile.profile_name, profile.data)) as newest
    from we_mart.ods_wv_member_profile as profile
    lateral view explode(sequence(cast(profile.part_date as date), date_add(cast(profile.part_date as date), 2))) day as day
    where
        profile.part_date between date_format(date_sub(cast(:start_date as date), 2), 'yyyy-MM-dd') and :end_date
        and day.day between cast(:start_date as date) and cast(:end_date as date)
    group by day.day, profile.community_id, profile.user_id
),
profiles as (
    select
        snapshots.day,
        snapshots.comm_id,
        snapshots.user_id,
        snapshots.newest.profile_name,
        -- ms since epoch become KST wall clock; a number outside the years 1 to 9999 (KST) is no time.
        case
            when try_cast(field.first_join_at as bigint) between -62135596800000 and 253402268399999
                then timestamp_millis(try_cast(field.first_join_at as bigint)) + interval 9 hours
        end as first_join_dt,
        case
            when try_cast(field.last_join_at as bigint) between -62135596800000 and 253402268399999
                then timestamp_millis(try_cast(field.last_join_at as bigint)) + interval 9 hours
        end as last_join_dt,
        field.hidden,
        field.image,
        field.cover_image
    from snapshots
    lateral view json_tuple(
        snapshots.newest.data, 'firstJoinAt', 'lastJoinAt', 'hidden', 'profileImageUrl', 'profileCoverImageUrl'
    ) field as first_join_at, last_join_at, hidden, image, cover_image
),
events as (
    select
        log.log_id,
        min(struct(log.community_id, log.user_id, log.type, log.change_at)) as event
    from weverse2.community_log_member_status_log as log
    where log.type in ('subscribe', 'unsubscribe') and log.change_at between 0 and 253402268399999
    group by log.log_id
),
dated_events as (
    select
        log_id,
        event.community_id as comm_id,
        event.user_id,
        event.type,
        event.change_at,
        cast(timestamp_millis(event.change_at) + interval 9 hours as date) as since
    from events
),
-- What was known at the end of the day `since`: one row per community, user and day with an event.
event_states as (
    select distinct
        comm_id,
        user_id,
        since,
        max(struct(log_id, type, change_at)) over (partition by comm_id, user_id order by since) as last_event,
        count_if(type = 'subscribe') over (partition by comm_id, user_id order by since) as subscribes,
        count_if(type = 'unsubscribe') over (partition by comm_id, user_id order by since) as unsubscribes
    from dated_events
    where since <= cast(:end_date as date)
),
event_periods as (
    select
        event_states.*,
        lead(since) over (partition by comm_id, user_id order by since) as until
    from event_states
),
country_states as (
    select distinct
        history.user_id,
        greatest(cast(history.part_date as date), cast(history.created_at + interval 9 hours as date)) as since,
        max(struct(history.created_at, history.country, history.part_date)) over (
            partition by history.user_id
            order by greatest(cast(history.part_date as date), cast(history.created_at + interval 9 hours as date))
        ) as latest
    from we_mart.wv_user_ctry_history as history
    where history.part_date <= :end_date and history.created_at is not null
),
country_periods as (
    select
        country_states.*,
        lead(since) over (partition by user_id order by since) as until
    from country_states
),
users as (
    select
        cast(user.part_date as date) as day,
        user.wv_user_id as user_id,
        min(struct(
            user.we_member_id is null as last_of_all, user.we_member_id, user.wv_status, user.wv_leave_dt, user.vlive_id
        )) as account
    from we_mart.we_user as user
    where user.part_date between :start_date and :end_date and user.wv_user_id is not null
    group by user.part_date, user.wv_user_id
),
channels as (
    select
        mapping.v_comm_id,
        min(mapping.wv_comm_id) as comm_id
    from we_meta.v_to_wv_comm_mapping as mapping
    group by mapping.v_comm_id
),
channel_moves as (
    select
        log.key as user_id,
        log.created_at,
        channel.v_comm_id
    from weverse2.community_log_v_member_migration as log
    lateral view explode(from_json(log.data, 'vChannels array<string>').vChannels) channel as v_comm_id
    -- From 2022-11-02 00:00 KST.
    where log.type = 'MEMBER' and log.created_at between 1667314800000 and 253402268399999
),
migrations as (
    select
        channel_moves.user_id,
        channels.comm_id,
        min(timestamp_millis(channel_moves.created_at) + interval 9 hours) as migrated_dt
    from channel_moves
    inner join channels on channels.v_comm_id = channel_moves.v_comm_id
    group by channel_moves.user_id, channels.comm_id
),
artists as (
    select
        artist.comm_id,
        min(struct(artist.we_art_id, artist.we_art_name)) as artist
    from we_mart.we_artist as artist
    where artist.comm_id is not null
    group by artist.comm_id
),
first_weverse as (
    select
        info.wv_user_id as user_id,
        info.we_art_id,
        min(struct(info.comm_user_first_dt, info.tot_comm_user_first_dt, info.is_first_user_comm)) as info
    from we_mart.wv1_join_info as info
    group by info.wv_user_id, info.we_art_id
),
official_names as (
    select
        special.community_id as comm_id,
        special.user_id,
        special.special_member_type as type,
        special.data,
        from_json(
            special.data, 'officialName struct<values: struct<ko: string, en: string, jp: string>>'
        ).officialName.values as names
    from weverse2.community_member_special_member as special
    where special.special_member_type in ('ARTIST', 'OTHER_COMMUNITY_ARTIST')
),
specials as (
    select
        comm_id,
        user_id,
        min(struct(type, data, coalesce(nullif(names.ko, ''), nullif(names.en, ''), nullif(names.jp, '')) as name)) as special
    from official_names
    group by comm_id, user_id
),
artist_names as (
    select
        user_id,
        min(struct(comm_id, special.name)) filter (where special.name is not null) as artist
    from specials
    where special.type = 'ARTIST'
    group by user_id
),
reports as (
    select
        regexp_extract(report.author_id, '^[A-Za-z]-([0-9]+-[0-9]+)\\z', 1) as comm_user_id,
        min(struct(
            report.author_id, report.value,
            try_cast(from_json(report.value, 'cumulativeReportCount string').cumulativeReportCount as bigint) as count
        )) as report
    from weverse2.community_common_report as report
    where report.report_type = 'MEMBER' and report.author_id rlike '^[A-Za-z]-[0-9]+-[0-9]+\\z'
    group by 1
),
memberships as (
    select
        cast(fc.part_date as date) as day,
        fc.we_member_id,
        fc.comm_id,
        max(struct(
            fc.create_dt, fc.user_id, fc.user_status, fc.birth_date, fc.sex, fc.first_ip_ctry, fc.we_art_id,
            fc.we_art_name, fc.ws_art_id, fc.ws_label_id, fc.shop, fc.fc_id
        )) as newest
    from we_mart.ws_fc_user_history as fc
    where
        fc.part_date between :start_date and :end_date
        and not fc.ord_status <=> 'PAYMENT_FAILED'
        and fc.is_cx_by_restore = 0
    group by fc.part_date, fc.we_member_id, fc.comm_id
),
push_settings as (
    select
        config.community_id as comm_id,
        config.user_id,
        min(struct(
            config.artist_cheering_me_push_enabled, config.artist_comment_push_enabled,
            config.artist_live_on_air_push_enabled, config.artist_live_reservation_push_enabled,
            config.artist_moment_push_enabled, config.artist_post_push_enabled, config.comment_push_enabled,
            config.community_anniversary_push_enabled, config.community_media_push_enabled,
            config.community_notice_push_enabled, config.following_push_enabled
        )) as push
    from weverse2.notification_push_config as config
    group by config.community_id, config.user_id
),
joined as (
    select
        profiles.*,
        case
            when cast(migrations.migrated_dt as date) <= profiles.day then migrations.migrated_dt
        end as migrated_dt
    from profiles
    left join migrations on migrations.user_id = profiles.user_id and migrations.comm_id = profiles.comm_id
),
-- Over all profiles of the user, before it is decided who is kept.
first_joined as (
    select
        joined.*,
        coalesce(migrated_dt, first_join_dt) as first_dt,
        min(coalesce(migrated_dt, first_join_dt)) over (partition by day, user_id) as tot_first_dt
    from joined
)
select
    first_joined.day as key_date,
    first_joined.user_id as wv_user_id,
    users.account.we_member_id,
    first_joined.comm_id,
    artists.artist.we_art_id,
    artists.artist.we_art_name,
    cast(memberships.comm_id is not null as int) as is_fc,
    memberships.newest.fc_id,
    case when specials.comm_id is not null then concat_ws('-', first_joined.comm_id, first_joined.user_id) end as art_indi_id,
    specials.special.type as art_indi_type,
    case
        when specials.comm_id is not null then coalesce(specials.special.name, artist_names.artist.name)
    end as art_indi_name,
    country_periods.latest.country as ip_ctry,
    users.account.wv_status as wv_user_status,
    coalesce(first_weverse.info.comm_user_first_dt, first_joined.first_dt) as comm_user_first_dt,
    coalesce(first_weverse.info.tot_comm_user_first_dt, first_joined.tot_first_dt) as tot_comm_user_first_dt,
    coalesce(
        first_weverse.info.is_first_user_comm, cast(first_joined.first_dt = first_joined.tot_first_dt as int), 0
    ) as is_first_user_comm,
    case
        when cast(users.account.wv_leave_dt as date) = first_joined.day then 'WV_DEACTIVATED'
        when event_periods.last_event.type = 'unsubscribe' then 'DEACTIVATED'
        else 'NORMAL'
    end as comm_user_status,
    coalesce(specials.special.type, 'FAN') as comm_user_grade,
    first_joined.last_join_dt as comm_user_cre_dt,
    coalesce(
        case
            when event_periods.last_event.type = 'unsubscribe'
                then timestamp_seconds(event_periods.last_event.change_at div 1000) + interval 9 hours
        end,
        users.account.wv_leave_dt
    ) as comm_user_end_dt,
    1L as is_profile_created,
    first_joined.profile_name,
    cast(first_joined.hidden <=> 'true' as bigint) as is_profile_private,
    cast(nullif(first_joined.image, '') is not null as int) as is_upload_profile_img,
    cast(nullif(first_joined.cover_image, '') is not null as int) as is_upload_profile_background_img,
    cast(specials.comm_id is not null as bigint) as is_official,
    concat_ws('-', first_joined.comm_id, first_joined.user_id) as comm_user_id,
    1L as cnt_comm_user_id,
    coalesce(reports.report.count, 0L) as sum_report_count,
    cast(
        case event_periods.last_event.type
            when 'subscribe' then event_periods.subscribes
            when 'unsubscribe' then event_periods.unsubscribes
        end as int
    ) as comm_user_seq,
    'ALL' as notification_type,
    cast(null as tinyint) as like_on_comment_alarm,
    cast(null as tinyint) as hot_post_alarm,
    cast(null as tinyint) as new_fc_alarm,
    cast(null as tinyint) as new_media_alarm,
    cast(null as tinyint) as new_community_notice_alarm,
    cast(null as tinyint) as artist_to_fans_post_alarm,
    cast(null as tinyint) as artist_post_alarm,
    cast(null as tinyint) as artist_like_on_my_post_alarm,
    cast(null as tinyint) as artist_comment_on_my_post_alarm,
    cast(null as tinyint) as like_on_my_post_alarm,
    cast(null as tinyint) as comment_on_my_post_alarm,
    cast(null as tinyint) as after_receiving_artist_comment_alarm,
    cast(lower(push.artist_cheering_me_push_enabled) <=> 'true' as tinyint) as artist_cheering_me_push_enabled,
    cast(lower(push.artist_comment_push_enabled) <=> 'true' as tinyint) as artist_comment_push_enabled,
    cast(lower(push.artist_live_on_air_push_enabled) <=> 'true' as tinyint) as artist_live_on_air_push_enabled,
    cast(lower(push.artist_live_reservation_push_enabled) <=> 'true' as tinyint) as artist_live_reservation_push_enabled,
    cast(lower(push.artist_moment_push_enabled) <=> 'true' as tinyint) as artist_moment_push_enabled,
    cast(lower(push.artist_post_push_enabled) <=> 'true' as tinyint) as artist_post_push_enabled,
    cast(lower(push.comment_push_enabled) <=> 'true' as tinyint) as comment_push_enabled,
    cast(lower(push.community_anniversary_push_enabled) <=> 'true' as tinyint) as community_anniversary_push_enabled,
    cast(lower(push.community_media_push_enabled) <=> 'true' as tinyint) as community_media_push_enabled,
    cast(lower(push.community_notice_push_enabled) <=> 'true' as tinyint) as community_notice_push_enabled,
    cast(lower(push.following_push_enabled) <=> 'true' as tinyint) as following_push_enabled,
    case when first_joined.migrated_dt is not null then first_joined.first_join_dt end as v_ch_join_dt,
    cast(users.account.vlive_id is not null as int) as is_v_user,
    first_joined.comm_id as part_comm_id,
    date_format(first_joined.day, 'yyyy-MM-dd') as part_date,
    case when first_joined.last_join_dt is null then 'no_last_join' end as drop_reason
from first_joined
left join users on users.day = first_joined.day and users.user_id = first_joined.user_id
left join event_periods
    on event_periods.comm_id = first_joined.comm_id
    and event_periods.user_id = first_joined.user_id
    and first_joined.day >= event_periods.since
    and (event_periods.until is null or first_joined.day < event_periods.until)
left join country_periods
    on country_periods.user_id = first_joined.user_id
    and first_joined.day >= country_periods.since
    and (country_periods.until is null or first_joined.day < country_periods.until)
left join artists on artists.comm_id = first_joined.comm_id
left join first_weverse
    on first_weverse.user_id = first_joined.user_id and first_weverse.we_art_id = artists.artist.we_art_id
left join specials on specials.comm_id = first_joined.comm_id and specials.user_id = first_joined.user_id
left join artist_names on artist_names.user_id = first_joined.user_id
left join reports on reports.comm_user_id = concat_ws('-', first_joined.comm_id, first_joined.user_id)
left join memberships
    on memberships.day = first_joined.day
    and memberships.we_member_id = users.account.we_member_id
    and memberships.comm_id = first_joined.comm_id
left join push_settings on push_settings.comm_id = first_joined.comm_id and push_settings.user_id = first_joined.user_id
where
    coalesce(cast(first_joined.last_join_dt as date) <= first_joined.day, true)
    and not coalesce(
        event_periods.last_event.type = 'unsubscribe'
        and cast(timestamp_millis(event_periods.last_event.change_at) + interval 9 hours as date) < first_joined.day,
        false
    )
    and coalesce(cast(users.account.wv_leave_dt as date) >= first_joined.day, true)
