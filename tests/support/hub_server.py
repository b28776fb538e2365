"""A stand-in of the hub's API for model repositories: git blobs and LFS files, commits, and its storage."""

import base64
import hashlib
import json
from urllib.parse import unquote

LFS_SUFFIXES = (".safetensors", ".onnx", ".bin", ".pt2")
PART_BYTES = 1000


def git_blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubRepositories:
    """Answers over TLS. ``fail`` gets the method and the path of a request, and may return a status instead."""

    def __init__(self, tls_server, *, token="hf_abcdefghijklmnop123", fail=lambda method, path: None):
        self.token, self.fail = token, fail
        self.repos, self.commits, self.storage, self.requests = {}, [], {}, []
        self.port = tls_server(self._handle).port
        self.endpoint = f"https://localhost:{self.port}"

    @property
    def uploads(self):
        """Paths of the files that were sent to the storage."""
        return [path for method, path, _ in self.requests if method == "PUT"]

    def _handle(self, connection, request):
        head, _, body = request.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        body = self._read_body(connection, headers, body)
        method, path, _ = line.split(" ")
        path = unquote(path.partition("?")[0])
        self.requests.append((method, path, headers))
        status, document = self._answer(method, path, headers, body)
        content = json.dumps(document).encode()
        connection.sendall(
            f'HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nETag: "e"\r\n'
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )

    def _read_body(self, connection, headers, body):
        if headers.get("transfer-encoding") == "chunked":
            while not body.endswith(b"0\r\n\r\n"):
                body += connection.recv(65536)
            chunks = b""
            while body:
                size, _, rest = body.partition(b"\r\n")
                chunks, body = chunks + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
                if not int(size, 16):
                    break
            return chunks
        while len(body) < int(headers.get("content-length", 0)):
            body += connection.recv(65536)
        return body

    def _answer(self, method, path, headers, body):  # noqa: PLR0911 - one return for each route
        if (status := self.fail(method, path)) is not None:
            return status, {"error": "refused by the test"}
        if path.startswith("/storage/"):  # signed URLs: no token
            assert "authorization" not in headers, "the token went to the storage"
            return self._store(method, path, body)
        if headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"error": "Invalid username or password."}
        document = None if b"\n" in body.strip() or not body else json.loads(body)
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(document)
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"objects": [self._lfs_action(item) for item in document["objects"]], "transfer": "basic"}
        if path.startswith("/api/models/"):
            return self._repository(path.removeprefix("/api/models/"), document, body)
        return 404, {"error": path}

    def _create(self, document):
        name = f"{document['organization']}/{document['name']}"
        if name in self.repos:
            return 409, {"error": "You already created this model repo", "url": f"{self.endpoint}/{name}"}
        self.repos[name] = {"visibility": document.get("visibility"), "branches": {"main": {}}}
        return 200, {"url": f"{self.endpoint}/{name}", "name": name}

    def _repository(self, rest, document, body):
        owner, name, kind, *tail = rest.split("/")
        repo = self.repos.get(f"{owner}/{name}")
        if repo is None:
            return 404, {"error": "Repository not found"}
        revision = "/".join(tail)
        if kind == "branch":
            if revision in repo["branches"]:
                return 409, {"error": "Reference already exists"}
            repo["branches"][revision] = dict(repo["branches"]["main"])
            return 200, {}
        files = repo["branches"][revision]
        if kind == "preupload":
            return 200, {"files": [self._mode(files, item) for item in document["files"]]}
        if kind == "commit":
            return self._commit(f"{owner}/{name}", files, body)
        assert kind == "revision", rest
        return 200, {"id": f"{owner}/{name}", "sha": self.commits[-1][0], "siblings": []}

    def _mode(self, files, item):
        is_lfs = item["path"].endswith(LFS_SUFFIXES)
        content = files.get(item["path"])
        oid = None if content is None else hashlib.sha256(content).hexdigest() if is_lfs else git_blob(content)
        return {"path": item["path"], "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False, "oid": oid}

    def _lfs_action(self, item):
        known = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] in self.storage:
            return known
        return known | {"actions": {"upload": {"href": f"{self.endpoint}/storage/{item['oid']}"}}}

    def _store(self, method, path, body):
        oid = path.removeprefix("/storage/")
        if method != "PUT" or hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "the hash differs"}
        self.storage[oid] = body
        return 200, {}

    def _commit(self, name, files, body):
        header, *operations = (json.loads(line) for line in body.splitlines())
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.storage[value["oid"]]
        oid = hashlib.sha1(body).hexdigest()
        self.commits.append((oid, header["value"]["summary"], [each["value"]["path"] for each in operations]))
        return 200, {"commitOid": oid, "commitUrl": f"{self.endpoint}/{name}/commit/{oid}"}
