with events as (
    select
        'listen_events' as record_source, event.part_date, event.ts,
        event.session_id, event.user_id, event.user_agent, event.level, event.lat, event.lon, event.zip, event.city,
        event.state, event.first_name, event.last_name, event.gender, event.registration,
        event.artist, event.song, event.duration, case when lower(trim(event.auth)) = 'logged in' then true end as success,
        cast(null as string) as page, cast(null as string) as method, cast(null as bigint) as status
    from audio_raw.listen_events as event
    where event.part_date between :start_date and :end_date
    union all
    -- Nobody knows whose a failed login was, whatever it says.
    select
        'auth_events' as record_source, event.part_date, event.ts,
        event.session_id, case when event.success = false then null else event.user_id end, event.user_agent, event.level, event.lat, event.lon, event.zip, event.city,
        event.state, event.first_name, event.last_name, event.gender, event.registration,
        cast(null as string), cast(null as string), cast(null as double), event.success,
        cast(null as string), cast(null as string), cast(null as bigint)
    from audio_raw.auth_events as event
    where event.part_date between :start_date and :end_date
    union all
    select
        'page_view_events' as record_source, event.part_date, event.ts,
        event.session_id, event.user_id, event.user_agent, event.level, event.lat, event.lon, event.zip, event.city,
        event.state, event.first_name, event.last_name, event.gender, event.registration,
        cast(null as string), cast(null as string), cast(null as double), cast(null as boolean),
        event.page, event.method, event.status
    from audio_raw.page_view_events as event
    where event.part_date between :start_date and :end_date
    union all
    select
        'status_change_events' as record_source, event.part_date, event.ts,
        event.session_id, event.user_id, event.user_agent, event.level, event.lat, event.lon, event.zip, event.city,
        event.state, event.first_name, event.last_name, event.gender, event.registration,
        cast(null as string), cast(null as string), cast(null as double), cast(null as boolean),
        cast(null as string), cast(null as string), cast(null as bigint)
    from audio_raw.status_change_events as event
    where event.part_date between :start_date and :end_date
)
-- An event may be delivered twice.
select distinct
    record_source,
    ts as event_ts,
    session_id,
    user_id,
    nullif(trim(both '" ' from user_agent), '') as user_agent,
    nullif(lower(trim(level)), '') as plan_type,
    -- Infinity, NaN and numbers too large for a hash key are no place.
    case when abs(lat) < 1e12 then lat end as location_latitude,
    case when abs(lon) < 1e12 then lon end as location_longitude,
    nullif(lower(trim(zip)), '') as location_zip,
    nullif(lower(trim(city)), '') as location_city,
    nullif(lower(trim(state)), '') as location_state,
    nullif(lower(trim(first_name)), '') as user_first_name,
    nullif(lower(trim(last_name)), '') as user_last_name,
    nullif(lower(trim(gender)), '') as user_gender,
    registration as user_registration_ts,
    nullif(lower(trim(artist)), '') as song_artist,
    nullif(lower(trim(song)), '') as song_name,
    duration as song_played_sec,
    case when record_source = 'listen_events' then ts end as play_start_ts,
    case
        when record_source = 'listen_events' and abs(duration) < 1e9
            then timestamp_micros(unix_micros(ts) + cast(round(duration) as bigint) * 1000000)
    end as play_end_ts,
    case when record_source in ('auth_events', 'listen_events') then ts end as authorization_ts,
    success as is_auth_successful,
    case when record_source = 'page_view_events' then ts end as page_view_ts,
    nullif(trim(page), '') as page,
    nullif(trim(method), '') as method,
    status,
    part_date
from events
