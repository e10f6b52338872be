with sightings as (
    select
        track.anonymous_id as alias,
        track.user_id,
        -- The latest event that has a user comes first, and of one instant the smaller user.
        row_number() over (
            partition by track.anonymous_id
            order by case when track.user_id is null then 1 else 0 end, track.timestamp desc, track.user_id, track.event_id
        ) as place
    from rudder.dbt_unique_tracks as track
    where track.anonymous_id is not null
),
users as (
    select distinct track.user_id as alias
    from rudder.dbt_unique_tracks as track
    where track.user_id is not null
)
select
    coalesce(devices.alias, users.alias) as alias,
    coalesce(devices.user_id, devices.alias, users.alias) as dbt_visitor_id
from (select alias, user_id from sightings where place = 1) as devices
full outer join users on users.alias = devices.alias
