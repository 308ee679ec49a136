"""What reaches the user of a plain script, and what the log."""

from __future__ import annotations

import logging

import pytest

from defectgen import messages
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


def test_a_warning_points_at_whoever_called_the_package():
    """However deep within it the reason lies."""
    inside = {"__name__": "defectgen.somewhere", "warn": messages.warn}
    exec("def deep():\n    warn('n: 1; got 2; pass 1', UserWarning)\n", inside)
    exec("def deeper():\n    deep()\n", inside)
    for call in (inside["deep"], inside["deeper"]):
        with pytest.warns(UserWarning, match="got 2") as told:
            call()
        assert [one.filename for one in told] == [__file__]


def test_a_package_of_a_like_name_is_another_one():
    like = {"__name__": "defectgenerator", "warn": messages.warn}
    exec(compile("def call():\n    warn('x', UserWarning)\n", "other.py", "exec"), like)
    with pytest.warns(UserWarning, match="x") as told:
        like["call"]()
    assert [one.filename for one in told] == ["other.py"]
