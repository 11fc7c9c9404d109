"""Which stages of the workspace are not of one run: what tools show or serve is not to be put together from several."""

import json
import subprocess
import sys

DVC = f"{sys.prefix}/bin/dvc"


def stale_stages(*stages: str) -> list[str]:
    """Return those of `stages`, all of the pipeline by default, whose outputs DVC knows to be of other inputs than those here."""
    done = subprocess.run([DVC, "status", "--json", *(stages or ["dvc.yaml"])], capture_output=True, text=True)
    if done.returncode:
        return []  # no DVC repository: an export of the sources, say
    return [name for name, changes in json.loads(done.stdout or "{}").items() if changes]
