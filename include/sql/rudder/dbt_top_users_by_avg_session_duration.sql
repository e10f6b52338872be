select
    duration.dbt_visitor_id,
    avg(duration.session_duration) as avg_session_duration
from rudder.dbt_session_duration as duration
group by duration.dbt_visitor_id
order by avg_session_duration desc, duration.dbt_visitor_id
