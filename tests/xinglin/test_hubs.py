"""Models from hubs on loopback, each in a process of its own: what comes, and what is said where it does not."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import httpx
import pytest

from tests.conftest import ROOT, ends
from tests.hub import BELOW, BUSY, CUT, LIMITED, OTHER, POINTER, RESET, SIGNATURE, SLOW, TOKEN, huggingface, modelscope
from tests.ports import quiet_port
from tools import bundle, doctor
from tools.all_params import read_params
from xinglin.hubs import faults as hub_faults

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = ROOT / "models" / "tiny"
HUB = "http://hub.invalid"  # behind a proxy alone
WEIGHTS = bytes(range(256)) * 12_000
SHARDS = {"model-00001-of-00002.safetensors": WEIGHTS, "model-00002-of-00002.safetensors": WEIGHTS[::-1]}
MODEL = SHARDS | {
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "tokenizer.json": b"tokens" * 99,
    "chat_template.jinja": b"{{ messages }}",
    "merges.txt": b"",
    "spiece.model": b"pieces" * 99,
}
UNREAD = {
    "README.md": b"#",
    "modeling_mine.py": b"import os",
    "pytorch_model.bin": WEIGHTS,
    "model.gguf": WEIGHTS,
    "consolidated.safetensors": WEIGHTS,
    "original/model.safetensors": WEIGHTS,
    "onnx/config.json": b"{}",
}
HUBS = {
    "huggingface": (huggingface, "HF_ENDPOINT", "HF_TOKEN", "HF_HOME"),
    "modelscope": (modelscope, "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN", "MODELSCOPE_CACHE"),
}
PASSWORD = "geheim"
RECORD = """
import json
from pathlib import Path
from xinglin.bases.record import locate, record
from xinglin.cli import run_command
from tools.all_params import read_params
def main():
    base = read_params().base
    print(json.dumps(record(base, locate(base, Path("none")))))
run_command(main)
"""


@pytest.fixture(params=HUBS)
def source(request):
    return request.param


@pytest.fixture
def hub(source):
    return HUBS[source][0]


@pytest.fixture
def environment(workplace, tmp_path):
    """Give a function that sets the parameters to a hub's model and returns the environment of a process that fetches it."""

    def make(source, endpoint, revision=None, **changes):
        workplace({"base.source": source, "base.model": "someone/model", "base.revision": revision})
        known = {HUBS[source][1]: endpoint, HUBS[source][2]: TOKEN}
        known |= {"MODELSCOPE_API_MAX_RETRIES": "1", "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1"}
        caches = {hub[3]: str(tmp_path / "cache") for hub in HUBS.values()}
        return {k: v for k, v in (os.environ | {"PYTHONPATH": str(ROOT)} | caches | known | changes).items() if v is not None}

    return make


@pytest.fixture
def fetch(environment):
    """Give a function that fetches a model and returns what base.json would say of it, and what was printed."""

    def run(source, endpoint, **options):
        made = environment(source, endpoint, **options)
        done = subprocess.run([sys.executable, "-c", RECORD], env=made, capture_output=True, text=True, timeout=300)
        for secret in ("Traceback", TOKEN, SIGNATURE):
            assert secret not in done.stdout + done.stderr
        found = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
        error = (done.stderr.strip().splitlines() or [""])[-1]
        return SimpleNamespace(status=done.returncode, err=done.stderr, error=error, **found)

    return run


def listed(files):
    return {name: {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} for name, body in files.items()}


def test_only_what_is_read_is_fetched_and_a_second_run_fetches_nothing(source, hub, fetch):
    with hub(MODEL | UNREAD) as served:
        first = fetch(source, served.endpoint)
        fetched = list(served.fetched)
        second = fetch(source, served.endpoint)
    assert first.status == 0, first.err
    assert first.files == second.files == listed(MODEL)
    assert set(fetched) <= set(MODEL) and fetched == served.fetched


@pytest.mark.parametrize("faults", [[CUT, BUSY], [RESET, LIMITED], [OTHER, POINTER]], ids=",".join)
def test_a_model_comes_whole_in_spite_of_faults(source, hub, fetch, faults):
    if source == "modelscope":
        faults = [BUSY if fault == LIMITED else fault for fault in faults]
    with hub({"config.json": b"{}", "model.safetensors": WEIGHTS}, faults) as served:
        done = fetch(source, served.endpoint)
    assert done.status == 0, done.err
    assert done.files == listed({"config.json": b"{}", "model.safetensors": WEIGHTS}) and not served.faults


def test_a_busy_api_is_asked_again_for_the_commit_and_both_times_for_the_files(fetch):
    with huggingface(MODEL, api_faults=[LIMITED, None, BUSY, None, LIMITED]) as served:
        done = fetch("huggingface", served.endpoint)
    assert done.status == 0 and done.files == listed(MODEL), done.err
    assert done.err.count("again in") == 3 and not served.api_faults


def test_a_file_that_was_spoilt_in_the_cache_is_fetched_again(source, hub, fetch):
    with hub(MODEL) as served:
        first = fetch(source, served.endpoint)
        weights = os.path.join(os.path.expanduser(first.path), "model-00001-of-00002.safetensors")
        with open(weights, "r+b") as file:
            file.write(b"spoilt")
        served.fetched.clear()
        assert fetch(source, served.endpoint).files == listed(MODEL)
        assert served.fetched == ["model-00001-of-00002.safetensors"]


# What users meet


def behind(proxy):
    proxy = proxy.replace("http://", f"http://someone:{PASSWORD}@")
    return {"HTTP_PROXY": proxy, "http_proxy": proxy, "NO_PROXY": "", "no_proxy": ""}


def test_a_mirror_that_keeps_git_lfs_pointers_alone_is_told_of(fetch):
    with huggingface({"model.safetensors": WEIGHTS}, [POINTER] * 2) as served:
        done = fetch("huggingface", served.endpoint)
    assert done.status == 1 and "HF_ENDPOINT" in done.error
    assert "model.safetensors came twice as a Git LFS pointer" in done.error


def test_a_mirror_below_a_path_without_xet_and_the_commits_header_is_enough_behind_a_proxy(fetch):
    with huggingface(MODEL, bare=True, xet=True) as served:  # huggingface/huggingface_hub#1796, #2808, #4475
        done = fetch("huggingface", HUB + BELOW + "/", **behind(served.endpoint))
    assert done.status == 0, done.err
    assert done.files == listed(MODEL)
    assert [path for path in served.asked if path.startswith(HUB + BELOW + "/someone/model/resolve/")]


def test_a_mirror_that_sends_on_to_the_hub_itself_gets_a_gated_model_too(fetch):
    with huggingface(MODEL, gated=True, moved=True) as served:
        done = fetch("huggingface", HUB, **behind(served.endpoint))
    assert done.status == 0, done.err
    assert {line.split()[0] for line in served.told} == {"hub.invalid", "huggingface.co"}


def test_a_proxy_that_is_not_there_or_shows_a_page_is_one_line_without_its_password(fetch):
    done = fetch("huggingface", HUB, **behind(f"http://127.0.0.1:{quiet_port()}"))
    assert done.status == 1 and "hub.invalid cannot be reached" in done.error and "proxy" in done.error
    assert PASSWORD not in done.err
    with huggingface(MODEL, page=True) as served:
        done = fetch("huggingface", served.endpoint)
    assert done.status == 1 and "a page answers instead of a hub" in done.error and "HF_ENDPOINT" in done.error


def test_a_disk_without_links_holds_each_file_once(fetch, tmp_path):
    with huggingface(MODEL) as served:
        done = fetch("huggingface", served.endpoint, HF_HUB_DISABLE_SYMLINKS="1")
        again = fetch("huggingface", served.endpoint, HF_HUB_DISABLE_SYMLINKS="1")
    assert done.files == again.files == listed(MODEL) and len(served.fetched) <= len(MODEL)
    held = [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.stat().st_size == len(WEIGHTS)]
    assert len(held) == 2 and not any(file.is_symlink() for file in held)


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)])
def test_a_killed_download_ends_at_once_and_goes_on_where_it_stopped(environment, workplace, stage_process, sign, status):
    folder = workplace()
    with huggingface({"set.jsonl": WEIGHTS}, [SLOW]) as served:  # huggingface/huggingface_hub#4196
        made = environment("huggingface", served.endpoint)
        workplace({"raw.source": "huggingface", "raw.dataset": "someone/set", "raw.file": "set.jsonl"})
        stage = [sys.executable, "-m", "stages.raw", "--sample", "none", "--out", "raw"]
        with subprocess.Popen(stage, env=made, stderr=subprocess.DEVNULL) as process:
            while not [part for part in folder.glob("cache/hub/*/blobs/*.incomplete") if part.stat().st_size]:
                time.sleep(0.05)
            process.send_signal(sign)
            assert process.wait(timeout=8) == status
        done = stage_process("raw", made, sample="none", out="raw")
    assert done.status == 0, done.err
    assert served.ranges[-1] >= 1 << 20 and (folder / "raw" / "dialogues.jsonl").read_bytes() == WEIGHTS


def test_two_who_fetch_the_same_model_at_once_fetch_each_file_once(environment, tmp_path):
    with huggingface(MODEL) as served:
        made, both = environment("huggingface", served.endpoint), []
        for user in (tmp_path / "one", tmp_path / "two"):
            user.mkdir()
            shutil.copy(tmp_path / "params.yaml", user)
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            both.append(subprocess.Popen([sys.executable, "-c", RECORD], cwd=user, env=made, **pipes))
        said = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [json.loads(out)["files"] for out, _ in said] == [listed(MODEL)] * 2
    assert len(served.fetched) == len(set(served.fetched))


@pytest.mark.parametrize("lie", ["", "import shutil; shutil.disk_usage = lambda path: type('Usage', (), {'free': 1 << 40})()"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(source, hub, fetch, tmp_path, lie):
    cache = tmp_path / "cache"
    cache.mkdir()
    (tmp_path / "sitecustomize.py").write_text(lie)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", cache], capture_output=True).returncode:
        pytest.skip("this needs the right to mount a small disk")
    try:
        with hub({"config.json": b"{}", "model.safetensors": WEIGHTS}) as served:
            done = fetch(source, served.endpoint, PYTHONPATH=f"{tmp_path}:{ROOT}")
            assert done.status == 1 and f"set {HUBS[source][3]} to a folder with room" in done.error
            assert ("GB are free" if source == "huggingface" and not lie else "No space left") in done.error
            subprocess.run(["mount", "-o", "remount,size=9m", cache], check=True)
            assert fetch(source, served.endpoint).files == listed({"config.json": b"{}", "model.safetensors": WEIGHTS})
            assert not lie or served.ranges[-1]
    finally:
        subprocess.run(["umount", "--lazy", cache], check=True)


# Who may read what


def test_a_gated_model_comes_with_the_token_which_the_hub_alone_gets_to_see(fetch):
    with huggingface(MODEL, gated=True) as served:
        assert fetch("huggingface", served.endpoint).files == listed(MODEL)
    assert set(served.told) == {f"127.0.0.1 Bearer {TOKEN}"} and any(path.startswith("/cdn/") for path in served.asked)


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("hf_another", 403)])
def test_a_gated_model_without_the_right_token_is_one_line(fetch, token, status):
    with huggingface(MODEL, gated=True) as served:
        done = fetch("huggingface", served.endpoint, HF_TOKEN=token)
    assert done.status == 1 and f"gated ({status})" in done.error
    assert "accept its terms" in done.error and "HF_TOKEN" in done.error
    assert not served.fetched and "hf_another" not in done.err


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_one_line_that_names_what_to_check(source, hub, fetch, status):
    with hub(MODEL, refused=status) as served:
        done = fetch(source, served.endpoint)
    assert done.status == 1 and f"({status})" in done.error and HUBS[source][2] in done.error
    assert "base.model: someone/model" in done.error and "base.source: path" in done.error


def test_a_model_that_is_not_there_is_one_line(source, hub, fetch):
    with hub({}) as served:
        done = fetch(source, served.endpoint)
    assert done.status == 1 and "base.model: someone/model" in done.error and "(404)" in done.error


def test_a_token_that_is_none_is_one_line_without_it(source, hub, fetch):
    with hub(MODEL) as served:
        done = fetch(source, served.endpoint, **{HUBS[source][2]: "hf_秘密"})
    assert done.status == 1 and HUBS[source][2] in done.error and "秘密" not in done.err and not served.asked


@pytest.mark.parametrize("revision", ["v1", None])
def test_a_branch_a_tag_a_commit_or_none_names_the_revision(fetch, revision):
    with huggingface(MODEL) as served:
        done = fetch("huggingface", served.endpoint, revision=revision)
        assert done.files == listed(MODEL) and done.path.endswith(f"/models--someone--model/snapshots/{served.commit}")
        assert fetch("huggingface", served.endpoint, revision=served.commit).path == done.path


def test_a_revision_that_is_not_there_is_one_line(source, hub, fetch):
    with hub(MODEL) as served:
        done = fetch(source, served.endpoint, revision="v9")
    assert done.status == 1 and "revision v9" in done.error and "base.revision" in done.error


# Without a network


def test_the_cache_is_enough_where_the_hub_cannot_be_reached(source, hub, fetch):
    with hub(MODEL) as served:
        first = fetch(source, served.endpoint)
    done = fetch(source, f"http://127.0.0.1:{quiet_port()}")
    assert done.status == 0 and (done.path, done.files) == (first.path, first.files)
    assert "taken from the cache" in done.err


def test_no_network_and_no_cache_is_one_line(source, fetch):
    done = fetch(source, f"http://127.0.0.1:{quiet_port()}")
    assert done.status == 1 and "Connection refused" in done.error
    assert HUBS[source][1] in done.error and "run again to go on" in done.error


def test_offline_takes_what_is_whole_from_the_cache_and_nothing_else(fetch):
    with huggingface(MODEL) as served:
        done = fetch("huggingface", served.endpoint, HF_HUB_OFFLINE="1")
        assert done.status == 1 and "HF_HUB_OFFLINE is set" in done.error and not served.asked
        first = fetch("huggingface", served.endpoint)
        served.asked.clear()
        assert fetch("huggingface", served.endpoint, HF_HUB_OFFLINE="1").files == first.files
        weights = os.path.realpath(os.path.join(first.path, "model-00002-of-00002.safetensors"))
        with open(weights, "r+b") as file:
            file.write(b"spoilt")
        done = fetch("huggingface", served.endpoint, HF_HUB_OFFLINE="1")
        assert done.status == 1 and "model-00002-of-00002.safetensors in the cache has other bytes" in done.error
        os.unlink(weights)
        done = fetch("huggingface", served.endpoint, HF_HUB_OFFLINE="1")
        assert done.status == 1 and "the cache does not hold all of it" in done.error and not served.asked


@pytest.mark.parametrize(
    "text",
    [
        "Illegal header value b'Bearer hf_secret'",
        "no answer from http://someone:secret@hub.invalid/x",
        "https://cdn.cn/x?X-Amz-Signature=secret failed",
    ],
)
def test_an_errors_text_is_said_without_what_one_is_logged_in_with(text):
    found = hub_faults.said(ValueError(text))
    assert "secret" not in found and found.split()[0] in text


def test_a_thread_says_nothing_more_once_another_has_failed_for_good(capsys):
    def broken():
        raise httpx.ReadError("cut")

    with pytest.raises(httpx.ReadError):
        hub_faults.patiently(broken, given_up=lambda: True)
    assert capsys.readouterr().err == ""


# What the other stages see of it


def test_two_users_of_one_cache_get_the_same_record_even_where_home_is_a_link(source, hub, fetch, tmp_path):
    paths = []
    for user in ("one", "two"):
        (tmp_path / f"disk-{user}").mkdir()
        (tmp_path / user).symlink_to(tmp_path / f"disk-{user}")
        with hub(MODEL) as served:
            paths.append(fetch(source, served.endpoint, HOME=str(tmp_path / user), HF_HOME=None, MODELSCOPE_CACHE=None).path)
    assert paths[0] == paths[1] and paths[0].startswith("~/.cache/")


def test_doctor_names_a_hubs_model_and_that_it_needs_a_gpu(source, workplace, monkeypatch, capsys):
    workplace({"base.source": source, "base.model": "someone/model"})
    monkeypatch.setattr(doctor, "cards", list)
    doctor.main()
    out = capsys.readouterr().out
    assert "base someone/model, " in out and "base.model: someone/model: a GPU" in out


def test_a_hub_without_a_model_is_one_line(source, workplace, capsys):
    workplace({"base.source": source, "base.model": None})
    with ends():
        read_params()
    assert f"source is '{source}', so base.model must name a model" in capsys.readouterr().err


def test_a_bundle_holds_the_files_that_the_caches_links_lead_to(tmp_path, monkeypatch):
    snapshot, blobs = tmp_path / "snapshots" / "c0ffee", tmp_path / "blobs"
    for folder in (snapshot, blobs, tmp_path / "models"):
        folder.mkdir(parents=True)
    (blobs / "0123").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/0123")
    (tmp_path / "models" / "base.json").write_text(json.dumps({"path": str(snapshot), "files": {"config.json": {}}}))
    monkeypatch.chdir(tmp_path)
    bundle.pack_base(tmp_path / "out")
    packed = tmp_path / "out" / "base" / "config.json"
    assert packed.read_text() == "{}" and not packed.is_symlink()


@pytest.mark.soak
def test_the_stage_proves_a_model_that_comes_from_hugging_face(environment, stage_process, tmp_path):
    files = {file.name: file.read_bytes() for file in TINY.iterdir() if file.is_file()}
    with huggingface(files) as served:
        made = environment("huggingface", served.endpoint)
        done = stage_process(
            "base", made, tiny="none", out="base.json", files="base_files.json", tokenizer="tokenizer", check="check.json"
        )
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "base.json").read_text())
    assert found["model"] == "someone/model" and found["files"]["model.safetensors"]["bytes"] == len(files["model.safetensors"])
