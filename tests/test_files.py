from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from defectgen.errors import ConfigError
from defectgen.files import (
    atomic_file,
    atomic_folder,
    check_fillable,
    check_writable,
    read_text,
    run_beside,
    safe_join,
    sha256_file,
)


def listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_atomic_file_writes_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with atomic_file(target) as temporary:
        temporary.write_text("one")
        assert not target.exists()
        assert temporary.parent == target.parent
    assert target.read_text() == "one"
    assert listing(target.parent) == ["a.txt"]


def test_atomic_file_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic_file(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_file_keeps_the_old_one_on_error(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_text() == "old"
    assert listing(tmp_path) == ["a.txt"]


def test_atomic_file_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must name a file"), atomic_file(tmp_path):
        pass


def test_atomic_file_that_was_never_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a.txt"):
        pass
    assert listing(tmp_path) == []


def test_atomic_folder_writes_deep_content(tmp_path: Path) -> None:
    target = tmp_path / "weights"
    with atomic_folder(target) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "x").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "x").read_text() == "1"
    assert listing(tmp_path) == ["weights"]


def test_atomic_folder_replaces_one_of_ours_completely(tmp_path: Path) -> None:
    target = tmp_path / "weights"
    target.mkdir()
    (target / "config.json").write_text("{}")
    (target / "stale").write_text("old")
    with atomic_folder(target) as temporary:
        (temporary / "config.json").write_text("[]")
    assert listing(target) == ["config.json"]
    assert (target / "config.json").read_text() == "[]"
    assert listing(tmp_path) == ["weights"]


def test_atomic_folder_takes_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    with atomic_folder(tmp_path / "weights") as temporary:
        (temporary / "x").write_text("1")
    assert listing(tmp_path / "weights") == ["x"]


def test_atomic_folder_refuses_foreign_content_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("precious")
    reached = []
    with (
        pytest.raises(ConfigError, match=r"of this library; got .* with a\.png; choose"),
        atomic_folder(tmp_path / "photos") as temporary,
    ):
        reached.append(temporary)
    assert reached == []
    assert listing(tmp_path / "photos") == ["a.png"]
    assert listing(tmp_path) == ["photos"]


def test_atomic_folder_refuses_content_that_came_during_the_work(tmp_path: Path) -> None:
    target = tmp_path / "weights"

    def write_meanwhile() -> None:
        with atomic_folder(target) as temporary:
            (temporary / "x").write_text("1")
            target.mkdir()
            (target / "a.png").write_text("precious")

    with pytest.raises(ConfigError, match=r"of this library; got .* with a\.png; choose"):
        write_meanwhile()
    assert (target / "a.png").read_text() == "precious"
    assert listing(tmp_path) == ["weights"]


def test_atomic_folder_keeps_the_old_one_on_error(tmp_path: Path) -> None:
    target = tmp_path / "weights"
    target.mkdir()
    (target / "config.json").write_text("{}")

    def write_half() -> None:
        with atomic_folder(target) as temporary:
            (temporary / "half").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert listing(target) == ["config.json"]
    assert listing(tmp_path) == ["weights"]


def test_atomic_folder_puts_the_old_one_back_if_the_last_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "weights"
    target.mkdir()
    (target / "config.json").write_text("{}")
    rename = os.replace

    def failing(source: Path, destination: Path) -> None:
        if Path(source).suffix == ".tmp":
            raise OSError("disk gone")
        rename(source, destination)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="disk gone"), atomic_folder(target) as temporary:
        (temporary / "x").write_text("1")
    assert listing(target) == ["config.json"]
    assert listing(tmp_path) == ["weights"]


def test_atomic_folder_refuses_a_file_and_the_root(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    for target in (tmp_path / "a", Path(tmp_path.anchor)):
        with pytest.raises(ConfigError, match="must name a folder"), atomic_folder(target):
            pass
    assert (tmp_path / "a").read_text() == "1"


def test_atomic_folder_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_folder(tmp_path / "link") as temporary:
        (temporary / "x").write_text("1")
    assert (tmp_path / "link").is_symlink()
    assert listing(tmp_path / "real") == ["x"]


def test_what_can_be_written_is_found_out_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for name, folder in (("file", False), ("folder", True), ("a/b/new", False), ("new", True)):
        check_writable(tmp_path / name, "--out", folder=folder)
    assert listing(tmp_path) == ["a", "file", "folder"]
    assert listing(tmp_path / "a" / "b") == []
    assert listing(tmp_path / "folder") == []


@pytest.mark.parametrize(
    ("name", "folder", "words"),
    [
        ("file", True, "must name a folder; got the file"),
        ("folder", False, "must name a file; got the folder"),
        ("file/new", True, "must be a place that can be written to"),
        ("file/a/new", False, "must be a place that can be written to"),
    ],
)
def test_what_cannot_be_written_is_named(
    tmp_path: Path, name: str, folder: bool, words: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=f"^--out: {words}"):
        check_writable(tmp_path / name, "--out", folder=folder)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("folder", [True, False])
def test_a_place_that_is_kept_from_us_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    """The folder is there, and nothing can be made in it."""
    make = Path.mkdir

    def refused(path: Path, *rest: object, **more: object) -> None:
        if path.suffix == ".tmp":
            raise PermissionError(13, "Permission denied", str(path))
        make(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(ConfigError, match="^--out: must be a place.*Permission denied"):
        check_writable(tmp_path / "x", "--out", folder=folder)
    assert listing(tmp_path) == []


def test_a_run_lies_beside_what_it_makes() -> None:
    assert run_beside("a/b") == Path("a/b.run")
    assert run_beside(".") == Path.cwd().with_name(f"{Path.cwd().name}.run")
    with pytest.raises(ConfigError, match="^out: must name a folder"):
        run_beside("/")


def test_a_folder_that_is_there_is_filled_whatever_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "run" / "file").mkdir(parents=True)
    check_fillable(tmp_path / "run", "run_dir")
    check_fillable(tmp_path / "new", "run_dir")
    assert listing(tmp_path) == ["run"]
    assert listing(tmp_path / "run") == ["file"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="^run_dir: must name a folder; got the file"):
        check_fillable(tmp_path / "file", "run_dir")


def test_what_file_managers_leave_is_no_content(tmp_path: Path) -> None:
    target = tmp_path / "weights"
    target.mkdir()
    for name in (".DS_Store", "Thumbs.db", "._a", "desktop.ini"):
        (target / name).write_text("")
    with atomic_folder(target) as temporary:
        (temporary / "x").write_text("1")
    assert listing(target) == ["x"]


def test_what_is_mounted_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="must name a folder"), atomic_folder(tmp_path / "out"):
        pass


@pytest.mark.parametrize("name", ["a.txt", "sub/a.txt", "./a.txt", ".hidden"])
def test_safe_join_accepts(tmp_path: Path, name: str) -> None:
    assert safe_join(tmp_path, name) == tmp_path.resolve() / name


@pytest.mark.parametrize(
    "name",
    ["", ".", "/etc/passwd", "..", "../a", "a/../../b", "a/..", "a\\b", "C:/a", "C:a", "a\0b"],
)
def test_safe_join_refuses(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="inside its folder"):
        safe_join(tmp_path, name)


def test_safe_join_refuses_a_link_that_leads_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("1")
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root)
    with pytest.raises(ConfigError, match="inside its folder"):
        safe_join(root, "out/secret")
    assert safe_join(root, "in/x") == root.resolve() / "in" / "x"


def test_read_text_obeys_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("äöü", encoding="utf-8")
    assert read_text(path, 6) == "äöü"
    with pytest.raises(ConfigError, match="up to 5 bytes"):
        read_text(path, 5)


def test_read_text_refuses_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"ab\xff")
    with pytest.raises(ConfigError, match="position 2"):
        read_text(tmp_path / "a", 100)


def test_sha256_file_equals_the_hash_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000  # more than one piece
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_a_run_lies_beside_its_output(tmp_path: Path) -> None:
    assert run_beside(tmp_path / "out" / "paint") == tmp_path / "out" / "paint.run"
    assert run_beside("v1.5") == Path("v1.5.run")  # the whole name is kept, not a suffix changed
