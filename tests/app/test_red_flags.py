"""Emergencies: what is found on phrases that were never trained on, what is said, and how the list is read."""

import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest

from app.red_flags import check, due, find, instruction, notice, plays_down, rules, told
from app.red_flags.classifier import model, plain, probabilities, windows
from benchmarks.red_flags import interval, older
from tests.conftest import ROOT, ends
from tools import red_flags as training

BATCHES = training.batches()


def kinds(*messages, threshold=0.65):
    return {flag.id for flag in find(messages, threshold)}


def levels(*messages):
    return [flag.level for flag in find(messages)]


def share(phrases, urgent):
    asked = [bool(find(said)) for kind, said in phrases if kind.startswith("-") != urgent]
    return sum(asked) / len(asked)


def test_the_phrases_are_enough_and_each_kind_is_in_every_batch():
    trained = [phrase for name, batch in BATCHES.items() if name != training.HELD_OUT for phrase in batch]
    urgent = {kind for kind, _ in trained if not kind.startswith("-")}
    assert len(trained) >= 6000 and urgent == set(rules.by_id()) and len(urgent) >= 40
    assert sum({kind for kind, _ in batch} >= urgent for batch in BATCHES.values()) >= 10
    assert sum(len(said) > 1 for _, said in trained) > len(trained) / 8


def test_nothing_of_the_held_out_batch_was_trained_on():
    trained = {plain(said) for name, batch in BATCHES.items() if name != training.HELD_OUT for _, said in batch}
    assert not [said for _, said in BATCHES[training.HELD_OUT] if plain(said) in trained]
    assert not [said for _, said in older() if plain(said) in trained]


def test_the_held_out_batch_is_found_and_what_only_sounds_like_it_is_left_alone():
    held_out = BATCHES[training.HELD_OUT]
    assert share(held_out, urgent=True) >= 0.95 and share(held_out, urgent=False) <= 0.05
    assert share([phrase for phrase in held_out if len(phrase[1]) > 1], urgent=True) >= 0.9


def test_the_kept_classifier_is_the_one_that_the_phrases_teach():
    trained = [phrase for name, batch in BATCHES.items() if name != training.HELD_OUT for phrase in batch]
    assert set(model().kinds) == {kind for kind, _ in trained}
    grams = training.TfidfVectorizer(
        analyzer=training.grams_of, min_df=2, sublinear_tf=True, max_features=training.FEATURES
    ).fit([plain(said) for _, said in [*trained, *training.in_talk(trained)]])
    assert list(grams.get_feature_names_out()) == sorted(model().places)


@pytest.mark.parametrize(
    ("messages", "level"),
    [
        (["我孕32周", "今天一天都没感觉到宝宝动"], "hospital"),
        (["我爸糖尿病二十年了", "今天一直吐，喘气很深，嘴里有股烂苹果味"], "120"),
        (["最近睡不着", "安眠药吃多少片就不会醒过来了"], "crisis"),
        (["医生：有没有胸口疼？", "有", "一身冷汗，左胳膊也麻"], "120"),
    ],
)
def test_messages_count_together(messages, level):
    assert levels(*messages)[:1] == [level]


@pytest.mark.parametrize(
    "text",
    ["怎么预防中风", "爷爷十年前中风过，现在想问饮食", "没有胸痛，就是有点咳嗽", "万一心梗了第一步做什么，想学学", "想死你了"],
)
def test_what_is_asked_in_general_denied_or_long_past_is_no_emergency(text):
    assert kinds(text) == set()


def test_a_lower_threshold_finds_more():
    held_out = [said for _, said in BATCHES[training.HELD_OUT]]
    counts = [sum(bool(find(said, threshold)) for said in held_out) for threshold in (0.3, 0.65, 0.9)]
    assert all(more > fewer for more, fewer in pairwise(counts))


def test_an_emergency_in_a_long_text_is_found():
    talk = "昨天在公园散步，天气不错，和老朋友下了两盘棋，晚饭吃了面条，看了会儿电视，睡得也还可以。" * 30
    assert "stroke" in kinds(f"{talk}刚才我爸突然嘴歪了，右边胳膊抬不起来，说话不清楚。{talk}")
    assert all(len(part) <= 100 for part in windows(talk)[1:])


@pytest.fixture
def likely(monkeypatch):
    """Give a function that sets how likely the classifier takes kinds to be, in a whole text and in its parts."""

    def set_to(whole, part=None):
        def probabilities(text, known):
            chances = whole if part is None or len(text) > 100 else part
            found = np.array([chances.get(kind, 0.0) for kind in known.kinds])
            found[known.kinds.index("-chat")] = 1 - found.sum()
            return found

        monkeypatch.setattr("app.red_flags.classifier.probabilities", probabilities)

    return set_to


def test_what_may_not_be_missed_is_told_at_a_lower_probability(likely):
    likely({"stroke": 0.6})
    assert kinds("x") == {"stroke"}
    likely({"acute_abdomen": 0.6})
    assert kinds("x") == set()
    likely({"stroke": 0.5})
    assert kinds("x") == set()


def test_a_part_of_a_long_text_must_be_surer(likely):
    likely({}, {"acute_abdomen": 0.7})
    assert kinds("x" * 300) == set()
    likely({}, {"acute_abdomen": 0.8})
    assert kinds("x" * 300) == {"acute_abdomen"}


def test_other_kinds_are_named_where_they_are_not_unlikely(likely):
    likely({"stroke": 0.5, "seizure": 0.25, "burns": 0.1})
    assert kinds("x") == {"stroke", "seizure"}


def test_a_finding_says_why():
    [flag] = find(["右边胳膊突然抬不起来"])
    assert flag.id == "stroke" and flag.why.startswith("score ") and "抬不起" in flag.why


def test_a_sign_that_a_clinic_adds_counts_at_once(monkeypatch):
    text = "含服了三次速效救心还没好透"
    before = kinds(text, threshold=1.0)
    changed = [
        kind.model_copy(update={"signs": ("含服 没好透",)}) if kind.id == "chest_pain" else kind for kind in rules.known().kinds
    ]
    listed = rules.known().model_copy(update={"kinds": tuple(changed)})
    monkeypatch.setattr(rules, "known", lambda: listed)
    assert before == set() and find([text], 1.0)[0].why == "sign: 含服 没好透"
    assert kinds("没有含服", threshold=1.0) == set()


def test_the_notice_says_each_level_once_the_most_urgent_first():
    said = notice([*find(["右边胳膊突然抬不起来"]), *find(["写好遗书了，不想活了"])])
    assert said.splitlines()[0].startswith("【轻生念头") and "12356" in said.splitlines()[0]
    assert said.count("立即拨打 120，或去最近的急诊") == 1 and "记下最后一次正常的时间" in said
    assert notice([]) == ""


def test_crisis_is_named_where_pills_are_asked_for_so_that_one_does_not_wake():
    assert "crisis" in levels("吃多少片安眠药才能一觉不醒")


def test_what_was_asked_stands_before_a_short_answer():
    turns = [
        {"role": "user", "content": "我咳嗽"},
        {"role": "assistant", "content": "咳了几天了。\n有没有胸口疼？"},
        {"role": "user", "content": "有"},
        {"role": "assistant", "content": "好的。"},
        {"role": "user", "content": "嗯"},
    ]
    assert told(turns) == ["我咳嗽", "医生：有没有胸口疼？", "有", "嗯"]


def turns(*said):
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(said)]


def test_small_talk_before_it_hides_no_emergency():
    talk = [said for kind, said in BATCHES[training.HELD_OUT] if kind.startswith("-mild") and len(said) == 1]
    urgent = [said for kind, said in BATCHES[training.HELD_OUT] if not kind.startswith("-") and len(said) == 1]
    told_late = [[*talk[place][0:1], *talk[place + 1], *talk[place + 2], *said] for place, said in enumerate(urgent[:90])]
    assert sum(bool(find(said)) for said in told_late) >= 0.95 * len(told_late)


def test_a_second_emergency_is_told_of_too():
    bitten = ["被野狗咬了，出血了"]
    assert [flag.level for flag in due(turns(*bitten, "请去打针。", "我不想活了"))] == ["crisis"]
    long = f"{bitten[0]}。{'昨天下了雨，路上很滑，走得很慢。' * 14}这些都无所谓了。我不想活了，遗书已经写好，今晚就跳楼。"
    assert levels(long)[0] == "crisis"


def test_a_crisis_says_first_what_to_do_where_something_was_done_already():
    said = notice(find(["刚才吃了一瓶安眠药，不想活了"]))
    assert said.index("拨打 120") < said.index("12356") and "不要催吐" in said


def test_what_was_asked_and_denied_says_nothing():
    asked = "有没有胸口疼，出冷汗？喘得厉害吗？请告诉我。"
    assert not due(turns("我有点咳嗽", asked, "没有")) and due(turns("我胸口闷", asked, "有"))
    assert told(turns("我有点咳嗽", asked, "有"))[1] == "医生：有没有胸口疼，出冷汗？喘得厉害吗？"


@pytest.mark.parametrize("later", [(), ("没有",)])
def test_who_begins_with_the_doctors_name_is_the_patient(later):
    said = "医生：我爸突然嘴歪了，右手抬不起来"
    assert "stroke" in kinds(said, *later)
    assert told(turns(said, "多久了？", "没有"))[0] == said.removeprefix("医生：")


def test_an_emergency_is_told_of_when_it_is_new_or_said_again():
    first = [{"role": "user", "content": "我爸突然嘴歪了，右手抬不起来"}]
    later = [*first, {"role": "assistant", "content": "请立即拨打 120。"}, {"role": "user", "content": "好的，已经打了"}]
    again = [*later[:-1], {"role": "user", "content": "他现在话也说不清了，右腿也动不了"}]
    assert due(first) and not due(later) and due(again)


@pytest.mark.parametrize(
    "answer",
    [
        "请立即拨打 120。",
        "要不要紧要看检查，请立即拨打120",
        "这不是正常现象，立即去急诊。",
        "千万不要在家观察，马上去医院",
        "不用担心费用，先拨打120",
        "请家人陪着，打心理援助热线。",
    ],
)
def test_an_answer_that_sends_somebody_is_left_as_it_is(answer):
    assert not plays_down(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "这种情况不用担心，观察几天，必要时去医院。",
        "多喝水，注意休息。",
        "暂时不用去急诊",
        "不需要打120，休息就好",
        "血压120/80，多休息",
        "马上喝点热水",
        "先在家观察一晚，不行再去急诊",
    ],
)
def test_an_answer_that_plays_an_emergency_down_is_seen(answer):
    assert plays_down(answer)


def test_the_model_is_told_what_to_say():
    assert "120" in instruction(find(["右边胳膊突然抬不起来"]))


def test_every_kind_says_what_to_do_and_has_signs_without_blank_words():
    for kind in rules.known().kinds:
        assert kind.name and (kind.do or kind.level == "crisis")
        assert all(word for sign in kind.signs for part in rules.parts_of(sign) for word in part), kind.id


@pytest.mark.parametrize(
    ("text", "expected"),
    [("没有眼睛上翻", False), ("宝宝眼睛往上翻", True), ("去年宝宝眼睛往上翻过", False), ("不发烧但是眼睛往上翻", True)],
)
def test_a_sign_does_not_count_where_it_is_denied_or_long_past(text, expected):
    assert ("unconscious" in rules.shown(text)) is expected


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  - id: stroke\n", "  - id: strok\n", "stroke: the classifier knows this kind"),
        ("  - id: seizure\n", "  - id: stroke\n", "stroke: stands there twice"),
        ("    level: hospital\n", "    level: today\n", "fetal_movement.level: "),
        ("    level: hospital\n", "    levle: hospital\n", "fetal_movement.level"),
        ("      - 喘 厉害|", "      - 喘 |厉害|", "breathing: sign '喘 |厉害|"),
        ("      - 喘 厉害|", "      - 喘 BNP|", "lower case"),
        ("      - 喘 厉害|", "      - 喘，厉害|", "no punctuation"),
        ("  hospital: 请", "  hospitl: 请", "levels"),
        ("kinds:\n", "kinds: [\n", "kinds.yaml: "),
    ],
)
def test_a_mistake_in_the_list_is_one_line_before_anything_starts(tmp_path, monkeypatch, capsys, old, new, said):
    text = rules.LIST.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "kinds.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    monkeypatch.setattr(rules, "LIST", tmp_path / "kinds.yaml")
    cached = (rules.known, rules.by_id, rules.denial)
    for function in cached:
        function.cache_clear()
    try:
        with ends():
            check()
    finally:
        for function in cached:
            function.cache_clear()
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


URGENT = "我爸突然嘴歪了，右边胳膊抬不起来，胸口疼。"


@pytest.mark.parametrize(
    "said",
    [
        ["没" + "伴有" * 20 + "嗯喘厉害"] * 19,
        ["不喘" * 1990 + "厉害"] * 19,
        ["没" + "有" * 3000 + "喘厉害"] * 19,
        [URGENT * 190] * 19,
        ["有", "啊" * 4000] * 9 + ["有"],
        ["嗯", "医生：喘吗？", "嗯" * 40 + "x"],
    ],
)
def test_no_conversation_takes_long(said):
    start = time.process_time()
    due(turns(*said))
    find(said)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("text", ["", "。。。", "\x00", "a" * 4000, "不" * 2000, "没有和" * 800, "右手" * 1000, "\ud800"])
def test_any_text_is_read(text):
    find([text])


def test_probabilities_are_those_of_the_library():
    phrases = [phrase for phrase in BATCHES[training.HELD_OUT] if phrase[0] in ("stroke", "suicide", "-diet", "-past")] * 3
    vectors = training.TfidfVectorizer(analyzer=training.grams_of, min_df=2, sublinear_tf=True, max_features=500)
    seen = vectors.fit_transform([plain(said) for _, said in phrases])
    fitted = training.LogisticRegression(C=training.STRENGTH, max_iter=training.STEPS, tol=1e-3)
    fitted.fit(seen, [kind for kind, _ in phrases])
    mine = training.train(phrases, features=500, talk=False)
    ours = np.array([probabilities(plain(said), mine) for _, said in phrases])
    assert np.allclose(ours, fitted.predict_proba(seen), atol=1e-4)


def test_a_line_that_is_no_phrase_is_told(tmp_path, capsys):
    file = tmp_path / "mine.tsv"
    file.write_text("stroke\t嘴歪了\nstrok\t嘴歪了\n", encoding="utf-8")
    with ends():
        training.read(file)
    assert "mine.tsv:2: strok: no kind" in capsys.readouterr().err


def test_the_command_reads_a_conversation_a_line():
    lines = "怎么预防中风\n我孕32周\t宝宝今天一直没动\n\n我不想活了，药都买好了\n"
    done = subprocess.run(
        [sys.executable, "-m", "app.red_flags", "--lines"], input=lines, capture_output=True, text=True, cwd=ROOT, check=True
    )
    answers = [line.split("\t") for line in done.stdout.splitlines()]
    assert [level for level, _ in answers] == ["none", "hospital", "none", "crisis"] and answers[1][1] == "fetal_movement"


def test_the_interval_is_wilsons():
    assert interval(95, 100) == "95.0% [88.8%, 97.8%] of 100" and interval(0, 0) == "–"
