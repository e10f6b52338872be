"""The Airflow DAGs of the rudder family: one for every task list in utils/dynamic_dag/rudder/task_list/."""

from utils.dynamic_dag.factory import dags_of

globals().update(dags_of("rudder"))
