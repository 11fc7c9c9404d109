"""Fixtures: a folder with parameters of its own, a stage run as DVC runs it, and one whole pipeline for all tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
from playwright.sync_api import Browser, sync_playwright
from ruamel.yaml import YAML

from benchmarks import bases
from tools.all_params import Params
from xinglin.cli import errors_as_lines

hypothesis.settings.register_profile(
    "same", derandomize=True
)  # `make test` tries the same cases each time, `make soak` new ones
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
CHROMIUM = Path("/usr/bin/chromium")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ROOT = Path(__file__).parent.parent
TOYHOM = ROOT.parent / "shared" / "data" / "toyhom_internal_medicine.huatuo.jsonl"


@contextmanager
def ends() -> Iterator[pytest.ExceptionInfo[SystemExit]]:
    """Expect the block to end as a command does: with an exit status, an error as one line on stderr."""
    with pytest.raises(SystemExit) as end, errors_as_lines():
        yield end


def default_params() -> dict:
    return YAML(typ="safe").load(ROOT / "params.yaml")


def overlay(values: dict, changes: dict) -> dict:
    """Set `{"section.key": value}` in nested `values`."""
    for name, value in changes.items():
        *place, key = name.split(".")
        block = values
        for part in place:
            block = block[part]
        block[key] = value
    return values


def params_with(changes: dict | None = None) -> Params:
    return Params.model_validate(overlay(default_params(), changes or {}))


def copy_project(folder: Path) -> Path:
    """Make `folder` a git repository of this checkout's files, the environments found in its parent."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name in (".venv", ".venv-vllm", ".venv-export"):
        link = folder.parent / name
        if (ROOT / name).exists() and not link.exists():
            link.symlink_to(ROOT / name)
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "A copy"], check=True)
    return folder


class Project:
    """A copy of the project in which DVC is run as a user runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_project(folder)

    def run(
        self, *command: str, expect: int | None = 0, timeout: float = 3000, **environment: str
    ) -> subprocess.CompletedProcess:
        """Run a command in the copy; its status must be `expect` (None: any)."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            text=True,
            timeout=timeout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert expect is None or done.returncode == expect, done.stdout[-6000:]
        return done

    def dvc(self, *words: str, **options) -> str:
        return self.run(str(self.folder.parent / ".venv" / "bin" / "dvc"), *words, **options).stdout

    def python(self, *words: str, **options) -> subprocess.CompletedProcess:
        return self.run(str(self.folder.parent / ".venv" / "bin" / "python"), *words, **options)

    @property
    def environment(self) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_"))} | {
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
        }

    def set(self, changes: dict) -> None:
        """Change params.yaml as a user would, the rest of the file left alone."""
        yaml, file = YAML(), self.folder / "params.yaml"
        values = yaml.load(file)
        overlay(values, changes)
        yaml.dump(values, file)


def module_of(name: str) -> str:
    """Return the module of a stage of dvc.yaml or of evaluations/dvc.yaml."""
    return f"stages.{name}" if (ROOT / "stages" / f"{name}.py").is_file() else f"evaluations.{name}"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Give a function that makes the current folder one with params.yaml, changed by `{"section.key": value}`."""
    monkeypatch.chdir(tmp_path)

    def make(changes: dict | None = None) -> Path:
        YAML().dump(overlay(default_params(), changes or {}), tmp_path / "params.yaml")
        return tmp_path

    return make


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[..., SimpleNamespace]:
    """Give a function that runs a stage's main() in this process and returns its status and output."""
    import importlib
    import signal

    from xinglin import cli

    monkeypatch.setattr(cli, "die_with_parent", lambda parent=None: None)
    before = signal.getsignal(signal.SIGTERM)

    def call(name: str, **paths: str | Path) -> SimpleNamespace:
        words = [word for key, value in paths.items() for word in (f"--{key}", str(value))]
        monkeypatch.setattr("sys.argv", [name, *words])
        status = 0
        try:
            with cli.errors_as_lines():
                importlib.import_module(module_of(name)).main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = capfd.readouterr()
        return SimpleNamespace(status=status, out=out, error=err.strip().splitlines()[-1] if err.strip() else "", err=err)

    return call


@pytest.fixture
def stage_process() -> Callable[..., SimpleNamespace]:
    """Give a function that runs a stage in a process of its own: ModelScope's client keeps its endpoint for life."""

    def call(name: str, environment: dict[str, str], **paths: str | Path) -> SimpleNamespace:
        words = [word for key, value in paths.items() for word in (f"--{key}", str(value))]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        done = subprocess.run(
            [sys.executable, "-m", module_of(name), *words], env=environment, capture_output=True, text=True, timeout=300
        )
        return SimpleNamespace(status=done.returncode, error=(done.stderr.strip().splitlines() or [""])[-1], err=done.stderr)

    return call


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not installed (tests/install.sh installs it as root where apt is)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        yield started
        started.close()


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder that the stage base makes as models/tokenizer of the embedded base."""
    from xinglin.bases.tokenizer import prepare

    prepare(ROOT / "models" / "tiny", tmp_path_factory.mktemp("tokenizer"), "qwen")
    return tmp_path_factory.getbasetemp() / "tokenizer0"


@pytest.fixture(scope="session")
def hub_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Path]]:
    """Give a function that returns the folders of bases with real vocabularies, each made once; not to be changed."""
    if not bases.VOCABULARIES.is_dir():
        pytest.skip(f"no real vocabularies at {bases.VOCABULARIES}")
    folder = tmp_path_factory.mktemp("hub")

    def folders(*names: str) -> list[Path]:
        return [
            folder / name if (folder / name).is_dir() else bases.make(name, bases.VOCABULARIES, folder / name) for name in names
        ]

    return folders


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The real pipeline, made once from the embedded sample and base in a copy of the project."""
    project = Project(tmp_path_factory.mktemp("pipeline") / "xinglin")
    project.output = project.dvc("repro")
    return project
