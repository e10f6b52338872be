"""Sessions of the visitors that RudderStack tracks: tables of the whole history, kept by key.

A run takes the events of its day in. It computes the visitors that they touch again, and no others: also those whom a
login of the day joins with earlier anonymous visits.
"""

dag_id = "rudder_sessionization_daily"
owner = "data-insight"
schedule = "daily"
timezone = "UTC"
look_back_days = 3
dag_task_list = [
    {"step": "events", "list": ["rudder.dbt_unique_tracks"]},
    {"step": "identity", "list": ["rudder.dbt_aliases_mapping", "rudder.dbt_mapped_tracks"]},
    {"step": "sessions", "list": ["rudder.dbt_session_tracks", "rudder.dbt_track_facts"]},
    {
        "step": "facts",
        "list": [
            "rudder.dbt_session_track_facts",
            "rudder.dbt_user_session_facts",
            "rudder.dbt_session_duration",
            "rudder.dbt_tracks_flow",
        ],
    },
]
