"""base: where the base model's files are, with their checksums, and its tokenizer and chat template, proven; the weights stay there.

Usage: stages/run base --tiny models/tiny --out models/base.json --tokenizer models/tokenizer --check models/base_check.json

A base that cannot be trained, merged or served ends here, before a step is trained, with a line for each thing that is wrong.
"""



from xinglin.bases.proof import summary
from xinglin.bases.record import prove_base
from xinglin.cli import arguments
from xinglin.files import whole, write_json
from xinglin.params import read_params


def main() -> None:
    paths = arguments(__doc__, "tiny", "out", "tokenizer", "check")
    with whole(paths.tokenizer) as tokenizer:
        found, seen = prove_base(read_params(), paths.tiny, tokenizer)
    write_json(paths.check, seen)
    write_json(paths.out, found)
    print(f"base: {found['path']}, {sum(f['bytes'] for f in found['files'].values()) / 1e6:.1f} MB in {len(found['files'])} files")
    print(f"base: {summary(seen)} -> {paths.tokenizer}")


if __name__ == "__main__":
    main()
