"""The Airflow DAGs of the audio family: one for every task list in utils/dynamic_dag/audio/task_list/."""

from utils.dynamic_dag.factory import dags_of

globals().update(dags_of("audio"))
