"""The program of a Sail server: Sail itself in a process of its own, and a gate in front that asks for the token.

Sail has no login: whoever reaches its port can run code as us. So the gate opens the only connection that Sail ever
accepts. Then Sail's process closes its port, before the gate begins to listen.
"""

import hmac
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, suppress
from typing import Any, NoReturn

import grpc

# Rows travel through the gate in messages of any size, and the connection to Sail must never be made again.
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
]
# Every call holds a thread as long as its query runs.
_CALLS_AT_A_TIME = 200
_START_SECONDS = 60


class _Gate(grpc.GenericRpcHandler):
    """Passes the calls of who has the token on to Sail, whatever they are."""

    def __init__(self, sail: grpc.Channel, token: str) -> None:
        self._sail, self._expected = sail, f"Bearer {token}".encode()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        headers = handler_call_details.invocation_metadata
        given = dict(headers).get("authorization", "")
        if not hmac.compare_digest(given.encode(), self._expected):
            return grpc.stream_stream_rpc_method_handler(_refuse)
        passed = [(name, value) for name, value in headers if name != "authorization" and not name.startswith("grpc-")]
        call = self._sail.stream_stream(handler_call_details.method)

        def pass_on(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            answers = call(requests, metadata=passed)
            context.add_callback(answers.cancel)
            try:
                yield from answers
            except grpc.RpcError as error:
                failed: Any = error  # a call that failed is an error and has its details
                context.set_trailing_metadata(failed.trailing_metadata() or ())
                context.abort(failed.code(), failed.details() or "")
            context.set_trailing_metadata(answers.trailing_metadata() or ())

        return grpc.stream_stream_rpc_method_handler(pass_on)


def _refuse(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")
    yield b""


def gate(port: int, with_its_parent: bool) -> int:
    """Serve on a port of this machine until Sail ends, or the process that has started us."""
    token = os.environ.pop("LAKE_ENGINE_TOKEN")
    sail = subprocess.Popen(
        [sys.executable, "-P", __file__, "sail"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert sail.stdin and sail.stdout
    inner = sail.stdout.readline().strip()
    if not inner:
        return sail.wait() or 1
    channel = grpc.insecure_channel(f"127.0.0.1:{inner}", options=_OPTIONS)
    grpc.channel_ready_future(channel).result(timeout=_START_SECONDS)
    sail.stdin.write("connected\n")
    sail.stdin.flush()
    if sail.stdout.readline() != "closed\n":
        return sail.wait() or 1
    options = [*_OPTIONS, ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(_CALLS_AT_A_TIME), handlers=[_Gate(channel, token)], options=options)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    if with_its_parent:
        threading.Thread(target=_end_with_the_parent, args=(sail,), daemon=True).start()
    code = sail.wait()
    print(f"Sail ended with exit code {code}", file=sys.stderr, flush=True)
    os._exit(1)  # at once, and without the calls that wait for an answer: then clients see that nobody listens


def _end_with_the_parent(sail: "subprocess.Popen[str]") -> None:
    sys.stdin.read()  # the parent holds the other end
    sail.kill()


def sail() -> NoReturn:
    """Run Sail, and end with the gate: then nobody holds the other end of our input."""
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    print(server.listening_address[1], flush=True)
    sys.stdin.readline()
    _close_port(server.listening_address[1])
    print("closed", flush=True)
    sys.stdin.read()
    os._exit(0)


def _close_port(port: int) -> None:
    """Put a socket that nobody reaches in the place of the listening one: the port is closed, and Sail sees no error.

    Sail may look once more for a connection while its port closes. Of what is no listening socket it would get an
    error, and then ask again without end, with a whole core.
    """
    with socket.socket(socket.AF_UNIX) as nobody:
        # The folder is ours alone, and goes at once. From within it: the whole path may be too long for a socket.
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            nobody.bind("nobody")
        nobody.listen()
        nobody.setblocking(False)
        for number in map(int, os.listdir("/dev/fd")):
            with suppress(OSError), socket.socket(fileno=os.dup(number)) as copy:
                listens = copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if listens and copy.getsockname() == ("127.0.0.1", port):
                    os.dup2(nobody.fileno(), number)


if __name__ == "__main__":
    if sys.argv[1] == "sail":
        sail()
    sys.exit(gate(int(sys.argv[1]), with_its_parent=len(sys.argv) > 2))
