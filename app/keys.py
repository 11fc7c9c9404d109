"""Keys, and the persons that they let in: make one, list them, stop one. A key is shown once; the database keeps a hash.

Usage: python -m app.keys add NAME [DAYS] [--admin | --person PERSON] | list | revoke ID      (make key NAME=… makes one)

A key without --person is a new person's; with it, one more for somebody who has one.
"""

import argparse
import os
import secrets
from datetime import UTC, datetime

from app.access import digest
from app.settings import Params
from app.store import Missing, Store
from xinglin.cli import CommandError, run_command


def add(store: Store, name: str, days: int | None = None, person: str | None = None, admin: bool = False) -> str:
    """Return a new key, `xl-ID-SECRET`."""
    secret = secrets.token_urlsafe(32)
    return f"xl-{store.add_key(name, digest(secret), days, person, admin)}-{secret}"


def day(milliseconds: int | None) -> str:
    return "-" if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d")


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of days")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = parser.add_subparsers(dest="word", required=True)
    adding = words.add_parser("add")
    adding.add_argument("name")
    adding.add_argument("days", type=positive, nargs="?")
    adding.add_argument("--admin", action="store_true", help="the new person is an administrator")
    adding.add_argument("--person", help="whose key it is: an id that `list` shows")
    words.add_parser("list")
    words.add_parser("revoke").add_argument("id")
    args = parser.parse_args()
    store = Store(os.environ.get("XINGLIN_DATABASE", Params.read().app.database))
    try:
        run(store, args)
    except Missing as error:
        raise CommandError(f"{error}: no such {'person' if args.word == 'add' else 'key'}")


def run(store: Store, args: argparse.Namespace) -> None:
    if args.word == "add":
        if not args.name:
            raise CommandError("NAME is empty: whose key is it?", 2)
        print(add(store, args.name, args.days, args.person, args.admin))
    elif args.word == "revoke":
        store.revoke(args.id)
    else:
        for key in store.all_keys():
            who = f"{key.person}  {key.person_name:20}{'  admin' if key.admin else ''}"
            ends = f"expires {day(key.expires_at)}  revoked {day(key.revoked_at)}  used {day(key.used_at)}"
            print(f"{key.id}  {key.name:20}  {ends}  person {who}")


if __name__ == "__main__":
    run_command(main)
