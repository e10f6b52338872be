"""Registers the timetable and the pages with Airflow. Airflow imports tasks and triggers by name."""

from typing import Any

from airflow.plugins_manager import AirflowPlugin
from lake_airflow.timetable import DailyPartitions, Partitions


class LakePlugin(AirflowPlugin):
    """The API server creates the pages on demand, so that a DAG parse does not import FastAPI."""

    name = "lake"
    timetables: list[Any] = [DailyPartitions, Partitions]  # noqa: RUF012  (Airflow declares it so)
    # The Airflow UI fills in {…}. It shows the views of a DAG, a run and a task as tabs on their pages.
    external_views: list[Any] = [  # noqa: RUF012
        {"name": "Lake", "href": "lake/", "url_route": "lake", "destination": "nav", "nav_top_level": True},
        {"name": "Days", "href": "lake/?dag_id={DAG_ID}", "url_route": "lake_days", "destination": "dag"},
        {
            "name": "Tables",
            "href": "lake/run?dag_id={DAG_ID}&run_id={RUN_ID}",
            "url_route": "lake_tables",
            "destination": "dag_run",
        },
        {
            "name": "Table",
            "href": "lake/run?dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}",
            "url_route": "lake_table",
            "destination": "task_instance",
        },
    ]

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        from lake_airflow.pages import app

        return [{"app": app, "url_prefix": "/lake", "name": "lake"}]
