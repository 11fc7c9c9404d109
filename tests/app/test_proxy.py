"""Behind nginx as docs/deploy/nginx.conf sets it up: TLS, streams that come as they are made, and a key that is asked for."""

import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import httpx
import psutil
import pytest

from app.keys import add
from app.store import Store
from tests.application import application, model_server
from tests.conftest import ROOT
from xinglin.serving.server import free_port


def certificate(folder: Path) -> Path:
    """Make a certificate for loopback as fullchain.pem, its key beside it."""
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=xinglin"]
    paths = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem"]
    subprocess.run(["openssl", "req", *kind, *paths], check=True, capture_output=True)
    return folder / "fullchain.pem"


@pytest.fixture
def proxied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The application's URL behind nginx, its folder, and its own URL."""
    if not shutil.which("openssl") or not Path("/usr/sbin/nginx").exists():
        pytest.skip("nginx or openssl is not installed (tests/install.sh installs them as root where apt is)")
    port, plain = free_port(), free_port()
    with model_server(tmp_path, free_port(), pace=20) as model, application(tmp_path, model) as url:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate(tmp_path)))
        server = (ROOT / "docs" / "deploy" / "nginx.conf").read_text(encoding="utf-8")
        server = server.replace("listen 443", f"listen 127.0.0.1:{port}").replace("listen 80", f"listen 127.0.0.1:{plain}")
        server = server.replace("https://xinglin.example", f"https://127.0.0.1:{port}")
        server = server.replace("127.0.0.1:8080", url.removeprefix("http://")).replace("/etc/ssl/xinglin", str(tmp_path))
        server = server.replace("/var/log/nginx", str(tmp_path))
        temporary = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = (
            f"pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log; daemon off; events {{}} http "
            f"{{ access_log off; {temporary}\n{server} }}"
        )
        (tmp_path / "nginx.conf").write_text(config, encoding="utf-8")
        nginx = subprocess.Popen(["/usr/sbin/nginx", "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")])
        try:
            for _ in range(100):
                try:
                    httpx.get(f"http://127.0.0.1:{plain}/healthz", follow_redirects=True)
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield f"https://127.0.0.1:{port}", tmp_path, url
        finally:
            nginx.terminate()
            nginx.wait(10)


def test_behind_nginx_a_stream_comes_as_it_is_made_and_only_with_a_key(proxied):
    front, folder, url = proxied
    body = {"model": "xinglin", "messages": [{"role": "user", "content": "咳嗽怎么办"}], "stream": True}
    assert httpx.post(f"{front}/v1/chat/completions", json=body).status_code == 401
    assert httpx.get(f"{front}/api/session").status_code == 401 and httpx.get(f"{front}/").is_success
    assert httpx.get(f"{front}/metrics").status_code == 403 and httpx.get(f"{url}/metrics").status_code == 200
    store = Store(f"sqlite:///{folder}/conversations.db")
    headers = {"Authorization": f"Bearer {add(store, 'nginx')}"}
    store.close()
    times = []
    with httpx.stream("POST", f"{front}/v1/chat/completions", json=body, headers=headers) as reply:
        assert reply.status_code == 200 and reply.headers["x-request-id"]
        times = [time.monotonic() for line in reply.iter_lines() if line.startswith("data: {")]
    assert len(times) > 10 and times[-1] - times[0] > 0.3  # not in one piece at the end
    large = httpx.post(f"{front}/v1/chat/completions", content=b" " * 2_000_000, headers=headers)
    assert large.status_code == 413


def test_nginx_speaks_http_2_and_hands_on_that_people_came_by_https(proxied):
    front, folder, _ = proxied
    context = ssl.create_default_context(cafile=folder / "fullchain.pem")
    context.set_alpn_protocols(["h2", "http/1.1"])
    port = int(front.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port)) as bare,
        context.wrap_socket(bare, server_hostname="127.0.0.1") as secured,
    ):
        assert secured.selected_alpn_protocol() == "h2"
    reply = httpx.get(f"{front}/healthz")
    assert reply.json() == {"status": "ok"} and "max-age" in reply.headers["strict-transport-security"]
    assert reply.headers["server"] == "nginx"
    store = Store(f"sqlite:///{folder}/conversations.db")
    entered = httpx.post(f"{front}/api/session", json={"key": add(store, "nginx")})
    store.close()
    assert "secure" in entered.headers["set-cookie"].lower()


def test_the_pages_events_come_through_nginx_as_the_answer_is_made(proxied):
    front, folder, _ = proxied
    store = Store(f"sqlite:///{folder}/conversations.db")
    key = add(store, "nginx")
    store.close()
    with httpx.Client(base_url=front) as client:
        assert client.post("/api/session", json={"key": key}).status_code == 204
        asked = client.post("/api/questions", json={"conversation": None, "parent": None, "text": "咳嗽怎么办"}).json()
        with client.stream("GET", f"/api/answers/{asked['answers'][0]['id']}/events") as reply:
            lines = [(time.monotonic(), line) for line in reply.iter_lines() if line.startswith("event: ")]
    assert lines[-1][1] == "event: end" and len(lines) > 5 and lines[-1][0] - lines[0][0] > 0.3


def test_a_search_while_the_application_is_down_is_in_no_log_of_the_proxy(proxied):
    front, folder, url = proxied
    port = int(url.rsplit(":", 1)[1])
    for process in psutil.Process().children(recursive=True):
        if any(c.laddr.port == port and c.status == "LISTEN" for c in process.net_connections()):
            process.kill()
            process.wait()
    assert httpx.get(f"{front}/api/conversations", params={"search": "PATIENT"}).status_code == 502
    assert "PATIENT" not in (folder / "error.log").read_text(encoding="utf-8")
