"""A model hub on loopback: just the routes that the real client calls, repositories in memory.

Commits are immutable snapshots, so revisions and tags work. Weights travel as LFS objects, other
files inside the commit. Private repositories answer only to a known token. ``cut`` breaks downloads
off, ``log`` keeps what was asked, with the headers that tests look at.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

TOKEN = "hf_secretTOKENsecret"


@dataclass
class Repo:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    method: str
    path: str
    token: str
    range: str


@dataclass
class Hub:
    """The state of the server.

    Attributes:
        repos: "owner/name" -> Repo.
        blobs: LFS objects by sha256.
        log: every request.
        cut: name of file -> number of bytes after which each answer with it breaks off.
        sizes: name of file -> size the server claims instead of the true one.
        ranges: whether parts of files can be asked for.
    """

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    log: list[Request] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    lock: threading.RLock = field(default_factory=threading.RLock)

    def create(self, name: str, private: bool = False) -> None:
        self.repos[name] = Repo(private)
        self.commit(name, {".gitattributes": b"*.safetensors filter=lfs\n"})

    def commit(self, name: str, add: dict[str, bytes], delete: tuple[str, ...] = ()) -> str:
        """Commit files on top of the main branch; None of the repository's own are checked."""
        repo = self.repos[name]
        parent = repo.refs.get("main", "")
        files = {k: v for k, v in repo.commits.get(parent, {}).items() if k not in delete} | add
        hashes = sorted((k, hashlib.sha1(v).hexdigest()) for k, v in files.items())
        commit = hashlib.sha1(f"{parent}{hashes}{len(repo.commits)}".encode()).hexdigest()
        repo.commits[commit], repo.refs["main"] = files, commit
        return commit

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[name]
        return repo.commits[repo.refs.get(revision, revision)]

    def asked(self, ending: str, method: str = "GET") -> list[Request]:
        return [r for r in self.log if r.method == method and r.path.endswith(ending)]


class Refused(Exception):
    """Answer with this status and kind of error."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        data = self._body() if self.command in ("POST", "PUT", "DELETE") else b""
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        with self.hub.lock:
            asked = self.headers.get("Range") or ""
            self.hub.log.append(Request(self.command, path, self.token, asked))
            try:
                self._route(path, data)
            except Refused as error:
                status, kind = error.args
                self._answer(status, {"error": kind}, {"X-Error-Code": kind})

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return parts

    def _answer(
        self,
        status: int,
        content: object,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None and cut < len(body):
            self.wfile.flush()
            self.close_connection = True

    def _route(self, path: str, data: bytes) -> None:
        if path == "/api/whoami-v2":
            self._answer(200, {"type": "user", "name": "tester", "orgs": []})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(data))
        elif found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            if hashlib.sha256(data).hexdigest() != found[1]:
                raise Refused(400, "BadHash")
            self.hub.blobs[found[1]] = data
            self._answer(200, {})
        elif path == "/lfs-verify":
            self._answer(200, {})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._write(found[1])
            self._answer(200, self._batch(json.loads(data)["objects"]))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/([a-z]+)/(.+))?", path):
            self._model(found[1], found[2] or "revision", found[3] or "main", data)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[2], found[3])
        else:
            raise Refused(404, "NotFound")

    def _write(self, name: str) -> Repo:
        if self.token != TOKEN:
            raise Refused(401, "Unauthorized")
        return self._read(name)

    def _read(self, name: str) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.token != TOKEN):
            raise Refused(404 if self.token == TOKEN else 401, "RepoNotFound")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> str:
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            raise Refused(404, "RevisionNotFound")
        return commit

    def _create(self, asked: dict) -> None:
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        if self.token != TOKEN:
            raise Refused(401, "Unauthorized")
        there = name in self.hub.repos
        if not there:
            private = asked.get("private") or asked.get("visibility") == "private"
            self.hub.create(name, bool(private))
        told = {"url": f"{self.hub.url}/{name}", "name": name, "id": name}
        self._answer(409 if there else 200, told)

    def _batch(self, objects: list[dict]) -> dict:
        def entry(item: dict) -> dict:
            upload = {"href": f"{self.hub.url}/lfs/{item['oid']}"}
            verify = {"href": f"{self.hub.url}/lfs-verify"}
            return {**item, "actions": {"upload": upload, "verify": verify}}

        return {"transfer": "basic", "objects": [entry(item) for item in objects]}

    def _model(self, name: str, verb: str, revision: str, data: bytes) -> None:
        if verb == "revision":
            self._answer(200, self._info(name, revision))
        elif verb == "preupload":
            self._write(name)
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(data)["files"]
            ]
            self._answer(200, {"files": files})
        elif verb == "commit":
            self._answer(200, self._apply(name, data))
        else:
            raise Refused(404, "NotFound")

    def _info(self, name: str, revision: str) -> dict:
        repo = self._read(name)
        commit = self._commit_of(repo, revision)
        siblings = [
            {"rfilename": path, "size": self.hub.sizes.get(path, len(content)), "blobId": "0"}
            for path, content in sorted(repo.commits[commit].items())
        ]
        fixed = {"id": name, "modelId": name, "tags": [], "downloads": 0, "likes": 0}
        return {**fixed, "sha": commit, "private": repo.private, "siblings": siblings}

    def _apply(self, name: str, data: bytes) -> dict:
        repo, add, delete = self._write(name), {}, []
        for line in filter(None, data.splitlines()):
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header" and value.get("parentCommit") not in (None, repo.refs["main"]):
                raise Refused(412, "PreconditionFailed")
            if key == "file":
                add[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                add[value["path"]] = self.hub.blobs[value["oid"]]
            elif key == "deletedFile":
                delete.append(value["path"])
        commit = self.hub.commit(name, add, tuple(delete))
        return {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit}

    def _file(self, name: str, revision: str, path: str) -> None:
        repo = self._read(name)
        commit = self._commit_of(repo, revision)
        if path not in repo.commits[commit]:
            raise Refused(404, "EntryNotFound")
        body, status = repo.commits[commit][path], 200
        headers = {
            "Content-Type": "application/octet-stream",
            "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            "X-Repo-Commit": commit,
        }
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if found and self.hub.ranges:
            start, whole = int(found[1]), len(body)
            if start >= whole:
                raise Refused(416, "RangeNotSatisfiable")
            body, status = body[start:], 206
            headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
        self._answer(status, body, headers, self.hub.cut.get(path))


def serve() -> tuple[Hub, ThreadingHTTPServer]:
    """Start a server; close it with ``shutdown()`` and ``server_close()``."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return hub, server
