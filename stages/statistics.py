"""statistics: what the dialogues are like: turns, lengths in characters and in the base's tokens, what is cut, words, topics.

Usage: stages/run statistics --split data/split --tokenizer models/tokenizer --check models/base_check.json --out plots/data
"""

import json
import logging
import random
from collections import Counter

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from xinglin.cli import CommandError, run_command, start
from xinglin.dialogues.rows import messages, texts_of
from xinglin.files import atomic_path, read_json, read_jsonl, write_json
from xinglin.params import ParamsFile, Part

PARTS = ("train", "val", "test")
SAMPLED = 20_000  # dialogues at the most whose tokens and words are counted
CUTOFFS = (256, 512, 768, 1024, 1536, 2048, 4096)
KEYWORDS = 3  # of a first question
SHOWN = 20  # topics
READ = 1_000  # dialogues at the most whose tokens a character are looked at
LEAST = 0.15  # of the tokens a character that Chinese has; English has a third
PERCENTILES = (5, 50, 95, 99, 100)


class Cutoff(Part):
    cutoff_len: int


class Params(ParamsFile):
    adapter: Cutoff


def sample(rows: list[dict]) -> list[dict]:
    return rows if len(rows) <= SAMPLED else random.Random(0).sample(rows, SAMPLED)


def dialogue_tokens(rows: list[dict], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the token ids that training sees of each dialogue, before anything is cut."""
    texts = [
        tokenizer.apply_chat_template([*messages(row), {"role": "assistant", "content": row["output"]}], tokenize=False)
        for row in tqdm(rows, desc="statistics", unit=" dialogues", mininterval=1, disable=None)
    ]
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def must_be_read(rows: list[dict], tokenizer: PreTrainedTokenizerBase, usual: float) -> None:
    """Stop where the median dialogue has far fewer tokens a character than `usual`, the base check's: its text was not read."""
    said = ["\n".join(texts_of(row)) for row in rows[:READ]]
    tokens = tokenizer(said, add_special_tokens=False)["input_ids"] if said else []
    rates = [len(ids) / len(text) for ids, text in zip(tokens, said, strict=True)]
    if rates and (median := float(np.median(rates))) < LEAST * usual:
        raise CommandError(
            f"statistics: the median dialogue has {median:.3f} tokens a character, this tokenizer gives Chinese {usual:.3f}: "
            "the base does not read this data: look at data/converted, or run 'make base-check'"
        )


def cutoffs(lengths: np.ndarray, present: int) -> pd.DataFrame:
    """Return for each cutoff_len which share of dialogues it cuts, which share of tokens is lost, and the tokens to train on.

    `cost` is those tokens over those of the present setting: what an epoch would take.
    """
    trained = np.minimum(lengths, present).sum()
    return pd.DataFrame(
        {
            "cutoff_len": cutoff,
            "cut": round(float((lengths > cutoff).mean()), 4),
            "lost": round(float(1 - np.minimum(lengths, cutoff).sum() / lengths.sum()), 4),
            "cost": round(float(np.minimum(lengths, cutoff).sum() / trained), 4),
        }
        for cutoff in sorted({*CUTOFFS, present})
    )


def percentiles(lengths: list[int] | np.ndarray) -> dict[str, int]:
    return {f"p{p}": int(np.percentile(lengths, p, method="higher")) for p in PERCENTILES}


def histogram(texts: dict[str, list[int]]) -> pd.DataFrame:
    """Return how many of the lengths of each kind fall into each of 30 bins, up to the 99th percentile of all."""
    top = max(30, int(np.percentile(np.concatenate(list(texts.values())), 99)))
    edges = np.linspace(0, top, 31)
    counts = {name: np.histogram(np.minimum(lengths, top), edges)[0] for name, lengths in texts.items()}
    return pd.DataFrame({"characters": edges[:-1].astype(int), **counts})


def topics(rows: list[dict]) -> pd.DataFrame:
    """Return the commonest departments or, where none is named, the commonest keywords (jieba's TF-IDF) of first questions."""
    import jieba.analyse

    named = Counter(row["department"] for row in rows if row.get("department"))
    if not named:
        for row in rows:
            named.update(jieba.analyse.extract_tags(texts_of(row)[0], topK=KEYWORDS))
    return pd.DataFrame(named.most_common(SHOWN), columns=["topic", "dialogues"])


def turns(parts: dict[str, list[dict]]) -> pd.DataFrame:
    """Return how many dialogues of each part have how many questions."""
    counted = {name: Counter(len(row["history"]) + 1 for row in rows) for name, rows in parts.items()}
    most = max(number for counts in counted.values() for number in counts)
    return pd.DataFrame({"questions": n, **{name: counts[n] for name, counts in counted.items()}} for n in range(1, most + 1))


def main() -> None:
    import jieba

    paths = start(__doc__, "split", "tokenizer", "check", "out")
    params = Params.read()
    adapter = params.adapter
    jieba.setLogLevel(logging.WARNING)
    parts = {name: read_jsonl(paths.split / f"{name}.jsonl") for name in PARTS}
    rows = sample([row for part in parts.values() for row in part])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(paths.tokenizer)
    must_be_read(rows, tokenizer, read_json(paths.check)["tokens_per_character"])
    tokens = dialogue_tokens(rows, tokenizer)
    lengths = np.array([len(ids) for ids in tokens])
    texts = [texts_of(row) for row in rows]
    words = Counter(word for said in texts for text in said for word in jieba.cut(text) if not word.isspace())
    characters = Counter(character for said in texts for text in said for character in text)
    questions, answers = ([len(text) for said in texts for text in said[part::2]] for part in (0, 1))
    cut = cutoffs(lengths, adapter.cutoff_len)
    found = {
        "dialogues": sum(map(len, parts.values())),
        "sampled": len(rows),
        "questions": len(questions),
        "characters": {"question": percentiles(questions), "answer": percentiles(answers)},
        "tokens": {"dialogue": percentiles(lengths), "per_character": round(float(lengths.sum() / characters.total()), 4)},
        "vocabulary": {
            "characters": len(characters),
            "words": len(words),
            "tokens": len({token for ids in tokens for token in ids}),
        },
        "cutoff_len": json.loads(cut.set_index("cutoff_len").to_json(orient="index")),
    }
    with atomic_path(paths.out) as folder:
        folder.mkdir(parents=True)
        write_json(folder / "stats.json", found)
        cut.to_csv(folder / "cutoff_len.csv", index=False)
        turns(parts).to_csv(folder / "turns.csv", index=False)
        topics(rows).to_csv(folder / "topics.csv", index=False)
        histogram({"questions": questions, "answers": answers}).to_csv(folder / "characters.csv", index=False)
        params.ensure_unchanged()
    present = cut.set_index("cutoff_len").loc[adapter.cutoff_len]
    print(
        f"statistics: {found['dialogues']} dialogues, median {found['tokens']['dialogue']['p50']} tokens; cutoff_len "
        f"{adapter.cutoff_len} cuts {present['cut']:.1%} of them and {present['lost']:.1%} of the tokens -> {paths.out}"
    )


if __name__ == "__main__":
    run_command(main)
