"""How to download: the arguments that every ``from_pretrained`` shares."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from defectgen.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """How to download.

    Attributes:
        revision: branch, tag or commit; None: the newest commit of the main branch.
        cache_dir: where downloads are kept; None: where the hub's client keeps its own.
        token: access token; None: the one the client knows, if any; False: none.
        local_files_only: never ask the network.
        force_download: download again what is there.
    """

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    token: str | bool | None = field(default=None, repr=False)  # never shown
    local_files_only: bool = False
    force_download: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError for a token or a combination that cannot be meant."""
        check_token(self.token)
        if self.local_files_only and self.force_download:
            raise ConfigError(
                "local_files_only, force_download: at most one of them; got both; leave one out"
            )


def check_token(token: object) -> None:
    """Raise ConfigError, which does not show it, if this cannot be a token."""
    if token is None or isinstance(token, bool):
        return
    # A line break at its end is the usual mistake; clients then print it in their errors.
    if not (isinstance(token, str) and token and token.isascii() and token.isprintable()):
        raise ConfigError(
            "token: must be None, True, False or one line of printable characters; got something "
            "else, which is not shown; strip line breaks from it"
        )
    if " " in token:
        raise ConfigError("token: must not hold spaces; got some; pass the token alone")
