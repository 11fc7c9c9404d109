"""What stands around a question or an answer and is none of it."""

import time

import pytest

from xinglin.leakage.courtesy import around


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("医生您好，高血压怎么办，谢谢", "高血压怎么办"),
        ("请问感冒怎么办？谢谢医生啊", "感冒怎么办"),
        ("您好，根据描述建议多喝水，祝您早日康复！", "根据描述建议多喝水"),
        ("患者您好：建议手术。希望对您有所帮助，祝您健康", "建议手术"),
        ("宝宝发烧怎么办，在线等，急急急", "宝宝发烧怎么办"),
        ("头晕三天非常感谢医生", "头晕三天"),
        ("下列哪项正确？A.甲 B.乙 C.丙", "下列哪项正确"),
        ("关于高血压，正确的是 (A) 甲 (B) 乙", "关于高血压，正确的是"),
        ("急性肠胃炎怎么办", "急性肠胃炎怎么办"),
        ("我吃维生素A、B、C可以吗", "我吃维生素A、B、C可以吗"),
        ("医生说我有高血压", "医生说我有高血压"),
        ("你好", "你好"),
        ("谢谢", "谢谢"),
        ("", ""),
    ],
)
def test_greetings_thanks_and_options_stand_around(text, said):
    before, behind = around(text, asked=True)
    assert text[len(before) : len(text) - len(behind)] == said


def test_an_answers_list_is_no_exam():
    assert around("常用的药有：A. 甲 B. 乙", asked=False) == ("", "")


@pytest.mark.parametrize("piece", ["谢", "祝您", "您", "A.B.", " ", "，", "医生", "希望"])
def test_time_grows_with_the_text(piece):
    def seconds(count: int) -> float:
        start = time.process_time()
        around(piece * count, asked=True)
        return time.process_time() - start

    assert seconds(40_000) < 12 * max(seconds(10_000), 0.005)
