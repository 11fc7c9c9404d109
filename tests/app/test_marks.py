"""The marks of generated content: what people see, and what stands in an exported file."""

import json

from ruamel.yaml import YAML

from app import marks

NAMES = ["Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID", "ReservedCode2"]


def test_the_visible_mark_names_artificial_intelligence_and_generation():
    assert "人工智能" in marks.EXPLICIT and "生成" in marks.EXPLICIT


def test_the_mark_in_a_file_has_the_seven_elements_of_the_standard_as_strings():
    mark = marks.implicit("001191110000000000000X00001", "0f" * 16)["AIGC"]
    assert list(mark) == NAMES and all(isinstance(value, str) for value in mark.values())
    assert (mark["Label"], mark["ContentProducer"], mark["ProduceID"]) == ("1", "001191110000000000000X00001", "0f" * 16)
    assert json.loads(json.dumps(marks.implicit("a", "b") | {"conversations": []}))["AIGC"]["ProduceID"] == "b"


def test_the_head_of_a_markdown_file_is_yaml_with_the_same_mark():
    for provider in ("市第一医院", 'a "b": \\c #d', ""):
        head = marks.front_matter(provider, "17")
        assert head.startswith("---\nAIGC:\n") and head.endswith("\n---\n\n")
        assert YAML(typ="safe").load(head.split("---\n")[1]) == marks.implicit(provider, "17")
