import contextlib

import pytest

from xinglin.dialogues.formats import SHAPES, Unusable, huatuo, shape_of

ASKED, ANSWERED = "咳嗽三天了", "有没有发热？"
TURNS = [("user", ASKED), ("assistant", ANSWERED)]
RECORDS = {
    "huatuo": {"data": [f"问：{ASKED}", f"答：{ANSWERED}"]},
    "alpaca": {"instruction": ASKED, "input": "", "output": ANSWERED},
    "sharegpt": {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}]},
    "messages": {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]},
    "csv": {"title": "", "ask": ASKED, "answer": ANSWERED},
}


def read(record, columns=None):
    return SHAPES[shape_of(record, columns)](record, columns)


@pytest.mark.parametrize("shape", RECORDS)
def test_each_shape_is_told_by_its_keys_and_gives_the_same_turns(shape):
    assert shape_of(RECORDS[shape], None) == shape
    assert read(RECORDS[shape]).turns == TURNS


def test_huatuo_turns_lose_their_prefix_once_and_only_at_the_start():
    turns = huatuo({"data": ["问：头痛怎么办？", "答：请问：您发热吗？答：也可以写在这里。"]}, None).turns
    assert turns == [("user", "头痛怎么办？"), ("assistant", "请问：您发热吗？答：也可以写在这里。")]


def test_huatuo_prefixes_of_half_width_and_with_spaces_are_read_and_missing_ones_go_by_position():
    assert huatuo({"data": ["\n 问:咳嗽", "答 ：多喝水"]}, None).turns == [("user", "咳嗽"), ("assistant", "多喝水")]
    assert huatuo({"data": ["咳嗽", "多喝水"]}, None).turns == [("user", "咳嗽"), ("assistant", "多喝水")]


def test_alpaca_history_input_and_system_are_read():
    record = {"instruction": "再问", "input": "补充", "output": "再答", "system": "你是助手", "history": [["先问", "先答"]]}
    found = read(record)
    assert found.turns == [("user", "先问"), ("assistant", "先答"), ("user", "再问\n补充"), ("assistant", "再答")]
    assert found.system == "你是助手"
    assert read({"instruction": "问", "input": None, "output": "答", "history": None}).turns == [
        ("user", "问"),
        ("assistant", "答"),
    ]


@pytest.mark.parametrize("key", ["messages", "conversation", "conversations", "dialogue"])
@pytest.mark.parametrize(
    ("asks", "answers"),
    [("user", "assistant"), ("patient", "doctor"), ("client", "counselor"), ("患者", "医生"), ("Human", "GPT")],
)
def test_messages_are_read_under_each_key_and_with_each_pair_of_roles(key, asks, answers):
    assert read({key: [{"role": asks, "content": ASKED}, {"role": answers, "content": ANSWERED}]}).turns == TURNS


@pytest.mark.parametrize(("asks", "answers"), [("human", "gpt"), ("user", "assistant")])
def test_sharegpt_takes_a_system_text_and_both_pairs_of_names(asks, answers):
    said = [("system", "你是助手"), (asks, ASKED), (answers, ANSWERED)]
    found = read({"conversations": [{"from": who, "value": text} for who, text in said]})
    assert found.turns == TURNS and found.system == "你是助手"


def test_a_tables_title_goes_before_the_question_unless_the_question_repeats_it():
    assert read({"title": "胃痛", "ask": "饭后胃痛", "answer": "看消化科", "department": "消化科"}) == (
        [("user", "胃痛\n饭后胃痛"), ("assistant", "看消化科")],
        "",
        "消化科",
    )
    assert read({"标题": "胃痛", "问题": "胃痛怎么办", "回答": "看消化科"}).turns[0] == ("user", "胃痛怎么办")
    assert read({"title": "胃痛", "answer": "看消化科"}).turns[0] == ("user", "胃痛")


def test_columns_may_be_named():
    columns = {"question": "Q", "answer": "A"}
    assert read({"Q": ASKED, "A": ANSWERED, "answer": "别的"}, columns).turns == TURNS


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "咳嗽"}, "no known shape"),
        ({"data": "问：咳嗽"}, "'data' is not a list"),
        ({"data": ["问：咳嗽", None]}, "not a list of texts"),
        ({"instruction": "咳嗽", "output": 3}, "'output' is not a text"),
        ({"instruction": "咳嗽", "output": "好", "history": [["一个"]]}, "list of pairs"),
        ({"instruction": "咳嗽", "output": "好", "history": True}, "list of pairs"),
        ({"conversations": [{"from": "human"}]}, "without 'from' and 'value'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "neither user, assistant nor system: 'tool'"),
        (
            {"messages": [*RECORDS["messages"]["messages"], {"role": "system", "content": "x"}]},
            "system text after the first turn",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "'content' is not a text"),
        ({"ask": "咳嗽", "answer": 3}, "'answer' is not a text"),
    ],
)
def test_what_cannot_be_read_says_why(record, reason):
    with pytest.raises(Unusable, match=reason):
        read(record)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_record_of_another_shape_is_never_more_than_unusable(shape):
    for record in [{}, *RECORDS.values()]:
        with contextlib.suppress(Unusable):
            SHAPES[shape](record, None)
