"""Numbers that `make TARGET NAME=…` passes as environment variables."""

import math
import os
from typing import Any

from include.lake.errors import UsageError


def read_number(name: str, default: Any, kind: type, least: int = 0, most: float = math.inf) -> Any:
    text = os.environ.get(name) or ""
    try:
        value = kind(text) if text else default
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and least <= value <= most):
        span = f" from {least} to {most}" if math.isfinite(most) else ""
        raise UsageError(f"{name}={text} makes no sense: give a number{span}, such as {name}={default or 0.1}")
    return value


def ui_port() -> int:
    """The port of the Airflow UI on this machine (LAKE_UI_PORT)."""
    return int(read_number("LAKE_UI_PORT", 8080, int, 1, 65_535))
