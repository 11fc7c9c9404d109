"""A loopback server that speaks the part of ModelScope's protocol that a download uses."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[str]:
    """Yield the endpoint of a hub whose every repository holds `files`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            name = parse_qs(url.query).get("FilePath", [""])[0]
            if url.path.endswith("/repo/files") and files:
                listed = [
                    {"Name": n, "Path": n, "Type": "blob", "Size": len(b), "Sha256": hashlib.sha256(b).hexdigest(), "Revision": "1"}
                    for n, b in files.items()
                ]
                self.reply(200, json.dumps({"Code": 200, "Success": True, "Data": {"Files": listed}}).encode())
            elif url.path.endswith("/repo") and name in files:
                self.reply(200, files[name])
            else:
                self.reply(404, b'{"Code": 404, "Message": "not found"}')

        do_HEAD = do_GET

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
