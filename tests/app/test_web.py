"""The built chat page: the same bytes from the same source, small, and from no other host."""

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCE, PAGE = ROOT / "app" / "web", ROOT / "app" / "page"
LIMIT_BYTES, FIRST_LOAD_BYTES = 2_000_000, 400_000
NOT_FETCHED = {"www.w3.org", "react.dev", "github.com"}  # XML namespaces; React's and react-markdown's errors name a page


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def first_load() -> list[Path]:
    """Return what a browser fetches before it shows the page."""
    index = (PAGE / "index.html").read_text(encoding="utf-8")
    return [PAGE / "index.html", *(PAGE / name for name in re.findall(r'(?:src|href)="/(assets/[^"]+)"', index))]


@pytest.mark.skipif(not (SOURCE / "node_modules" / "ready").exists(), reason="npm has not installed what builds the page")
def test_the_committed_page_is_built_from_the_source_byte_for_byte(tmp_path):
    copy = tmp_path / "web"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("node_modules"))
    (copy / "node_modules").symlink_to(SOURCE / "node_modules")
    for command in (["npm", "test"], ["npm", "run", "build"]):
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    built, committed = files(tmp_path / "page"), files(PAGE)
    assert built.keys() == committed.keys()
    assert [name for name in built if built[name] != committed[name]] == []


def test_the_page_is_small_and_formulas_are_not_loaded_at_first():
    assert sum(map(len, files(PAGE).values())) < LIMIT_BYTES
    loaded = first_load()
    assert len(loaded) > 2 and not [path for path in loaded if "Formulas" in path.name or "Admin" in path.name]
    assert sum(len(gzip.compress(path.read_bytes())) for path in loaded) <= FIRST_LOAD_BYTES


def test_no_file_names_another_host():
    named = {
        host.decode()
        for name, content in files(PAGE).items()
        if not name.endswith((".png", ".woff2"))
        for host in re.findall(rb"(?:https?:)?//([a-z0-9-]+(?:\.[a-z0-9-]+)+)", content)
    }
    assert named <= NOT_FETCHED


def test_the_security_policy_holds_no_inline_script_and_one_nonce_for_each_tag():
    index = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\ssrc=)", index) and not re.search(r"\son\w+=|<style|\sstyle=", index)
    tags = re.findall(r"<(?:script|meta property=\"csp-nonce\"|link[^>]*stylesheet)[^>]*>", index)
    assert len(tags) == 3 and all('nonce="__NONCE__"' in tag for tag in tags)


def test_the_lock_file_names_no_registry():
    assert "resolved" not in (SOURCE / "package-lock.json").read_text(encoding="utf-8")
