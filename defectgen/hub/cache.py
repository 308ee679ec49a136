"""Where downloads lie: the cache of the hub's client, in its layout, so that its tools see them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from defectgen.errors import ConfigError
from defectgen.files import atomic_file, read_text, safe_join
from defectgen.hub.names import is_commit
from defectgen.hub.sums import SUMS_FILE
from defectgen.system import move

# A commit and a line break.
_MAX_REF_BYTES = 256


class RepoCache:
    """The folder of one repository in the cache.

    Args:
        repo_id: "owner/name".
        cache_dir: None takes the client's, which HF_HUB_CACHE and HF_HOME decide.
    """

    def __init__(self, repo_id: str, cache_dir: str | os.PathLike[str] | None) -> None:
        if cache_dir is None:
            from huggingface_hub import constants

            cache_dir = constants.HF_HUB_CACHE
        self._root = Path(cache_dir).expanduser()
        self._name = "--".join(["models", *repo_id.split("/")])
        self._home = self._root / self._name

    def snapshot(self, commit: str) -> Path:
        """Folder of a commit; only what has been checked is in it."""
        return self._home / "snapshots" / commit

    def staging(self, commit: str) -> Path:
        """Folder of what is being downloaded and has not been checked."""
        return self._home / "defectgen" / commit

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch or tag had when it was last asked for."""
        if is_commit(revision):
            return revision
        path = safe_join(self._home / "refs", revision)
        try:
            commit = read_text(path, _MAX_REF_BYTES).strip()
        except (OSError, ConfigError):
            return None
        return commit if is_commit(commit) else None

    def remember(self, revision: str, commit: str) -> None:
        """Note the commit of a branch or tag, for the time without a network."""
        if is_commit(revision) or self.commit_of(revision) == commit:
            return
        # A cache that others filled may be read-only.
        with suppress(OSError), atomic_file(safe_join(self._home / "refs", revision)) as temporary:
            temporary.write_text(commit, encoding="utf-8")

    def publish(self, commit: str) -> None:
        """Move what has been checked from the staging folder to that of the commit."""
        staging, snapshot = self.staging(commit), self.snapshot(commit)
        names = [p.relative_to(staging) for p in staging.rglob("*") if p.is_file()]
        # The list last: a snapshot without it counts as absent.
        for name in sorted(names, key=lambda name: (name.name == SUMS_FILE, name)):
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            move(staging / name, snapshot / name)
        self.discard(commit)

    def discard(self, commit: str) -> None:
        """Remove the staging folder, and folders above it that are empty then."""
        staging = self.staging(commit)
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):
            staging.parent.rmdir()
            self._home.rmdir()

    @contextmanager
    def lock(self, commit: str) -> Iterator[None]:
        """Let other processes wait that download the same."""
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # exported late

        path = self._root / ".locks" / self._name / f"defectgen-{commit}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(str(path)):
            yield
