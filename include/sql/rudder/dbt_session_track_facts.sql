select
    track.session_id,
    max(track.timestamp) as ended_at,
    count(distinct track.event_id) as num_pvs,
    count_if(track.event in (:product_view_event, :product_view_synonym)) as cnt_viewed_product,
    count_if(track.event = :signup_event) as cnt_signup,
    date_format(max(track.timestamp), 'yyyy-MM-dd') as part_date
from rudder.dbt_track_facts as track
group by track.session_id
