select
    track.dbt_visitor_id,
    track.session_id,
    timestampdiff(minute, min(track.timestamp), max(track.timestamp)) as session_duration,
    max(track.part_date) as part_date
from rudder.dbt_track_facts as track
group by track.dbt_visitor_id, track.session_id
