"""The marks of generated content that China's labelling measures and GB 45438-2025 ask for.

Usage: json.dumps(marks.implicit(provider, number) | {"conversations": …}), or marks.front_matter(…) before Markdown
"""

import json

EXPLICIT = "内容由人工智能生成，仅供参考"  # GB 45438-2025, 5.1: it names artificial intelligence and generation


def implicit(provider: str, number: str) -> dict[str, dict[str, str]]:
    """Return the mark in a file's metadata (GB 45438-2025, annex E): all seven elements, all strings.

    `provider`: name or code of who offers the service; `number`: what identifies this file among theirs.
    """
    return {
        "AIGC": {
            "Label": "1",  # 1: generated, 2: perhaps, 3: suspected
            "ContentProducer": provider,
            "ProduceID": number,
            "ReservedCode1": "",  # the provider's own protection of the mark, if any
            "ContentPropagator": "",  # these three are the platform's that spreads the file
            "PropagateID": "",
            "ReservedCode2": "",
        }
    }


def front_matter(provider: str, number: str) -> str:
    """Return the implicit mark as the head of a Markdown file, where TC260-PG-20258A puts it: YAML."""
    lines = [f"  {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in implicit(provider, number)["AIGC"].items()]
    return "\n".join(["---", "AIGC:", *lines, "---", "", ""])
