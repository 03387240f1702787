"""A Hub on loopback: the endpoints that huggingface_hub 2.4 calls, over repositories in memory.

    with LoopbackHub() as hub:
        hub.add_user("hf_secret", "ada")
        HfApi(endpoint=hub.url, token="hf_secret").create_repo("ada/model")

It keeps the real Hub's rules as far as a client can see them: commits have parents and are refused with
412 when `main` has moved, large files go through the LFS batch endpoint, private repositories hide behind
401 and 404, gated ones refuse their files. `hub.fail` makes chosen requests fail, `hub.requests` lists
what was asked. Xet is not spoken: set HF_HUB_DISABLE_XET=1 (or huggingface_hub.constants) beside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 10_000_000
"""Files from this size on are large whatever their name, as on the Hub."""


@dataclass(frozen=True)
class Commit:
    """One commit of `main`: `files` maps every path to the SHA-256 of its content."""

    sha: str
    title: str
    description: str
    files: dict[str, str]


@dataclass
class Repository:
    """A model repository; `allowed` names who may read a gated one."""

    id: str
    private: bool = False
    gated: bool = False
    allowed: set[str] = field(default_factory=set)
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, title: str, files: dict[str, str], description: str = "") -> Commit:
        parent = self.commits[-1].sha if self.commits else ""
        text = json.dumps([self.id, parent, title, description, sorted(files.items())])
        commit = Commit(hashlib.sha1(text.encode()).hexdigest(), title, description, dict(sorted(files.items())))
        self.commits.append(commit)
        return commit

    def find(self, revision: str) -> Commit | None:
        revision = self.tags.get(revision, revision)
        if revision == "main":
            return self.commits[-1]
        return next((c for c in self.commits if c.sha == revision), None)


@dataclass
class Fault:
    """Requests matching `pattern` ("METHOD /path") are answered with `status`; where it is None the
    connection is cut in the middle of the body. `late`: only after the request was handled, so that it takes effect
    and its answer is lost. `times` counts down."""

    pattern: re.Pattern[str]
    status: int | None
    times: int
    late: bool = False


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: str = "", **body: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


class LoopbackHub:
    """The server; a context manager. `store` is content by SHA-256, shared by all repositories."""

    def __init__(self, port: int = 0) -> None:
        self.repositories: dict[str, Repository] = {}
        self.datasets: set[str] = set()
        self.users: dict[str, tuple[str, bool]] = {}  # token -> name, may write
        self.store: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.received: list[str] = []  # everything clients sent in Authorization
        self.lock = threading.RLock()
        handler = type("BoundHandler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> LoopbackHub:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def add_user(self, token: str, name: str, *, write: bool = True) -> None:
        self.users[token] = (name, write)

    def publish(self, repo: str, files: dict[str, bytes], *, title: str = "Upload", **settings: Any) -> Commit:
        """Put `files` into `repo` as its owner would, on top of what is there, and return the commit."""
        with self.lock:
            found = self.repositories.setdefault(repo, Repository(repo, **settings))
            held = dict(found.commits[-1].files) if found.commits else {}
            return found.commit(title, held | {path: self.keep(data) for path, data in files.items()})

    def content(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """All files of a commit."""
        commit = self.repositories[repo].find(revision)
        assert commit is not None
        return {path: self.store[digest] for path, digest in commit.files.items()}

    def fail(self, pattern: str, status: int | None, times: int = 1, *, late: bool = False) -> None:
        self.faults.append(Fault(re.compile(pattern), status, times, late))

    def asked(self, pattern: str) -> list[str]:
        return [request for request in self.requests if re.search(pattern, request)]

    def keep(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.store[digest] = data
        return digest


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    cutting = False
    lost: Fault | None = None

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the server's own names

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        self.hub.requests.append(f"{request} {self.headers.get('Range', '')}".rstrip())
        self.hub.received.append(self.headers.get("Authorization", ""))
        try:
            fault = self._fault(request)
            self.lost, fault = (fault, None) if fault is not None and fault.late else (None, fault)
            self.cutting = fault is not None and fault.status is None
            if self.cutting and self.command in ("POST", "PUT"):
                self.rfile.read(1)
                self._cut()
                return
            body = self._body()
            if fault is not None and fault.status is not None:
                raise Refused(fault.status, "as the test wants it")
            with self.hub.lock:
                self._route(path, body)
        except Refused as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self._send(refused.status, json.dumps({"error": refused.message} | refused.body).encode(), headers)

    def _fault(self, request: str) -> Fault | None:
        for fault in self.hub.faults:
            if fault.times > 0 and fault.pattern.search(request):
                fault.times -= 1
                return fault
        return None

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        if self.lost is not None:
            lost, self.lost = self.lost, None
            if lost.status is None:
                self._cut()
                return
            status, data, headers = lost.status, b"", {}
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.cutting:  # half of a file the first time, nothing of its rest later
            self.wfile.write(b"" if "Range" in self.headers else data[: len(data) // 2])
            self._cut()
        elif self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _user(self) -> tuple[str, bool] | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in self.hub.users:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.users[token]

    def _writer(self, owner: str) -> None:
        user = self._user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        if user != (owner, True):
            raise Refused(403, f"You don't have the rights to write in the namespace {owner}")

    def _repository(self, repo: str, *, write: bool = False) -> Repository:
        user = self._user()
        found = self.hub.repositories.get(repo)
        owner = repo.partition("/")[0]
        if found is None or (found.private and (user is None or user[0] != owner)):
            raise Refused(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if write:
            self._writer(owner)
        return found

    def _commit(self, repo: Repository, revision: str) -> Commit:
        commit = repo.find(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _route(self, path: str, body: bytes) -> None:
        routes: list[tuple[str, str, Any]] = [
            ("POST", r"/api/repos/create", self._create),
            ("POST", r"/api/validate-yaml", self._validate),
            ("GET", r"/api/models/([^/]+/[^/]+)", self._info),
            ("GET", r"/api/datasets/([^/]+/[^/]+)", self._dataset),
            ("GET", r"/api/models/([^/]+/[^/]+)/revision/(.+)", self._info),
            ("GET", r"/api/models/([^/]+/[^/]+)/refs", self._refs),
            ("GET", r"/api/models/([^/]+/[^/]+)/commits/(.+)", self._commits),
            ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
            ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self._preupload),
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            ("PUT", r"/lfs/([0-9a-f]{64})", self._store),
            ("POST", r"/lfs/verify", self._verify),
            ("POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)", self._receive),
            ("POST", r"/api/models/([^/]+/[^/]+)/tag/(.+)", self._tag),
            ("GET|HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        ]
        for methods, pattern, action in routes:
            found = re.fullmatch(pattern, path)
            if found and self.command in methods.split("|"):
                action(body, *found.groups())
                return
        raise Refused(404, f"no endpoint {self.command} {path}")

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}"
        self._writer(asked["organization"])
        if repo in self.hub.repositories:
            raise Refused(409, "You already created this model repo", url=f"{self.hub.url}/{repo}")
        private = asked.get("visibility") == "private"
        self.hub.publish(repo, {".gitattributes": b"*.safetensors filter=lfs\n"}, title="initial", private=private)
        self._json({"url": f"{self.hub.url}/{repo}", "id": repo, "name": repo})

    def _validate(self, body: bytes) -> None:
        bad = not json.loads(body)["content"].startswith("---\n")
        self._json({"errors": [{"message": "no metadata"}] if bad else [], "warnings": []})

    def _info(self, _: bytes, repo: str, revision: str = "main") -> None:
        found = self._repository(repo)
        commit = self._commit(found, revision)
        self._json(
            {
                "id": repo,
                "sha": commit.sha,
                "private": found.private,
                "gated": "auto" if found.gated else False,
                "siblings": [{"rfilename": path} for path in commit.files],
            }
        )

    def _dataset(self, _: bytes, name: str) -> None:
        if name not in self.hub.datasets:
            raise Refused(401 if self._user() is None else 404, "Repository not found", "RepoNotFound")
        self._json({"id": name, "private": False})

    def _refs(self, _: bytes, repo: str) -> None:
        found = self._repository(repo)
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": sha} for n, sha in found.tags.items()]
        head = {"name": "main", "ref": "refs/heads/main", "targetCommit": found.commits[-1].sha}
        self._json({"branches": [head], "converts": [], "tags": tags})

    def _commits(self, _: bytes, repo: str, revision: str) -> None:
        found = self._repository(repo)
        until = found.commits.index(self._commit(found, revision))
        date = "2025-10-29T00:00:00.000Z"
        entries = [
            {"id": c.sha, "title": c.title, "message": c.description, "date": date, "authors": []}
            for c in reversed(found.commits[: until + 1])
        ]
        self._json(entries)

    def _tree(self, _: bytes, repo: str, revision: str) -> None:
        commit = self._commit(self._repository(repo), revision)
        entries = []
        for path, digest in commit.files.items():
            data = self.hub.store[digest]
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _git_oid(data)}
            if _large(path, len(data)):
                pointer = (
                    f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(data)}\n".encode()
                )
                entry["oid"] = _git_oid(pointer)
                entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": len(pointer)}
            entries.append(entry)
        self._json(entries)

    def _preupload(self, body: bytes, repo: str, revision: str) -> None:
        commit = self._commit(self._repository(repo, write=True), revision)
        files = []
        for asked in json.loads(body)["files"]:
            large = _large(asked["path"], asked["size"])
            digest = commit.files.get(asked["path"])
            oid = None if digest is None else digest if large else _git_oid(self.hub.store[digest])
            mode = "lfs" if large else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": files})

    def _batch(self, body: bytes, repo: str) -> None:
        self._repository(repo, write=True)
        objects: list[dict[str, Any]] = []
        for asked in json.loads(body)["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.store:
                upload, verify = f"{self.hub.url}/lfs/{asked['oid']}", f"{self.hub.url}/lfs/verify"
                entry["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "the content does not have this hash")
        self.hub.keep(body)
        self._send(200)

    def _verify(self, body: bytes) -> None:
        asked = json.loads(body)
        if len(self.hub.store.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "no such object")
        self._send(200)

    def _receive(self, body: bytes, repo: str, revision: str) -> None:
        found = self._repository(repo, write=True)
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        head = self._commit(found, revision)
        if header.get("parentCommit") not in (None, head.sha):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines[1:]:
            kind, value = line["key"], line["value"]
            if kind == "file":
                files[value["path"]] = self.hub.keep(base64.b64decode(value["content"]))
            elif kind == "lfsFile":
                if value["oid"] not in self.hub.store:
                    raise Refused(400, f"{value['path']}: its content was not uploaded")
                files[value["path"]] = value["oid"]
            elif kind == "deletedFile":
                del files[value["path"]]
            else:
                raise Refused(400, f"unknown operation {kind}")
        commit = found.commit(header["summary"], files, header["description"])
        self._json(
            {"success": True, "commitOid": commit.sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit.sha}"}
        )

    def _tag(self, body: bytes, repo: str, revision: str) -> None:
        found = self._repository(repo, write=True)
        commit, tag = self._commit(found, revision), json.loads(body)["tag"]
        if tag in found.tags:
            raise Refused(409, f"Tag reference exists already: {tag}")
        found.tags[tag] = commit.sha
        self._send(200)

    def _resolve(self, _: bytes, repo: str, revision: str, path: str) -> None:
        found = self._repository(repo)
        commit = self._commit(found, revision)
        user = self._user()
        if found.gated and (user is None or user[0] not in found.allowed):
            raise Refused(401 if user is None else 403, "Access to this model is restricted", "GatedRepo")
        if path not in commit.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        digest = commit.files[path]
        data = self.hub.store[digest]
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{_git_oid(data)}"', "Accept-Ranges": "bytes"}
        if _large(path, len(data)):
            headers |= {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start:
            first = int(start[1])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            self._send(206, data[first:], headers)
        else:
            self._send(200, data, headers)


def _large(path: str, size: int) -> bool:
    return path.endswith(".safetensors") or size >= LARGE


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
