"""A Hugging Face hub of one model on the loopback interface: as much of it as a download asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

MODEL = "someone/tiny"


class SmallHub(ThreadingHTTPServer):
    """Serves commits of one model and keeps a record of what was asked.

    Attributes:
        commits: commit hash -> directory.
        refs: branch or tag -> commit hash.
        asked: ``METHOD path`` of every request, in order.
        ranges: the ``Range`` headers that came.
        break_once: names of files whose first download breaks off in the middle.
        refuses: whether every request gets 401.
    """

    daemon_threads = True

    def __init__(self, commits: Mapping[str, Path], refs: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits = commits
        self.refs = refs
        self.asked: list[str] = []
        self.ranges: list[str] = []
        self.break_once: set[str] = set()
        self.refuses = False

    @property
    def endpoint(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def downloaded(self) -> set[str]:
        """Return the names of the files of which a byte was sent."""
        return {line.rpartition("/")[2] for line in self.asked if line.startswith("GET /someone/")}


@contextmanager
def serving(commits: Mapping[str, Path], refs: Mapping[str, str]) -> Iterator[SmallHub]:
    """Serve until the block ends."""
    hub = SmallHub(commits, refs)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: SmallHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append(f"{self.command} {path}")
        if self.server.refuses:
            return self._send(401, b"", {})
        match path.strip("/").split("/"):
            case ["api", "models", *model, "revision", revision] if "/".join(model) == MODEL:
                commit = self.server.refs.get(revision, revision)
                if commit not in self.server.commits:
                    return self._fail("RevisionNotFound")
                return self._json({"id": MODEL, "sha": commit, "siblings": []})
            case ["api", "models", *model, "tree", commit] if "/".join(model) == MODEL:
                return self._json(_tree(self.server.commits[commit]))
            case [*model, "resolve", commit, name] if "/".join(model) == MODEL:
                return self._file(commit, self.server.commits[commit] / name)
        return self._fail("RepoNotFound")

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _fail(self, code: str) -> None:
        self._send(404, b"", {"X-Error-Code": code})

    def _file(self, commit: str, file: Path) -> None:
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        wanted = self.headers.get("Range")
        if wanted is None:
            return self._send(200, content, headers)
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").partition("-")[0])
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._send(206, content[start:], headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        name = self.path.rpartition("/")[2]
        if name in self.server.break_once:
            self.server.break_once.discard(name)
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)


def _tree(directory: Path) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}
        for file in sorted(directory.iterdir())
        if file.is_file()
    ]
