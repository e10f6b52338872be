"""A process that has imported everything, and forks for each quick command: an edit is seen a second earlier.

To import PySpark, pandas and Delta takes longer than to try a SELECT. `./lake engine start` starts the process, and it
ends with the server of the engine. It serves commands that read, of its user and its checkout, with the environment,
folder, umask and terminal of who asks (but its limits, such as those of ulimit, are those of the process). Where there
is none, or it does not answer, or its code is not that of the files any more, a command imports by itself.

Nothing heavy is imported at the top: every command imports this module.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from threading import Thread, main_thread
from typing import Any, NoReturn, cast

from include.lake import settings
from include.lake.errors import LakeError

_COMMANDS = ("try", "test", "status", "show", "lineage", "show-sql")
_IMPORTED = (
    "include.lake.backfill.plan", "include.lake.build.attempt", "include.lake.cli.attempt", "include.lake.cli.main",
    "include.lake.cli.text", "include.lake.engine.sail", "include.lake.project.repeatable",
    "include.lake.project.selects", "include.lake.storage.delta_files", "pyspark.sql.connect.session",
    "sqlglot.dialects.spark", "sqlglot.optimizer.annotate_types",
)  # fmt: skip
_NAME = "warm.sock"
_LOOK_SECONDS = 1.0
# A process that does not answer for so long is stopped, or stuck.
_PATIENCE_SECONDS = 2.0
# The fork says that it is ready. It gets the request, with the streams, and says its pid. Told to go, it does the
# command, and says the exit code.
_READY, _GO = b"r", b"g"
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


# -- the command


def run(arguments: list[str]) -> int | None:
    """Let a fork of the process do a command, in this terminal; gives its exit code. None if it is to be done here."""
    if not arguments or arguments[0] not in _COMMANDS or "--watch" in arguments:
        return None
    if None in (sys.stdin, sys.stdout, sys.stderr):  # closed: what we open now would take their numbers
        return None
    with _asked(arguments) as (connection, pid):
        if pid is None:
            return None
        try:
            connection.sendall(_GO)
        except OSError:  # it has not begun
            return None
        connection.settimeout(None)
        return _exit_code(connection, pid)


@contextmanager
def _asked(arguments: Sequence[str]) -> Iterator[tuple[socket.socket, int | None]]:
    """Ask for a fork; gives a connection to it and its pid, or None: nobody is there, or has other code."""
    os.umask(umask := os.umask(0))
    request = {"arguments": arguments, "environment": dict(os.environ), "umask": umask, "root": str(settings.ROOT)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE_SECONDS)
        pid = None
        with suppress(OSError, LakeError), _address() as address:
            connection.connect(address)
            # Not before it lives: a process that is stuck would keep our streams open.
            if connection.recv(1) == _READY:
                here = os.open(".", os.O_RDONLY)
                try:
                    socket.send_fds(connection, [b" "], [0, 1, 2, here])
                finally:
                    os.close(here)
                connection.sendall(json.dumps(request).encode() + b"\n")
                pid = int(connection.recv(32) or 0) or None
        yield connection, pid


def _exit_code(connection: socket.socket, pid: int) -> int:
    """Wait until the fork has done the command. What the terminal does to us, we do to it."""
    ended_by = []

    def end(number: int, _: Any) -> None:
        ended_by.append(number)
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def pause(number: int, _: Any) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(pid, signal.SIGCONT)  # with us: somebody says `fg`

    for number in _ENDS:
        signal.signal(number, end)
    signal.signal(signal.SIGTSTP, pause)
    code = b""
    with suppress(ConnectionError):
        code = connection.recv(1)
    for number in (*_ENDS, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)
    if code:
        return code[0]
    if ended_by:
        os.kill(os.getpid(), ended_by[-1])
    print("lake: the command was killed", file=sys.stderr)
    return 1


# -- the process


def start() -> None:
    """Start the process, unless one answers. It goes on loading while we go on."""
    with _asked([]) as (_, pid):
        if pid is not None:
            return
    with open(_folder() / "warm.log", "w") as log:
        subprocess.Popen(
            [sys.executable, "-P", "-m", __name__], env={**os.environ, "PYTHONPATH": str(settings.ROOT)},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def serve() -> None:
    """Be the process, until the server of the engine ends, or another process takes our place."""
    from include.lake.engine import server

    code = _code()
    try:
        for module in _IMPORTED:
            import_module(module)
        _listen(code)
    except Exception:  # the code is broken, for as long as somebody edits it
        traceback.print_exc()
        while server.address() and code == _code():
            time.sleep(_LOOK_SECONDS)
    if server.address() and code != _code():
        os.execv(sys.executable, sys.orig_argv)


def _listen(code: Mapping[Path, Any]) -> None:
    """Fork for each who asks, until the server ends, the code is another one, or another process listens."""
    from include.lake.engine import server
    from include.lake.project.current import project

    with suppress(LakeError):
        project()  # what was parsed is there for every command
    path = _folder() / _NAME
    with socket.socket(socket.AF_UNIX) as listener, _address() as address:
        path.unlink(missing_ok=True)
        umask = os.umask(0o077)  # nobody else can connect
        listener.bind(address)
        os.umask(umask)
        listener.listen(64)
        listener.settimeout(_LOOK_SECONDS)
        ours = _stamp(path)
        while (there := _stamp(path)) == ours and server.address() and code == _code():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                with connection:
                    if os.fork() == 0:
                        listener.close()
                        _answer(connection, code)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass
        if there == ours:
            path.unlink()


def _answer(connection: socket.socket, code: Mapping[Path, Any]) -> NoReturn:
    """Be the fork: do what somebody asks for, as if they had started us."""
    done = b""
    try:
        connection.settimeout(_PATIENCE_SECONDS)
        connection.sendall(_READY)
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 4)
        asked = json.loads(connection.makefile("rb").readline())
        same = _of_python(asked["environment"]) == _of_python(os.environ) and code == _code()
        if same and asked["root"] == str(settings.ROOT):
            connection.sendall(str(os.getpid()).encode())
            if connection.recv(1) == _GO:
                connection.settimeout(None)
                done = bytes([_do(connection, asked, descriptors)])
    except (OSError, ValueError):  # who asks is gone
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who has asked goes now
        with suppress(OSError):
            connection.sendall(done)
        os._exit(0)


def _do(connection: socket.socket, asked: Mapping[str, Any], descriptors: Sequence[int]) -> int:
    """Do a command in the terminal, the folder and the environment of who asks; gives its exit code."""
    for number in range(3):
        os.dup2(descriptors[number], number)
    os.fchdir(descriptors[3])
    os.umask(asked["umask"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    time.tzset()
    for stream in (sys.stdout, sys.stderr):
        cast(TextIOWrapper, stream).reconfigure(line_buffering=stream.isatty() or stream is sys.stderr)
    Thread(target=_end_with, args=[connection], daemon=True).start()
    from include.lake.cli.main import main

    try:
        return main(asked["arguments"])
    except SystemExit as end:  # of --help
        return end.code if isinstance(end.code, int) else 0
    finally:
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):
            sys.stdout.flush()


def _end_with(connection: socket.socket) -> None:
    """Stop, as with Ctrl-C, when who has asked is gone: it says nothing more."""
    connection.recv(1)
    signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)


def _of_python(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that count when Python starts; its path is that of the checkout."""
    return {name: value for name, value in environment.items() if name.startswith("PYTHON") and name != "PYTHONPATH"}


def _folder() -> Path:
    return settings.home() / "engine"


@contextmanager
def _address() -> Iterator[str]:
    """The socket. The address of a socket has at most 107 letters, so Linux gets a short one."""
    folder = os.open(_folder(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{folder}"
        yield f"{short if os.path.exists(short) else _folder()}/{_NAME}"
    finally:
        os.close(folder)


def _code() -> dict[Path, tuple[int, ...] | None]:
    """Our files, and what is installed. Without help of other modules: they are what may be broken just now."""
    files = [settings.ROOT / "requirements.lock", *(settings.ROOT / "include" / "lake").rglob("*.py")]
    return {file: _stamp(file) for file in files}


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What is another one when somebody has changed a file, or made it anew; None if it is not there."""
    with suppress(OSError):
        stat = path.stat()
        return stat.st_ino, stat.st_mtime_ns, stat.st_size
    return None


if __name__ == "__main__":
    serve()
