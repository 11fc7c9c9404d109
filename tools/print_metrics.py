"""Print metrics.json as a table of base against tuned.

Usage: python -m tools.print_metrics metrics.json
"""

import sys
from pathlib import Path

from stages.metrics import show
from xinglin.files import read_json

if __name__ == "__main__":
    print(show(read_json(Path(sys.argv[1]))))
