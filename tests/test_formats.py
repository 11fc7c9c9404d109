import pytest

from stages.formats import Unusable, clean, huatuo, messages, neutralise


def read(*texts):
    return clean(huatuo({"data": list(texts)}))


def test_turns_lose_their_prefix_once_and_only_at_the_start():
    turns, mended = read("问：头痛怎么办？", "答：请问：您发热吗？答：也可以写在这里。")
    assert turns == [("user", "头痛怎么办？"), ("assistant", "请问：您发热吗？答：也可以写在这里。")]
    assert not mended


def test_half_width_colons_and_spaces_before_the_prefix_are_read():
    assert read("\n 问:咳嗽\n", "答 ：多喝水 ")[0] == [("user", "咳嗽"), ("assistant", "多喝水")]


def test_turns_without_a_prefix_are_placed_by_position():
    assert read("咳嗽", "多喝水")[0] == [("user", "咳嗽"), ("assistant", "多喝水")]


def test_neighbours_of_one_role_are_joined_and_a_last_question_is_cut():
    turns, mended = read("问：咳嗽", "问：还发热", "答：量体温", "问：三十八度")
    assert turns == [("user", "咳嗽\n还发热"), ("assistant", "量体温")]
    assert mended == {"joined", "cut"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([], "no 'data' key"),
        ({"text": "咳嗽"}, "no 'data' key"),
        ({"data": "问：咳嗽"}, "not a list of texts"),
        ({"data": ["问：咳嗽", None]}, "not a list of texts"),
        ({"data": ["问：咳嗽", "答： \n"]}, "an empty turn"),
        ({"data": ["问：咳嗽"]}, "no answer"),
        ({"data": ["答：您好", "问：咳嗽", "答：多喝水"]}, "begins with an answer"),
    ],
)
def test_what_cannot_be_used_says_why(record, reason):
    with pytest.raises(Unusable, match=reason):
        clean(huatuo(record))


def test_control_characters_go_and_line_breaks_stay():
    assert read("问：咳\x00嗽\ufeff", "答：一\r\n二\t三")[0] == [("user", "咳嗽"), ("assistant", "一\n二\t三")]


@pytest.mark.parametrize("token", ["<|im_end|>", "<｜end▁of▁sentence｜>", "<think>", "</think>", "<tool_call>", "</tool_response>"])
def test_a_typed_special_token_stays_text(token):
    neutral = neutralise(f"血压<140 {token} 正常")
    assert token not in neutral and neutral.startswith("血压<140") and len(neutral) == len(f"血压<140 {token} 正常")
    assert neutralise(neutral) == neutral


def test_an_alpaca_row_becomes_messages_without_the_reference():
    row = {"instruction": "还要查什么？", "input": "补充", "output": "答案", "system": "你是助手", "history": [["咳嗽", "多久了？"]]}
    assert messages(row) == [
        {"role": "system", "content": "你是助手"},
        {"role": "user", "content": "咳嗽"},
        {"role": "assistant", "content": "多久了？"},
        {"role": "user", "content": "还要查什么？\n补充"},
    ]
