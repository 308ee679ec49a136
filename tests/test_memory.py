from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from defectgen import memory
from defectgen.memory import hand_back, kept_memory

KEEP = [(-4, 0), (-1, -1)]


class Recorder:
    """Stands for the C library and notes what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def mallopt(self, name: int, value: int) -> None:
        self.calls.append((name, value))

    def malloc_trim(self, pad: int) -> None:
        self.calls.append((pad,))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(memory, "_glibc", lambda: recorder)
    return recorder


def test_set_by_the_first_and_undone_by_the_last(library: Recorder) -> None:
    with kept_memory():
        assert library.calls == KEEP
        with kept_memory():
            pass
        assert library.calls == KEEP
    assert library.calls[len(KEEP) :] == [(-4, 65536), (-3, 2**25), (-1, 2**26), (0,)]


def test_undone_after_an_error(library: Recorder) -> None:
    with pytest.raises(KeyError), kept_memory():
        raise KeyError
    assert library.calls[-1] == (0,)


def test_threads_share_one_setting(library: Recorder) -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with kept_memory():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with kept_memory():
        thread.start()
        assert inside.wait(10)
    assert library.calls == KEEP  # the other one is still at work
    leave.set()
    thread.join()
    assert library.calls[-1] == (0,)


def test_nothing_happens_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with kept_memory():
        pass


#: Run in a process of its own: one that has worked before has other memory to give and take.
KEPT = """
import torch
from defectgen import memory
from defectgen.memory import hand_back, kept_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

def use():
    torch.ones(96 * 2**18)

before = resident()
with kept_memory():
    use()
    hand_back()  # too little to be worth it
    print(resident() - before)
    memory.SPARE = 2**20
    hand_back()
    print(resident() - before)
    use()
    print(resident() - before)
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_kept_inside_and_given_back_afterwards() -> None:
    library = memory._glibc()
    if library is None or not hasattr(library, "mallinfo2"):
        pytest.skip("the C library is not glibc 2.33 or newer")
    root = Path(memory.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", KEPT], cwd=root, capture_output=True, text=True, check=True
    )
    kept, handed_back, again, after = map(float, done.stdout.split())
    assert kept > 86
    assert handed_back < 48
    assert again > 86
    assert after < 48


def test_nothing_is_handed_back_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: pytest.fail("asked the C library"))
    hand_back()


def test_what_cannot_be_given_back_is_not_asked_for_again(
    library: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fragments of an earlier, larger job; asking at every step slowed small ones by a third."""
    idle = 3 * memory.SPARE
    monkeypatch.setattr(memory, "_idle", lambda library: idle)
    monkeypatch.setattr(memory, "_users", 1)
    monkeypatch.setattr(memory, "_residue", 0)
    for wanted, now in ((1, 3), (1, 3), (1, 4), (2, 5), (2, 6)):
        idle = now * memory.SPARE
        hand_back()
        assert len(library.calls) == wanted
