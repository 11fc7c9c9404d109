"""A bundle taken in on a machine without a network: everything is there and nothing is made again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools import bundle


@pytest.mark.parametrize(
    ("held", "packed"), [(["config.json", "model.safetensors"], False), (["config.json"], True), ([], True)]
)
def test_a_base_below_the_checkout_is_packed_unless_git_holds_every_file_of_it(tmp_path, monkeypatch, held, packed):
    checkout, out = tmp_path / "checkout", tmp_path / "out"
    base = checkout / "models" / "mine"
    base.mkdir(parents=True)
    monkeypatch.chdir(checkout)
    files = ("config.json", "model.safetensors")
    for name in files:
        (base / name).write_text("{}")
    (checkout / "models" / "base.json").write_text(json.dumps({"path": "models/mine", "files": dict.fromkeys(files)}))
    subprocess.run(["git", "init", "-q"], check=True)
    for name in held:
        subprocess.run(["git", "add", base / name], check=True)
    bundle.pack_base(out)
    assert sorted(file.name for file in out.glob("base/*")) == (sorted(files) if packed else [])


def test_a_base_outside_the_checkout_is_packed(tmp_path, monkeypatch):
    (tmp_path / "checkout" / "models").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "checkout")
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    Path("models/base.json").write_text(json.dumps({"path": str(tmp_path / "base"), "files": {"config.json": {}}}))
    bundle.pack_base(tmp_path / "out")
    assert (tmp_path / "out" / "base" / "config.json").is_file()


@pytest.mark.soak
def test_a_bundle_is_enough_where_there_is_no_network(tmp_path):
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("this needs the right to make a network namespace")

    def run(command, folder, **environment):
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=folder,
            env=os.environ | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    def closed(command, folder):
        # no uv, and below no cache of it: what is not in the bundle is not there
        path = f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin"
        return run(
            f"exec unshare --net sh -ec 'ip link set lo up; {command}'",
            folder,
            PATH=path,
            UV_CACHE_DIR=str(tmp_path / "no-cache"),
            PIP_NO_CACHE_DIR="1",
        )

    git = "git -c user.name=test -c user.email=test@localhost"
    run(f"git clone -q {ROOT} open", tmp_path)
    run(f"make setup; .venv/bin/dvc repro; {git} commit -qam Made || true", tmp_path / "open")
    run("make bundle OUT=../bundle VLLM=cpu", tmp_path / "open")
    closed("! curl --silent --max-time 5 http://1.1.1.1", tmp_path)
    closed("git clone -q bundle/xinglin.git closed", tmp_path)
    closed("make setup VLLM=cpu OFFLINE=$PWD/../bundle", tmp_path / "closed")
    assert "Running stage" not in closed(".venv/bin/dvc repro", tmp_path / "closed")
    assert (tmp_path / "closed" / "models" / "merged" / "model.safetensors").exists()
    closed("make .venv-export/ready OFFLINE=$PWD/../bundle", tmp_path / "closed")
    closed('sed -i "s/max_steps: -1/max_steps: 2/; s/max_samples: null/max_samples: 8/" params.yaml', tmp_path / "closed")
    assert "adapter: 2 steps" in closed(".venv/bin/dvc repro adapter", tmp_path / "closed")
    assert "predictions: " in closed(".venv/bin/dvc repro --single-item predictions", tmp_path / "closed")
