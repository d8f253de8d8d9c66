"""A stand-in of the hub on this machine: as much of its HTTP interface as uploads and downloads of a dataset use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_standInToken0123456789"


class Hub:
    """Datasets by name: ``files`` name -> path -> bytes; ``private`` name -> bool; ``asked`` every request.

    ``broken`` is what it answers on a bad day: a pattern of requests, such as ``POST .*/commit/`` -> code and body.
    ``silent`` is a pattern of requests that have no answer before ``released`` is set; the first one sets ``held``.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.broken: dict[str, tuple[int, bytes]] = {}
        self.silent = "$"
        self.held, self.released = threading.Event(), threading.Event()
        self.address = ""

    def commit(self, name: str) -> str:
        """Hash of what is there, 40 hex digits."""
        parts = [path.encode() + data for path, data in sorted(self.files[name].items())]
        return hashlib.sha1(b"".join(parts)).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers for ``hub``."""

    hub: Hub

    def log_message(self, *_: object) -> None:
        """Silent."""

    def answer(self, code: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def on_a_bad_day(self) -> bool:
        """Whether this request was answered as ``broken`` says."""
        request = f"{self.command} {unquote(urlsplit(self.path).path)}"
        if re.match(self.hub.silent, request):
            self.hub.held.set()
            self.hub.released.wait()
        found = next((told for pattern, told in self.hub.broken.items() if re.match(pattern, request)), None)
        if found is not None:
            self.answer(*found)
        return found is not None

    def allowed(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        self.hub.asked.append(f"POST {path}")
        if self.on_a_bad_day():
            return
        if not self.allowed():
            self.answer(401, {"error": "Invalid username or password."}, X_Error_Message="Invalid credentials")
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/preupload/main", path):
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for one in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/commit/main", path):
            self.take(found[1], body)
        else:
            self.answer(200, {})

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        code = 409 if name in self.hub.files else 200
        if code == 200:
            self.hub.files[name] = {".gitattributes": b""}
            self.hub.private[name] = wanted.get("private") is True or wanted.get("visibility") == "private"
        self.answer(code, {"url": f"{self.hub.address}/datasets/{name}", "name": name, "id": name})

    def take(self, name: str, body: bytes) -> None:
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.hub.files[name][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del self.hub.files[name][value["path"]]
        address = f"{self.hub.address}/datasets/{name}/commit/{self.hub.commit(name)}"
        self.answer(200, {"success": True, "commitOid": self.hub.commit(name), "commitUrl": address, "hookOutput": ""})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"GET {path}")
        if self.on_a_bad_day():
            return
        found = re.match(r"/(?:api/)?datasets/([^/]+/[^/]+)", path)
        name = found[1] if found else ""
        if name not in self.hub.files or (self.hub.private[name] and not self.allowed()):
            self.answer(401 if not self.allowed() else 404, {}, X_Error_Code="RepoNotFound")
            return
        files, commit = self.hub.files[name], self.hub.commit(name)
        if path.startswith("/api/"):
            if "/tree/" in path:
                self.answer(200, [self.entry(one, data) for one, data in sorted(files.items())])
                return
            siblings = [{"rfilename": one} for one in sorted(files)]
            self.answer(200, {"id": name, "sha": commit, "private": self.hub.private[name], "siblings": siblings})
            return
        inner = re.fullmatch(rf"/datasets/{re.escape(name)}/resolve/[^/]+/(.+)", path)
        if inner is None or inner[1] not in files:
            self.answer(404, {}, X_Error_Code="EntryNotFound")
            return
        data = files[inner[1]]
        self.answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=commit)

    do_HEAD = do_GET

    def entry(self, path: str, data: bytes) -> dict[str, Any]:
        return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub at ``hub.address`` while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
