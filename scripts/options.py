"""Numbers that `make TARGET NAME=…` passes as environment variables."""

import os
from typing import Any

from include.lake.errors import UsageError


def read_number(name: str, default: Any, kind: type) -> Any:
    text = os.environ.get(name) or ""
    try:
        value = kind(text) if text else default
    except ValueError:
        value = -1
    if value < 0:
        raise UsageError(f"{name}={text} makes no sense: give a number, such as {name}={default or 0.1}")
    return value
