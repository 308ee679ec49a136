"""Publishing: one folder with everything in it, in one commit."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from defectgen.errors import ConfigError
from defectgen.hub.card import CARD_FILE, SHEET_FILE, CardFacts, check_license, model_card
from defectgen.hub.client import HubError, api, asking, is_offline, listing
from defectgen.hub.contents import check_contents, present
from defectgen.hub.names import check_repo_id
from defectgen.hub.options import check_token
from defectgen.hub.sums import write_sums
from defectgen.weights import BACKBONE_FOLDER

_MAIN = "main"
#: What an earlier version may have left that this one does not replace.
_STALE = (f"{BACKBONE_FOLDER}/*",)


def check_push(repo_id: str, license: str, token: str | bool | None) -> None:  # noqa: A002
    """Find out what is wrong with arguments before anything is drawn or sent.

    Raises:
        ConfigError: the id, the license or the token is none, or HF_HUB_OFFLINE is set.
    """
    check_repo_id(repo_id)
    check_license(license)
    check_token(token)
    if is_offline():
        raise ConfigError("push_to_hub: needs the network; got HF_HUB_OFFLINE set; unset it")


def check_seen(repo_ids: Iterable[str], private: bool, token: str | bool | None) -> None:
    """Find repositories that are there already and are not seen by those who are meant to.

    Raises:
        ConfigError: there is one, or the token may not write to it.
        HubError: the hub cannot be reached, or knows no such token.
    """
    for repo_id in repo_ids:
        try:
            there = listing(repo_id, _MAIN, token)
        except HubError as error:
            if error.status in (401, 403):
                raise ConfigError(
                    f"token: must be one that may write to {repo_id}; the hub answers "
                    f"{error.status}; set HF_TOKEN, or log in with the hub's client"
                ) from None
            if error.status != 404:
                raise
            continue  # it will be made
        if there.private == private:
            continue
        got, want = ("private", "public") if there.private else ("public", "private")
        raise ConfigError(
            f"private: must be {there.private} for {repo_id}, which is {got} already; got "
            f"{private}; make it {want} at the hub, or name other repositories"
        )


def push(
    repo_id: str,
    write: Callable[[Path], None],
    sheet: Image.Image,
    facts: CardFacts,
    *,
    private: bool,
    commit_message: str | None,
    token: str | bool | None,
) -> str:
    """Publish weights with card, sheet and SHA256SUMS.

    Args:
        repo_id: "owner/name"; made if there is none.
        write: writes the weights into a folder.
        sheet: the picture of the card.
        facts: the text of the card.
        private: of a new repository; an old public one is refused if True.
        commit_message: None: one that names the library.
        token: as in `HubOptions`; it must be allowed to write.

    Returns:
        The commit, which loads just these weights when it is passed as revision.

    Raises:
        ConfigError: the repository is public and ``private`` is True.
        HubError: the hub refuses or cannot be reached; the repository is then as it was, or empty.
    """
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "weights"
        write(folder)
        sheet.save(folder / SHEET_FILE, format="PNG")
        (folder / CARD_FILE).write_text(model_card(repo_id, facts), encoding="utf-8", newline="\n")
        write_sums(folder)
        # What nobody could load is not published.
        check_contents(folder, facts.kind, None, present(folder))
        with asking(repo_id):
            api(token).create_repo(repo_id, private=private, exist_ok=True, repo_type="model")
        return _commit(repo_id, folder, private, commit_message or _message(facts), token)


def _message(facts: CardFacts) -> str:
    return f"Publish a {facts.kind} with defectgen"


def _commit(
    repo_id: str, folder: Path, private: bool, message: str, token: str | bool | None
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    before = listing(repo_id, _MAIN, token)
    if private and not before.private:
        raise ConfigError(
            f"private: True only for a new repository or a private one; got the public {repo_id}; "
            "choose another name, or pass private=False if the photos in the weights may be public"
        )
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    stale = [
        name
        for name in before.sizes
        if name not in names and any(fnmatch.fnmatch(name, pattern) for pattern in _STALE)
    ]
    operations: list[Any] = [CommitOperationAdd(name, str(folder / name)) for name in names]
    operations += [CommitOperationDelete(name) for name in stale]
    with asking(repo_id):
        # Not upload_folder, which may split a folder into several commits.
        done = api(token).create_commit(
            repo_id,
            operations,
            commit_message=message,
            repo_type="model",
            revision=_MAIN,
            parent_commit=before.source.revision,
        )
    return str(done.oid)
