"""Airflow for the tests that need it: a home of their own, set before airflow is imported. Import this first."""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "AIRFLOW_HOME": tempfile.mkdtemp(prefix="airflow-tests-"),
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
}

if "airflow" not in sys.modules:
    os.environ.update(SETTINGS)
for folder in (ROOT, ROOT / "dags", ROOT / "plugins"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
