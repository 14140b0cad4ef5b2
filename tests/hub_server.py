"""A small server that answers the Hub's requests for pushing and loading one repository.

Files live in memory; a commit replaces what it names. It knows what the client sends: create,
preupload, LFS batch and upload, commit, revision, resolve.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HubServer(ThreadingHTTPServer):
    """Serves on a free local port; use as a context manager, ``url`` names it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.blobs, self.commits = {}, {}, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def revision(self):
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content=b"", status=200, **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers.setdefault("Content_Type", "application/json")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        body, server = self._body(), self.server
        if self.path == "/api/repos/create":
            name = json.loads(body)["name"]
            return self._answer({"url": f"{server.url}/me/{name}", "id": f"me/{name}"})
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._answer({"files": modes})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                o | {"actions": {"upload": {"href": f"{server.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self._answer(
                {"transfer": "basic", "objects": objects},
                Content_Type="application/vnd.git-lfs+json",
            )
        if "/commit/" in self.path:
            return self._commit([json.loads(line) for line in body.splitlines()])
        return self._answer(status=404)

    def _commit(self, lines):
        server = self.server
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                server.files[value["path"]] = server.blobs[value["oid"]]
        server.commits.append(lines[0]["value"]["summary"])
        url = f"{server.url}/me/model/commit/{server.revision}"
        self._answer({"commitUrl": url, "commitOid": server.revision, "pullRequestUrl": None})

    def do_PUT(self):
        self.server.blobs[self.path.rsplit("/", 1)[1]] = self._body()
        self._answer()

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        if match := re.match(r"/api/models/[^/]+/[^/]+(/revision/.+|/tree/.+)?$", self.path):
            if "/tree/" in (match[1] or ""):
                tree = [
                    {"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for p, c in server.files.items()
                ]
                return self._answer(tree)
            siblings = [{"rfilename": path} for path in server.files]
            return self._answer({"id": "me/model", "sha": server.revision, "siblings": siblings})
        path = re.sub(r"^/[^/]+/[^/]+/resolve/[^/]+/", "", self.path)
        if path not in server.files:
            return self._answer(b"", 404, X_Error_Code="EntryNotFound")
        content = server.files[path]
        return self._answer(
            content,
            ETag=f'"{hashlib.sha256(content).hexdigest()}"',
            X_Repo_Commit=server.revision,
        )
