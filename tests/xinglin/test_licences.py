import pytest

from xinglin.dialogues.licences import terms, warning

KINDS = {
    "permissive": [
        "MIT",
        "mit license",
        "The MIT License",
        "Apache-2.0",
        "apache 2.0",
        "Apache License, Version 2.0",
        "CC0-1.0",
        "cc0",
        "CC-BY-4.0",
        "CC BY 4.0",
        "CC-BY-SA-4.0",
        "cc-by-sa-3.0",
        "BSD-3-Clause",
        "ODC-BY",
        "公有领域",
        "own",
        "自有数据",
    ],
    "non-commercial": [
        "CC-BY-NC-4.0",
        "cc by nc sa 4.0",
        "CC-BY-NC-ND-4.0",
        "academic use only",
        "for research only",
        "Research use only",
        "non-commercial",
        "noncommercial research license",
        "仅限学术研究",
        "仅供科研使用",
        "非商业用途",
        "禁止商用",
        "不得用于商业目的",
        "PolyForm Noncommercial 1.0.0",
    ],
    "none stated": [None, "", "  ", "none", "无", "未注明"],
    "unknown": ["openrail", "other", "unknown", "CC-BY-ND-4.0", "llama3", "see README", "GPL-3.0"],
}


@pytest.mark.parametrize(("licence", "kind"), [(licence, kind) for kind, some in KINDS.items() for licence in some])
def test_a_licence_is_known_by_its_name_and_by_common_words(licence, kind):
    assert terms(licence) == kind
    assert (warning(licence) is None) == (kind == "permissive")
