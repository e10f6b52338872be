with sightings as (
    select track.anonymous_id as alias, track.user_id, track.timestamp
    from rudder.dbt_unique_tracks as track
    where track.anonymous_id is not null
    union all
    select track.user_id as alias, cast(null as string) as user_id, track.timestamp
    from rudder.dbt_unique_tracks as track
    where track.user_id is not null
),
numbered as (
    select
        alias,
        user_id,
        min(timestamp) over (partition by alias) as oldest,
        -- The latest sighting with a user comes first, and of one instant the smaller user.
        row_number() over (
            partition by alias
            order by case when user_id is null then 1 else 0 end, timestamp desc, user_id
        ) as place
    from sightings
)
select
    alias,
    coalesce(user_id, alias) as dbt_visitor_id,
    date_format(oldest, 'yyyy-MM-dd') as part_date
from numbered
where place = 1
