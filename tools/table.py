"""Print metrics.json as a table of base against tuned.

Usage: python -m tools.table metrics.json
"""

import sys
from pathlib import Path

from stages.common import read_json
from stages.metrics import show

if __name__ == "__main__":
    print(show(read_json(Path(sys.argv[1]))))
