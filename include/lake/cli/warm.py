"""A process that has imported everything, and forks for each quick command: an edit is seen a second earlier.

To import PySpark, pandas and Delta takes longer than to try a SELECT. `./lake engine start` starts the process, and it
ends with the server of the engine. It serves commands that read, of its user and its checkout. Where there is none, or
its code is not that of the files any more, a command imports by itself. Nothing heavy is imported at the top.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, cast

from include.lake import settings
from include.lake.errors import LakeError

_COMMANDS = ("try", "test", "status", "show", "lineage", "show-sql")
_IMPORTED = ("include.lake.cli.main", "include.lake.cli.attempt", "include.lake.build.attempt", "include.lake.cli.text",
             "include.lake.backfill.plan", "pyspark.sql.connect.session")  # fmt: skip
_NAME = "warm.sock"
_LOOK_SECONDS = 1.0
_START_SECONDS = 20
_SAME, _OTHER = b"s", b"o"
# What a terminal or a person sends to a command.
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


# -- the command


def run(arguments: list[str]) -> int | None:
    """Let the process do a command, in this terminal; gives its exit code. None if it has to be done here."""
    if not arguments or arguments[0] not in _COMMANDS or "--watch" in arguments:
        return None
    asked = {"root": str(settings.ROOT), "arguments": arguments, "environment": dict(os.environ)}
    body = json.dumps(asked).encode("utf-8", "surrogateescape")
    try:
        with _address() as address, socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address)
            here = os.open(".", os.O_RDONLY)
            socket.send_fds(connection, [len(body).to_bytes(4, "big")], [0, 1, 2, here])
            os.close(here)
            connection.sendall(body)
            return _exit_code(connection) if connection.recv(1) == _SAME else None
    except (OSError, LakeError):  # there is none, or a file descriptor of ours is closed
        return None


def _exit_code(connection: socket.socket) -> int:
    """Wait for the command, and pass signals on to it."""
    received: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        received.append(number)
        with suppress(OSError):
            connection.sendall(bytes([number]))

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    code = connection.recv(1)
    for number in _PASSED_ON:
        signal.signal(number, signal.SIG_DFL)
    if code:
        return code[0]
    if received:  # it has ended it
        os.kill(os.getpid(), received[-1])
    print(f"lake: the command was killed: see {_folder() / 'warm.log'}", file=sys.stderr)
    return 1


# -- the process


def start() -> None:
    """Start the process, unless it runs; it goes on loading while we go on."""
    with suppress(OSError), _address() as address, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        return
    with open(_folder() / "warm.log", "w") as log:
        subprocess.Popen(
            [sys.executable, "-P", "-m", __name__], env={**os.environ, "PYTHONPATH": str(settings.ROOT)},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def serve() -> None:
    """Fork for each command, until the server of the engine ends or our code is another one."""
    for module in _IMPORTED:
        import_module(module)
    from include.lake.engine import server
    from include.lake.project.current import project

    with suppress(LakeError):
        project()  # what was parsed is there for every command
    code, socket_file = _code(), _folder() / _NAME
    with socket.socket(socket.AF_UNIX) as listener, _address() as address:
        os.umask(0o077)  # nobody else can connect
        socket_file.unlink(missing_ok=True)
        listener.bind(address)
        listener.listen()
        listener.settimeout(_LOOK_SECONDS)
        ours = socket_file.stat().st_ino
        while server.address() and _inode(socket_file) == ours and code == _code():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.settimeout(None)
                with suppress(OSError, ValueError), connection:
                    _accept(connection, listener, code)
        if _inode(socket_file) != ours:
            return
        socket_file.unlink()
    if server.address():
        os.execv(sys.executable, sys.orig_argv)  # with the code as it is now


def _accept(connection: socket.socket, listener: socket.socket, code: dict[str, Any]) -> None:
    head, descriptors, _, _ = socket.recv_fds(connection, 4, 4)
    try:
        body = b""
        while len(body) < int.from_bytes(head, "big") and (more := connection.recv(1 << 16)):
            body += more
        if not body:
            return
        asked = json.loads(body.decode("utf-8", "surrogateescape"))
        if asked["root"] != str(settings.ROOT) or code != _code():
            connection.sendall(_OTHER)
            return
        connection.sendall(_SAME)
        if os.fork() == 0:
            listener.close()
            _do(connection, asked, descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


def _do(connection: socket.socket, asked: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Do a command in a fork, as if the one who asks had started it."""
    code = 1
    try:
        for number in range(3):
            os.dup2(descriptors[number], number)
        os.fchdir(descriptors[3])
        os.environ.clear()
        os.environ.update(asked["environment"])
        time.tzset()
        for stream in (sys.stdout, sys.stderr):
            cast(TextIOWrapper, stream).reconfigure(line_buffering=stream.isatty() or stream is sys.stderr)
        threading.Thread(target=_obey, args=[connection], daemon=True).start()
        from include.lake.cli.main import main

        code = main(asked["arguments"])
    except SystemExit as end:  # of --help
        code = end.code if isinstance(end.code, int) else 1
    finally:
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who has asked goes now
        with suppress(OSError):
            connection.sendall(bytes([code]))
        os._exit(code)


def _obey(connection: socket.socket) -> None:
    """Take the signals of who has asked. One who is gone wants nothing any more."""
    main = threading.main_thread().ident or 0
    while number := connection.recv(1):
        signal.pthread_kill(main, number[0])  # a lock that it waits for would keep it from seeing that of another
    signal.pthread_kill(main, signal.SIGINT)


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


def _inode(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_ino
    return None


def _code() -> dict[str, tuple[int, int]]:
    """Our files, and what is installed, with their last change and size."""
    files = [settings.ROOT / "requirements.lock", *(settings.ROOT / "include" / "lake").rglob("*.py")]
    return {str(file): (stat.st_mtime_ns, stat.st_size) for file in files if (stat := file.stat())}


if __name__ == "__main__":
    serve()
