"""Say what emergencies a conversation shows.

Usage: python -m app.red_flags 右边胳膊突然抬不起来          (a message a word: kinds, why, and what is told)
       python -m app.red_flags --lines < conversations.tsv  (a conversation a line, its messages apart by a tab: level, kind)
"""

import argparse
import sys

from app.red_flags import THRESHOLD, check, find, notice
from xinglin.cli import CommandError, run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("messages", nargs="*")
    parser.add_argument("--lines", action="store_true", help="read conversations from standard input")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="between 0 and 1")
    args = parser.parse_args()
    if not 0 < args.threshold <= 1:
        raise CommandError(f"--threshold: {args.threshold}: must be above 0, and 1 at the most")
    check()
    if args.lines:
        for line in sys.stdin.buffer:
            said = line.decode("utf-8-sig", "replace").rstrip("\r\n").split("\t")
            found = find([message for message in said if message.strip()], args.threshold)
            print(f"{found[0].level}\t{found[0].id}" if found else "none\t-", flush=True)
        return
    found = find(args.messages, args.threshold)
    for flag in found:
        print(f"{flag.level}\t{flag.id}\t{flag.why}")
    print(notice(found) or "-")


if __name__ == "__main__":
    run_command(main)
