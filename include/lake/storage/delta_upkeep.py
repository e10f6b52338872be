"""The maintenance of Delta files: small files become one, rows lie near each other, what nobody needs is deleted.

Its commits change no rows (dataChange=false). A build that computes meanwhile goes on, and here the build wins.
"""

import builtins
import fcntl
import json
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from errno import ENOENT
from pathlib import Path
from typing import Any

from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from pyarrow.fs import FileSelector, FileSystem, FileType

from include.lake import settings
from include.lake.errors import LakeError
from include.lake.project import contracts
from include.lake.project.contracts import Contract
from include.lake.storage import ANY_DAY, Maintained, Snapshot, delta_files

# Partitions of a commit: one that a build changes meanwhile costs the work on the others of its commit, too.
_TOGETHER = 30
# Delta-rs sorts a partition on disk beyond this. Builds of the same machine need the rest of the memory.
_MEMORY = 512 << 20
# What the last commit of a clustering says: by which columns, and up to which version all partitions are clustered.
_CLUSTERED = "clustered"
# A reader of the ledger opens each file of a table: 50 take 0.1 s, and 500 take 1.3 s (2 busy cores).
_CROWDED = 50


def maintain(table: str, older_than: timedelta) -> Maintained | None:
    """See `Store.maintain`. Whoever finds another maintenance of the table at work does nothing."""
    if delta_files.open(table) is None:
        return None
    contract = None if table == contracts.LEDGER else contracts.get(table)
    with _alone(table) as alone:
        # Not before: another maintenance may have ended since, and with older files every row would be there twice.
        snapshot = delta_files.open(table)
        assert snapshot is not None, "it was there"
        before = _count(snapshot)
        if not alone:
            return Maintained(before, before, note="is maintained by another process just now")
        if "deletionVectors" in (snapshot.handle.delta.protocol().reader_features or ()):
            # Delta-rs takes the files of such vectors for files that nobody needs.
            return Maintained(before, before, note="has deletion vectors: whoever writes it has to maintain it")
        if gone := delta_files.lost_files(snapshot):
            raise FileNotFoundError(ENOENT, f"not found, of {len(gone):,} lost ones", gone[0])
        try:
            lost = _compact(snapshot, contract)
            freed = _vacuum(table, older_than)
            _checkpoint(table)
        except DeltaError as error:
            raise LakeError(f"{table} cannot be maintained: {str(error).splitlines()[0]}") from error
        newest = delta_files.open(table)
    return Maintained(before, _count(newest or snapshot), freed, lost)


def thin_out(table: str) -> None:
    """Make the files of a partition one if there are so many that reading it takes long. The weekly run does the rest.

    It is for a table of small commits, the ledger: hundreds of runs of one table within a week slow each look down.
    """
    with _alone(table) as alone:
        snapshot = delta_files.open(table)
        if not alone or snapshot is None or not snapshot.partitioned_by:
            return
        column = snapshot.partitioned_by[-1]
        if crowded := [value for value, files in snapshot.handle.by(column).items() if len(files) > _CROWDED]:
            with suppress(CommitFailedError):  # the ledger was made again meanwhile
                _optimize(DeltaTable(snapshot.address), column, crowded, (), {})


@contextmanager
def _alone(table: str) -> Iterator[bool]:
    """Are we the only maintenance of the table? Until the block ends, or the process.

    Delta-rs 1.6.6 lets two of them commit: the second one removes files that the first one has removed, adds their
    rows again, and every row is there twice. So the lock is no courtesy. In an object store it holds for one machine.
    """
    folder = delta_files.local_folder(table) or settings.home() / "maintenance" / table
    folder.mkdir(parents=True, exist_ok=True)
    with builtins.open(folder / "_maintenance.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            raise LakeError(
                f"{table}: the system cannot lock out another maintenance ({error.strerror or error}): "
                "keep the tables on a file system with locks"
            ) from None
        yield True


def _count(snapshot: Snapshot) -> int:
    return len(snapshot.handle.delta.file_uris())


# -- files that are made one


def _compact(snapshot: Snapshot, contract: Contract | None) -> int:
    """Make small files one, or cluster what has changed; gives how many partitions were lost to builds."""
    columns = contract.clustered_by if contract else ()
    column = snapshot.partitioned_by[-1] if snapshot.partitioned_by else None
    work = _work(snapshot, contract, column)
    groups = deque(work[at : at + _TOGETHER] for at in range(0, len(work), _TOGETHER))
    lost = 0
    while groups:
        group = groups.popleft()
        # The last commit says that all is clustered. Of a run that was killed, or that lost, the next one begins anew.
        mark = {_CLUSTERED: {"by": columns, "up_to": snapshot.version}} if columns and not groups and not lost else {}
        try:
            _optimize(DeltaTable(snapshot.address), column, group, columns, mark)
        except CommitFailedError:  # also of a build of other partitions, so half of the group is tried next
            if len(group) > 1:
                groups.extendleft([group[len(group) // 2 :], group[: len(group) // 2]])
            else:
                lost += 1
    return lost


def _work(snapshot: Snapshot, contract: Contract | None, column: str | None) -> list[str]:
    """The partitions with something to do; a table without partitions is one, ''."""
    by = snapshot.handle.by(column) if column else {"": snapshot.handle.delta.file_uris()}
    # A partition of null is none that a build reads.
    there = {value: files for value, files in by.items() if value is not None and files}
    if contract is None or not contract.clustered_by:
        return sorted(value for value, files in there.items() if len(files) > 1)
    changed = _changed(snapshot, contract)
    if changed is None or ANY_DAY in changed:
        return sorted(there)
    return sorted(there.keys() & changed)


def _changed(snapshot: Snapshot, contract: Contract) -> set[str] | None:
    """The partitions whose rows changed since the table was clustered by these columns; None: it never was."""
    changed, up_to, by = set[str](), None, list(contract.clustered_by)
    for version in range(snapshot.version, -1, -1):
        if up_to is not None and version <= up_to:
            return changed
        (commit,) = delta_files.commits(snapshot, contract, version - 1, last=version)
        changed |= commit.day_bytes.keys()
        mark = commit.metadata.get(_CLUSTERED)
        if up_to is None and mark and mark["by"] == by:
            up_to = mark["up_to"]
    return changed if up_to is not None else None


def _optimize(
    delta: DeltaTable, column: str | None, values: Sequence[str], clustered_by: Sequence[str], mark: dict[str, Any]
) -> None:
    options: dict[str, Any] = {
        "partition_filters": [(column, "in", list(values))] if column else None,
        "writer_properties": delta_files.writer_properties(delta),
        # Its readers and builds have the other cores.
        "max_concurrent_tasks": 1,
        "max_spill_size": _MEMORY,
        "commit_properties": CommitProperties(custom_metadata={"userMetadata": json.dumps(mark)}) if mark else None,
    }
    if clustered_by:
        delta.optimize.z_order(list(clustered_by), **options)
    else:
        delta.optimize.compact(**options)


# -- what nobody needs any more


def _vacuum(table: str, older_than: timedelta) -> int:
    """Delete the files that no version of the last `older_than` has, and what killed writers left; gives the bytes."""
    delta = DeltaTable(delta_files.address(table))
    hours = int(max(older_than, _promised(delta)) / timedelta(hours=1))
    files = delta_files.file_system(delta)
    # A vacuum commits twice, so it is not begun for nothing.
    unneeded = delta.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=True)
    freed = sum(info.size or 0 for info in files.get_file_info(list(unneeded)))
    if unneeded:
        with suppress(CommitFailedError):  # the files are gone, and only its own record is lost
            delta.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=True)
    freed += _remove_stages(files, older_than)
    # A writer of Spark that is killed leaves its half of a log file, which vacuum does not look for. In an object store
    # there is none: a file is there whole or not at all.
    folder = delta_files.local_folder(table)
    for path in (folder / "_delta_log").glob(".*.tmp*") if folder else ():
        freed += _remove_old(path, older_than)
    return freed


def _promised(delta: DeltaTable) -> timedelta:
    """How long the owner of a table promises to keep replaced files; nothing if that is not said."""
    text = str(delta.metadata().configuration.get("delta.deletedFileRetentionDuration"))
    found = re.fullmatch(r"(?:interval )?(\d+) (hour|day|week)s?", text.lower())
    return timedelta(**{f"{found[2]}s": int(found[1])}) if found else timedelta()


def _remove_old(path: Path, older_than: timedelta) -> int:
    with suppress(FileNotFoundError):
        stat = path.stat()
        if time.time() - stat.st_mtime > older_than.total_seconds():
            path.unlink()
            return stat.st_size
    return 0


def _remove_stages(files: FileSystem, older_than: timedelta) -> int:
    """Remove the stages of builds (see engine/spark.py) of which no file is young: their builders are dead."""
    stages: dict[str, list[Any]] = {}
    for info in files.get_file_info(FileSelector("_stage", allow_not_found=True, recursive=True)):
        if info.type == FileType.File:
            stages.setdefault(info.path.removeprefix("_stage/").partition("/")[0], []).append(info)
    freed, now = 0, time.time()
    for stage, parts in stages.items():
        if all(now - info.mtime.timestamp() > older_than.total_seconds() for info in parts):
            with suppress(FileNotFoundError):
                files.delete_dir(f"_stage/{stage}")
            freed += sum(info.size for info in parts)
    return freed


def _checkpoint(table: str) -> None:
    """Write the state of the newest version as one file, so that who opens the table reads no long log."""
    delta = DeltaTable(delta_files.address(table))
    newest, files = None, delta_files.file_system(delta)
    with suppress(FileNotFoundError, ValueError), files.open_input_stream("_delta_log/_last_checkpoint") as stream:
        newest = json.loads(stream.read()).get("version")
    if newest != delta.version():
        delta.create_checkpoint()
