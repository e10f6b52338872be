"""What `make run` says of settings that make no sense."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from include.lake import settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"LAKE_HOME": "/proc/nowhere"},
        {"LAKE_ENGINE_MEMORY": "nonsense"},
        {"LAKE_UI_PORT": "99999"},
        {"LAKE_UI_PORT": "0"},
        {"DAYS": "99999999"},
        {"SCALE": "nan"},
    ],
)
def test_make_run_names_a_wrong_setting_in_one_line_before_anything_starts(
    lake_home: Path, wrong: dict[str, str]
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "scripts.run"], env={**os.environ, **wrong, "ONCE": "1"}, cwd=settings.ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    (name,) = wrong
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith(f"make run: {name}=") and ended.stderr.count("\n") == 1, ended.stderr
    assert not lake_home.exists()
