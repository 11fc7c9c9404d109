import pytest

from tests.conftest import ROOT, ends, params_with
from tests.openai_server import ASKED, REPLY, answer_all, keys, openai_server
from xinglin.serving import answers
from xinglin.serving.client import answered


def test_every_knob_of_an_answer_reaches_the_server(tmp_path):
    bodies = []
    with openai_server(lambda body: (bodies.append(body), (200, REPLY))[1]) as url:
        answer_all(url, tmp_path / "a", {"predictions.max_new_tokens": 77, "decoding.repetition_penalty": 1.5})
        sampled = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "seed": 7}
        answer_all(url, tmp_path / "b", {f"decoding.{name}": value for name, value in sampled.items()})
    greedy, drawn = (
        [{k: v for k, v in body.items() if k != "messages"} for body in some]
        for some in (bodies[: len(ASKED)], bodies[len(ASKED) :])
    )
    assert greedy == [{"model": "tuned", "max_tokens": 77, "temperature": 0, "repetition_penalty": 1.5}] * len(ASKED)
    assert drawn == [{"model": "tuned", "max_tokens": 256, **sampled}] * len(ASKED)


def test_a_dialogue_that_is_too_long_loses_its_oldest_turns(tmp_path):
    turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": f"第{i}句"} for i in range(7)]
    tries = []

    def answer(body):
        tries.append(len(body["messages"]))
        return (200, REPLY) if len(body["messages"]) <= 3 else (400, {"message": "maximum context length is 64 tokens"})

    with openai_server(answer) as url:
        sample = {"id": "x", "messages": turns, "reference": "答"}
        answers.answer_all([url], "tuned", [sample], tmp_path / "a", params_with().predictions, params_with().decoding)
    assert tries == [7, 5, 3]
    assert answered(tmp_path / "a")["x"]["messages"] == turns[4:]  # as asked, so that parity and judge read the same


def test_the_key_that_vllm_asks_for_goes_with_each_request(tmp_path, monkeypatch):
    for key, sent in (("xl-123", "Bearer xl-123"), ("", None)):
        monkeypatch.setenv("VLLM_API_KEY", key)
        keys.clear()
        with openai_server(lambda body: (200, REPLY if "max_tokens" in body else {"tokens": [1]})) as url:
            answer_all(url, tmp_path / f"a{key}")
            with pytest.raises(KeyError):  # of a reply without log-probabilities
                answers.logprobs(url, "tuned", [{"id": "0", "messages": [], "prediction": "答"}])
        assert len(keys) > len(ASKED) and set(keys) == {sent}


@pytest.mark.parametrize("reply", [{}, {"choices": []}, [], {"choices": [{"message": None}], "usage": {}}])
def test_a_reply_that_is_no_chat_completion_is_one_line(tmp_path, capfd, reply):
    with openai_server(lambda body: (200, reply)) as url, ends():
        answer_all(url, tmp_path / "a", {"predictions.concurrency": 1})
    assert "error: tuned: sample 0: the server's reply is not a chat completion of OpenAI's" in capfd.readouterr().err


def test_an_answer_that_fills_the_model_is_not_scored_by_token():
    settings = params_with({"predictions.max_model_len": 300}).predictions
    full, short = ({"prompt_tokens": 100, "completion_tokens": n} for n in (200, 199))
    assert not answers.has_room(full, settings) and answers.has_room(short, settings)


def test_a_run_that_finds_all_answered_keeps_the_speed_that_was_measured(tmp_path):
    rows = {"base": [{"completion_tokens": 40}] * 4}
    first = answers.measured(tmp_path, rows, 2.0, 4)
    assert first["samples_per_second"] == 2 and answers.measured(tmp_path, rows, 0.1, 0) == first
    assert answers.measured(tmp_path, rows, 1.0, 1)["samples_per_second"] == 1


def test_a_server_that_cannot_be_reached_is_named_in_one_line(tmp_path, capsys):
    chosen = params_with({"predictions.base_url": "http://127.0.0.1:9/v1"}).predictions
    with ends(), answers.endpoints(chosen, ROOT, tmp_path, tmp_path, tmp_path) as urls:
        answers.answer_all(urls, "tuned", ASKED, tmp_path / "a", chosen, params_with().decoding)
    assert "error: predictions.base_url: http://127.0.0.1:9/v1: Cannot connect to host" in capsys.readouterr().err


def test_base_url_is_used_as_it_is(tmp_path):
    chosen = params_with({"predictions.base_url": "http://10.0.0.1:8000/v1/"}).predictions
    with answers.endpoints(chosen, ROOT, tmp_path, tmp_path, tmp_path) as urls:
        assert urls == ["http://10.0.0.1:8000"]
