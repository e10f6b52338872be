"""The server log of the day, cleaned and cut into sessions, and the visits that follow from it.

The visits also need the members of the day, which analytics_we_mart_priority_daily builds: this DAG waits for them.
The visits are listed there too. Whichever DAG comes first builds them; the other finds them fresh and does nothing.
"""

dag_id = "analytics_we_mart_wv1_daily"
owner = "data-insight"
schedule = "daily"
timezone = "Asia/Seoul"
look_back_days = 3
dag_task_list = [
    {"step": "logs", "list": ["we_mart.wv_server_log_base"]},
    {"step": "sessions", "list": ["we_mart.wv_sess_daily"]},
]
