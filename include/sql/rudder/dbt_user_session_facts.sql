select
    session.dbt_visitor_id,
    min(session.session_start_at) as first_date,
    max(session.session_start_at) as last_date,
    count(*) as number_of_sessions,
    max(session.part_date) as part_date
from rudder.dbt_session_tracks as session
group by session.dbt_visitor_id
