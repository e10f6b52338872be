with starts as (
    select
        track.dbt_visitor_id,
        track.timestamp as session_start_at,
        track.event_id,
        track.part_date
    from rudder.dbt_mapped_tracks as track
    where track.idle_time_minutes is null or track.idle_time_minutes > :longest_idle_minutes
),
numbered as (
    select
        starts.*,
        row_number() over (partition by dbt_visitor_id order by session_start_at, event_id) as number,
        lead(session_start_at) over (partition by dbt_visitor_id order by session_start_at, event_id) as next_session_start_at
    from starts
)
select
    concat(number, ' - ', dbt_visitor_id) as session_id,
    dbt_visitor_id,
    session_start_at,
    cast(number as bigint) as session_sequence_number,
    next_session_start_at,
    part_date
from numbered
