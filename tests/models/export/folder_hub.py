"""A hub on this machine: what the hub's own client sends over HTTP becomes files in a folder.

hub = FolderHub(tmp_path / "hub")          # hub.address is what HF_ENDPOINT would say
hub.files("me/digits")                     # the names and bytes of the newest revision
"""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_" + "stand" + "in" * 10
USER = "me"
JSON = {"Content-Type": "application/json"}
Answer = tuple[int, dict[str, str], bytes]


class FolderHub:
    """Repositories of one user, each a folder of revisions; each request is noted in `asked`, as "POST /path".

    refuse  requests, "POST /path", that are answered with an error; nothing else is done
    lose    requests that are carried out, and answered with an error
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.uploaded = folder, [], {}
        self.private: dict[str, bool] = {}
        self.revisions: dict[str, list[str]] = {}
        self.refuse: set[str] = set()
        self.lose: set[str] = set()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, repo: str, private: bool = False, **files: bytes) -> None:
        """Make a repository, with a first revision of .gitattributes and of files given as name=content."""
        self.private[repo], self.revisions[repo] = private, []
        self.commit(repo, {".gitattributes": b"*.safetensors filter=lfs\n", **files})

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a revision: that before it, with these files."""
        held = self.files(repo) | files
        revision = hashlib.sha1(f"{repo} {len(self.revisions[repo])}".encode()).hexdigest()
        for name, content in held.items():
            path = self.folder / repo / revision / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.revisions[repo].append(revision)
        return revision

    def home(self, repo: str) -> Path:
        """The folder of the newest revision."""
        return self.folder / repo / self.revisions[repo][-1]

    def files(self, repo: str) -> dict[str, bytes]:
        if not self.revisions[repo]:
            return {}
        found = [path for path in self.home(repo).rglob("*") if path.is_file()]
        return {path.relative_to(self.home(repo)).as_posix(): path.read_bytes() for path in found}

    def answer(self, path: str, token: str, body: bytes) -> Answer:
        parts = path.strip("/").split("/")
        if path.startswith("/uploads/"):
            self.uploaded[parts[-1]] = body
            return 200, {}, b""
        if token != f"Bearer {TOKEN}":
            return _json({"error": "Invalid username or password."}, 401)
        if path == "/api/whoami-v2":
            return _json({"name": USER, "type": "user"})
        if path in ("/api/validate-yaml", "/api/agent-harnesses"):
            return _json({})
        if path == "/api/repos/create":
            return self._created(json.loads(body))
        repo = "/".join(parts[2:4] if parts[0] == "api" else parts[:2]).removesuffix(".git")
        if repo not in self.revisions:
            return 404, JSON | {"X-Error-Code": "RepoNotFound"}, b"{}"
        if parts[0] == "api":
            what = parts[4] if len(parts) > 4 else "info"
            return {"info": self._info, "preupload": self._modes, "commit": self._committed}[what](repo, body)
        if parts[-1] == "batch":
            return self._places(body)
        return self._file(repo, path.partition("/resolve/main/")[2])

    def _created(self, asked: dict[str, Any]) -> Answer:
        owner = asked.get("organization") or USER
        if owner != USER:
            return _json({"error": f"You don't have the rights to create a model under the namespace {owner}"}, 403)
        self.add(f"{owner}/{asked['name']}", asked.get("visibility") == "private" or bool(asked.get("private")))
        return _json({"url": f"{self.address}/{owner}/{asked['name']}"})

    def _info(self, repo: str, _: bytes) -> Answer:
        files = [_entry(name, content) for name, content in self.files(repo).items()]
        return _json({"id": repo, "sha": self.home(repo).name, "private": self.private[repo], "siblings": files})

    def _modes(self, _: str, body: bytes) -> Answer:
        modes = [
            {"path": each["path"], "uploadMode": "lfs" if _large(each["path"]) else "regular", "shouldIgnore": False}
            for each in json.loads(body)["files"]
        ]
        return _json({"files": modes})

    def _places(self, body: bytes) -> Answer:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.address}/uploads/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        return _json({"transfer": "basic", "objects": objects})

    def _committed(self, repo: str, body: bytes) -> Answer:
        lines = [json.loads(line) for line in body.decode().splitlines()]
        if lines[0]["value"].get("parentCommit", self.home(repo).name) != self.home(repo).name:
            return _json({"error": "A commit has happened since. Please refresh and try again."}, 412)
        files = {}
        for kind, each in ((line["key"], line["value"]) for line in lines[1:]):
            files[each["path"]] = base64.b64decode(each["content"]) if kind == "file" else self.uploaded[each["oid"]]
        revision = self.commit(repo, files)
        return _json({"success": True, "commitOid": revision, "commitUrl": f"{self.address}/{repo}/commit/{revision}"})

    def _file(self, repo: str, name: str) -> Answer:
        content = self.files(repo).get(name)
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        digest = hashlib.sha256(content).hexdigest()
        return 200, {"ETag": f'"{digest}"', "X-Repo-Commit": self.home(repo).name}, content


class _Handler(BaseHTTPRequestHandler):
    hub: FolderHub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = f"{self.command} {path}"
        self.hub.asked.append(request)
        code, headers, content = _json({"error": "the disk is full"}, 507)
        if request not in self.hub.refuse:
            answer = self.hub.answer(path, self.headers.get("Authorization", ""), body)
            if request not in self.hub.lose:
                code, headers, content = answer
        self.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        pass


def _json(content: dict[str, Any], code: int = 200) -> Answer:
    return code, JSON, json.dumps(content).encode()


def _large(name: str) -> bool:
    return name.endswith((".safetensors", ".onnx"))


def _entry(name: str, content: bytes) -> dict[str, Any]:
    """Describe a file as the hub does: git's hash of it, or of its pointer where LFS holds it."""
    entry: dict[str, Any] = {"rfilename": name, "size": len(content)}
    if _large(name):
        sha = hashlib.sha256(content).hexdigest()
        return entry | {"blobId": "0" * 40, "lfs": {"sha256": sha, "size": len(content), "pointerSize": 134}}
    return entry | {"blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
