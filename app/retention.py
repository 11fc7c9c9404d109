"""Delete conversations by age now, also where the application holds back because the clock may be wrong.

Usage: python -m app.retention [--yes]        (without --yes: say what would go)
"""

import os
import sys

from app.settings import Params
from app.store import Store
from xinglin.cli import CommandError, run_command


def main() -> None:
    settings = Params.read().app
    store = Store(os.environ.get("XINGLIN_DATABASE", settings.database))
    match sys.argv[1:]:
        case []:
            doomed, total = store.aged(settings.retention_days)
            print(f"retention: {doomed} of {total} conversations are older than {settings.retention_days} days")
        case ["--yes"]:
            print(f"retention: {store.expire(settings.retention_days, sure=True)} conversations deleted")
        case words:
            raise CommandError(f"{' '.join(words)}: expected --yes or nothing", 2)


if __name__ == "__main__":
    run_command(main)
