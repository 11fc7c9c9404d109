"""Ports of loopback for tests in which nobody may listen for a while."""

import os
import random
import socket

RANGE = range(20_000, 32_768)  # below what Linux deals out to those that ask for any port (ip_local_port_range)


def quiet_port() -> int:
    """Return a port that nobody listens on, and that no other process of the tests is given meanwhile."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    while True:
        port = random.choice(RANGE[worker % 8 :: 8])
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
