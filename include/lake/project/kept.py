"""What was read and parsed of the project's files, for the next Project to take what has not changed.

Texts and parsed files are kept in the process. What a parse of a contract, of a SELECT and of checks gave, which takes
milliseconds each, is kept on disk, too: Airflow parses each DAG file in a new process.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from include.lake import settings
from include.lake.errors import LakeError

# Time of the last change, bytes and inode: an edit changes one of them. None: a link to nowhere.
Stamp = tuple[int, int, int] | None
# Linux counts the time of a file in steps of up to 10 ms. Two edits within a step, of as many bytes, leave the same
# stamp. So the stamp of a file that was this young when it was read proves nothing, and the file is read again.
_YOUNG = 50_000_000
# Entries on disk, of which an edit adds some. With more the file is begun anew.
_MAX_ENTRIES = 20_000


class Kept:
    """By file, what its text is and what it says. It grows with the project and not with the number of edits."""

    def __init__(self) -> None:
        self._texts: dict[str, tuple[Stamp, str | LakeError]] = {}
        self._parsed: dict[tuple[str, str], tuple[str, Any]] = {}
        self.young: set[str] = set()
        self.on_disk = OnDisk()

    def text(self, path: str, stamp: Stamp, read: Callable[[Path], str]) -> str | LakeError:
        """The text of a file, or why it has none."""
        before = self._texts.get(path)
        if before and before[0] == stamp and path not in self.young:
            return before[1]
        if stamp is None or abs(time.time_ns() - stamp[0]) < _YOUNG:
            self.young.add(path)
        else:
            self.young.discard(path)
        text: str | LakeError
        try:
            text = read(Path(path))
        except LakeError as error:
            text = error
        self._texts[path] = stamp, text
        return text

    def keep_only(self, paths: set[str]) -> None:
        """Forget the texts of files that are gone."""
        for path in self._texts.keys() - paths:
            del self._texts[path]
            self.young.discard(path)

    def parsed(self, kind: str, name: str, source: str, make: Callable[[], Any]) -> Any:
        """What `make` gives; again once `source`, a digest of what it is made of, is another. No error is kept."""
        before = self._parsed.get((kind, name))
        if before and before[0] == source:
            return before[1]
        result = make()
        self._parsed[kind, name] = source, result
        return result


class OnDisk:
    """Plain values by the digest of what they were made of, in one JSON file of the lake."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._values: dict[str, Any] = {}
        self._new = False

    def value(self, source: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, as JSON has it: with lists for tuples."""
        self._open()
        if source not in self._values:
            self._values[source] = make()
            self._new = True
        return self._values[source]

    def save(self) -> None:
        """Write what is new. A lake that cannot be written does without."""
        if not self._new or self._path is None:
            return
        text = json.dumps({"version": _version(), "values": self._values})
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(self._path)
        self._new = False

    def _open(self) -> None:
        try:
            path = settings.home() / "parsed.json"
        except LakeError:  # a folder that cannot be one: whoever reads or writes there says so
            return
        if path == self._path:
            return
        self._path, self._new = path, False
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] == _version() and len(content["values"]) < _MAX_ENTRIES:
                self._values.update(content["values"])


def digest(*parts: str) -> str:
    """An id of some texts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _version() -> str:
    """What else decides what a parse gives: the code of this room, and the parser."""
    files = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in Path(__file__).parent.glob("*.py")]
    return digest(metadata.version("sqlglot"), repr(sorted(files)))
