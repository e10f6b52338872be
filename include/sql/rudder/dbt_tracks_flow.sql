select
    track.event_id,
    track.session_id,
    track.track_sequence_number,
    track.event,
    track.dbt_visitor_id,
    track.timestamp,
    lead(track.event, 1) over (
        partition by track.dbt_visitor_id, track.session_id order by track.track_sequence_number
    ) as event_2,
    lead(track.event, 2) over (
        partition by track.dbt_visitor_id, track.session_id order by track.track_sequence_number
    ) as event_3,
    lead(track.event, 3) over (
        partition by track.dbt_visitor_id, track.session_id order by track.track_sequence_number
    ) as event_4,
    lead(track.event, 4) over (
        partition by track.dbt_visitor_id, track.session_id order by track.track_sequence_number
    ) as event_5,
    track.part_date
from rudder.dbt_track_facts as track
