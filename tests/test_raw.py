import pytest

from tests.hub import hub

pytestmark = pytest.mark.filterwarnings("ignore")
LINE = '{"data": ["问：咳嗽", "答：多喝水"]}\r\n'.encode()


def test_the_source_is_kept_byte_for_byte(workplace, stage, tmp_path):
    (tmp_path / "mine.jsonl").write_bytes(LINE)
    folder = workplace({"raw.source": "path", "raw.path": str(tmp_path / "mine.jsonl")})
    assert stage("raw", sample="none", out="raw").status == 0
    assert (folder / "raw" / "dialogues.jsonl").read_bytes() == LINE


@pytest.mark.parametrize(("name", "content", "words"), [
    ("absent.jsonl", None, "no such file"), ("mine.docx", b"x", "expected a name that ends in .jsonl"), ("mine.jsonl", b"", "is empty"),
])  # fmt: skip
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


def test_modelscopes_own_client_fetches_the_file(workplace, stage_process):
    folder = workplace({"raw.source": "modelscope", "raw.dataset": "someone/set", "raw.file": "set.jsonl"})
    with hub({"set.jsonl": LINE}) as endpoint:
        done = stage_process("raw", {"MODELSCOPE_ENDPOINT": endpoint}, sample="none", out="raw")
    assert done.status == 0, done.err
    assert (folder / "raw" / "dialogues.jsonl").read_bytes() == LINE


def test_a_file_that_modelscope_does_not_have_is_one_line_with_the_way_out(workplace, stage_process):
    folder = workplace({"raw.source": "modelscope", "raw.dataset": "someone/set", "raw.file": "other.jsonl"})
    with hub({"set.jsonl": LINE}) as endpoint:
        done = stage_process("raw", {"MODELSCOPE_ENDPOINT": endpoint}, sample="none", out="raw")
    assert done.status == 1 and not (folder / "raw").exists()
    for words in ("raw.dataset: someone/set", "other.jsonl", "master", "raw.source: path"):
        assert words in done.error
