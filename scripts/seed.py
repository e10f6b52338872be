"""The days of sample data that a lake still needs. The file run/sample.json has the unfinished days and the scale."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from include.lake import settings
from include.lake.project import contracts, lineage, task_lists
from include.lake.project.days import days_before, last_finished_day
from include.lake.words import span
from scripts.api import built_tables, families
from scripts.options import read_number

# One day more than we_mart.wv_comm_user looks back.
DEFAULT_DAYS = 3
DEFAULT_SCALE = 0.1
# The sample begins in 2020, and a scale of 1,000 makes a hundred million log rows a day: more is a typing mistake.
MOST_DAYS, MOST_SCALE = 1000, 1000


def wanted() -> tuple[int, float]:
    """Days and scale that the user wants (DAYS, SCALE); a scale of 0: as it is."""
    return read_number("DAYS", DEFAULT_DAYS, int, most=MOST_DAYS), read_number("SCALE", 0.0, float, most=MOST_SCALE)


def newest_day() -> str:
    """The newest day that is over in the timezones of the DAGs that are started."""
    paths = (path for family in families() for path in task_lists.paths(family))
    return min(last_finished_day(task_lists.read(path).timezone) for path in paths)


def missing_sample(say: Callable[[str], None], day: str, count: int, scale: float) -> list[str]:
    """Arguments of `./lake` that make sample data for the newest days without any; empty if all days have data."""
    from include.lake.state.look import Look

    if settings.on_databricks():  # a workspace has its own
        return []
    note = _sample_note()
    saved = json.loads(note.read_text()) if note.exists() else {}
    if scale and saved and scale != saved["scale"]:
        say(f"sample days of scale {saved['scale']} are there and kept; ./lake sample --scale {scale} … replaces them")
    lake = Look()
    with_days = [
        name for name in lineage.in_order() if contracts.get(name).is_source and contracts.get(name).day_column
    ]
    wanted = [days_before(day, back) for back in reversed(range(count))]
    missing = [
        d for d in wanted if d in saved.get("unfinished", []) or not any(d in lake.files(name) for name in with_days)
    ]
    if not missing:
        return _sample_of_new_sources(say, saved, [name for name in with_days if not lake.files(name)], wanted)
    # New days need the scale of the earlier ones. Otherwise sessions and members of different worlds would not match.
    chosen = saved.get("scale") or scale or DEFAULT_SCALE
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"scale": chosen, "unfinished": missing}))
    say(f"making sample data for {span(missing[0], missing[-1])} (scale {chosen})")
    return ["sample", "--keep", "--from", missing[0], "--to", missing[-1], "--scale", str(chosen)]


def _sample_of_new_sources(
    say: Callable[[str], None], saved: dict[str, Any], without_days: list[str], wanted: list[str]
) -> list[str]:
    """A lake of sample data may be older than a source of the families that are started. Other lakes get no sample."""
    needed = {name for table in built_tables() for name in lineage.inputs(table)}
    new = [name for name in without_days if name in needed]
    if not saved or not new or not wanted:
        return []
    _sample_note().write_text(json.dumps({**saved, "unfinished": wanted}))
    say(f"making sample data of {', '.join(new)} for {span(wanted[0], wanted[-1])} (scale {saved['scale']})")
    return ["sample", *new, "--keep", "--from", wanted[0], "--to", wanted[-1], "--scale", str(saved["scale"])]


def _sample_note() -> Path:
    return settings.home() / "run" / "sample.json"


def finish_sample() -> None:
    saved = json.loads(_sample_note().read_text())
    _sample_note().write_text(json.dumps({**saved, "unfinished": []}))
