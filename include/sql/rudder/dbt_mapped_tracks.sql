with mapped as (
    select
        track.event_id,
        track.anonymous_id,
        mapping.dbt_visitor_id,
        track.timestamp,
        track.event
    from rudder.dbt_unique_tracks as track
    inner join rudder.dbt_aliases_mapping as mapping on mapping.alias = coalesce(track.user_id, track.anonymous_id)
)
select
    event_id,
    anonymous_id,
    dbt_visitor_id,
    timestamp,
    event,
    timestampdiff(
        minute, lag(timestamp) over (partition by dbt_visitor_id order by timestamp, event_id), timestamp
    ) as idle_time_minutes,
    date_format(timestamp, 'yyyy-MM-dd') as part_date
from mapped
