"""Environments in which no file belongs to two distributions, and bounds that say why they are there."""

import ast
import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest

from tests.conftest import ROOT, ends
from tools import pins
from xinglin.files import fingerprint

REQUIREMENTS = ROOT / "requirements"
SOURCES = sorted(path for path in REQUIREMENTS.iterdir() if path.suffix != ".txt")
BOUND = re.compile(r"[=<>~!]=|[<>]")
on_the_index = pytest.mark.skipif("OFFLINE" in os.environ, reason="the wheels lie on the package index")


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60, follow_redirects=True) as client:
        yield client


def conflicts_of(requirements: Path, client: httpx.Client, cache: pytest.Cache) -> list[str]:
    """Return the conflicts of a requirements file, kept from the last run while neither it nor what finds them changes."""
    key = f"pins/{fingerprint(requirements, Path(pins.__file__))}"
    if (kept := cache.get(key, None)) is None:
        cache.set(key, kept := pins.conflicts(pins.pinned_files(client, requirements)))
    return kept


@on_the_index
@pytest.mark.parametrize("requirements", sorted(REQUIREMENTS.glob("*.txt")), ids=lambda path: path.stem)
def test_no_file_belongs_to_two_of_the_pinned_distributions(requirements, client, cache):
    assert conflicts_of(requirements, client, cache) == []


@on_the_index
def test_two_versions_of_cuda_bindings_in_one_environment_are_found(tmp_path, client, cache):
    (tmp_path / "gpu.txt").write_text("cuda-bindings==13.5.0\ncuda-python==12.6.2.post1\n")
    found = conflicts_of(tmp_path / "gpu.txt", client, cache)
    assert found == ["cuda-bindings and cuda-python: 25 in common, such as cuda/bindings/__init__.py"]


@on_the_index
def test_a_distribution_without_a_wheel_is_built_and_its_files_are_compared_too(client):
    files = pins.built_files("jieba==0.42.1")
    assert {f"{pins.SITE}/jieba/__init__.py", f"{pins.SITE}/jieba/dict.txt"} <= files.keys()
    assert len(pins.conflicts({"jieba": files, "other": {f"{pins.SITE}/jieba/dict.txt": "0"}})) == 1


@pytest.mark.parametrize("environment", [".venv", ".venv-vllm"])
def test_no_file_belongs_to_two_of_the_installed_distributions(environment):
    owned = pins.installed_files(ROOT / environment, pins.recorded)
    assert len(owned) > 100 and pins.conflicts(owned) == []


def test_the_same_bytes_in_two_distributions_are_no_conflict_and_other_bytes_are_one_line_for_each_two():
    one, other = {"x.py": "1", "y.py": "1", "__init__.py": "0"}, {"x.py": "2", "y.py": "2", "__init__.py": "0"}
    found = pins.conflicts({"a": one, "b": other, "c": {"y.py": "1"}})
    assert found == ["a and b: 2 in common, such as x.py", "b and c: 1 in common, such as y.py"]


def test_an_installed_file_that_two_records_name_with_other_bytes_is_a_conflict(tmp_path):
    for name in ("one", "two"):
        info = tmp_path / pins.SITE / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        digest = hashlib.sha256(name.encode()).hexdigest()
        (info / "RECORD").write_text(f"shared.py,sha256={digest},3\nsame.py,sha256=0,0\n../../../bin/{name},,\n")
    assert pins.conflicts(pins.installed_files(tmp_path, pins.recorded)) == ["one and two: 1 in common, such as shared.py"]


class Ranges(BaseHTTPRequestHandler):
    """Sends the part of a file that is asked for, as a package index does."""

    sent = 0

    def do_GET(self) -> None:
        whole = Path(self.server.folder, self.path[1:]).read_bytes()
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        start, end = (int(first), int(last) + 1) if first else (len(whole) - int(last), len(whole))
        Ranges.sent += end - start
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(whole)}")
        self.end_headers()
        self.wfile.write(whole[start:end])

    def log_message(self, *_: object) -> None:
        pass


class Whole(Ranges):
    """Knows whole files only."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


@pytest.fixture
def index(request, tmp_path) -> Iterator[str]:
    """Yield the address of a folder with a wheel whose table of contents is longer than what is fetched of it at first."""
    with ZipFile(tmp_path / "many-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("many-1.0.dist-info/entry_points.txt", "[console_scripts]\nmany = many:main\n[other]\nno = many:no\n")
        wheel.writestr("many/weights.bin", bytes(5_000_000))
        wheel.writestr("many-1.0.data/purelib/plain.py", "plain")
        wheel.writestr("many-1.0.data/data/share/many.txt", "data")
        for number in range(1500):
            wheel.writestr(f"many/module_{number}.py", "")
    with ThreadingHTTPServer(("127.0.0.1", 0), request.param) as server:
        server.folder = tmp_path
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/many-1.0-py3-none-any.whl"
        server.shutdown()


@pytest.mark.parametrize("index", [Ranges], indirect=True)
def test_what_a_wheel_installs_is_read_without_fetching_it(index, client):
    Ranges.sent = 0
    files = pins.wheel_files(client, index)
    assert {"bin/many", f"{pins.SITE}/plain.py", "share/many.txt", f"{pins.SITE}/many/module_1499.py"} <= files.keys()
    assert files["bin/many"] == "many:main" and "bin/no" not in files and len(files) == 1505
    assert Ranges.sent < 500_000


@pytest.mark.parametrize("index", [Whole], indirect=True)
def test_an_index_that_sends_whole_files_is_refused_in_one_line(index, client, capsys):
    with ends():
        pins.wheel_files(client, index)
    assert f"error: {index}: this index sends whole files only: set UV_DEFAULT_INDEX" in capsys.readouterr().err


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_bound_says_why_it_is_there(source):
    """An override or an exclusion is a bound whatever it says."""
    for line in source.read_text(encoding="utf-8").splitlines():
        wanted, _, reason = line.partition("#")
        if BOUND.search(wanted) or (wanted.strip() and source.suffix != ".in"):
            assert len(reason.split()) > 1, f"{source.name}: {line}: say why in a comment behind it"


def test_a_gateway_alone_installs_what_it_loads_and_no_more():
    code = (
        "import sys, app.main, app.keys, app.feedback; print(*(m.__file__ for n, m in sys.modules.items() if "
        "n.startswith(('app.', 'xinglin.')) and m.__file__))"
    )
    loaded: set[str] = set()
    for file in subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split():
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
            loaded |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            loaded |= {str(node.module)} if isinstance(node, ast.ImportFrom) else set()
    needed = (
        {name.split(".")[0].replace("_", "-") for name in loaded} - sys.stdlib_module_names - {"app", "xinglin", "starlette"}
    )
    asked = set(re.findall(r"^[a-z][a-z0-9-]*", (REQUIREMENTS / "app.in").read_text(encoding="utf-8"), re.M))
    unseen = {"httptools", "psycopg", "uvloop"}  # loaded by uvicorn and SQLAlchemy, by name
    assert asked - unseen == needed, "starlette comes with fastapi"
    pins_ = [set((REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8").split()) for name in ("app", "pipeline")]
    assert pins_[0] <= pins_[1], "one version of each"
