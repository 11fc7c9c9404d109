"""base: where the base model's files are, with checksums, and its tokenizer and chat template, proven; the weights stay there.

Usage: stages/run base --tiny models/tiny --out models/base.json --files models/base_files.json \
           --tokenizer models/tokenizer --check models/base_check.json

Other stages depend on the checksums in base_files.json, so that a base that moved is still the same

A base that cannot be trained, merged or served ends here, before a step is trained, with a line for each thing that is wrong.
"""

from xinglin.bases.check import Asked
from xinglin.bases.proof import summary
from xinglin.bases.record import prove_base
from xinglin.cli import run_command, start
from xinglin.files import atomic_path, write_json
from xinglin.hubs.settings import Base


class Params(Asked):
    base: Base


def main() -> None:
    paths = start(__doc__, "tiny", "out", "files", "tokenizer", "check")
    params = Params.read()
    with atomic_path(paths.tokenizer) as tokenizer:
        found, seen = prove_base(params.base, params, paths.tiny, tokenizer)
        params.ensure_unchanged()
    write_json(paths.check, seen)
    write_json(paths.files, found["files"])
    write_json(paths.out, found)
    print(
        f"base: {found['path']}, {sum(f['bytes'] for f in found['files'].values()) / 1e6:.1f} MB in {len(found['files'])} files"
    )
    print(f"base: {summary(seen)} -> {paths.tokenizer}")


if __name__ == "__main__":
    run_command(main)
