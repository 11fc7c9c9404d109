"""The real pipeline, once, in a copy of the project: what a user sees after `make demo`."""

import json
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager

import gradio_client
import httpx
import openai
import pytest

from tests.conftest import ROOT, Project
from xinglin.serving import server
from xinglin.serving.answers import samples
from xinglin.serving.server import free_port

STAGES = ["raw", "base", "converted", "split", "adapter", "predictions", "metrics", "merged"]


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


@contextmanager
def background(project: Project, *command: str, **environment: str):
    """Run a server in the copy, and stop it with SIGTERM at the end."""
    log = project.folder.parent / f"{command[-1]}.txt"
    with log.open("wb") as output:
        python = str(project.folder.parent / ".venv" / "bin" / "python")
        process = subprocess.Popen(
            [python, *command], cwd=project.folder, env=project.environment | environment, stdout=output, stderr=output
        )
    try:
        yield process, log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(process, log, url: str, seconds: float = 240) -> httpx.Response:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            reply = httpx.get(url, timeout=10)
            if reply.is_success:
                return reply
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"no answer from {url}: {log.read_text()[-3000:]}")


def test_the_tuned_model_is_ahead_of_the_base_beyond_the_interval(pipeline):
    found = json.loads((pipeline.folder / "metrics.json").read_text())
    assert found["intervals"]["gain"]["bleu-4"]["low"] > 0
    assert found["tuned"]["bleu-4"] == pytest.approx(found["base"]["bleu-4"] + found["gain"]["bleu-4"], abs=2e-4)
    parity = json.loads((pipeline.folder / "models" / "merged" / "parity.json").read_text())
    assert parity["mean"] <= parity["tolerance"] and parity["tokens"] > 100


def test_no_dialogue_is_lost_and_no_question_is_on_two_sides(pipeline):
    stats = json.loads((pipeline.folder / "data" / "converted" / "stats.json").read_text())
    report = json.loads((pipeline.folder / "data" / "split" / "report.json").read_text())
    assert stats["raw"] == stats["converted"] + stats["rejected"] + stats["duplicates"]
    assert sum(report["rows"].values()) == stats["converted"] and not any(report["overlap"].values())


def test_only_what_a_user_commits_has_changed(pipeline):
    changed = {line[3:].split("/")[0] for line in pipeline.run("git", "status", "--porcelain").stdout.splitlines()}
    assert changed <= {"dvc.lock", "metrics.json", "plots"}
    assert not list((pipeline.folder / ".work" / "adapter").iterdir())  # checkpoints have served their purpose


def test_a_second_run_does_nothing_and_a_change_runs_only_what_follows(pipeline):
    assert ran(pipeline.dvc("repro")) == []
    pipeline.set({"serve.port": 8001})
    assert ran(pipeline.dvc("repro", "--dry")) == []
    pipeline.set({"adapter.learning_rate": 0.0015})
    would = ran(pipeline.dvc("repro", "--dry"))  # a dry run sees the first change only, not what would follow from it
    pipeline.run("git", "checkout", "params.yaml")
    assert would[0] == "adapter" and not set(would) & set(STAGES[:4])
    followers = pipeline.dvc("dag", "--dot", "merged")
    assert '"adapter" -> "predictions"' in followers and '"predictions" -> "metrics"' in followers


def test_metrics_plots_and_experiments_are_ones_that_dvc_reads(pipeline):
    assert "tuned.bleu-4" in pipeline.dvc("metrics", "show", "--md")
    pipeline.dvc("plots", "show", "--json")
    assert "merged" in pipeline.dvc("dag", "--md")


def test_the_report_of_a_real_run_has_the_figures_of_every_section(pipeline):
    pipeline.python("-m", "tools.report")
    text = (pipeline.folder / "report.html").read_text(encoding="utf-8")
    files = ("metrics.json", "data/converted/stats.json", "plots/data/stats.json", "data/split/report.json")
    run, converted, statistics, split = (json.loads((pipeline.folder / file).read_text()) for file in files)
    assert "，运行 <code>" not in text  # stands where an output is missing
    assert text.count("<figure") == 1 + len(run["gain"]) + 4  # loss, a distribution for each score, the data
    answers = json.loads(re.search(r'id="data">(.*)</script>', text)[1])
    assert answers["metrics"] == list(run["gain"]) and len(answers["rows"]) == run["samples"]
    score, steps = f"{run['tuned']['bleu-4']:.2f}", run["training"]["steps"]
    for figure in (score, steps, converted["raw"], statistics["questions"], split["rows"]["train"]):
        assert re.search(f"<(td|dd)>{figure}</", text)


def test_the_report_says_when_its_parts_are_of_other_runs(pipeline):
    page = pipeline.folder / "report.html"
    assert 'role="alert"' not in page.read_text(encoding="utf-8")
    pipeline.set({"metrics.seed": 43})
    pipeline.python("-m", "tools.report")
    assert re.search('role="alert">[^<]*metrics', page.read_text(encoding="utf-8"))
    pipeline.set({"metrics.seed": 42})


def test_a_setting_that_comes_back_and_a_lost_lock_run_nothing_again(pipeline):
    file = pipeline.folder / "metrics.json"
    before, seen = file.read_bytes(), []
    for resamples in (300, 310, 300):
        pipeline.set({"metrics.bootstrap": resamples})
        seen.append((ran(pipeline.dvc("repro", "metrics")), file.read_bytes()))
    assert [stages for stages, _ in seen] == [["metrics"], ["metrics"], []] and seen[0][1] == seen[2][1] != seen[1][1]
    pipeline.set({"metrics.bootstrap": 1000})
    again = []
    for _ in range(2):  # what came with git, statistics say, may not have run here yet
        (pipeline.folder / "dvc.lock").unlink()
        again.append(ran(pipeline.dvc("repro")))
    assert "adapter" not in again[0] and again[1] == []
    assert file.read_bytes() == before


def test_a_base_that_moved_is_the_same_base(pipeline):
    elsewhere = pipeline.folder.parent / "elsewhere"
    shutil.copytree(pipeline.folder / "models" / "tiny", elsewhere)
    pipeline.set({"base.source": "path", "base.path": str(elsewhere), "base.revision": "other"})
    assert ran(pipeline.dvc("repro")) == ["base"]
    pipeline.set({"base.source": "tiny", "base.path": None, "base.revision": "master"})
    assert ran(pipeline.dvc("repro")) == []


def test_an_experiment_in_a_temporary_copy_leaves_the_workspace_alone(pipeline):
    pipeline.run("git", "add", "-A")
    pipeline.run("git", "commit", "-qm", "Results", "--allow-empty")
    out = pipeline.dvc("exp", "run", "--temp", "-S", "metrics.bootstrap=200", "metrics")
    assert ran(out) == ["metrics"]
    assert pipeline.run("git", "status", "--porcelain").stdout == ""


def test_a_colleague_pulls_from_the_remote_and_runs_nothing(pipeline, tmp_path):
    pipeline.run("git", "add", "-A")
    pipeline.run("git", "commit", "-qm", "Results", "--allow-empty")
    pipeline.dvc("remote", "add", "--local", "-f", "-d", "shared", str(tmp_path / "remote"))
    pipeline.dvc("push")
    copy = pipeline.folder.parent / "colleague"
    pipeline.run("git", "clone", "-q", str(pipeline.folder), str(copy))
    colleague = Project.__new__(Project)
    colleague.folder = copy
    colleague.dvc("remote", "add", "--local", "-d", "shared", str(tmp_path / "remote"))
    colleague.dvc("pull")
    assert ran(colleague.dvc("repro")) == []
    assert (copy / "models" / "merged" / "model.safetensors").stat().st_size > 1e6


def test_the_merged_model_is_served_passes_the_check_and_answers_through_the_application(pipeline):
    port, app_port = free_port(), free_port()
    pipeline.set({"serve.port": port, "app.port": app_port})
    try:
        with background(pipeline, "-m", "tools.up") as (process, log):
            wait_for(process, log, f"http://127.0.0.1:{app_port}/healthz")
            assert httpx.get(f"http://127.0.0.1:{app_port}/readyz").status_code == 503  # vLLM takes a minute to load
            wait_for(process, log, f"http://127.0.0.1:{port}/health")
            out = pipeline.python("-m", "tools.serve_check").stdout
            assert out.count("ok ") == 8 and "FAILED" not in out and "skipped" not in out, out
            assert httpx.get(f"http://127.0.0.1:{app_port}/readyz", timeout=60).status_code == 200
            ask_through_the_gateway(f"http://127.0.0.1:{app_port}/v1")
        gone = pipeline.python("-m", "tools.serve_check", expect=1).stdout
        assert "no server answers" in gone and gone.count("\n") == 1
    finally:
        pipeline.run("git", "checkout", "params.yaml")


def test_a_server_of_other_weights_another_template_and_the_bases_sampling_is_found_out(pipeline, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(pipeline.folder / "models" / "merged", other)
    shutil.copy(ROOT / "models" / "tiny" / "model.safetensors", other)
    with (other / "chat_template.jinja").open("a", encoding="utf-8") as template:
        template.write("好的，")
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}  # Qwen2.5's
    config = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps(config | sampling))
    options = {"served_model_name": "xinglin", "dtype": "float32", "max_model_len": 2048, "enforce_eager": ""}
    with server.serving(server.vllm(other, tmp_path / "vllm.log", **options)) as [url]:
        out = pipeline.python("-m", "tools.serve_check", expect=1, URL=url).stdout
    said = [line.split(":")[0].split(" ", 1) for line in out.splitlines()]
    assert [name.strip() for word, name in said if word == "FAILED"] == ["prompts", "weights", "decoding"], out


def ask_through_the_gateway(url: str) -> None:
    question = [{"role": "user", "content": "感冒了需要吃消炎药吗？"}]
    with openai.OpenAI(base_url=url, api_key="none", timeout=120) as client:
        settings = {"model": "xinglin", "max_tokens": 24, "temperature": 0}
        done = client.chat.completions.create(messages=question, **settings)
        answer = done.choices[0].message.content
        assert answer and done.usage.completion_tokens <= 24
        events = client.chat.completions.create(messages=question, stream=True, **settings)
        assert "".join(event.choices[0].delta.content or "" for event in events) == answer
        further = [*question, {"role": "assistant", "content": answer}, {"role": "user", "content": "那要看医生吗？"}]
        assert client.chat.completions.create(messages=further, **settings).usage.prompt_tokens > done.usage.prompt_tokens


@pytest.mark.parametrize("page", ["chat", "webui"])
def test_llamafactorys_pages_open_on_loopback_with_everything_filled_in(pipeline, page):
    address = f"http://127.0.0.1:{free_port()}/"
    with background(pipeline, "-m", "tools.board", page, GRADIO_SERVER_PORT=address[:-1].rsplit(":")[-1]) as (process, log):
        html = wait_for(process, log, address).text
        assert "gradio" in html.lower()
        if page == "webui":
            client = gradio_client.Client(address, verbose=False)
            fns = {fn.api_name: index for index, fn in client.endpoints.items()}
            shown = str(list(client.submit(fn_index=fns["/resume_filled"])))
            assert "Custom" in shown and "data/split" in shown and "'test'" in shown
            base, template = client.predict("Custom", fn_index=fns["/get_model_info"])
            assert (pipeline.folder / base / "model.safetensors").samefile(
                pipeline.folder / "models" / "tiny" / "model.safetensors"
            )
            assert template == "qwen"
            assert client.predict("Custom", "lora", fn_index=fns["/list_checkpoints"])["value"] == ["models/adapter"]


def test_a_sweep_scores_on_the_validation_part_and_its_best_run_is_not_trained_again(pipeline):
    pipeline.run("git", "add", "-A")
    pipeline.run("git", "commit", "-qm", "Results", "--allow-empty")
    short = "adapter.max_steps=1 predictions.max_samples=4 predictions.max_new_tokens=24"
    words = ("-m", "tools.sweep", "--set", f"{short} adapter.learning_rate=1e-3,2e-3")
    lines = pipeline.python(*words).stdout.splitlines()[-2:]
    assert all(line.startswith("sweep-") and "adapter.learning_rate=" in line for line in lines), lines
    assert pipeline.run("git", "status", "--porcelain").stdout == ""
    validation = {sample["id"] for sample in samples(pipeline.folder / "data" / "split" / "val.jsonl", None)}
    for ref in pipeline.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split():
        if "/sweep-" in ref:
            scored = pipeline.run("git", "show", f"{ref}:plots/answers.csv").stdout.splitlines()[1:]
            assert len(scored) == 8 and {line.split(",")[0] for line in scored} <= validation
    again = pipeline.python(*words).stdout
    assert "Running stage" not in again and again.splitlines()[-2:] == lines
    try:
        out = pipeline.python("-m", "tools.best", expect=None).stdout  # two steps of training may not pass the gate
        assert "best: sweep-" in out and "adapter" not in ran(out) and "predictions" in ran(out), out[-3000:]
        assert json.loads((pipeline.folder / "metrics.json").read_text())["part"] == "test"
    finally:
        pipeline.run("git", "reset", "-q", "--hard")
        pipeline.dvc("checkout")


@pytest.mark.soak
def test_candidates_are_compared_before_any_training(pipeline):
    try:
        pipeline.set({"predictions.max_new_tokens": 24})
        out = pipeline.dvc("repro", "evaluations/dvc.yaml:candidates")
        assert ran(out) == ["evaluations/dvc.yaml:candidate@tiny", "evaluations/dvc.yaml:candidates"]
        found = json.loads((pipeline.folder / "evaluations" / "candidates" / "tiny.json").read_text())
        assert found["parameters"] == 15_740_288 and found["samples"] == 74 and found["samples_per_second"] > 0
        assert "15.7 M" in out and (pipeline.folder / "plots" / "candidates.csv").read_text().startswith("name,parameters")
    finally:
        pipeline.run("git", "reset", "-q", "--hard")


def test_a_clone_without_the_cache_makes_the_same_bytes_of_raw_converted_and_split(pipeline):
    pipeline.run("git", "add", "-A")
    pipeline.run("git", "commit", "-qm", "Results", "--allow-empty")
    clone = Project.__new__(Project)
    clone.folder = pipeline.folder.parent / "without-the-cache"
    pipeline.run("git", "clone", "-q", str(pipeline.folder), str(clone.folder))
    assert ran(clone.dvc("repro", "split")) == ["raw", "converted", "split"]
    assert clone.run("git", "status", "--porcelain").stdout == ""  # dvc.lock holds the hashes, and did not change
