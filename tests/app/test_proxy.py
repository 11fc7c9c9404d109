"""Behind nginx as docs/nginx.conf sets it up: streams come as they are made, and a key is asked for."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from app.keys import add
from app.store import Store
from tests.application import application, model_server
from tests.conftest import ROOT
from xinglin.serving.server import free_port


@pytest.fixture
def proxied(tmp_path: Path):
    """The application's URL behind nginx, its folder, and its own URL."""
    if not shutil.which("nginx") and not Path("/usr/sbin/nginx").exists():
        pytest.skip("nginx is not installed (tests/install.sh installs it as root where apt is)")
    port = free_port()
    with model_server(tmp_path, free_port(), pace=20) as model, application(tmp_path, model) as url:
        server = (ROOT / "docs" / "nginx.conf").read_text(encoding="utf-8")
        server = re.sub(r"listen 443 ssl;|ssl_certificate.*;", "", server).replace(
            "server_name xinglin", f"listen 127.0.0.1:{port};\n    server_name xinglin"
        )
        server = server.replace("http://127.0.0.1:8080", url)
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
                    httpx.get(f"http://127.0.0.1:{port}/healthz")
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", tmp_path, url
        finally:
            nginx.terminate()
            nginx.wait(10)


def test_behind_nginx_a_stream_comes_as_it_is_made_and_only_with_a_key(proxied):
    front, folder, url = proxied
    body = {"model": "xinglin", "messages": [{"role": "user", "content": "咳嗽怎么办"}], "stream": True}
    assert httpx.post(f"{front}/v1/chat/completions", json=body).status_code == 401
    assert "访问密钥" in httpx.get(f"{front}/", follow_redirects=True).text
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
