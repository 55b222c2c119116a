"""Download a file over HTTP. A broken download is resumed. The file is checked before it is moved into place."""

from __future__ import annotations

import hashlib
import http.client
import logging
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from innerloop.data.errors import DataError

__all__ = ["download"]

_log = logging.getLogger(__name__)
_BLOCK = 1 << 16


def download(
    url: str, target: Path, md5: str, *, progress: bool | None = None, tries: int = 3, timeout: float = 30
) -> None:
    """Fetch ``url`` into ``target`` unless ``target`` exists.

    The bytes are written to ``target`` + ``.part``. That file is kept when the connection breaks, so that the next try
    or the next call goes on from there. ``target`` appears only when it is complete and has the right checksum. A file
    with a wrong checksum is fetched again, once.

    Args:
        url: the http or https address.
        target: the file to make. Its folder is made too.
        md5: the expected checksum, hexadecimal.
        progress: whether to show a bar. None shows one only on a terminal.
        tries: the number of connections before giving up.
        timeout: the seconds to wait for the server.

    Raises:
        DataError: the server refuses, the connection keeps breaking, the checksum is wrong twice, or the file cannot be
            written.

    Example:
        >>> download("https://example.org/here.py", Path(__file__), md5="")  # already there
    """
    if target.exists():
        return
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for last in (False, True):
            _receive(url, part, progress, tries, timeout)
            with part.open("rb") as file:
                found = hashlib.md5(file.read(), usedforsecurity=False).hexdigest()
            if found == md5:
                part.replace(target)
                return
            part.unlink()
            if last:
                raise DataError(
                    f"{url} has MD5 {found}, expected {md5}, twice: that file has changed. Get it elsewhere."
                )
            _log.warning("%s has MD5 %s, expected %s: downloading it again", url, found, md5)
    except OSError as error:
        raise DataError(f"cannot write {part} ({error}). Choose a data folder that you may write to.") from error


def _receive(url: str, part: Path, progress: bool | None, tries: int, timeout: float) -> None:
    """Fill ``part`` to its full length."""
    for left in reversed(range(tries)):
        try:
            _connect(url, part, progress, timeout)
            return
        except urllib.error.HTTPError as error:
            with error:
                raise DataError(f"{url} answered {error.code} {error.reason}. {_by_hand(part)}") from error
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
            ssl.SSLError,
        ) as error:
            if not left or isinstance(error, urllib.error.URLError):  # no connection was made: it will not be soon
                size = part.stat().st_size if part.exists() else 0
                raise DataError(
                    f"{url} could not be fetched ({error}); {size} bytes are kept. "
                    f"Run again to go on from there. {_by_hand(part)}"
                ) from error
            _log.warning("%s broke off (%s): trying again", url, error)


def _by_hand(part: Path) -> str:
    return f"Without a network, put {part.name.removesuffix('.part')} into {part.parent} by hand."


def _connect(url: str, part: Path, progress: bool | None, timeout: float) -> None:
    """Open one connection, ask for the missing bytes and append them. Start over if the server cannot resume."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        error.close()  # nothing is left to send: the file is complete if the server gives this length
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        part.unlink()
        _connect(url, part, progress, timeout)
        return
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise http.client.HTTPException(f"asked for bytes {have}-, got {response.headers.get('Content-Range')}")
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        disable = None if progress is None else not progress
        name = part.name.removesuffix(".part")
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=name, disable=disable) as bar,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
        if (
            total is not None and (got := part.stat().st_size) < total
        ):  # read(n) does not raise if the body is too short
            raise http.client.HTTPException(f"connection closed after {got} of {total} bytes")
