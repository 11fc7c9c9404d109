import contextlib
import json

import pytest

from xinglin.dialogues import formats
from xinglin.dialogues.dialogue import Unusable
from xinglin.dialogues.formats import SHAPES, shape_of

ASKED, ANSWERED = "咳嗽三天了", "有没有发热？"
TURNS = [("user", ASKED), ("assistant", ANSWERED)]
RECORDS = {
    "huatuo": {"data": [f"问：{ASKED}", f"答：{ANSWERED}"]},
    "alpaca": {"instruction": ASKED, "input": "", "output": ANSWERED},
    "sharegpt": {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}]},
    "messages": {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]},
    "csv": {"title": "", "ask": ASKED, "answer": ANSWERED},
}


def read(record, columns=None, more=None):
    return formats.read(record, shape_of(record, columns), columns, more)


@pytest.mark.parametrize("shape", RECORDS)
def test_each_shape_is_told_by_its_keys_and_gives_the_same_turns(shape):
    assert shape_of(RECORDS[shape], None) == shape
    assert read(RECORDS[shape]).turns == TURNS


def test_huatuo_turns_lose_their_prefix_once_and_only_at_the_start():
    turns = read({"data": ["问：头痛怎么办？", "答：请问：您发热吗？答：也可以写在这里。"]}).turns
    assert turns == [("user", "头痛怎么办？"), ("assistant", "请问：您发热吗？答：也可以写在这里。")]


def test_huatuo_prefixes_of_half_width_and_with_spaces_are_read_and_missing_ones_go_by_position():
    assert read({"data": ["\n 问:咳嗽", "答 ：多喝水"]}).turns == [("user", "咳嗽"), ("assistant", "多喝水")]
    assert read({"data": ["咳嗽", "多喝水"]}).turns == [("user", "咳嗽"), ("assistant", "多喝水")]


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
    found = read({"title": "胃痛", "ask": "饭后胃痛", "answer": "看消化科", "department": "消化科"})
    assert found.turns == [("user", "胃痛\n饭后胃痛"), ("assistant", "看消化科")] and found.department == "消化科"
    assert read({"标题": "胃痛", "问题": "胃痛怎么办", "回答": "看消化科"}).turns[0] == ("user", "胃痛怎么办")
    assert read({"title": "胃痛", "answer": "看消化科"}).turns[0] == ("user", "胃痛")


def test_columns_may_be_named():
    columns = {"question": "Q", "answer": "A"}
    assert read({"Q": ASKED, "A": ANSWERED, "answer": "别的"}, columns).turns == TURNS


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "咳嗽"}, "no known shape"),
        ({"data": 3}, "no known shape"),
        ({"data": ["问：咳嗽", None]}, "not a list of texts"),
        ({"instruction": "咳嗽", "output": 3}, "'output' is not a text"),
        ({"instruction": "咳嗽", "output": "好", "history": [["一个"]]}, "list of pairs"),
        ({"instruction": "咳嗽", "output": "好", "history": True}, "list of pairs"),
        ({"conversations": [{"from": "human"}]}, "without 'from' and 'value'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "a turn of a tool: 'tool'"),
        ({"messages": [{"role": "裁判", "content": "x"}]}, "neither user, assistant nor system: '裁判'"),
        (
            {"messages": [*RECORDS["messages"]["messages"], {"role": "system", "content": "x"}]},
            "system text after the first turn",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "more than text: image_url"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]}, "calls a tool"),
        ({"question": "咳嗽", "answer": "A", "Response": "多喝水"}, "two answers, 'answer' and 'Response'"),
        ({"instruction": "咳嗽", "output": "好", "images": ["a.png"]}, "'images': it is about more than text"),
        ({"instruction": "咳嗽", "output": "好", "tools": [{"name": "lab"}]}, "'tools': a dialogue that calls tools"),
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
            formats.read(record, shape)


PEOPLE_HAVE = {
    "a list of texts with names": {"data": [f"患者：{ASKED}", f"医生：{ANSWERED}"]},
    "names in brackets": {"data": [f"<user>: {ASKED}", f"<doctor>: {ANSWERED}"]},
    "tokens before the names": {"data": [f"<s>问：{ASKED}</s>", f"<s>答：{ANSWERED}</s>"]},
    "one text": {"dialogue": f"病人：{ASKED}\n医生：{ANSWERED}"},
    "one text on one line": {"data": f"问：{ASKED} 答：{ANSWERED}"},
    "a record that is a list": [f"问：{ASKED}", f"答：{ANSWERED}"],
    "a record that is messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}],
    "content parts": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": ASKED}]}, {"role": "assistant", "content": ANSWERED}]
    },
    "speaker and text": {"dialog": [{"speaker": "来访者", "text": ASKED}, {"speaker": "心理咨询师", "text": ANSWERED}]},
    "from and value in messages": {"messages": [{"from": "patient", "value": ASKED}, {"from": "doctor", "value": ANSWERED}]},
    "pairs": {"conversation": [[ASKED, ANSWERED]]},
    "objects of a pair": {"conversation": [{"human": ASKED, "assistant": ANSWERED}]},
    "one pair": {"human": ASKED, "assistant": ANSWERED},
    "prompt and response": {"prompt": ASKED, "response": ANSWERED},
    "prompt and completion": {"prompt": ASKED, "completion": ANSWERED},
    "query and response": {"query": ASKED, "response": ANSWERED},
    "input and target": {"input": ASKED, "target": ANSWERED, "answer_choices": "", "task_type": "qa"},
    "nested questions and answers": {"questions": [[ASKED, "咳了三天"]], "answers": [ANSWERED]},
    "names before the texts of a table": {"question": f"患者：{ASKED}", "answer": f"医生：{ANSWERED}"},
    "chosen and rejected": {"prompt": ASKED, "chosen": ANSWERED, "rejected": "不知道"},
}


@pytest.mark.parametrize("kind", PEOPLE_HAVE)
def test_what_people_have_gives_the_same_turns(kind):
    assert [(role, text.strip()) for role, text in read(PEOPLE_HAVE[kind]).turns] == TURNS


def test_history_may_be_objects_and_a_pairs_messages_may_hold_the_prompt():
    record = {"instruction": "再问", "output": "再答", "history": [{"prompt": "先问", "response": "先答"}]}
    assert read(record).turns[:2] == [("user", "先问"), ("assistant", "先答")]
    asked = {"role": "user", "content": ASKED}
    found = read(
        {key: [asked, {"role": "assistant", "content": text}] for key, text in (("chosen", ANSWERED), ("rejected", "不知道"))}
    )
    assert found.turns == TURNS and found.rejected == "不知道"


def test_who_speaks_goes_by_name_not_by_place():
    greeted = {"data": ["医生：您好", f"患者：{ASKED}", f"医生：{ANSWERED}"]}
    assert [role for role, _ in read(greeted).turns] == ["assistant", "user", "assistant"]
    without = {"data": ["您好，请讲", f"患者：{ASKED}", ANSWERED]}
    assert [role for role, _ in read(without).turns] == ["assistant", "user", "assistant"]
    record = {"messages": [{"role": "宝妈", "content": ASKED}, {"role": "主诊", "content": ANSWERED}]}
    assert read(record, more={"宝妈": "user", "主诊": "assistant"}).turns == TURNS
    assert read({"data": [f"宝妈：{ASKED}", ANSWERED]}, more={"宝妈": "user"}).turns == TURNS


def test_a_name_within_a_text_is_a_speaker_only_where_both_are_named():
    for text in ("考虑如下：\n患者：男，45岁", "复诊请找\n主任医师：周三上午", "问：要空腹吗？空腹。"):
        assert read({"question": ASKED, "answer": f"请看。{text}"}).turns == [("user", ASKED), ("assistant", f"请看。{text}")]
    whole = f"患者：{ASKED}\n医生：{ANSWERED}\n患者：没有"
    assert [role for role, _ in read({"data": [whole, "医生：那先观察"]}).turns] == ["user", "assistant", "user", "assistant"]


def test_a_talk_that_a_text_tells_of_is_counted_and_left_whole():
    script = f"总结下面的对话。\n患者：{ASKED}\n医生：{ANSWERED}"
    found = read({"instruction": script, "output": "咳嗽三天。"})
    assert found.turns == [("user", script), ("assistant", "咳嗽三天。")] and found.scripts == 1


@pytest.mark.parametrize(
    "record",
    [
        {"Question": ASKED, "Complex_CoT": "想", "Response": ANSWERED},
        {
            "messages": [
                {"role": "user", "content": ASKED},
                {"role": "assistant", "content": ANSWERED, "reasoning_content": "想"},
            ]
        },
        {"instruction": ASKED, "output": f"<think>\n想\n</think>\n\n{ANSWERED}"},
        {
            "instruction": ASKED,
            "output": f"<|begin_of_thought|>想<|end_of_thought|>\n<|begin_of_solution|>{ANSWERED}<|end_of_solution|>",
        },
        {"question": ASKED, "answer": f"## Thinking\n\n想\n\n## Final Response\n\n{ANSWERED}"},
    ],
)
def test_thoughts_are_told_from_answers(record):
    found = read(record)
    assert found.turns == TURNS and found.thoughts == 1 and found.unread == ()


@pytest.mark.parametrize(
    ("key", "value", "liked"),
    [
        ("label", True, True),
        ("label", False, False),
        ("kto_tag", "false", False),
        ("label", "内科", None),
        ("label", 1, True),
        ("label", 3, None),
    ],
)
def test_a_label_of_true_or_false_or_1_or_0_says_whether_the_answer_is_desired(key, value, liked):
    found = read(RECORDS["messages"] | {key: value})
    assert found.liked is liked and found.unread == (() if liked is not None else (key,))


def test_keys_that_nobody_reads_are_named():
    entries = [{"role": "user", "content": ASKED, "weight": 1, "name": None}, {"role": "assistant", "content": ANSWERED}]
    found = read({"messages": entries, "id": 7, "source": "门诊", "note": "", "tools": [], "department": "内科"})
    assert found.unread == ("id", "messages[].weight", "source")


def test_any_record_is_read_by_a_mapping_and_the_error_writes_it_out():
    record = {"case": {"ask": ASKED, "replies": [{"words": ANSWERED}]}, "no": 1}
    with pytest.raises(Unusable, match=r"question: case\.ask"):
        read({"case": {"ask": ASKED, "reply": ANSWERED + "好"}, "no": 1})
    assert read(record, {"question": "case.ask", "answer": "case.replies.0.words"}).turns == TURNS
    assert read({"1": ASKED, "2": ANSWERED}, {"question": 1, "answer": 2}).turns == TURNS
    inside = {"case": {"turns": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]}}
    assert read(inside, {"turns": "case.turns"}).turns == TURNS


def test_an_answer_that_names_a_choice_keeps_its_letter_and_q_beside_a_are_speakers():
    chosen = [("user", ASKED), ("assistant", "A：多喝水")]
    assert read({"question": ASKED, "answer": "A：多喝水"}).turns == chosen
    assert read({"data": [f"问：{ASKED}", "A：多喝水"]}).turns == chosen
    assert read({"data": [f"Q：{ASKED}", f"A：{ANSWERED}"]}).turns == TURNS


@pytest.mark.parametrize(
    ("patient", "doctor"),
    [
        ("\ufeff问：", "\ufeff答："),
        ("\u200b患者：", "\u3164医生："),
        ("<p>问：", "<div class='a'>答："),
        ("&nbsp;问：", "&#160;答："),
        ("Ｑ：", "Ａ："),
        ("Ｕｓｅｒ：", "Ｂｏｔ："),
        ("**患者：** ", "**医生**： "),
        ("### Human: ", "### Assistant: "),
        ("王女士：", "张医生："),
        ("患者（女，32岁）：", "医生1："),
        ("患儿母亲：", "心内科李主任："),
        ("家属：", "主任："),
        ("网友：", "专家："),
        ("问题：", "回答："),
        ("用戶：", "醫師："),
    ],
)
def test_a_mark_is_seen_behind_what_shows_nothing_with_a_title_and_for_every_name(patient, doctor):
    greeted = read({"data": [f"{doctor}您好", patient + ASKED, doctor + ANSWERED]}).turns
    assert [(role, text.strip()) for role, text in greeted] == [("assistant", "您好"), *TURNS]
    cells = read({"question": patient + ASKED, "answer": doctor + ANSWERED}).turns
    assert [(role, text.strip()) for role, text in cells] == TURNS
    whole = read({"dialogue": f"{doctor}您好\n{patient}{ASKED}\n{doctor}{ANSWERED}"}).turns
    assert [role for role, _ in whole] == ["assistant", "user", "assistant"]
    assert whole[0][1].strip().startswith("您好") and whole[2][1].strip() == ANSWERED


def test_a_name_that_nobody_knows_is_told_and_the_head_of_a_paragraph_or_a_letter_is_none():
    for talk in (
        {"data": ["小李：您好", f"小王：{ASKED}", f"小李：{ANSWERED}"]},
        {"dialogue": f"小李：您好\n小王：{ASKED}\n小李：好"},
    ):
        with pytest.raises(Unusable, match=r"speaker '小李' is not known: converted.speakers names more"):
            read(talk)
    for answer in ("建议：多喝水", "诊断：感冒", "注意：多休息"):
        assert read({"data": [ASKED, answer, "还咳", answer]}).turns[1] == ("assistant", answer)
        assert read({"question": ASKED, "answer": answer}).turns[1] == ("assistant", answer)
    letter = f"张医生：您好，{ASKED}"
    assert read({"data": [letter, ANSWERED]}).turns == [("user", letter), ("assistant", ANSWERED)]
    advice = "急救：\n1. 保护患者：垫软物\n2. 联系医生：说明情况"
    assert read({"data": [f"问：{ASKED}", f"答：{advice}"]}).turns[1:] == [("assistant", advice)]


@pytest.mark.parametrize("key", ["response", "answer", "completion"])
def test_an_instruction_and_its_input_are_both_asked_whatever_the_answer_is_called(key):
    assert read({"instruction": ASKED, "input": "患者男，30岁", key: ANSWERED}).turns[0] == ("user", f"{ASKED}\n患者男，30岁")
    assert read({"Instruction": ASKED, "Input": "三天", key.title(): ANSWERED}).turns[0] == ("user", f"{ASKED}\n三天")


def test_two_questions_of_one_record_are_named_unless_they_are_equal():
    for record in ({"question": ASKED, "query": "别的"}, {"instruction": ASKED, "query": "别的"}):
        with pytest.raises(Unusable, match=r"two questions, '(question|instruction)' and 'query'"):
            read(record | {"answer": ANSWERED})
    assert read({"question": ASKED, "query": ASKED, "user": "u1", "answer": ANSWERED}).turns == TURNS


@pytest.mark.parametrize(
    ("key", "value", "liked"),
    [
        *(("kto_tag", value, False) for value in (-1, 0, 0.0, "0", "否", "f", "N", "no")),
        *(("kto_tag", value, None) for value in (float("nan"), None, "", "nan")),
        *(("label", value, False) for value in (0, "0", "no", "bad")),
        ("is_correct", False, False),
        ("isCorrect", "否", False),
        ("is_bad", True, False),
        ("rating", -1, False),
        ("rating", 1, None),
        ("feedback", "thumbs_down", False),
        ("feedback", "thumbs-up", True),
        ("feedback", "谢谢医生", None),
        ("rejected", True, False),
        ("rejected", False, None),
    ],
)
def test_a_verdict_is_understood_however_it_is_written(key, value, liked):
    for shape in ("messages", "alpaca", "csv", "huatuo"):
        found = read(RECORDS[shape] | {key: value})
        assert found.liked is liked and found.rejected is None and found.turns == TURNS


def test_a_verdict_that_is_not_understood_is_named():
    with pytest.raises(Unusable, match="'is_correct': 'maybe' does not say whether the answer is desired"):
        read(RECORDS["csv"] | {"is_correct": "maybe"})
    columns = {"question": 4, "answer": 5, "label": 2}
    row = {"1": "9", "2": "0", "3": "内科", "4": ASKED, "5": ANSWERED}
    assert read(row, columns).liked is False and read(row | {"2": "1"}, columns).liked is True
    with pytest.raises(Unusable, match="'2': '内科' does not say"):
        read(row | {"2": "内科"}, columns)


@pytest.mark.parametrize("name", ["weight", "loss"])
def test_an_answer_that_is_not_to_be_learned_is_no_row(name):
    entries = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED, name: 0}]
    with pytest.raises(Unusable, match=f"not to be learned, as its '{name}' says"):
        read({"messages": entries})


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ("response_chosen", "response_rejected"),
        ("chosen", "reject"),
        ("chosen_answer", "rejected_answer"),
        ("preferred_output", "non_preferred_output"),
        ("answer", "rejectedResponse"),
    ],
)
def test_a_pair_is_one_however_its_keys_are_spelt(above, below):
    record = {"question": ASKED, above: ANSWERED, below: "不知道", "rejected_score": 0.1}
    for columns in (None, {"question": "question", "answer": above}):
        found = read(record, columns)
        assert found.turns == TURNS and found.rejected == "不知道"


def test_a_pair_of_message_lists_has_its_prompt_once():
    asked, told = {"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}
    worse = {"role": "assistant", "content": "不知道"}
    for prompt, before in (([asked], []), ([asked], [asked]), (ASKED, []), (ASKED, [asked])):
        found = read({"prompt": prompt, "chosen": [*before, told], "rejected": [*before, worse]})
        assert found.turns == TURNS and found.rejected == "不知道"
    assert read({"prompt": [asked], "completion": [told], "label": False}).liked is False


def test_no_mapping_proposes_an_answer_that_is_called_bad():
    for key in ("bad_answer", "rejection", "negative", "wrong_reply"):
        with pytest.raises(Unusable, match=r"\{question: q, answer: fine\}"):
            read({"q": "咳", "fine": ANSWERED, key: ANSWERED * 3})


@pytest.mark.parametrize(
    "answer",
    [
        f"想\n</think>\n\n{ANSWERED}",
        f"答：<think>想</think>{ANSWERED}",
        f"<think>想</think>答：{ANSWERED}",
        f"&lt;think&gt;想&lt;/think&gt;{ANSWERED}",
        f"\ufeff<Thinking >想</Thinking>{ANSWERED}",
        f"<think>想<think>再想</think></think>{ANSWERED}",
    ],
)
def test_a_thought_is_found_behind_a_mark_and_without_its_opening(answer):
    found = read({"instruction": ASKED, "output": answer})
    assert found.turns == TURNS and found.thoughts
    assert read({"data": [f"问：{ASKED}", answer]}).turns == TURNS


def test_a_thought_that_is_not_closed_is_no_answer():
    for answer in (
        f"<think>想{ANSWERED}",
        f"答：<think>想{ANSWERED}",
        f"## Thinking\n想{ANSWERED}",
        f"<|begin_of_thought|>{ANSWERED}",
    ):
        with pytest.raises(Unusable, match="a thought that is not closed"):
            read({"instruction": ASKED, "output": answer})


@pytest.mark.parametrize(
    "options",
    [
        {"option": {"A": "口服退热药", "B": "物理降温", "E": ""}},
        {"Options": "A 口服退热药\nB 物理降温"},
        {"options": ["口服退热药", "物理降温"]},
        {"choices": ["A. 口服退热药", "B. 物理降温"]},
        {"options": [{"key": "A", "value": "口服退热药"}, {"key": "B", "value": "物理降温"}]},
        {"options": '{"A": "口服退热药", "B": "物理降温"}'},
        {"A": "口服退热药", "B": "物理降温"},
        {"option_a": "口服退热药", "option_b": "物理降温"},
    ],
)
def test_an_exam_has_its_options_in_the_question_and_their_text_in_the_answer(options):
    asked = ("user", f"{ASKED}\nA. 口服退热药\nB. 物理降温")
    assert read({"question": ASKED, "answer": "B"} | options).turns == [asked, ("assistant", "B. 物理降温")]
    assert read({"instruction": ASKED, "output": "AB"} | options).turns == [asked, ("assistant", "A. 口服退热药\nB. 物理降温")]


def test_an_exam_whose_options_cannot_be_read_is_rejected_and_options_beside_another_answer_are_left():
    for options, answer in (({"A": "一", "B": "二"}, "C"), ("见图", "A"), ({"A": ["一"], "B": ["二"]}, "A")):
        with pytest.raises(Unusable, match="an exam: its options would be lost"):
            read({"question": ASKED, "options": options, "answer": answer})
    assert read({"question": ASKED, "options": "见图", "answer": ANSWERED}).turns == TURNS


LISTED = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": json.dumps(LISTED)},
        {"id": 1, "conversations": " " + json.dumps(RECORDS["sharegpt"]["conversations"])},
        {"instruction": ASKED, "output": ANSWERED, "history": "[]"},
        {"instruction": ASKED, "output": ANSWERED, "conversations": []},
        {"instruction": ASKED, "output": ANSWERED, "data": []},
        {"question": ASKED, "answer": ANSWERED, "turns": "1"},
        {"question": ASKED, "answer": ANSWERED, "data": "2020-01-01"},
        {"question": ASKED, "answers": ["", ANSWERED]},
        {"messages": LISTED, "dialogue": "", "turns": "2"},
    ],
)
def test_lists_as_json_text_and_keys_that_hold_something_else_do_not_hide_the_dialogue(record):
    assert read(record).turns == TURNS


def test_a_list_as_json_text_that_breaks_off_is_named():
    with pytest.raises(Unusable, match="'messages' begins like a list in JSON and is none"):
        read({"messages": json.dumps(LISTED)[:-5]})


def test_a_talk_under_an_unknown_key_is_proposed_as_turns_and_read_by_them():
    for key, talk in (
        ("utterances", [f"病人：{ASKED}", f"医生：{ANSWERED}"]),
        ("items", LISTED),
        ("text", f"Human: {ASKED}\nAssistant: {ANSWERED}"),
        ("text", f"### Human: {ASKED}\n### Assistant: {ANSWERED}"),
    ):
        with pytest.raises(Unusable, match=rf"set converted.columns: {{turns: {key}}}"):
            read({"description": ASKED, key: talk})
        assert [(role, text.strip()) for role, text in read({key: talk}, {"turns": key}).turns] == TURNS


def test_what_a_developer_says_is_a_system_text():
    assert read({"messages": [{"role": "developer", "content": "你是助手"}, *LISTED]}).system == "你是助手"
