"""From a name to a folder whose every file has been checked."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from defectgen.checks import check_path
from defectgen.errors import ConfigError, DefectGenError, WeightsError
from defectgen.hub.cache import RepoCache
from defectgen.hub.client import HubError, Listing, is_offline, listing
from defectgen.hub.contents import check_contents, present
from defectgen.hub.names import HubSource, ZooEntry, is_commit, is_repo_id, zoo_entry
from defectgen.hub.options import HubOptions
from defectgen.hub.transfer import download

logger = logging.getLogger("defectgen")

_MAIN = "main"


@dataclass(frozen=True)
class Resolved:
    """What a name stands for.

    Attributes:
        folder: a weights folder, to be read at once: a download may move when the block ends.
        source: the commit it was downloaded from, or None.
    """

    folder: Path
    source: HubSource | None = None


@contextmanager
def resolved(
    name: str | os.PathLike[str], kind: str | None, options: HubOptions
) -> Iterator[Resolved]:
    """Give the folder that a name stands for: an existing one, the zoo's, or a repository's.

    A download enters the cache when the block ends well. If the block raises an error of ours, what
    was downloaded is removed: what cannot be loaded is not kept.

    Args:
        name: a folder, a name of the zoo, or "owner/name". A path object is always a folder.
        kind: "backbone" or "synthesizer"; None takes either.
        options: how to download.

    Raises:
        WeightsError: nothing of that name, or it is not what it must be.
        ConfigError: a revision for something that has none, or only one; a name that is no text.
    """
    folder = check_path("name", name)
    if isinstance(name, str) and not folder.is_dir():
        entry = zoo_entry(name)
        if entry is not None:
            _check_entry(name, kind, entry, options)
        if entry is not None and entry.folder is not None:
            folder = entry.folder
        elif entry is not None and entry.source is not None:
            pinned = replace(options, revision=entry.source.revision)
            with fetched(entry.source.repo_id, kind, pinned, entry.digest) as found:
                yield found
            return
        elif is_repo_id(name):
            with fetched(name, kind, options) as found:
                yield found
            return
    if options.revision is not None:
        raise ConfigError(
            f"revision: only for a repository of the hub; got {options.revision!r} for the folder "
            f"{str(folder)!r}; leave it out"
        )
    yield Resolved(folder)


@contextmanager
def fetched(
    repo_id: str, kind: str | None, options: HubOptions, digest: str | None = None
) -> Iterator[Resolved]:
    """Give the folder of a repository, from the cache or downloaded; see `resolved`.

    Args:
        repo_id: "owner/name".
        kind: "backbone" or "synthesizer"; None takes either.
        options: how to download.
        digest: what SHA256SUMS must have, "sha256:..."; None takes it as it comes.
    """
    cache = RepoCache(repo_id, options.cache_dir)
    revision = options.revision or _MAIN
    commit, remote = _pin(cache, repo_id, revision, options)
    snapshot = cache.snapshot(commit)
    if not options.force_download:
        problem = _problem(snapshot, kind, digest)
        if problem is None:
            cache.remember(revision, commit)
            yield Resolved(snapshot, HubSource(repo_id, commit))
            return
        if options.local_files_only or is_offline():
            raise WeightsError(f"{repo_id} at {commit[:12]}: {problem}") from problem
    remote = remote or listing(repo_id, commit, options.token)
    with cache.lock(commit):
        if options.force_download:
            cache.discard(commit)
        elif _problem(snapshot, kind, digest) is None:  # another process was faster
            yield Resolved(snapshot, remote.source)
            return
        try:
            _download(cache.staging(commit), remote, kind, digest, options)
            yield Resolved(cache.staging(commit), remote.source)
        except HubError:
            raise  # what has come is kept, and the next call goes on from there
        except DefectGenError as error:
            cache.discard(commit)
            raise type(error)(f"{repo_id} at {commit[:12]}: {error}") from error
        cache.publish(commit)
        cache.remember(revision, commit)


def _check_entry(name: str, kind: str | None, entry: ZooEntry, options: HubOptions) -> None:
    """Refuse weights of the other kind, and a revision of what the zoo has pinned."""
    if kind not in (None, entry.kind):
        other = "a type of defect on it" if entry.kind == "backbone" else "the category alone"
        raise WeightsError(
            f"name: must be of a {kind}; got {name!r}, which is a {entry.kind}; name {other}"
        )
    pinned = entry.source
    if pinned is not None and options.revision not in (None, pinned.revision):
        raise ConfigError(
            f"revision: none for a name of the zoo, which is pinned to one commit; got "
            f"{options.revision!r} for {name!r}; leave it out, or name {pinned.repo_id}"
        )


def _pin(
    cache: RepoCache, repo_id: str, revision: str, options: HubOptions
) -> tuple[str, Listing | None]:
    """The commit that a revision means, and what it holds if the hub was asked."""
    known = cache.commit_of(revision)
    there = known is not None and cache.snapshot(known).is_dir()
    offline = options.local_files_only or is_offline()
    if offline and options.force_download:
        raise ConfigError(
            "force_download: needs the network; got True with HF_HUB_OFFLINE set; unset one"
        )
    if known is not None and there and (offline or (is_commit(revision) and revision == known)):
        return known, None
    if offline:
        raise WeightsError(
            f"name: without the network it must be an existing folder or in the cache; got "
            f"{repo_id!r} at {revision!r}, which is neither; download it once with the network"
        )
    try:
        remote = listing(repo_id, revision, options.token)
    except HubError as error:
        # An answer is final; without one, what was downloaded before is as good as it was then.
        if error.status is not None or known is None or not there or options.force_download:
            raise
        logger.warning("%s: the hub cannot be reached; taking %s from the cache", repo_id, known)
        return known, None
    return remote.source.revision, remote


def _problem(snapshot: Path, kind: str | None, digest: str | None) -> WeightsError | None:
    """Why the snapshot in the cache cannot be used, if so."""
    try:
        check_contents(snapshot, kind, digest, present(snapshot))
    except WeightsError as error:
        return error
    return None


def _download(
    folder: Path, remote: Listing, kind: str | None, digest: str | None, options: HubOptions
) -> None:
    """Bring every file into the folder, each checked as soon as it is there."""
    source = remote.source

    def obtain(name: str, limit: int) -> None:
        size = remote.sizes.get(name)
        if size is None:
            raise WeightsError(
                f"folder: must hold {name}; got {source.repo_id} without it; publish it with "
                "push_to_hub"
            )
        if size > limit:
            raise WeightsError(
                f"folder: {name} may have up to {limit} bytes; got {size}, which are not "
                "downloaded; publish it with push_to_hub"
            )
        logger.info("%s at %s: downloading %s", source.repo_id, source.revision[:12], name)
        download(source, name, size, folder / name, options.token)

    check_contents(folder, kind, digest, obtain)
