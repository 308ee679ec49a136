from __future__ import annotations

import sys
import threading

import pytest
import torch

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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_kept_inside_and_given_back_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    library = memory._glibc()
    if library is None or not hasattr(library, "mallinfo2"):
        pytest.skip("the C library is not glibc 2.33 or newer")

    def resident() -> float:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 2**20

    size = 96
    before = resident()
    with kept_memory():
        big = torch.ones(size * 2**18)
        del big
        hand_back()  # too little to be worth it
        assert resident() > before + 0.9 * size
        monkeypatch.setattr(memory, "SPARE", 2**20)
        hand_back()
        assert resident() < before + 0.5 * size
        big = torch.ones(size * 2**18)
        del big
        assert resident() > before + 0.9 * size
    assert resident() < before + 0.5 * size


def test_nothing_is_handed_back_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: pytest.fail("asked the C library"))
    hand_back()
