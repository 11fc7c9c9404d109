"""What training and predictions took, in seconds and rates: kept in logs/, where neither git nor DVC compares it.

A timing belongs to one output. Where DVC has brought back another one from its cache, there is none.
"""

import json
from pathlib import Path
from typing import Any

from xinglin.files import file_sha256, write_json

LOGS = Path("logs")


def write_timing(stage: str, made: Path, **took: Any) -> None:
    """Note what it took to make the file `made`."""
    write_json(LOGS / f"{stage}.json", {"of": file_sha256(made), **took})


def read_timing(stage: str, made: Path) -> dict[str, Any]:
    """Return what it took to make `made` as it is now, nothing if it was not made here."""
    file = LOGS / f"{stage}.json"
    if not (file.is_file() and made.is_file()):
        return {}
    took: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return took if took.pop("of") == file_sha256(made) else {}
