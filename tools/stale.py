"""The stages whose outputs do not fit what is in the workspace, as DVC knows: what is shown or served must be of one run."""

import json
import subprocess
import sys

DVC = f"{sys.prefix}/bin/dvc"


def stale_stages(*stages: str) -> list[str]:
    """Return those of `stages`, by default of all, whose outputs DVC knows to be of other inputs than those here."""
    done = subprocess.run([DVC, "status", "--json", *(stages or ["dvc.yaml"])], capture_output=True, text=True)
    if done.returncode:
        return []  # no DVC repository: an export of the sources, say
    return [name for name, changes in json.loads(done.stdout or "{}").items() if differs(changes)]


def differs(changes: list) -> bool:
    """Say whether something differs from the lock; what is merely not here, such as an input not pulled, does not."""
    return any(isinstance(change, str) or "modified" in json.dumps(change) for change in changes)
