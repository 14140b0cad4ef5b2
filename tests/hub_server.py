"""A small server that answers the Hub's requests for pushing and loading one repository.

Files live in memory; a commit replaces what it names. It knows what the client sends for a model
and for a data set: create, preupload, LFS batch and upload, commit, revision, tree, resolve.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

LARGE = ("safetensors", "parquet")


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

    def run_client(self, code, folder, home):
        """Runs code with the real client against this server, and returns its last line.

        The client reads its environment when it is imported, so each side is a process of its own.
        """
        environment = os.environ | {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "x",
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
        }
        command = [sys.executable, "-c", code, str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip().splitlines()[-1]

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
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
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
        if "/paths-info/" in self.path:
            wanted = set(parse_qs(body.decode()).get("paths", []))
            return self._answer([entry for entry in self._tree() if entry["path"] in wanted])
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

    def _tree(self, asked="/tree/main"):
        """Files and folders below the folder that follows the revision."""
        path, _, query = asked.partition("?")
        folder = "/".join(path.split("/")[3:])
        inside = f"{folder}/" if folder else ""
        tree = {}
        for name, content in self.server.files.items():
            if not name.startswith(inside):
                continue
            parts = name[len(inside) :].split("/")
            for depth in range(1, len(parts)):
                parent = inside + "/".join(parts[:depth])
                tree[parent] = {"type": "directory", "path": parent, "oid": "0" * 40}
            oid = hashlib.sha1(content).hexdigest()
            tree[name] = {"type": "file", "path": name, "size": len(content), "oid": oid}
        if "recursive=true" not in query.lower():
            tree = {p: e for p, e in tree.items() if "/" not in p[len(inside) :]}
        return list(tree.values())

    def do_PUT(self):
        self.server.blobs[self.path.rsplit("/", 1)[1]] = self._body()
        self._answer()

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        match = re.match(
            r"/api/(?:models|datasets)/[^/]+/[^/]+(/revision/.+|/tree/.+)?$", self.path
        )
        if match:
            if "/tree/" in (match[1] or ""):
                return self._answer(self._tree(unquote(match[1])))
            siblings = [{"rfilename": path} for path in server.files]
            return self._answer({"id": "me/model", "sha": server.revision, "siblings": siblings})
        path = re.sub(r"^(/datasets)?/[^/]+/[^/]+/resolve/[^/]+/", "", unquote(self.path))
        if path not in server.files:
            return self._answer(b"", 404, X_Error_Code="EntryNotFound")
        content = server.files[path]
        return self._answer(
            content,
            ETag=f'"{hashlib.sha256(content).hexdigest()}"',
            X_Repo_Commit=server.revision,
        )
