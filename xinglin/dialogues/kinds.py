"""Which kind of data file a name tells, and how it is packed."""

from pathlib import Path

from xinglin.cli import CommandError

PACKED = (".gz", ".xz", ".zst")
WHOLE = (".parquet", ".xlsx")  # that are packed already
KINDS = (".jsonl", ".json", ".csv", ".tsv", *WHOLE)


def suffixes(file: Path) -> tuple[str, str]:
    """Return which of KINDS a file is and how it is packed ("" for plain), by its name; stop if it is none of them."""
    kind, packed = kind_of(file)
    if kind is None:
        raise CommandError(
            f"{file}: expected a name that ends in {', '.join(KINDS)}, alone or, but for {' and '.join(WHOLE)}, "
            f"with {', '.join(PACKED)} after it"
        )
    return kind, packed


def kind_of(file: Path) -> tuple[str | None, str]:
    """Return the same, None for a file that cannot be read."""
    name = file.name.lower()
    packed = next((suffix for suffix in PACKED if name.endswith(suffix)), "")
    kind = next((suffix for suffix in KINDS if name.removesuffix(packed).endswith(suffix)), None)
    return (None if packed and kind in WHOLE else kind), packed
