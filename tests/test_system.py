"""What systems differ in, those included on which these tests do not run."""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace

import pytest

from defectgen import system
from defectgen.files import atomic_file, atomic_folder


@pytest.fixture
def held_back(monkeypatch):
    """Renames are refused so many times; returns the list of pauses between tries."""
    refusals, pauses, replace = [0], [], os.replace

    def refuse(source, target):
        if refusals[0]:
            refusals[0] -= 1
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    clock = SimpleNamespace(monotonic=lambda: sum(pauses), sleep=pauses.append)
    monkeypatch.setattr(system, "time", clock)

    def begin(times):
        refusals[0] = times
        return pauses

    return begin


def test_renames_wait_on_windows_until_a_file_is_let_go_of(tmp_path, monkeypatch, held_back):
    monkeypatch.setattr(system, "WINDOWS", True)
    pauses = held_back(2)
    with atomic_file(tmp_path / "a.txt") as path:
        path.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert pauses == [system.PAUSE, 2 * system.PAUSE]
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "config.json").write_text("old")
    held_back(1)
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "config.json").write_text("new")
    assert (tmp_path / "f" / "config.json").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "f"]


def test_a_file_that_nobody_lets_go_of_is_told_in_the_end(tmp_path, monkeypatch, held_back):
    monkeypatch.setattr(system, "WINDOWS", True)
    (tmp_path / "a.txt").write_text("old")
    pauses = held_back(10**6)
    with pytest.raises(PermissionError), atomic_file(tmp_path / "a.txt") as path:
        path.write_text("new")
    assert system.PATIENCE < sum(pauses) < 3 * system.PATIENCE
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_was_there_comes_back_or_is_named(tmp_path, monkeypatch):
    def refuse(source, target):
        if str(source) in refused:
            raise PermissionError(13, "Permission denied")
        os.rename(source, target)

    old, new, aside = (tmp_path / name for name in ("t", "new", "aside"))
    old.mkdir()
    new.mkdir()
    (old / "x").touch()
    monkeypatch.setattr(system, "move", refuse)
    refused = [str(new)]
    with pytest.raises(PermissionError):
        system.exchange(new, old, aside)
    assert (old / "x").exists()
    refused = [str(new), str(aside)]
    with pytest.raises(OSError, match="Permission denied; what was there before is now '.*aside'"):
        system.exchange(new, old, aside)
    assert (aside / "x").exists()


def test_elsewhere_a_refusal_is_one(tmp_path, monkeypatch, held_back):
    monkeypatch.setattr(system, "WINDOWS", False)
    pauses = held_back(1)
    (tmp_path / "a").touch()
    with pytest.raises(PermissionError):
        system.move(tmp_path / "a", tmp_path / "b")
    assert pauses == []


def test_advice_about_a_file_in_use(monkeypatch):
    error = PermissionError(13, "Permission denied")
    assert system.advice(error) == "choose a place that is yours to use"
    monkeypatch.setattr(system, "WINDOWS", True)
    both = system.advice(error)  # it may be either
    assert both.startswith("close what shows it ")
    assert both.endswith(", or choose a place that is yours to use")
    error.winerror = 32
    assert system.advice(error).endswith("), and try again")
    assert system.advice(OSError(28, "No space left on device")) == "free some space"
    assert system.advice(OSError("?")) == "check the disk and the path"


def test_memory_is_that_of_the_machine():
    total, free = system.memory()
    assert total == free == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("answer", "expected"), [(1, (16 << 30, 5 << 30)), (0, None)])
def test_memory_as_windows_tells_it(monkeypatch, answer, expected):
    def status(pointer):
        # As the system does: by the size that the caller states, at the offsets of its header.
        raw = (ctypes.c_ubyte * 64).from_address(ctypes.addressof(pointer._obj))
        assert int.from_bytes(raw[:4], "little") == 64
        raw[8:16] = (16 << 30).to_bytes(8, "little")
        raw[16:24] = (5 << 30).to_bytes(8, "little")
        return answer

    library = SimpleNamespace(kernel32=SimpleNamespace(GlobalMemoryStatusEx=status))
    monkeypatch.setattr(ctypes, "windll", library, raising=False)
    monkeypatch.setattr(system, "WINDOWS", True)
    assert system.memory() == expected


def test_a_system_that_does_not_tell_its_memory(monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    assert system.memory() is None


def test_commands_are_quoted_as_one_types_them_here(monkeypatch):
    words = ["defectgen", "zoo", "train", "x", "--data", "C:\\my data"]
    monkeypatch.setattr(system, "WINDOWS", True)
    assert system.command_text(words) == 'defectgen zoo train x --data "C:\\my data"'
    assert system.command_text(["x", "R&D\\y", "a b&c"]) == 'x "R&D\\y" "a b&c"'
    monkeypatch.setattr(system, "WINDOWS", False)
    assert system.command_text(words) == "defectgen zoo train x --data 'C:\\my data'"
