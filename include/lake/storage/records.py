"""What a commit of ours says in its userMetadata: the record of a build or of a load.

Other writers may write there what they like. Only what is whole, and of this table, is a record.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import AwareDatetime, BaseModel, ValidationError


class DayFacts(BaseModel):
    rows: int
    dropped: dict[str, int]


class BuildRecord(BaseModel):
    """`days`: the partitions that the build took in. `checks`: check -> rows that broke it.

    since, places: of a build of keys in a Unity Catalog: the version that it stands on, and the partitions it replaced.
    """

    table: str
    build_id: str
    run: str
    started_at: AwareDatetime
    code_id: str
    days: dict[str, DayFacts]
    checks: dict[str, int]
    engine: str | None = None
    inputs: dict[str, str] | None = None
    since: int | None = None
    places: list[str] | None = None


class LoadRecord(BaseModel):
    """`loaded`: day -> its rows ('' without days). `empty_days`: those that are to have none.

    `sample`: are the rows made up? Older loads lack all of these words.
    """

    table: str
    load_id: str
    loaded: dict[str, int] = {}
    empty_days: list[str] = []
    sample: bool | None = None


def metadata_of(text: str | None) -> dict[str, Any]:
    """The JSON object of a userMetadata; empty if it is none."""
    with suppress(ValueError, TypeError):
        if isinstance(metadata := json.loads(text or "{}"), dict):
            return metadata
    return {}


def record_of(metadata: Mapping[str, Any], table: str) -> BuildRecord | LoadRecord | None:
    """The record in the metadata of a commit of `table`; None if the commit is of somebody else."""
    kind = BuildRecord if "build_id" in metadata else LoadRecord
    with suppress(ValidationError):
        record: BuildRecord | LoadRecord = kind.model_validate(metadata)
        if record.table == table:
            return record
    return None
