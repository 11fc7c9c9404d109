"""A loopback server that speaks the part of ModelScope's protocol that a download uses, and its faults."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

CUT, BUSY, OTHER = "cut in the middle", "500", "other bytes"


class Hub:
    """A hub whose every repository holds `files`; each request of a file's bytes meets the next of `faults`, if any is left."""

    def __init__(self, files: dict[str, bytes], faults: list[str]) -> None:
        self.files, self.faults, self.ranges, self.endpoint = files, list(faults), [], ""

    def listing(self) -> list[dict]:
        return [
            {"Name": n, "Path": n, "Type": "blob", "Size": len(b), "Sha256": hashlib.sha256(b).hexdigest(), "Revision": "1"}
            for n, b in self.files.items()
        ]


@contextmanager
def hub(files: dict[str, bytes], faults: list[str] | None = None) -> Iterator[Hub]:
    """Yield a hub that answers on loopback."""
    state = Hub(files, faults or [])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            name = parse_qs(url.query).get("FilePath", [""])[0]
            if url.path.endswith(("/repo/files", "/repo/tree")) and files:
                self.reply(200, json.dumps({"Code": 200, "Success": True, "Data": {"Files": state.listing()}}).encode())
            elif url.path.endswith("/repo") and name in files:
                self.send_file(files[name])
            else:
                self.reply(404, b'{"Code": 404, "Message": "not found"}')

        do_HEAD = do_GET

        def send_file(self, body: bytes) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start = int(wanted[1]) if wanted else 0
            state.ranges.append(start)
            fault = state.faults.pop(0) if state.faults and self.command == "GET" else None
            if fault == BUSY:
                self.reply(500, b'{"Code": 500, "Message": "busy"}')
            elif fault == CUT:
                self.reply(206 if wanted else 200, body[start:], start, len(body), sent=(len(body) - start) // 2)
            elif fault == OTHER:
                self.reply(200, bytes(len(body)))
            else:
                self.reply(206 if wanted else 200, body[start:], start, len(body))

        def reply(self, status: int, body: bytes, start: int = 0, total: int = 0, sent: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:sent])
            self.close_connection = sent is not None

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
