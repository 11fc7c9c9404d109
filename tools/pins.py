"""Say which files of an environment belong to two distributions: an installer lays one over the other, in no fixed order.

Usage: python -m tools.pins requirements/*.txt      (or environments: python -m tools.pins .venv .venv-vllm)

Of the wheels that a file pins, gigabytes of them, only the tables of contents are fetched from the package index. A path
that two distributions own with the same bytes (an empty __init__.py, one licence) is harmless and not named.
"""

import functools
import io
import posixpath
import shutil
import subprocess
import sys
import tomllib
import zlib
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackagePath, PathDistribution, distributions
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit
from zipfile import Path as ZipPath
from zipfile import ZipFile

import httpx
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

from xinglin.cli import CommandError, run_command

UV = shutil.which("uv") or str(Path(sys.prefix).parent / ".tools" / "bin" / "uv")
PYTHON = "3.11"
SITE = f"lib/python{PYTHON}/site-packages"
TARGETS = {"purelib": SITE, "platlib": SITE, "scripts": "bin", "data": "."}  # of NAME.data; headers get a folder of their own
TAIL = 1 << 16  # bytes: most wheels' tables of contents, which stand at the end
CONNECTIONS = 16

Files = dict[str, str]  # a path in the environment, and a checksum of what one distribution puts there


def conflicts(owned: dict[str, Files]) -> list[str]:
    """Return a line for each two distributions that put different bytes at one path; `owned` has their files by name."""
    owners = defaultdict(list)
    for distribution in sorted(owned):
        for path in owned[distribution]:
            owners[path].append(distribution)
    shared = defaultdict(list)
    for path, names in sorted(owners.items()):
        for one, other in combinations(names, 2):
            if owned[one][path] != owned[other][path]:
                shared[one, other].append(path)
    return [
        f"{one} and {other}: {len(paths)} in common, such as {paths[0].removeprefix(f'{SITE}/')}"
        for (one, other), paths in shared.items()
    ]


class RemoteFile(io.RawIOBase):
    """A file on a web server of which only the parts that are read are fetched; its last TAIL bytes at once."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self.client, self.url, self.position = client, url, 0
        self.tail, self.size = self.fetch(f"-{TAIL}")

    def fetch(self, part: str) -> tuple[bytes, int]:
        """Return bytes of the file, `FIRST-LAST` or the last `-COUNT`, and the size of all of it."""
        with self.client.stream("GET", self.url, headers={"Range": f"bytes={part}", "Accept-Encoding": "identity"}) as response:
            response.raise_for_status()
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                raise CommandError(
                    f"{self.url}: this index sends whole files only: set UV_DEFAULT_INDEX to one that answers range requests"
                )
            return response.read(), int(response.headers["Content-Range"].rpartition("/")[2])

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        kept = self.position - (self.size - len(self.tail))  # where in the tail it begins
        last = min(self.position + len(buffer), self.size) - 1
        data = self.tail[kept:][: len(buffer)] if kept >= 0 else self.fetch(f"{self.position}-{last}")[0]
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def installed_path(name: str) -> str:
    """Return where in an environment a wheel's member comes to lie."""
    first, _, rest = name.partition("/")
    kind, _, inner = rest.partition("/")
    target = TARGETS.get(kind) if first.endswith(".data") else None
    return posixpath.normpath(f"{target}/{inner}" if target else f"{SITE}/{name}")


def programs(wheel: ZipFile) -> Files:
    """Return the programs in bin/ that an installer writes for a wheel, each with the function that it calls."""
    (info,) = (folder for folder in ZipPath(wheel).iterdir() if folder.name.endswith(".dist-info"))
    points = PathDistribution(info).entry_points
    return {f"bin/{point.name}": point.value for point in points if point.group in ("console_scripts", "gui_scripts")}


@functools.cache  # the environments have wheels in common
def wheel_files(client: httpx.Client, url: str) -> Files:
    """Return what a wheel installs, with the checksums (CRC-32) of its table of contents."""
    try:
        local = url.startswith("file:")  # where uv is told of a folder of wheels
        with ZipFile(unquote(urlsplit(url).path) if local else io.BufferedReader(RemoteFile(client, url), TAIL)) as wheel:
            members = [member for member in wheel.infolist() if not member.is_dir()]
            return {installed_path(member.filename): str(member.CRC) for member in members} | programs(wheel)
    except httpx.HTTPError as error:
        raise CommandError(f"{url}: {error or type(error).__name__}: the package index must be in reach")


def installed_files(environment: Path, checksum: Callable[[PackagePath], str]) -> dict[str, Files]:
    """Return the files of each distribution that is installed in an environment."""
    site = environment / SITE
    if not site.is_dir():
        raise CommandError(f"{site}: no such folder: run 'make setup'")
    found = distributions(path=[str(site)])
    return {each.name: {posixpath.normpath(f"{SITE}/{file}"): checksum(file) for file in each.files or ()} for each in found}


def recorded(file: PackagePath) -> str:
    """Return the checksum of what the distribution brought, which the installer wrote down."""
    return file.hash.value if file.hash else ""


def computed(file: PackagePath) -> str:
    """Return the checksum that a wheel's table of contents would give."""
    return str(zlib.crc32(Path(str(file.locate())).read_bytes()))


def uv(*words: str | Path) -> str:
    try:
        done = subprocess.run([UV, *words], capture_output=True, text=True)
    except FileNotFoundError:
        raise CommandError(f"{UV}: no such program: run 'make setup'")
    if done.returncode:
        raise CommandError(f"uv {' '.join(map(str, words))}: {' '.join(done.stderr.split())}")
    return done.stdout


def built_files(pin: str) -> Files:
    """Return the files of a distribution that comes as source only: it is built and laid into an environment for the moment."""
    with TemporaryDirectory() as folder:
        uv("venv", "--quiet", "--python", PYTHON, folder)
        uv("pip", "install", "--quiet", "--no-deps", "--python", folder, pin)
        (files,) = installed_files(Path(folder), computed).values()
        return files


def best_wheel(package: dict, ranks: dict) -> str | None:
    """Return the address of the wheel that an installer takes on this machine."""
    fitting = [
        (min(ranks[tag] for tag in tags), wheel["url"])
        for wheel in package.get("wheels", ())
        if (tags := parse_wheel_filename(unquote(wheel["url"]).rpartition("/")[2])[3] & ranks.keys())
    ]
    return min(fitting)[1] if fitting else None


def pinned_files(client: httpx.Client, requirements: Path) -> dict[str, Files]:
    """Return the files of each distribution that a requirements file pins."""
    lock = uv("pip", "compile", "--quiet", "--no-deps", "--python-version", PYTHON, "--format", "pylock.toml", requirements)
    ranks = {tag: rank for rank, tag in enumerate(sys_tags())}

    def files(package: dict) -> Files:
        url = best_wheel(package, ranks)
        return wheel_files(client, url) if url else built_files(f"{package['name']}=={package['version']}")

    packages = tomllib.loads(lock)["packages"]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return dict(zip((package["name"] for package in packages), pool.map(files, packages), strict=True))


def check(client: httpx.Client, path: Path) -> bool:
    """Print the conflicts of a requirements file or an environment, return whether there are any."""
    owned = installed_files(path, recorded) if path.is_dir() else pinned_files(client, path)
    found = conflicts(owned)
    for line in found or [f"{len(owned)} distributions, {sum(map(len, owned.values()))} files, no conflict"]:
        print(f"{path}: {line}")
    return bool(found)


def main() -> None:
    paths = [Path(word) for word in sys.argv[1:]]
    if not paths:
        raise CommandError("which? python -m tools.pins requirements/*.txt", 2)
    with httpx.Client(timeout=60, follow_redirects=True, transport=httpx.HTTPTransport(retries=3)) as client:
        sys.exit(sum(check(client, path) for path in paths) > 0)  # all are named


if __name__ == "__main__":
    run_command(main)
