-- The two engines, Spark and Sail, read JSON alike where it is well-formed. So it is read as the one element of a list in a
-- text of ours. The `end` of this text is there only if the list ends where we have ended it.
with received as (
    select
        log.*,
        from_json(
            concat('{"json":[', log.params, '],"end":', length(log.params), '}'),
            'json array<struct<
                _request_body string, request_body string, _method string, method string, _gcc string, gcc string,
                _consumer_id string, consumer_id string, _provider_id string, provider_id string,
                language string, platform string, wpf string, os string
            >>, end int, _corrupt_record string',
            map('allowSingleQuotes', 'false', 'allowNonNumericNumbers', 'false')
        ) as header
    from service_log.weverse_server_log as log
    where log.date_id between :start_date and :end_date
),
headers as (
    select
        received.*,
        case
            when header.end = length(params) and header._corrupt_record is null and size(header.json) = 1
                then get(header.json, 0)
        end as call
    from received
),
calls as (
    select
        headers.*,
        coalesce(call._request_body, call.request_body) as request,
        coalesce(call._method, call.method) as method,
        coalesce(call._gcc, call.gcc) as gcc,
        coalesce(call._consumer_id, call.consumer_id) as consumer_id,
        coalesce(call._provider_id, call.provider_id) as provider_id,
        call.language,
        call.platform as platform_id,
        call.wpf,
        nullif(call.os, '') as os_param
    from headers
),
kept as (
    select
        calls.*,
        coalesce(
            nullif(user_info_device_id, ''),
            case when consumer_id = 'tvApp' then concat('U_', nullif(user_info_user_key, '')) end
        ) as device,
        -- A number beyond the year 9999 (KST, which sess_id is written in) is no timestamp either.
        case
            when unix_log_timestamp between 1 and 253402268399999 then timestamp_millis(unix_log_timestamp)
        end as log_dt,
        -- Text of digits, and not only zeros: anything else is no user.
        case when user_info_id rlike '^[0-9]*[1-9][0-9]*\\z' then user_info_id end as user_id
    from calls
),
reasoned as (
    select
        kept.*,
        -- In every window of a device, so that a row that is dropped cuts or joins no session of those that are kept.
        case when device is null then 'no_device' when log_dt is null then 'no_timestamp' end as unusable,
        trim(trailing '0123456789|' from device) as stem
    from kept
),
-- Devices that could be mistaken for one another have one root: d1, d1|301 and d1|301|5 have d1.
rooted as (
    select
        reasoned.*,
        -- The cast: without it Sail gives a view of text, and counts the memory of all the text for each batch that it
        -- sorts. A day of a million calls would want 8 GB, and not 1.
        concat(stem, cast(substring_index(substring(device, length(stem) + 1), '|', 1) as string)) as device_root,
        -- To join and to order by: never null, and two of them are equal, or one is less, where it is so of the columns.
        coalesce(concat('=', hour), '') as hour_text,
        coalesce(concat('=', user_info_user_key), '') as key_text,
        coalesce(concat('=', user_id), '') as user_text,
        coalesce(concat('=', device), '') as device_text,
        coalesce(unix_millis(log_dt), 0) as log_ms  -- that of a row with a timestamp is above 0
    from reasoned
),
-- All that the windows below read, each once: rows of one moment are of one session and one user. Engines sort them
-- several times, and they are a fraction as wide as those of the log.
-- Spark shuffles them once, by the root: every window below partitions by it.
-- Sail keeps few rows of a window that ends at the current row. So the largest of a session is the first one of it, read
-- backwards. Of two windows with opposite orders one says log_dt, and the other log_ms. Otherwise Sail sorts once, turns
-- the second window round, and keeps all its rows.
moments as (
    select /*+ repartition(date_id, device_root) */ distinct
        date_id, device_root, unusable, device, log_dt, hour_text, key_text, user_id, user_text, device_text, log_ms
    from rooted
),
gaps as (
    select
        moments.*,
        coalesce(
            unix_millis(log_dt) - unix_millis(lag(log_dt) over (
                partition by date_id, device_root, unusable, device order by log_dt
            )) > 1800000,
            true
        ) as starts_session
    from moments
),
started as (
    select
        gaps.*,
        -- Rows of one instant belong to one session: the default frame ends after all of them.
        max(case when starts_session then log_dt end) over (
            partition by date_id, device_root, unusable, device order by log_dt
        ) as sess_start_dt
    from gaps
),
filled as (
    select
        started.*,
        max(log_dt) over (
            partition by date_id, device_root, unusable, device, sess_start_dt
            order by log_dt desc, hour_text desc, key_text desc, user_id desc
            rows between unbounded preceding and current row
        ) as sess_end_dt,
        coalesce(
            user_id,
            -- The next user: the last one seen when the session is read backwards.
            last_value(user_id, true) over (
                partition by date_id, device_root, unusable, device, sess_start_dt
                order by log_dt desc, hour_text desc, key_text desc, user_id desc
                rows between unbounded preceding and current row
            ),
            last_value(user_id, true) over (
                partition by date_id, device_root, unusable, device, sess_start_dt
                order by log_ms, hour_text, key_text, user_id
                rows between unbounded preceding and current row
            )
        ) as user_id_fill
    from started
),
written as (
    select
        filled.*,
        concat_ws('|', device, user_id_fill) as device_and_user
    from filled
),
dated as (
    select
        written.*,
        min(log_dt) over (
            partition by date_id, device_root, unusable, sess_start_dt, device_and_user, device order by log_dt
        ) as user_sess_start_dt,
        max(log_dt) over (
            partition by date_id, device_root, unusable, sess_start_dt, device_and_user, device order by log_ms desc
        ) as user_sess_end_dt
    from written
),
-- Sessions that start in one millisecond have one user_sess_id only where a device without a user is written as
-- another device and its user: `d1|301`, and `d1` with user 301. Text puts the first one later, so that is dropped.
judged as (
    select
        dated.*,
        -- Ordered by device, so that Spark sorts once for this window and those before.
        coalesce(
            unusable,
            case
                when device > min(device) over (
                    partition by date_id, device_root, unusable, sess_start_dt, device_and_user order by device
                ) then 'ambiguous_device'
            end
        ) as drop_reason
    from dated
),
named as (
    select
        judged.*,
        concat(date_format(sess_start_dt + interval 9 hours, 'yyyyMMddHHmmssSSS'), '|', device) as sess_id,
        -- Counted last, so that a session that is dropped leaves no hole.
        count_if(starts_session) over (
            partition by date_id, device_root, drop_reason, device order by sess_start_dt
        ) as sess_seq
    from judged
),
placed as (
    select
        rooted.*,
        named.sess_id,
        named.sess_seq,
        named.sess_start_dt,
        named.sess_end_dt,
        named.user_id_fill,
        named.user_sess_start_dt,
        named.user_sess_end_dt,
        named.drop_reason
    -- Sail keeps the rows of the left side.
    from named
    inner join rooted
        on named.date_id = rooted.date_id
        and named.device_text = rooted.device_text
        and named.log_ms = rooted.log_ms
        and named.hour_text = rooted.hour_text
        and named.key_text = rooted.key_text
        and named.user_text = rooted.user_text
),
requested as (
    select
        placed.*,
        from_json(
            concat('{"json":[', placed.request, '],"end":', length(placed.request), '}'),
            'json array<struct<
                communityId string, postId string, body string, mediaType string, time string, videoId string,
                sessionId string, sectionType string, hasProduct string, hideFromArtist string, membershipOnly string,
                messageCount string, messageList string
            >>, end int, _corrupt_record string',
            map('allowSingleQuotes', 'false', 'allowNonNumericNumbers', 'false')
        ) as asked
    from placed
),
bodies as (
    select
        requested.*,
        case
            when asked.end = length(request) and asked._corrupt_record is null and size(asked.json) = 1
                then get(asked.json, 0)
        end as body
    from requested
)
select
    date_id,
    hour,
    log_dt,
    user_info_user_key,
    sess_id,
    sess_seq,
    sess_start_dt,
    sess_end_dt,
    concat_ws('|', sess_id, user_id_fill) as user_sess_id,
    user_sess_start_dt,
    user_sess_end_dt,
    user_id as user_info_id,
    device as user_info_device_id,
    case
        when upper(provider_id) = 'WEVAPP' and upper(os_param) in ('ANDTV', 'APPLETV', 'FIRETV', 'TIZEN', 'WEBOS') then 'TV'
        when upper(consumer_id) in ('TVAPP', 'TVOSAPP') then 'TV'
        when upper(provider_id) = 'WEVAPP' then 'APP'
        when upper(wpf) in ('PC', 'MWEB') then upper(wpf)
    end as platform,
    case upper(consumer_id)
        when 'TVOSAPP' then 'TVOS'
        when 'TVAPP' then coalesce(upper(os_param), 'TV')
        else upper(platform_id)
    end as os,
    coalesce(
        nullif(regexp_extract(user_info_user_agent, 'app; ?([0-9]+[.][0-9]+[.][0-9]+)', 1), ''),
        nullif(regexp_extract(user_info_user_agent, 'weverse; ?([0-9]+[.][0-9]+[.][0-9]+)', 1), '')
    ) as app_ver,
    user_id_fill,
    user_info_status,
    user_info_ip_address,
    user_info_locale,
    user_info_country,
    topic,
    method,
    gcc,
    language,
    consumer_id,
    provider_id,
    platform_id,
    wpf,
    case when contains(url, '/join') then 1 end as is_join,
    case when contains(url, '/leave') then 1 end as is_leave,
    coalesce(nullif(regexp_extract(url, 'post-([0-9]+-[0-9]+)', 1), ''), body.postId) as post_id,
    coalesce(nullif(regexp_extract(url, '/community-([0-9]+)', 1), ''), body.communityId) as comm_id,
    nullif(regexp_extract(url, '/notice-([0-9]+)', 1), '') as notice_id,
    body.body,
    body.mediaType as media_type,
    body.time as media_time,
    body.videoId as video_id,
    body.sessionId as video_session_id,
    body.sectionType as section_type,
    body.hasProduct as is_product,
    body.hideFromArtist as is_hide_from_artist,
    body.membershipOnly as is_fc_only,
    nullif(regexp_extract(url, '/chat-([^/&]+)/', 1), '') as chat_id,
    try_cast(body.messageCount as int) as chat_msg_count,
    -- Spark writes a character outside the basic plane of a list as two escapes. A text in quotes gives it back. What
    -- has a control character as it is, such as a line break, is a text of the app, and no list.
    case
        when contains(body.messageList, '\\u') and not body.messageList rlike '[\\x00-\\x1f]' then from_json(
            concat('["', regexp_replace(
                replace(replace(body.messageList, '\\', '\\\\'), '"', '\\"'),
                '\\\\\\\\u(D[89AB]..)\\\\\\\\u(D[C-F]..)', '\\\\u$1\\\\u$2'
            ), '"]'),
            'array<string>'
        )[0]
        else body.messageList
    end as chat_msg_list,
    url,
    params,
    user_info_user_agent,
    drop_reason
from bodies
