"""The one door to the hub's client: it is imported here, late, and its errors become sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from defectgen import __version__
from defectgen.errors import WeightsError
from defectgen.hub.names import HubSource, is_commit

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: What the hub is told who asks.
LIBRARY = "defectgen"


class HubError(WeightsError):
    """The hub did not answer, or refused: nothing is wrong with what was downloaded so far.

    Attributes:
        status: of the answer; None without one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit.

    Attributes:
        source: repository and commit.
        sizes: bytes by name of file.
        private: whether only its owners see it.
    """

    source: HubSource
    sizes: dict[str, int]
    private: bool


def api(token: str | bool | None) -> HfApi:
    """The client, which reads HF_ENDPOINT, HF_TOKEN and its other variables itself."""
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name=LIBRARY, library_version=__version__)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def listing(repo_id: str, revision: str, token: str | bool | None) -> Listing:
    """Ask what a repository holds, and at which commit.

    Raises:
        HubError: the hub cannot be reached, or has no such thing for whoever holds this token.
    """
    from huggingface_hub import constants

    with asking(repo_id, revision):
        info = api(token).model_info(
            repo_id,
            revision=revision,
            files_metadata=True,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
    sizes = {item.rfilename: item.size for item in info.siblings or () if item.size is not None}
    if not is_commit(info.sha):
        raise HubError(
            f"hub: must answer with the commit of {repo_id}; got another answer; check HF_ENDPOINT"
        )
    return Listing(HubSource(repo_id, str(info.sha)), sizes, bool(info.private))


@contextmanager
def asking(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn every error of client and network into one sentence without address or token.

    Raises:
        HubError: instead of them. The original is not shown: its text may hold the token.
    """
    from huggingface_hub.errors import HfHubHTTPError

    # Its base is that of all errors of the network library, which differs between versions.
    network = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    expected: tuple[type[Exception], ...] = (*network, OSError, ValueError, KeyError)
    try:
        yield
    except expected as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise HubError(_sentence(error, status, repo_id, revision), status) from None


def _sentence(error: Exception, status: int | None, repo_id: str, revision: str | None) -> str:
    kind = type(error).__name__
    # Only what is to be read has a revision, and might have been meant for a folder.
    name = repr(repo_id) if revision is None else f"{repo_id!r}, which is no folder here"
    read = "" if revision is None else ": what has come is kept"
    what = kind if status is None else f"{status} {kind}"
    if kind == "RevisionNotFoundError":
        return (
            f"revision: must be a branch, tag or commit of {repo_id}; got {revision!r}; "
            "check the spelling"
        )
    if status in (401, 403, 404):
        return (
            f"name: must be {'' if revision is None else 'an existing folder, or '}a repository of "
            f"the hub that you may use; got {name}, and from the hub {what}; check the name, or "
            "pass a token that may"
        )
    reason = getattr(error, "strerror", None)
    return (
        f"hub: must be reached for {name}; got {what}{f' ({reason})' if reason else ''}; check the "
        f"name and the connection, and call again{read}"
    )
