"""What reaches the user of a plain script, and what the log."""

from __future__ import annotations

import logging

import pytest

from defectgen.messages import say


@pytest.mark.parametrize(("verbose", "shown"), [(0, ""), (1, "one line\n"), (2, "one line\n")])
def test_without_logging_it_goes_to_stderr_from_verbose_1_on(capfd, verbose, shown):
    say("one line", verbose)
    assert capfd.readouterr() == ("", shown)


def test_level_info_without_a_handler_shows_nothing_so_it_goes_to_stderr(
    caplog, monkeypatch, capfd
):
    with caplog.at_level(logging.INFO, logger="defectgen"):
        # As in a plain script: pytest's own handlers are gone.
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        say("one line", 1)
    assert capfd.readouterr() == ("", "one line\n")


@pytest.mark.parametrize("verbose", [0, 1])
def test_with_logging_it_is_one_record_and_nothing_else(caplog, capfd, verbose):
    with caplog.at_level(logging.INFO, logger="defectgen"):
        say("100 % sure", verbose)
    assert [record.getMessage() for record in caplog.records] == ["100 % sure"]
    assert capfd.readouterr() == ("", "")
