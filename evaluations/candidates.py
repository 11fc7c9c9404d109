"""candidates: the bases side by side before any training: quality against size and speed.

Usage: stages/run evaluations.candidates --folder evaluations/candidates --out plots/candidates.csv
"""

from xinglin.cli import CommandError, run_command, start
from xinglin.files import read_json, write_csv
from xinglin.params import ParamsFile
from xinglin.scoring.scores import NAMES

COLUMNS = ("parameters", *NAMES, "repetitive", "samples_per_second", "tokens_per_second")


class Params(ParamsFile):
    candidates: list[str]


def show(found: dict[str, dict]) -> str:
    """Return a table for the terminal, the best by ROUGE-L first."""
    lines = [
        f"{'':20}{'parameters':>12}"
        + "".join(f"{name:>9}" for name in NAMES)
        + f"{'95 % of rouge-l':>18}{'repeat %':>10}{'answers/s':>11}"
    ]
    for name, one in sorted(found.items(), key=lambda item: -item[1]["rouge-l"]):
        span = f"[{one['intervals']['rouge-l']['low']:.2f}, {one['intervals']['rouge-l']['high']:.2f}]"
        scores = "".join(f"{one[metric]:9.2f}" for metric in NAMES)
        lines.append(
            f"{name:20}{one['parameters'] / 1e6:10.1f} "
            f"M{scores}{span:>18}{one['repetitive']:10.1f}{one['samples_per_second']:11.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    paths = start(__doc__, "folder", "out")
    params = Params.read()
    found = {name: read_json(paths.folder / f"{name}.json") for name in params.candidates}
    if len({one["samples"] for one in found.values()}) > 1:
        raise CommandError("candidates: the profiles differ in predictions.max_samples, so their scores are of other dialogues")
    params.ensure_unchanged()
    write_csv(paths.out, ["name", *COLUMNS], ([name, *(one[column] for column in COLUMNS)] for name, one in found.items()))
    print(show(found))


if __name__ == "__main__":
    run_command(main)
