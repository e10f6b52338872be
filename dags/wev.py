"""The Airflow DAGs of the wev family: one for every task list in utils/dynamic_dag/wev/task_list/."""

from utils.dynamic_dag.factory import dags_of

globals().update(dags_of("wev"))
