"""The services: alarms for masks, files of a run, the bar."""

from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace

import pytest

from defectgen.errors import TrainingWarning
from defectgen.training.callbacks import (
    RESUME_TICKS,
    SHEET_TICKS,
    SPEED_ITERATIONS,
    MaskMonitor,
    Progress,
    RunFolder,
    TensorBoard,
    tensorboard_available,
)
from defectgen.training.loop import run

# -- alarms ---


@pytest.fixture
def areas(make_state, recwarn):
    """areas(*pairs of (fake, real)): the alarms that one monitor gives on these ticks."""

    def alarms(*pairs):
        monitor, state = MaskMonitor(), make_state()
        recwarn.clear()
        for fake, real in pairs:
            state.history.append({"kimg": 1.0, "area/fake": fake, "area/real": real})
            monitor.on_iteration(state)
            monitor.on_tick(state)
        monitor.on_end(state)
        assert all(issubclass(w.category, TrainingWarning) for w in recwarn)
        return [str(w.message) for w in recwarn]

    return alarms


ALARMS = pytest.mark.filterwarnings("always::defectgen.errors.TrainingWarning")


@ALARMS
@pytest.mark.parametrize("fake", [0.0, 0.001])
def test_dead_masks_alarm_once(areas, fake):
    (text,) = areas((0.04, 0.04), (fake, 0.04), (fake, 0.04), (0.0, 0.04))
    assert "nearly empty" in text
    assert f"{fake:.2%} against 4.00%" in text


@ALARMS
@pytest.mark.parametrize("fake", [0.5, 1.0])
def test_full_masks_alarm_once(areas, fake):
    (text,) = areas((fake, 0.04), (fake, 0.04), (1.0, 0.04))
    assert "far too large" in text
    assert f"{fake:.2%} against 4.00%" in text


@ALARMS
def test_each_kind_alarms_on_its_own(areas):
    texts = areas((0.0, 0.04), (1.0, 0.04), (0.0, 0.04), (1.0, 0.04))
    assert ["empty" in t for t in texts] == [True, False]


@ALARMS
def test_full_masks_alarm_also_where_real_ones_are_large(areas):
    assert len(areas((1.0, 0.3))) == 1


@ALARMS
@pytest.mark.parametrize(("fake", "real"), [(0.04, 0.04), (0.02, 0.04), (0.1, 0.04), (0.5, 0.5)])
def test_masks_of_about_the_real_area_are_silent(areas, fake, real):
    assert areas((fake, real)) == []


def test_records_without_mask_area_are_silent(make_state):
    state = make_state()
    state.history.append({"kimg": 1.0})  # a backbone
    MaskMonitor().on_tick(state)  # a warning would be an error


def test_the_first_half_of_the_reconstruction_is_silent_the_second_is_not(make_state):
    state, monitor = make_state(warm_kimg=0.02), MaskMonitor()
    state.history.append({"kimg": 1.0, "area/fake": 0.0, "area/real": 0.04})
    state.images = 9
    monitor.on_tick(state)  # a warning would be an error
    state.images = 10
    with pytest.warns(TrainingWarning, match="nearly empty"):
        monitor.on_tick(state)


# -- files ---


def run_folder(folder):
    """Callback RunFolder that writes the counters instead of the whole state, and a text sheet."""
    return RunFolder(
        folder,
        lambda path, state: path.write_text(f"{state.iteration} {state.images}"),
        lambda path: path.write_text("sheet"),
    )


def test_run_folder_holds_history_resume_file_and_sheets(
    make_state, linear_phase, batches, tmp_path
):
    state = make_state(kimg=0.1)  # 25 ticks of one iteration each
    folder = tmp_path / "runs" / "one"
    run(state, batches, [linear_phase(state)], [run_folder(folder)], tick_images=4)
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == state.history
    assert len(lines) == 25
    assert (folder / "resume.pt").read_text() == "25 100"
    sheets = sorted(p.name for p in folder.glob("sheet_*.png"))
    assert len(sheets) == 25 // SHEET_TICKS + 1  # and one of what the run ended with
    assert sheets[-1] == "sheet_00000.10kimg.png"
    assert f"{4 * SHEET_TICKS / 1000:.2f}kimg" in sheets[0]
    assert sorted(p.name for p in folder.iterdir()) == ["history.jsonl", "resume.pt", *sheets]


def test_resume_file_is_renewed_every_few_ticks(make_state, linear_phase, batches, tmp_path):
    state, seen = make_state(kimg=0.06), []

    class Look:
        def on_iteration(self, state):
            pass

        def on_tick(self, state):
            path = tmp_path / "resume.pt"
            seen.append(int(path.read_text().split()[0]) if path.exists() else None)

        on_end = on_iteration

    callbacks = [run_folder(tmp_path), Look()]
    run(state, batches, [linear_phase(state)], callbacks, tick_images=4)
    ticks = range(1, 16)
    assert seen == [(k // RESUME_TICKS) * RESUME_TICKS or None for k in ticks]


def test_interrupted_run_leaves_the_resume_file_of_the_last_tick(
    make_state, linear_phase, batches, tmp_path
):
    state = make_state()

    def stop(loss):
        if state.iteration == 3:
            raise KeyboardInterrupt
        return loss

    callbacks = [run_folder(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        run(state, batches, [linear_phase(state, before=stop)], callbacks, tick_images=8)
    assert (tmp_path / "resume.pt").read_text() == "2 8"
    assert list(tmp_path.glob("sheet_*")) == []  # only a run that ends draws a last one


@ALARMS
def test_a_disk_that_is_full_for_a_while_costs_one_warning_and_no_training(
    make_state, linear_phase, batches, tmp_path, recwarn
):
    state, tried = make_state(kimg=0.06), []  # 15 ticks

    def save(path, state):
        tried.append(state.iteration)
        if state.iteration in (5, 6, 7):
            raise OSError(28, "No space left on device")
        path.write_text(f"{state.iteration} {state.images}")

    callbacks = [RunFolder(tmp_path, save, lambda path: path.write_text("sheet"))]
    run(state, batches, [linear_phase(state)], callbacks, tick_images=4)
    assert tried == [5, 6, 7, 8, 10, 15, 15]
    (warning,) = recwarn
    assert warning.category is TrainingWarning
    assert str(warning.message).startswith(
        f"run_dir: must take what is written; got No space left on device in {str(tmp_path)!r}; "
    )
    assert (tmp_path / "resume.pt").read_text() == "15 60"
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 15


@ALARMS
def test_what_cannot_be_written_at_the_end_is_told_again(
    make_state, linear_phase, batches, tmp_path, recwarn
):
    state = make_state(kimg=0.04)

    def save(path, state):
        raise OSError(5, "Input/output error")

    callbacks = [RunFolder(tmp_path, save, lambda path: None)]
    run(state, batches, [linear_phase(state)], callbacks, tick_images=4)
    first, last = (str(w.message) for w in recwarn)
    said = f"run_dir: must take what is written; got Input/output error in {str(tmp_path)!r}; "
    assert first.startswith(f"{said}training goes on, and writing is tried again")
    advice = "check the disk and the path"
    assert first.endswith(f"the run cannot be resumed; {advice}")
    assert last == f"{said}the run cannot be resumed from its end: save what was learned; {advice}"
    assert state.images == 40


# -- the bar ---


def progress(make_state, linear_phase, batches, verbose, kimg=0.1):
    state = make_state(kimg=kimg)
    callbacks = [Progress(kimg, "backbone", verbose)]
    run(state, batches, [linear_phase(state)], callbacks, tick_images=8)
    return state


def test_verbose_0_is_silent(make_state, linear_phase, batches, capfd):
    progress(make_state, linear_phase, batches, 0)
    assert capfd.readouterr() == ("", "")


def test_without_terminal_and_logging_verbose_1_still_states_speed_and_time_left(
    make_state, linear_phase, batches, capfd
):
    progress(make_state, linear_phase, batches, 1)
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("backbone: 0.1 kimg in all, ")


def test_bar_at_two_shows_everywhere_how_far_it_is(make_state, linear_phase, batches, capfd):
    progress(make_state, linear_phase, batches, 2)
    out, err = capfd.readouterr()
    assert out == ""
    last = err.rstrip().rpartition("\r")[2]
    assert "backbone" in last
    assert "0.10/0.1 kimg" in last
    assert "p=0" in last
    assert "s/kimg" in last


def test_bar_shows_time_left_losses_and_mask_area(make_state, capfd):
    state, bar = make_state(kimg=0.1), Progress(0.1, "defect", 2)
    losses = {"loss/G": 0.25, "loss/D": 0.5, "loss/D_match": 0.75, "loss/reconstruction": 0.125}
    for _ in range(3):
        state.images += 4
        state.history.append({**losses, "area/fake": 0.0625})
        bar.on_iteration(state)
        bar.on_tick(state)
    bar._bar.refresh()
    line = capfd.readouterr().err.rpartition("\r")[2]
    bar.on_end(state)
    shown = ("G=0.250", "D=0.500", "D_match=0.750", "reconstruction=0.125", "fake=0.062", "<00:")
    assert [part for part in shown if part not in line] == []


def test_speed_and_time_left_are_stated_after_the_first_iterations(
    make_state, linear_phase, batches, caplog
):
    with caplog.at_level(logging.INFO, logger="defectgen"):
        progress(make_state, linear_phase, batches, 0)
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("backbone: 0.1 kimg in all, ")
    assert "s/kimg" in text
    assert "left" in text


def test_speed_is_stated_again_where_the_adversarial_part_begins(
    make_state, linear_phase, batches, caplog
):
    state = make_state(kimg=0.1, warm_kimg=0.05)
    with caplog.at_level(logging.INFO, logger="defectgen"):
        run(state, batches, [linear_phase(state)], [Progress(0.1, "x", 0)], tick_images=8)
    first, second = (record.getMessage() for record in caplog.records)
    assert "the adversarial part, from 0.05 kimg on, is slower" in first
    assert "adversarial" not in second


def test_run_shorter_than_that_states_nothing_wrong(make_state, linear_phase, batches, caplog):
    with caplog.at_level(logging.INFO, logger="defectgen"):
        progress(make_state, linear_phase, batches, 0, kimg=4 * (SPEED_ITERATIONS - 2) / 1000)
    assert caplog.records == []


def test_services_change_nothing_in_the_run(
    make_state, linear_phase, batches, assert_same, tmp_path, recwarn
):
    alone, watched = make_state(), make_state()
    run(alone, batches, [linear_phase(alone)], tick_images=8)
    callbacks = [Progress(0.04, "x", 0), MaskMonitor(), run_folder(tmp_path)]
    run(watched, batches, [linear_phase(watched)], callbacks, tick_images=8)
    assert_same(alone.state_dict(), watched.state_dict())


# -- TensorBoard ---


def test_tensorboard_is_handed_every_number_and_closed(make_state, monkeypatch, tmp_path):
    calls = []

    class Writer:
        def __init__(self, folder):
            calls.append(folder)

        def add_scalar(self, *arguments):
            calls.append(arguments)

        def close(self):
            calls.append("closed")

    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer)
    )
    state = make_state()
    state.history.append({"kimg": 0.5, "loss/G": 2.0})
    state.images = 500
    board = TensorBoard(tmp_path)
    board.on_tick(state)
    board.on_end(state)
    assert calls == [str(tmp_path), ("kimg", 0.5, 500), ("loss/G", 2.0, 500), "closed"]


@ALARMS
@pytest.mark.parametrize("step", ["open", "write", "close"])
def test_curves_that_cannot_be_written_cost_no_training(
    make_state, linear_phase, batches, monkeypatch, tmp_path, recwarn, step
):
    calls = []

    class Writer:
        def __init__(self, folder):
            self.act("open")

        def act(self, name):
            calls.append(name)
            if name == step:
                raise OSError(28, "No space left on device")

        def add_scalar(self, *arguments):
            self.act("write")

        def close(self):
            self.act("close")

    board = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    state = make_state(kimg=0.04)
    run(state, batches, [linear_phase(state)], [TensorBoard(tmp_path)], tick_images=4)
    assert state.images == 40
    (warning,) = recwarn
    assert "got No space left on device in" in str(warning.message)
    assert calls.count("open") == 1
    assert calls[-1] == step  # and nothing after it


@pytest.mark.skipif(not tensorboard_available(), reason="needs the extra tensorboard")
def test_tensorboard_gets_every_number(make_state, linear_phase, batches, tmp_path):
    state = make_state()
    run(state, batches, [linear_phase(state)], [TensorBoard(tmp_path)], tick_images=8)
    (file,) = tmp_path.iterdir()
    assert b"loss/net" in file.read_bytes()
