with deliveries as (
    select
        track.id as event_id,
        nullif(track.anonymous_id, '') as anonymous_id,
        nullif(track.user_id, '') as user_id,
        track.event,
        track.timestamp
    from rudder.tracks as track
),
numbered as (
    select
        deliveries.*,
        -- A total order: deliveries that it does not tell apart are the same in every column.
        row_number() over (
            partition by event_id
            order by timestamp, anonymous_id nulls last, user_id nulls last, event nulls last
        ) as delivery
    from deliveries
)
select
    event_id,
    anonymous_id,
    user_id,
    event,
    timestamp,
    date_format(timestamp, 'yyyy-MM-dd') as part_date,
    case when user_id is null and anonymous_id is null then 'nobody' end as drop_reason
from numbered
where delivery = 1
