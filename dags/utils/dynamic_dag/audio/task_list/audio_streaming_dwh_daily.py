"""The warehouse of an audio streaming service: a Data Vault of its events, and the marts of its plays.

The tables of the vault are kept by key: a run takes the events of its day in, and replaces only what they change. So
events that come late, or are corrected, find their place whatever was loaded before.
"""

dag_id = "audio_streaming_dwh_daily"
owner = "data-insight"
schedule = "daily"
timezone = "UTC"
look_back_days = 3
dag_task_list = [
    {"step": "stage", "list": ["audio_vault.stage_events"]},
    {
        "step": "hubs",
        "list": [
            "audio_vault.hub_user",
            "audio_vault.hub_session",
            "audio_vault.hub_song",
            "audio_vault.hub_song_artist",
            "audio_vault.hub_song_play",
            "audio_vault.hub_plan",
            "audio_vault.hub_user_agent",
            "audio_vault.hub_location_geo",
            "audio_vault.hub_location_zip",
            "audio_vault.hub_location_city",
            "audio_vault.hub_location_state",
        ],
    },
    {
        "step": "links",
        "list": [
            "audio_vault.link_song_artist",
            "audio_vault.link_song_play_context",
            "audio_vault.link_user_agent_user",
            "audio_vault.link_location_geo_zip",
            "audio_vault.link_location_zip_city",
            "audio_vault.link_location_city_state",
            "audio_vault.t_link_authorization",
            "audio_vault.t_link_page_view",
        ],
    },
    {
        "step": "satellites",
        "list": [
            "audio_vault.sat_location_geo",
            "audio_vault.sat_song_play_details",
            "audio_vault.sat_user_profile",
            "audio_vault.sat_user_plan",
        ],
    },
    {
        "step": "marts",
        "list": [
            "audio_mart.mart_song_play",
            "audio_mart.mart_song_play_hourly_metrics",
            "audio_mart.mart_song_play_top_10_songs",
        ],
    },
]
