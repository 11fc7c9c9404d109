"""Serve the merged model and put the application in front of it: one command to a page in the browser; Ctrl+C ends both.

Usage: make up
"""

import signal
import subprocess
import sys
import time

from tools.all_params import read_params
from xinglin.cli import run_command


def main() -> None:
    params = read_params()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that both are ended
    parts = {
        name: subprocess.Popen([sys.executable, "-m", module])
        for name, module in (("model", "tools.serve"), ("app", "app.main"))
    }
    try:
        print(f"up: open http://{params.app.host}:{params.app.port}/ ; the page says when the model is loaded", flush=True)
        while not (ended := [name for name, process in parts.items() if process.poll() is not None]):
            time.sleep(0.3)
        print(f"up: {ended[0]} ended with status {parts[ended[0]].returncode}, the reason stands above", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(0)
    finally:
        for process in parts.values():
            process.terminate()
        for process in parts.values():
            process.wait()


if __name__ == "__main__":
    run_command(main)
