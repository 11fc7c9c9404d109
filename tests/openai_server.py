"""A stand-in for a server of OpenAI's API that answers each request as a test says."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.conftest import params_with
from xinglin.serving import answers

ASKED = [{"id": str(i), "messages": [{"role": "user", "content": f"问{i}"}], "reference": "答"} for i in range(6)]
keys: list[str | None] = []  # that came with each request to openai_server
REPLY = {
    "choices": [{"message": {"content": "多喝水"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4},
}


@contextmanager
def openai_server(answer):
    """Yield the URL of a server that answers each chat request with `answer(body)`, a status and a JSON value."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            keys.append(self.headers["Authorization"])
            status, value = answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    fake = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=fake.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{fake.server_port}"
    finally:
        fake.shutdown()
        fake.server_close()


def answer_all(url, file, changes=None):
    params = params_with(changes)
    answers.answer_all([url], "tuned", ASKED, file, params.predictions, params.decoding)
