with started as (
    select
        track.anonymous_id,
        track.timestamp,
        track.event_id,
        track.event,
        track.dbt_visitor_id,
        track.part_date,
        -- Two sessions of a visitor never start at one instant, so this gives no event twice.
        max(session.session_sequence_number) over (
            partition by track.dbt_visitor_id order by track.timestamp
        ) as session_sequence_number
    from rudder.dbt_mapped_tracks as track
    left join rudder.dbt_session_tracks as session
        on session.dbt_visitor_id = track.dbt_visitor_id and session.session_start_at = track.timestamp
)
select
    anonymous_id,
    timestamp,
    event_id,
    event,
    concat(session_sequence_number, ' - ', dbt_visitor_id) as session_id,
    dbt_visitor_id,
    cast(row_number() over (
        partition by dbt_visitor_id, session_sequence_number order by timestamp, event_id
    ) as bigint) as track_sequence_number,
    part_date
from started
