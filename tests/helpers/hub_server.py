"""A small server that answers the Hub's requests for pushing and loading repositories.

Repositories live in memory with their commits, branches and tags. It knows what the client sends
for models and data sets: create, preupload, LFS batch and upload, commit, branch, tag, revision,
tree, resolve; and it refuses as the Hub does: tokens it does not know, tokens that may only read,
private repositories, repositories, revisions and files that are not there.
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
TOKENS = {"x": "write", "reader": "read"}

WITHOUT = """
import importlib.abc, importlib.util, sys
_absent, _find = {names!r}, importlib.util.find_spec
class _Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in _absent:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, _Absent())
importlib.util.find_spec = lambda name, package=None: (
    None if name.split(".")[0] in _absent else _find(name, package)
)
"""
"""Code that makes packages look as if they were not installed."""


class Repository:
    """Files by commit; branches and tags name commits."""

    def __init__(self, private=False):
        self.private, self.commits = private, []
        first = hashlib.sha1(b"initial commit").hexdigest()
        self.snapshots = {first: {}}
        self.references = {"main": first}

    def sha(self, revision):
        """The commit that a branch, a tag or its own hash names; None if there is none."""
        return self.references.get(revision, revision if revision in self.snapshots else None)

    def commit(self, branch, files, summary):
        self.commits.append(summary)
        parent = self.references[branch]
        sha = hashlib.sha1(f"{parent} {summary}".encode()).hexdigest()
        self.snapshots[sha], self.references[branch] = files, sha
        return sha


class HubServer(ThreadingHTTPServer):
    """Serves on a free local port; use as a context manager, ``url`` names it.

    Args:
        owner: Whose repositories the tokens may make.

    Attributes:
        repositories: Repositories by name.
        refuse_commits: Whether commits fail, as after a connection was lost or a quota used up.
    """

    def __init__(self, owner="me"):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner
        self.repositories, self.blobs, self.refuse_commits = {}, {}, False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def files(self):
        """Files of the first repository, as they are now."""
        repository = next(iter(self.repositories.values()))
        return repository.snapshots[repository.references["main"]]

    @property
    def commits(self):
        """Summaries of the commits of the first repository."""
        return next(iter(self.repositories.values())).commits

    def run_client(self, code, folder, home, without=(), token="x"):
        """Runs code with the real client against this server, and returns its last line.

        The client reads its environment when it is imported, so each side is a process of its own.

        Args:
            code: Python.
            folder: Its ``sys.argv[1]``, and where it runs if packages are hidden.
            home: Where the client keeps what it loads.
            without: Packages to hide; the process is an isolated one then.
            token: Token of the Hub.
        """
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": token,
            "HF_HOME": str(home),
        }
        options = ["-I"] if without else []
        if without:
            code = WITHOUT.format(names=tuple(without)) + code
        done = subprocess.run(
            [sys.executable, *options, "-c", code, str(folder)],
            cwd=folder if without else None, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip().splitlines()[-1]


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

    def _refuse(self, status, message, code=None):
        codes = {"X_Error_Code": code} if code else {}
        self._answer({"error": message}, status, X_Error_Message=message, **codes)

    @property
    def _right(self):
        """What the caller's token allows: "write", "read" or None."""
        return TOKENS.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def _repository(self, name, to_write=False):
        """The repository, or None after a refusal."""
        if "Authorization" in self.headers and self._right is None:
            self._refuse(401, "Invalid credentials in Authorization header")
            return None
        found = self.server.repositories.get(name)
        if found is None or (found.private and self._right is None):
            self._refuse(
                401 if self._right is None else 404, "Repository not found", "RepoNotFound"
            )
            return None
        if to_write and self._right != "write":
            self._refuse(403, "Forbidden: this token may only read.")
            return None
        return found

    def do_POST(self):
        body, server = self._body(), self.server
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        match = re.match(r"(?:/datasets)?/(.+?/.+?)\.git/info/lfs/objects/batch$", self.path)
        if match:
            if self._repository(match[1], to_write=True) is None:
                return None
            objects = [
                o | {"actions": {"upload": {"href": f"{server.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self._answer(
                {"transfer": "basic", "objects": objects},
                Content_Type="application/vnd.git-lfs+json",
            )
        match = re.match(r"/api/(?:models|datasets)/(.+?/.+?)/([\w-]+)/([^/?]+)", self.path)
        if not match:
            return self._answer(status=404)
        name, verb, revision = match[1], match[2], unquote(match[3])
        repository = self._repository(name, to_write=verb != "paths-info")
        if repository is None:
            return None
        if verb == "preupload":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._answer({"files": modes})
        if verb == "branch":
            start = json.loads(body or b"{}").get("startingPoint", "main")
            repository.references[revision] = repository.sha(start)
            return self._answer({})
        if verb == "tag":
            repository.references[json.loads(body)["tag"]] = repository.sha(revision)
            return self._answer({})
        if verb == "paths-info":
            wanted = set(parse_qs(body.decode()).get("paths", []))
            tree = _tree(repository.snapshots[repository.sha(revision)], "", True)
            return self._answer([entry for entry in tree if entry["path"] in wanted])
        if verb == "commit":
            if server.refuse_commits:
                return self._refuse(403, "Storage limit reached.")
            lines = [json.loads(line) for line in body.splitlines()]
            return self._commit(name, repository, revision, lines)
        return self._answer(status=404)

    def _create(self, asked):
        if self._right is None:
            return self._refuse(401, "Invalid credentials in Authorization header")
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if self._right != "write" or not name.startswith(f"{self.server.owner}/"):
            message = f'You don\'t have the rights to create a model under the namespace "{name}"'
            return self._refuse(403, message)
        answer = {"url": f"{self.server.url}/{name}", "id": name}
        if name in self.server.repositories:
            return self._answer(answer, 409)
        private = asked.get("visibility") == "private"
        self.server.repositories[name] = Repository(private)
        return self._answer(answer)

    def _commit(self, name, repository, branch, lines):
        files = dict(repository.snapshots[repository.references[branch]])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(branch, files, lines[0]["value"]["summary"])
        url = f"{self.server.url}/{name}/commit/{sha}"
        self._answer({"commitUrl": url, "commitOid": sha, "pullRequestUrl": None})

    def do_PUT(self):
        self.server.blobs[self.path.rsplit("/", 1)[1]] = self._body()
        self._answer()

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, _, query = self.path.partition("?")
        match = re.match(
            r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)/?(.*))?$", path
        )
        file = re.match(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path)
        if not match and not file:
            return self._answer(status=404)
        repository = self._repository((match or file)[1])
        if repository is None:
            return None
        revision = match[3] if match else file[2]
        sha = repository.sha(unquote(revision or "main"))
        if sha is None:
            return self._refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = repository.snapshots[sha]
        if match and match[2] == "tree":
            return self._answer(_tree(files, unquote(match[4]), "recursive=true" in query.lower()))
        if match:
            siblings = [{"rfilename": name} for name in files]
            return self._answer({"id": match[1], "sha": sha, "siblings": siblings})
        name = unquote(file[3])
        if name not in files:
            return self._refuse(404, "Entry not found", "EntryNotFound")
        etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
        return self._answer(files[name], ETag=etag, X_Repo_Commit=sha)


def _tree(files, folder, recursive):
    """Files and folders below a folder."""
    inside = f"{folder}/" if folder else ""
    tree = {}
    for name, content in files.items():
        if not name.startswith(inside):
            continue
        parts = name[len(inside) :].split("/")
        for depth in range(1, len(parts)):
            parent = inside + "/".join(parts[:depth])
            tree[parent] = {"type": "directory", "path": parent, "oid": "0" * 40}
        oid = hashlib.sha1(content).hexdigest()
        tree[name] = {"type": "file", "path": name, "size": len(content), "oid": oid}
    if not recursive:
        tree = {path: entry for path, entry in tree.items() if "/" not in path[len(inside) :]}
    return list(tree.values())
