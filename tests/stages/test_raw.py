import pytest

from tests.hub import BUSY, CUT, LIMITED, OTHER, huggingface, modelscope
from tests.ports import quiet_port

pytestmark = pytest.mark.filterwarnings("ignore")
LINE = '{"data": ["问：咳嗽", "答：多喝水"]}\r\n'.encode()
WHOLE = LINE * 60_000
HUBS = {"huggingface": (huggingface, "HF_ENDPOINT"), "modelscope": (modelscope, "MODELSCOPE_ENDPOINT")}


def test_the_source_is_kept_byte_for_byte(workplace, stage, tmp_path):
    (tmp_path / "mine.jsonl").write_bytes(LINE)
    folder = workplace({"raw.source": "path", "raw.path": str(tmp_path / "mine.jsonl")})
    assert stage("raw", sample="none", out="raw").status == 0
    assert (folder / "raw" / "dialogues.jsonl").read_bytes() == LINE


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.jsonl", None, "no such file"),
        ("mine.docx", b"x", "expected a name that ends in .jsonl"),
        ("mine.jsonl", b"", "is empty"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_line_and_leaves_nothing(workplace, stage, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    folder = workplace({"raw.source": "path", "raw.path": str(tmp_path / name)})
    done = stage("raw", sample="none", out="raw")
    assert done.status == 1 and name in done.error and words in done.error
    assert not (folder / "raw").exists() and not list(folder.glob(".*part"))


def test_too_little_disk_is_said_before_copying(workplace, stage, tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_bytes(LINE)
    workplace({"raw.source": "path", "raw.path": str(tmp_path / "mine.jsonl")})
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 3, "total": 9})())
    done = stage("raw", sample="none", out="raw")
    assert done.status == 1 and "GB of disk" in done.error


@pytest.fixture(params=HUBS)
def source(request):
    return request.param


@pytest.fixture
def fetch(workplace, stage_process, tmp_path, source):
    """Give a function that runs the stage against a hub and returns its folder and what it said."""

    def run(endpoint, file="set.jsonl"):
        folder = workplace({"raw.source": source, "raw.dataset": "someone/set", "raw.file": file})
        known = {HUBS[source][1]: endpoint, "HF_HOME": str(tmp_path / "hf"), "MODELSCOPE_API_MAX_RETRIES": "1"}
        return folder, stage_process("raw", known, sample="none", out="raw")

    return run


@pytest.fixture
def hub(source):
    return HUBS[source][0]


@pytest.mark.parametrize("faults", [[CUT, CUT], [BUSY], [OTHER], [LIMITED]], ids=",".join)
def test_a_hubs_file_is_fetched_in_spite_of_faults(hub, fetch, faults):
    with hub({"set.jsonl": WHOLE, "README.md": b"x"}, faults) as served:
        folder, done = fetch(served.endpoint)
    assert done.status == 0, done.err
    assert (folder / "raw" / "dialogues.jsonl").read_bytes() == WHOLE
    assert set(served.fetched) == {"set.jsonl"} and len(served.ranges) == len(faults) + 1
    if faults == [CUT, CUT]:  # the second and third request go on where the one before stopped
        assert 0 < served.ranges[1] <= served.ranges[2]


def test_a_run_that_was_interrupted_goes_on_where_it_stopped(source, hub, fetch, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_MAX_RETRIES", "0")
    faults = [CUT] + [BUSY] * 5 if source == "huggingface" else [CUT]
    with hub({"set.jsonl": WHOLE}, faults) as served:
        folder, done = fetch(served.endpoint)
        assert done.status == 1 and "run again to go on" in done.error and not (folder / "raw").exists()
        folder, done = fetch(served.endpoint)
    assert done.status == 0, done.err
    assert served.ranges[-1] > 0 and (folder / "raw" / "dialogues.jsonl").read_bytes() == WHOLE


@pytest.mark.parametrize(
    ("file", "faults", "words"),
    [
        ("other.jsonl", [], ["other.jsonl at", "no such file, but README.md, set.jsonl", "raw.file"]),
        ("parts/1.jsonl", [], ["parts/1.jsonl at", "no such file, but README.md, set.jsonl"]),
        ("set.jsonl", [BUSY] * 99, ["500", "run again to go on"]),
        ("set.jsonl", [OTHER] * 9, ["set.jsonl", "run again to go on", "another mirror"]),
    ],
)
def test_what_cannot_be_fetched_is_one_line_with_the_way_out(hub, fetch, monkeypatch, file, faults, words):
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_MAX_RETRIES", "1")
    with hub({"set.jsonl": LINE * 9, "README.md": b"x"}, faults) as served:
        folder, done = fetch(served.endpoint, file)
    assert done.status == 1 and not (folder / "raw").exists()
    for word in ["raw.dataset: someone/set", "raw.source: path", *words]:
        assert word in done.error
    assert "Traceback" not in done.err


def test_no_network_at_all_is_one_line_with_the_way_out(fetch):
    folder, done = fetch(f"http://127.0.0.1:{quiet_port()}")
    assert done.status == 1 and not (folder / "raw").exists()
    for word in ("raw.dataset: someone/set", "cannot fetch set.jsonl", "Connection refused", "_ENDPOINT", "raw.source: path"):
        assert word in done.error


def test_a_file_in_a_folder_of_the_data_set_is_fetched_and_packed_ones_keep_their_ending(hub, fetch):
    with hub({"data/train.jsonl.gz": LINE, "README.md": b"x"}) as served:
        folder, done = fetch(served.endpoint, "data/train.jsonl.gz")
    assert done.status == 0, done.err
    assert (folder / "raw" / "dialogues.jsonl.gz").read_bytes() == LINE


def test_a_hubs_file_beside_ones_own_is_one_of_several_sources(source, hub, workplace, stage_process, tmp_path):
    (tmp_path / "mine.jsonl").write_bytes(LINE)
    given = {"name": "huatuo", "source": source, "dataset": "someone/set", "file": "set.jsonl", "licence": "MIT"}
    own = {"name": "mine", "source": "path", "path": "mine.jsonl", "licence": "MIT"}
    with hub({"set.jsonl": WHOLE, "README.md": b"x"}) as served:
        known = {HUBS[source][1]: served.endpoint, "HF_HOME": str(tmp_path / "hf"), "MODELSCOPE_API_MAX_RETRIES": "1"}
        folder = workplace({"raw.sources": [given, own]})
        done = stage_process("raw", known, sample="none", out="raw")
        assert done.status == 0, done.err
        found = {file.name: file.read_bytes() for file in (folder / "raw").glob("*.jsonl")}
        assert found == {"huatuo.jsonl": WHOLE, "mine.jsonl": LINE}
        workplace({"raw.sources": [given | {"file": "other.jsonl"}, own]})
        done = stage_process("raw", known, sample="none", out="other")
    assert done.status == 1 and not (folder / "other").exists()
    for words in ("raw.sources.huatuo.dataset: someone/set", "set raw.sources.huatuo.file to one of those"):
        assert words in done.error
