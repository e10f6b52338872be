"""An HTTP server that answers like a workspace of Databricks, in parts: the statement API and the Jobs API."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

TOKEN = "dapi-of-the-tests"


class Part(Protocol):
    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any] | None:
        """Status and body; None for what is not of this part."""


class Workspace:
    """A workspace. `script`: (status, headers, body) that come before real answers. `requests`: (method, path)."""

    def __init__(self, *parts: Part) -> None:
        self.parts = list(parts)
        self.token = TOKEN
        self.script: list[tuple[int, dict[str, str], Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.mistakes: list[str] = []
        self.host = ""

    def respond(self, method: str, target: str, raw: bytes, token: str) -> tuple[int, dict[str, str], Any]:
        url = urlsplit(target)
        self.requests.append((method, url.path))
        if self.script:
            return self.script.pop(0)
        if token != f"Bearer {self.token}":
            return 403 if token else 401, {}, {"error_code": "403", "message": "Invalid access token."}
        body = raw
        if not url.path.startswith("/api/2.0/fs/"):  # files are no JSON
            body = json.loads(raw or b"{}")
        try:
            for part in self.parts:
                if answer := part.answer(method, url.path, dict(parse_qsl(url.query)), body):
                    return answer[0], {}, answer[1]
        except AssertionError as error:
            self.mistakes.append(str(error))
            return 500, {}, {"error_code": "INTERNAL_ERROR", "message": str(error)}
        return 404, {}, {"error_code": "ENDPOINT_NOT_FOUND", "message": f"No API found for '{method} {url.path}'"}


@contextmanager
def serving(workspace: Workspace) -> Iterator[Workspace]:
    """The workspace at `host`, an URL of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization") or ""
            status, headers, body = workspace.respond(self.command, self.path, raw, token)
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Type": "application/json", "Content-Length": len(content)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _handle

        def log_message(self, *arguments: Any) -> None:
            """Nothing: the tests print what they need."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    workspace.host = f"http://127.0.0.1:{http.server_port}"
    try:
        yield workspace
    finally:
        http.shutdown()
        http.server_close()
