"""Loopback servers that speak the parts of ModelScope's and Hugging Face's protocols that a download uses, and their faults."""

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

CUT, RESET, BUSY, LIMITED, OTHER, POINTER, SLOW = "cut in the middle", "reset", "500", "429", "other bytes", "a pointer", "slow"


@dataclass
class Hub:
    """A hub whose every repository holds `files`.

    Each request of a file's bytes meets the next of `faults`, each of the hub's API the next of `api_faults`, if any is left.
    """

    files: dict[str, bytes]
    faults: list[str]
    api_faults: list[str | None] = field(default_factory=list)
    refused: int | None = None  # the status that every request gets
    gated: bool = False  # files are for holders of TOKEN alone, as Hugging Face does it
    page: bool = False  # a proxy's page to log in at is all that answers
    bare: bool = False  # a mirror leaves out the header that names the commit
    moved: bool = False  # a mirror sends those who ask for files on to Hugging Face itself
    xet: bool = False  # files in LFS are offered by Xet too, at another server
    endpoint: str = ""
    ranges: list[int] = field(default_factory=list)  # where each request of a file's bytes began
    fetched: list[str] = field(default_factory=list)  # whose bytes were asked for
    told: list[str] = field(default_factory=list)  # the tokens that came with them, by host
    asked: list[str] = field(default_factory=list)  # every path

    @cached_property
    def commit(self) -> str:
        return hashlib.sha1(b"".join(name.encode() + self.files[name] for name in sorted(self.files))).hexdigest()


TOKEN = "hf_OnlyTheHubMaySeeThis"
SIGNATURE = "OnlyForThisDownload"
BELOW = "/below/a/path"  # where a mirror may have Hugging Face


class Answers(BaseHTTPRequestHandler):
    """What both hubs' handlers share: a file's bytes from where they are asked for, spoilt by the next fault."""

    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def send_file(self, name: str, **headers: str) -> None:
        body = self.hub.files[name]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        fault = None
        if self.command == "GET":
            self.hub.ranges.append(start)
            self.hub.fetched.append(name)
            fault = self.hub.faults.pop(0) if self.hub.faults else None
        if wanted and start >= len(body):
            return self.reply(416, b"", **{"Content-Range": f"bytes */{len(body)}"})
        if fault in (OTHER, POINTER):
            return self.reply(200, bytes(len(body)) if fault == OTHER else pointer(body), **headers)
        if fault in (BUSY, LIMITED):
            return self.fail_passing(fault)
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        sent = (len(body) - start) // 2 if fault in (CUT, RESET, SLOW) else None
        self.reply(206 if wanted else 200, body[start:], sent=sent, **headers)
        if fault == SLOW:
            time.sleep(60)
        if fault == RESET:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def fail_passing(self, fault: str) -> None:
        limit = {"RateLimit": '"api";r=0;t=0', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
        self.reply(int(fault), b'{"error": "busy", "Code": 500, "Message": "busy"}', **(limit if fault == LIMITED else {}))

    def reply(self, status: int, body: bytes = b"", sent: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:sent])
            self.wfile.flush()
        self.close_connection = True

    def log_message(self, *words: object) -> None:
        pass


class ModelScope(Answers):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        name = query.get("FilePath", [""])[0]
        known = self.hub.files and query.get("Revision", ["master"])[0] == "master"
        if self.hub.refused:
            self.reply(self.hub.refused, b'{"Code": %d, "Message": "refused"}' % self.hub.refused)
        elif url.path.endswith(("/repo/files", "/repo/tree")) and known:
            listed = [
                {"Name": n, "Path": n, "Type": "blob", "Size": len(b), "Sha256": hashlib.sha256(b).hexdigest(), "Revision": "1"}
                for n, b in self.hub.files.items()
            ]
            self.reply(200, json.dumps({"Code": 200, "Success": True, "Data": {"Files": listed}}).encode())
        elif url.path.endswith("/repo") and name in self.hub.files and known:
            self.send_file(name)
        else:
            self.reply(404, b'{"Code": 404, "Message": "not found"}')


class HuggingFace(Answers):
    """Files of up to 100 bytes are in git, behind a redirection; larger ones in LFS, on another host with a signed address."""

    def do_GET(self) -> None:
        url = urlsplit(self.path.replace(BELOW, "", 1))  # asked as a proxy, it gets whole addresses
        self.hub.asked.append(self.path)
        if token := self.headers.get("Authorization"):
            self.hub.told.append(f"{self.headers['Host'].split(':')[0]} {token}")
        if found := re.fullmatch(r"/cdn/(.+)", url.path):
            return self.send_file(unquote(found[1]))
        if self.hub.page:
            return self.reply(200, b"<html>Log in to go on</html>", **{"Content-Type": "text/html"})
        if self.hub.refused:
            return self.refuse(self.hub.refused, None, "refused")
        if found := re.fullmatch(r"/api/(?:models|datasets)/[^/]+/[^/]+(?:/(revision|tree)/([^/]+)(?:/(.+))?)?", url.path):
            recursive = "recursive=true" in url.query.lower()
            return self.api(found[1], unquote(found[2] or "main"), unquote(found[3] or ""), recursive)
        if found := re.fullmatch(r"(?:/datasets)?/[^/]+/[^/]+/resolve/([^/]+)/(.+)", url.path):
            return self.resolve(unquote(found[1]), unquote(found[2]), cached=False)
        if found := re.fullmatch(r"/api/resolve-cache/models/someone/one/([^/]+)/(.+)", url.path):
            return self.resolve(unquote(found[1]), unquote(found[2]), cached=True)
        self.refuse(404, None, "no such page")

    def api(self, what: str | None, revision: str, folder: str, recursive: bool) -> None:
        if self.hub.api_faults and (fault := self.hub.api_faults.pop(0)):
            return self.fail_passing(fault)
        if not self.hub.files:  # without a token the real one does not say whether a repository is there
            return self.refuse(404 if self.headers.get("Authorization") else 401, "RepoNotFound", "Repository not found")
        if revision not in ("main", "v1", self.hub.commit):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if what != "tree":
            return self.reply(200, json.dumps({"id": "someone/one", "sha": self.hub.commit, "siblings": []}).encode())
        entries = [entry(name, body, self.hub.xet) for name, body in self.hub.files.items()]
        folders = {name.rpartition("/")[0] for name in self.hub.files} - {""}
        if folder and folder not in folders:
            return self.refuse(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": name} for name in folders]
        shown = [e for e in entries if recursive or str(e["path"]).rpartition("/")[0] == folder]
        self.reply(200, json.dumps(shown).encode())

    def resolve(self, revision: str, name: str, cached: bool) -> None:
        known = {} if self.hub.bare else {"X-Repo-Commit": self.hub.commit}
        known |= {"X-Xet-Hash": "0" * 64, "X-Xet-Refresh-Route": "http://xet.invalid/token"} if self.hub.xet else {}
        if revision not in ("main", "v1", self.hub.commit):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if self.hub.moved and self.headers["Host"] != "huggingface.co":
            return self.reply(302, b"", Location=f"http://huggingface.co{urlsplit(self.path).path}")
        asker = self.headers.get("Authorization")
        if self.hub.gated and asker != f"Bearer {TOKEN}":
            return self.refuse(403 if asker else 401, "GatedRepo", "Access to this model is restricted")
        if name not in self.hub.files:
            return self.refuse(404, "EntryNotFound", "Entry not found", **known)
        body = self.hub.files[name]
        if not in_lfs(body):
            etag = {"ETag": f'"{blob_id(body)}"'}
            if cached:
                return self.send_file(name, **known, **etag)
            place = f"/api/resolve-cache/models/someone/one/{self.hub.commit}/{name}"
            return self.reply(307, b"", Location=BELOW + place if self.path.startswith(BELOW) else place, **known)
        size, etag = {"X-Linked-Size": str(len(body))}, {"X-Linked-ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
        address = f"http://localhost:{self.server.server_port}/cdn/{name}?X-Amz-Signature={SIGNATURE}"
        self.reply(302, b"", Location=address, **known, **size, **etag)

    def refuse(self, status: int, code: str | None, message: str, **headers: str) -> None:
        headers |= {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.reply(status, json.dumps({"error": message}).encode(), **headers)


def in_lfs(body: bytes) -> bool:
    return len(body) > 100


def blob_id(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def pointer(body: bytes) -> bytes:
    sha256 = hashlib.sha256(body).hexdigest().encode()
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (sha256, len(body))


def entry(name: str, body: bytes, xet: bool) -> dict:
    """Return what a tree of Hugging Face lists of a file."""
    listed = {"type": "file", "path": name, "size": len(body), "oid": blob_id(pointer(body) if in_lfs(body) else body)}
    lfs = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": len(pointer(body))}
    return listed | ({"lfs": lfs} | ({"xetHash": "0" * 64} if xet else {}) if in_lfs(body) else {})


@contextmanager
def serving(handler: type[Answers], hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def modelscope(files: dict[str, bytes], faults: list[str] | None = None, **knobs: object):
    """Return a context that yields a ModelScope which answers on loopback."""
    return serving(ModelScope, Hub(files, list(faults or []), **knobs))


def huggingface(files: dict[str, bytes], faults: list[str] | None = None, **knobs: object):
    """Return a context that yields a Hugging Face which answers on loopback."""
    return serving(HuggingFace, Hub(files, list(faults or []), **knobs))
