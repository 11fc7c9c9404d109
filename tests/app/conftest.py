"""What the application's tests share: a PostgreSQL server."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xinglin.serving.server import free_port


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of our own, from Debian's packages, on a free port of loopback."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL is not installed (tests/install.sh installs it as root where apt is)")
    programs, port = found[-1], free_port()
    as_whom = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="xinglin-", dir="/tmp") as folder:  # pytest's own folders are closed to other users
        if as_whom:
            shutil.chown(folder, "postgres")
        data = f"{folder}/data"
        subprocess.run([*as_whom, programs / "initdb", "-D", data, "-A", "trust", "-U", "xinglin", "-E", "UTF8"], check=True)
        options = ["-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        server = subprocess.Popen(
            [*as_whom, programs / "postgres", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            for _ in range(100):
                if (
                    subprocess.run(
                        [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], capture_output=True
                    ).returncode
                    == 0
                ):
                    break
                time.sleep(0.1)
            yield f"postgresql+psycopg://xinglin@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
