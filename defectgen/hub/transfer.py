"""One file of a hub, or the rest of one that was begun."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from defectgen import __version__
from defectgen.hub.client import LIBRARY, HubError, asking
from defectgen.hub.names import HubSource

# The client's own download keeps nothing of a file that breaks off: since version 2 it writes to a
# new temporary file each time, and in pieces of ten megabytes, more than most weights have.
PIECE = 1 << 16
#: Attempts in a row that bring no byte, with so many seconds between them.
ATTEMPTS, PAUSE = 3, 1.0


def download(
    source: HubSource, name: str, size: int, target: Path, token: str | bool | None
) -> None:
    """Download a file, or the rest of one that was begun.

    Args:
        source: repository and commit.
        name: of the file there.
        size: bytes it has; more are not read.
        target: where to; what is there already are its first bytes.
        token: as in `HubOptions`.

    Raises:
        HubError: it broke off; what came is kept in ``target``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    left = ATTEMPTS
    with target.open("ab") as file:
        if file.tell() > size:
            _empty(file)
        while file.tell() < size:
            before = file.tell()
            try:
                with asking(source.repo_id, source.revision):
                    _continue(source, name, size, file, token)
            except HubError as error:
                if error.status == 416:  # there is no rest: what was begun is something else
                    _empty(file)
                left = ATTEMPTS if file.tell() > before else left - 1
                if left == 0 or error.status is not None:
                    raise
                time.sleep(PAUSE)


def _continue(
    source: HubSource, name: str, size: int, file: BinaryIO, token: str | bool | None
) -> None:
    """One attempt at what is missing."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, tqdm  # type: ignore[attr-defined]  # late

    begun = file.tell()
    headers = build_hf_headers(token=token, library_name=LIBRARY, library_version=__version__)
    # Compressed, the parts of a file could not be put together.
    headers["Accept-Encoding"] = "identity"
    if begun:
        headers["Range"] = f"bytes={begun}-"
    url = hf_hub_url(source.repo_id, name, revision=source.revision, endpoint=constants.ENDPOINT)
    with _stream(url, headers) as (status, pieces):
        if begun and status != 206:  # the server begins anew
            _empty(file)
        show: Any = tqdm  # the client's, which HF_HUB_DISABLE_PROGRESS_BARS silences
        with show(
            desc=name, total=size, initial=file.tell(), unit="B", unit_scale=True, disable=None
        ) as bar:
            for piece in pieces:
                file.write(piece[: size - file.tell()])
                bar.update(len(piece))
                if file.tell() == size:
                    return
    raise ConnectionError("the answer ended before the file")


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


@contextmanager
def _stream(url: str, headers: dict[str, str]) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Status and body of an answer, by the client's session: its proxies, redirects, hooks."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported late
        get_session,
        hf_raise_for_status,
    )

    # Of httpx since version 1 of the client, of requests before.
    session: Any = get_session()
    wait = constants.HF_HUB_DOWNLOAD_TIMEOUT
    if callable(getattr(session, "stream", None)):
        with session.stream("GET", url, headers=headers, timeout=wait) as response:
            if response.status_code >= 400:
                response.read()
            hf_raise_for_status(response)
            yield response.status_code, response.iter_bytes(PIECE)
    else:
        with session.get(url, headers=headers, timeout=wait, stream=True) as response:
            hf_raise_for_status(response)
            yield response.status_code, response.iter_content(PIECE)
