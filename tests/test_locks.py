"""A folder belongs to one writer at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

from defectgen.errors import ConfigError
from defectgen.locks import held

fcntl = pytest.importorskip("fcntl")
TRY = """
import sys
from pathlib import Path
from defectgen.locks import held
with held(Path(sys.argv[1]), "run_dir"):
    print("mine", flush=True)
    sys.stdin.readline()
"""


def other(folder):
    command = [sys.executable, "-c", TRY, str(folder)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_second_one_is_refused_until_the_first_has_left(tmp_path):
    with held(tmp_path, "run_dir"):
        with (
            pytest.raises(ConfigError, match="^run_dir: a folder that no other run is using; got"),
            held(tmp_path, "run_dir"),
        ):
            pass
        with held(tmp_path.parent, "run_dir"):  # another folder is free
            pass
    with held(tmp_path, "run_dir"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_another_process_holds_it_until_it_has_ended_however(tmp_path):
    process = other(tmp_path)
    assert process.stdout.readline() == "mine\n"
    with pytest.raises(ConfigError, match="into which another one is writing"), held(tmp_path, "x"):
        pass
    process.kill()
    process.communicate()
    with held(tmp_path, "x"):
        late = other(tmp_path)
        _, said = late.communicate("")
        assert late.returncode == 1
        assert "run_dir: a folder that no other run is using" in said


@pytest.mark.parametrize("number", [9, 38, 95], ids=str)
def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with held(tmp_path, "x"), held(tmp_path, "x"):
        pass


def test_where_folders_cannot_be_locked_a_file_elsewhere_is(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    monkeypatch.chdir(tmp_path)
    with held(one, "x"), held(two, "x"):
        for same in (one, Path("one"), two / ".." / "one"):
            with (
                pytest.raises(ConfigError, match="^x: a folder that no other run"),
                held(same, "x"),
            ):
                pass
        assert [*one.iterdir(), *two.iterdir()] == []
    with held(one, "x"):
        pass


def test_a_temporary_folder_that_cannot_be_used_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "not here")

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr(FileLock, "acquire", refuse)
    with held(tmp_path, "x"), held(tmp_path, "x"):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system that does not fork")
def test_a_process_that_was_forked_meanwhile_keeps_nothing(tmp_path):
    with held(tmp_path, "x"):
        ready, done = os.pipe()
        child = os.fork()
        if not child:
            os.read(ready, 1)
            os._exit(0)
    with held(tmp_path, "x"):
        pass
    os.write(done, b"x")
    os.waitpid(child, 0)
    os.close(ready)
    os.close(done)
