"""API keys: make one, list them, stop one. A key is shown once; the database keeps a hash.

Usage: python -m app.keys add NAME [DAYS] | list | revoke ID        (make key NAME=… makes one)
"""

import os
import secrets
import sys
from datetime import UTC, datetime

from app.access import digest
from app.settings import Params
from app.store import Missing, Store
from xinglin.cli import CommandError, run_command


def add(store: Store, name: str, days: int | None = None) -> str:
    """Return a new key, `xl-ID-SECRET`."""
    secret = secrets.token_urlsafe(32)
    return f"xl-{store.add_key(name, digest(secret), days)}-{secret}"


def day(milliseconds: int | None) -> str:
    return "-" if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d")


def main() -> None:
    store = Store(os.environ.get("XINGLIN_DATABASE", Params.read().app.database))
    match sys.argv[1:]:
        case ["add", name] if name:
            print(add(store, name))
        case ["add", name, days] if name and days.isdigit() and int(days) > 0:
            print(add(store, name, int(days)))
        case ["list"]:
            for key in store.all_keys():
                print(f"{key.id}  {key.name:20}  expires {day(key.expires_at)}  revoked {day(key.revoked_at)}")
        case ["revoke", identity]:
            try:
                store.revoke(identity)
            except Missing:
                raise CommandError(f"{identity}: no such key")
        case words:
            raise CommandError(f"{' '.join(words) or 'nothing'}: expected add NAME [DAYS], list, or revoke ID", 2)


if __name__ == "__main__":
    run_command(main)
