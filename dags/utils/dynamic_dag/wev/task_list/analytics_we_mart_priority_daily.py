"""Members and sessions that everything else waits for: ready by 03:00 KST.

The members of each community on the day, then the visits of the day. The visits also need the day's server log, which
analytics_we_mart_wv1_daily builds: this DAG waits for it.
"""

dag_id = "analytics_we_mart_priority_daily"
owner = "data-insight"
schedule = "daily"
timezone = "Asia/Seoul"
look_back_days = 3
dag_task_list = [
    {"step": "members", "list": ["we_mart.wv_comm_user"]},
    {"step": "sessions", "list": ["we_mart.wv_sess_daily"]},
]
