with profile_days as (
    -- A snapshot speaks for its own day and the two after it: who leaves at midnight is missing from the last one.
    select
        explode(sequence(
            greatest(cast(profile.part_date as date), cast(:start_date as date)),
            least(date_add(cast(profile.part_date as date), 2), cast(:end_date as date))
        )) as day,
        profile.community_id as comm_id,
        profile.user_id,
        profile.part_date,
        profile.profile_name,
        profile.data
    from we_mart.ods_wv_member_profile as profile
    where profile.part_date between date_format(date_sub(cast(:start_date as date), 2), 'yyyy-MM-dd') and :end_date
),
numbered_profiles as (
    select
        profile_days.*,
        row_number() over (
            partition by day, comm_id, user_id
            order by part_date desc, profile_name desc nulls last, data desc nulls last
        ) as number
    from profile_days
),
snapshots as (
    select
        day,
        comm_id,
        user_id,
        profile_name,
        data as text
    from numbered_profiles
    where number = 1
),
-- The two engines, Spark and Sail, read JSON alike where it is well-formed. So it is read as the one element of a list in a
-- text of ours. The `end` of this text is there only if the list ends where we have ended it.
snapshots_read as (
    select
        snapshots.*,
        from_json(
            concat('{"json":[', snapshots.text, '],"end":', length(snapshots.text), '}'),
            'json array<struct<
                firstJoinAt string, lastJoinAt string, hidden string, profileImageUrl string, profileCoverImageUrl string
            >>, end int, _corrupt_record string',
            map('allowSingleQuotes', 'false', 'allowNonNumericNumbers', 'false')
        ) as data
    from snapshots
),
fields as (
    select
        snapshots_read.*,
        case
            when data.end = length(text) and data._corrupt_record is null and size(data.json) = 1 then get(data.json, 0)
        end as field
    from snapshots_read
),
profiles as (
    select
        day,
        comm_id,
        user_id,
        profile_name,
        -- ms since epoch become KST wall clock; a number outside the years 1 to 9999 (KST) is no time.
        case
            when try_cast(field.firstJoinAt as bigint) between -62135596800000 and 253402268399999
                then timestamp_millis(try_cast(field.firstJoinAt as bigint)) + interval 9 hours
        end as first_join_dt,
        case
            when try_cast(field.lastJoinAt as bigint) between -62135596800000 and 253402268399999
                then timestamp_millis(try_cast(field.lastJoinAt as bigint)) + interval 9 hours
        end as last_join_dt,
        field.hidden,
        field.profileImageUrl as image,
        field.profileCoverImageUrl as cover_image
    from fields
),
numbered_events as (
    select
        log.*,
        row_number() over (
            partition by log.community_id, log.user_id, log.log_id
            -- The earliest of several, so that none after the day decides.
            order by log.change_at, log.type
        ) as number
    from weverse2.community_log_member_status_log as log
    where log.type in ('subscribe', 'unsubscribe') and log.change_at between -62135596800000 and 253402268399999
),
events as (
    select
        log_id,
        community_id as comm_id,
        user_id,
        type,
        change_at,
        cast(timestamp_millis(change_at) + interval 9 hours as date) as since
    from numbered_events
    where number = 1
),
-- What came before :start_date counts as one day. So there are few rows to go through, however long the history is.
event_days as (
    select
        comm_id,
        user_id,
        greatest(since, cast(:start_date as date)) as since,
        max(log_id) as last_log_id,
        count_if(type = 'subscribe') as subscribes,
        count_if(type = 'unsubscribe') as unsubscribes
    from events
    where since <= cast(:end_date as date)
    group by 1, 2, 3
),
known_event_days as (
    select
        event_days.*,
        explode(sequence(since, cast(:end_date as date))) as day
    from event_days
),
-- What is known at the end of each day.
event_states as (
    select
        day,
        comm_id,
        user_id,
        max(last_log_id) as last_log_id,
        sum(subscribes) as subscribes,
        sum(unsubscribes) as unsubscribes
    from known_event_days
    group by day, comm_id, user_id
),
countries as (
    select
        history.user_id,
        history.country,
        greatest(
            cast(history.part_date as date), cast(history.created_at + interval 9 hours as date), cast(:start_date as date)
        ) as since,
        row_number() over (
            partition by history.user_id order by history.created_at, history.country, history.part_date
        ) as number
    from we_mart.wv_user_ctry_history as history
    where history.part_date <= :end_date and history.created_at is not null
),
country_days as (
    select
        user_id,
        since,
        max(number) as last_number
    from countries
    where since <= cast(:end_date as date)
    group by user_id, since
),
known_country_days as (
    select
        country_days.*,
        explode(sequence(since, cast(:end_date as date))) as day
    from country_days
),
country_states as (
    select
        day,
        user_id,
        max(last_number) as last_number
    from known_country_days
    group by day, user_id
),
-- The smallest row of several is the first one in an order. min(struct(…)) would not do: the engines place nulls in a
-- struct differently.
numbered_users as (
    select
        cast(account.part_date as date) as day,
        account.wv_user_id as user_id,
        account.we_member_id,
        account.wv_status,
        account.wv_leave_dt,
        account.vlive_id,
        row_number() over (
            partition by account.part_date, account.wv_user_id
            order by
                account.we_member_id is null, account.we_member_id, account.wv_status, account.wv_leave_dt,
                account.vlive_id
        ) as number
    from we_mart.we_user as account
    where account.part_date between :start_date and :end_date and account.wv_user_id is not null
),
users as (
    select numbered_users.*
    from numbered_users
    where number = 1
),
channels as (
    select
        mapping.v_comm_id,
        min(mapping.wv_comm_id) as comm_id
    from we_meta.v_to_wv_comm_mapping as mapping
    group by mapping.v_comm_id
),
-- JSON is read as that of the profiles is.
moves_read as (
    select
        log.key as user_id,
        log.created_at,
        log.data as text,
        from_json(
            concat('{"json":[', log.data, '],"end":', length(log.data), '}'),
            'json array<struct<vChannels array<string>>>, end int, _corrupt_record string',
            map('allowSingleQuotes', 'false', 'allowNonNumericNumbers', 'false')
        ) as data
    from weverse2.community_log_v_member_migration as log
    -- From 2022-11-02 00:00 KST.
    where log.type = 'MEMBER' and log.created_at between 1667314800000 and 253402268399999
),
channel_moves as (
    select
        user_id,
        created_at,
        explode(get(data.json, 0).vChannels) as v_comm_id
    from moves_read
    where data.end = length(text) and data._corrupt_record is null and size(data.json) = 1
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
numbered_joins as (
    select
        info.wv_user_id as user_id,
        info.we_art_id,
        info.comm_user_first_dt,
        info.tot_comm_user_first_dt,
        info.is_first_user_comm,
        row_number() over (
            partition by info.wv_user_id, info.we_art_id
            order by
                info.comm_user_first_dt nulls last, info.tot_comm_user_first_dt nulls last,
                info.is_first_user_comm nulls last
        ) as number
    from we_mart.wv1_join_info as info
),
first_weverse as (
    select numbered_joins.*
    from numbered_joins
    where number = 1
),
specials_read as (
    select
        special.community_id as comm_id,
        special.user_id,
        special.special_member_type as type,
        special.data as text,
        from_json(
            concat('{"json":[', special.data, '],"end":', length(special.data), '}'),
            'json array<struct<officialName struct<values: struct<ko: string, en: string, jp: string>>>>, end int, _corrupt_record string',
            map('allowSingleQuotes', 'false', 'allowNonNumericNumbers', 'false')
        ) as data
    from weverse2.community_member_special_member as special
    where special.special_member_type in ('ARTIST', 'OTHER_COMMUNITY_ARTIST')
),
official_names as (
    select
        comm_id,
        user_id,
        type,
        text,
        case
            when data.end = length(text) and data._corrupt_record is null and size(data.json) = 1
                then get(data.json, 0).officialName.values
        end as names
    from specials_read
),
numbered_specials as (
    select
        comm_id,
        user_id,
        type,
        -- Its text settles the name, too.
        coalesce(nullif(names.ko, ''), nullif(names.en, ''), nullif(names.jp, '')) as name,
        row_number() over (partition by comm_id, user_id order by type, text nulls last) as number
    from official_names
),
specials as (
    select numbered_specials.*
    from numbered_specials
    where number = 1
),
artist_names as (
    select
        user_id,
        min(struct(comm_id, name)) as artist
    from specials
    where type = 'ARTIST' and name is not null
    group by user_id
),
reports_read as (
    select
        regexp_extract(report.author_id, '^[A-Za-z]-([0-9]+-[0-9]+)\\z', 1) as comm_user_id,
        report.author_id,
        report.value as text,
        from_json(
            concat('{"json":[', report.value, '],"end":', length(report.value), '}'),
            'json array<struct<cumulativeReportCount string>>, end int, _corrupt_record string',
            map('allowSingleQuotes', 'false', 'allowNonNumericNumbers', 'false')
        ) as value
    from weverse2.community_common_report as report
    where report.report_type = 'MEMBER' and report.author_id rlike '^[A-Za-z]-[0-9]+-[0-9]+\\z'
),
numbered_reports as (
    select
        comm_user_id,
        case
            when value.end = length(text) and value._corrupt_record is null and size(value.json) = 1
                then try_cast(get(value.json, 0).cumulativeReportCount as bigint)
        end as count,
        row_number() over (partition by comm_user_id order by author_id, text nulls last) as number
    from reports_read
),
reports as (
    select numbered_reports.*
    from numbered_reports
    where number = 1
),
numbered_memberships as (
    select
        cast(fc.part_date as date) as day,
        fc.we_member_id,
        fc.comm_id,
        fc.fc_id,
        row_number() over (
            partition by fc.part_date, fc.we_member_id, fc.comm_id
            order by
                fc.create_dt desc nulls last, fc.user_id desc nulls last, fc.user_status desc nulls last,
                fc.birth_date desc nulls last, fc.sex desc nulls last, fc.first_ip_ctry desc nulls last,
                fc.we_art_id desc nulls last, fc.we_art_name desc nulls last, fc.ws_art_id desc nulls last,
                fc.ws_label_id desc nulls last, fc.shop desc nulls last, fc.fc_id desc nulls last
        ) as number
    from we_mart.ws_fc_user_history as fc
    where
        fc.part_date between :start_date and :end_date
        and not fc.ord_status <=> 'PAYMENT_FAILED'
        and fc.is_cx_by_restore = 0
),
memberships as (
    select numbered_memberships.*
    from numbered_memberships
    where number = 1
),
numbered_settings as (
    select
        config.*,
        row_number() over (
            partition by config.community_id, config.user_id
            order by
                config.artist_cheering_me_push_enabled nulls last, config.artist_comment_push_enabled nulls last,
                config.artist_live_on_air_push_enabled nulls last,
                config.artist_live_reservation_push_enabled nulls last, config.artist_moment_push_enabled nulls last,
                config.artist_post_push_enabled nulls last, config.comment_push_enabled nulls last,
                config.community_anniversary_push_enabled nulls last, config.community_media_push_enabled nulls last,
                config.community_notice_push_enabled nulls last, config.following_push_enabled nulls last
        ) as number
    from weverse2.notification_push_config as config
),
push_settings as (
    select numbered_settings.*
    from numbered_settings
    where number = 1
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
    users.we_member_id,
    first_joined.comm_id,
    artists.we_art_id,
    artists.we_art_name,
    cast(memberships.comm_id is not null as int) as is_fc,
    memberships.fc_id,
    case when specials.comm_id is not null then concat_ws('-', first_joined.comm_id, first_joined.user_id) end as art_indi_id,
    specials.type as art_indi_type,
    case
        when specials.comm_id is not null then coalesce(specials.name, artist_names.artist.name)
    end as art_indi_name,
    last_country.country as ip_ctry,
    users.wv_status as wv_user_status,
    coalesce(first_weverse.comm_user_first_dt, first_joined.first_dt) as comm_user_first_dt,
    coalesce(first_weverse.tot_comm_user_first_dt, first_joined.tot_first_dt) as tot_comm_user_first_dt,
    coalesce(
        first_weverse.is_first_user_comm, cast(first_joined.first_dt = first_joined.tot_first_dt as int), 0
    ) as is_first_user_comm,
    case
        when cast(users.wv_leave_dt as date) = first_joined.day then 'WV_DEACTIVATED'
        when last_event.type = 'unsubscribe' then 'DEACTIVATED'
        else 'NORMAL'
    end as comm_user_status,
    coalesce(specials.type, 'FAN') as comm_user_grade,
    first_joined.last_join_dt as comm_user_cre_dt,
    coalesce(
        case
            when last_event.type = 'unsubscribe'
                then date_trunc('second', timestamp_millis(last_event.change_at)) + interval 9 hours
        end,
        users.wv_leave_dt
    ) as comm_user_end_dt,
    1L as is_profile_created,
    first_joined.profile_name,
    cast(first_joined.hidden <=> 'true' as bigint) as is_profile_private,
    cast(nullif(first_joined.image, '') is not null as int) as is_upload_profile_img,
    cast(nullif(first_joined.cover_image, '') is not null as int) as is_upload_profile_background_img,
    cast(specials.comm_id is not null as bigint) as is_official,
    concat_ws('-', first_joined.comm_id, first_joined.user_id) as comm_user_id,
    1L as cnt_comm_user_id,
    coalesce(reports.count, 0L) as sum_report_count,
    cast(
        case last_event.type
            when 'subscribe' then event_states.subscribes
            when 'unsubscribe' then event_states.unsubscribes
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
    cast(lower(push_settings.artist_cheering_me_push_enabled) <=> 'true' as tinyint) as artist_cheering_me_push_enabled,
    cast(lower(push_settings.artist_comment_push_enabled) <=> 'true' as tinyint) as artist_comment_push_enabled,
    cast(lower(push_settings.artist_live_on_air_push_enabled) <=> 'true' as tinyint) as artist_live_on_air_push_enabled,
    cast(lower(push_settings.artist_live_reservation_push_enabled) <=> 'true' as tinyint) as artist_live_reservation_push_enabled,
    cast(lower(push_settings.artist_moment_push_enabled) <=> 'true' as tinyint) as artist_moment_push_enabled,
    cast(lower(push_settings.artist_post_push_enabled) <=> 'true' as tinyint) as artist_post_push_enabled,
    cast(lower(push_settings.comment_push_enabled) <=> 'true' as tinyint) as comment_push_enabled,
    cast(lower(push_settings.community_anniversary_push_enabled) <=> 'true' as tinyint) as community_anniversary_push_enabled,
    cast(lower(push_settings.community_media_push_enabled) <=> 'true' as tinyint) as community_media_push_enabled,
    cast(lower(push_settings.community_notice_push_enabled) <=> 'true' as tinyint) as community_notice_push_enabled,
    cast(lower(push_settings.following_push_enabled) <=> 'true' as tinyint) as following_push_enabled,
    case when first_joined.migrated_dt is not null then first_joined.first_join_dt end as v_ch_join_dt,
    cast(users.vlive_id is not null as int) as is_v_user,
    first_joined.comm_id as part_comm_id,
    date_format(first_joined.day, 'yyyy-MM-dd') as part_date,
    case when first_joined.last_join_dt is null then 'no_last_join' end as drop_reason
from first_joined
left join users on users.day = first_joined.day and users.user_id = first_joined.user_id
left join event_states
    on event_states.day = first_joined.day
    and event_states.comm_id = first_joined.comm_id
    and event_states.user_id = first_joined.user_id
left join events as last_event
    on last_event.log_id = event_states.last_log_id
    and last_event.comm_id = event_states.comm_id
    and last_event.user_id = event_states.user_id
left join country_states on country_states.day = first_joined.day and country_states.user_id = first_joined.user_id
left join countries as last_country
    on last_country.user_id = country_states.user_id and last_country.number = country_states.last_number
left join artists on artists.comm_id = first_joined.comm_id
left join first_weverse
    on first_weverse.user_id = first_joined.user_id and first_weverse.we_art_id = artists.we_art_id
left join specials on specials.comm_id = first_joined.comm_id and specials.user_id = first_joined.user_id
left join artist_names on artist_names.user_id = first_joined.user_id
left join reports on reports.comm_user_id = concat_ws('-', first_joined.comm_id, first_joined.user_id)
left join memberships
    on memberships.day = first_joined.day
    and memberships.we_member_id = users.we_member_id
    and memberships.comm_id = first_joined.comm_id
left join push_settings
    on push_settings.community_id = first_joined.comm_id and push_settings.user_id = first_joined.user_id
where
    coalesce(cast(first_joined.last_join_dt as date) <= first_joined.day, true)
    and not coalesce(
        last_event.type = 'unsubscribe'
        and cast(timestamp_millis(last_event.change_at) + interval 9 hours as date) < first_joined.day,
        false
    )
    and coalesce(cast(users.wv_leave_dt as date) >= first_joined.day, true)
