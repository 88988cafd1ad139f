"""A job's log holds what happened, and the process is left as it was."""

import logging
import re
import sys
import warnings

import pytest
import torch

from iredinterp.errors import TaskError
from iredinterp.runlog import progress, run_log


@pytest.fixture
def path(tmp_path):
    return tmp_path / "logs" / "job.log"


def messages(path) -> list[str]:
    return [line.split(": ", 1)[1] for line in path.read_text().splitlines()]


def test_messages_and_warnings_reach_the_file_with_their_time(path):
    path.parent.mkdir()
    path.write_text("of an earlier attempt\n")
    with run_log(path):
        logging.getLogger("anyone").info("αβγ")
        logging.getLogger("anyone").debug("details")
        logging.getLogger("fontTools.subset").info("glyf pruned")
        warnings.warn("flat minimum", UserWarning, stacklevel=1)
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) ", line) for line in lines)
    assert lines[0].endswith("anyone: αβγ")
    assert lines[1].endswith("UserWarning: flat minimum")


@pytest.mark.parametrize("error", [None, TaskError("n is 0"), ValueError("singular")])
def test_handlers_level_and_warnings_are_as_before_whatever_happens(path, error, caplog):
    root = logging.getLogger()
    caplog.set_level(logging.ERROR)
    before = (list(root.handlers), root.level, warnings.showwarning, list(warnings.filters))
    try:
        with run_log(path):
            assert (list(root.handlers), root.level) != before[:2]
            if error:
                raise error
    except (SystemExit, ValueError):
        pass
    assert (list(root.handlers), root.level, warnings.showwarning, list(warnings.filters)) == before


def test_an_error_of_ours_is_one_line_in_the_log_and_on_stderr_and_ends_the_script(path, capsys):
    error = TaskError("n must be at least 1; found 0")
    with pytest.raises(SystemExit) as caught, run_log(path):
        raise error
    assert caught.value.code == 1
    assert caught.value.__cause__ is error
    assert capsys.readouterr().err == "n must be at least 1; found 0\n"
    assert messages(path) == ["n must be at least 1; found 0"]


def test_any_other_error_leaves_its_traceback_in_the_log_and_goes_on(path, capsys):
    def invert():
        raise ZeroDivisionError("singular")

    with pytest.raises(ZeroDivisionError), run_log(path):
        invert()
    text = path.read_text()
    assert "Traceback (most recent call last)" in text
    assert "in invert" in text
    assert text.endswith("ZeroDivisionError: singular\n")
    assert capsys.readouterr().err == ""


def test_threads_are_set_only_on_request(path):
    torch.set_num_threads(1)
    with run_log(path):
        assert torch.get_num_threads() == 1
    with run_log(path, threads=2):
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("total", [1, 3, 10, 25, 1000])
def test_progress_passes_every_item_and_logs_once_per_tenth(path, total):
    with run_log(path):
        assert list(progress(range(total), "spectra")) == list(range(total))
    lines = messages(path)
    shares = [int(re.fullmatch(r"spectra: (\d+) % \(\d+ of \d+\)", line)[1]) for line in lines]
    assert len(lines) == min(total, 10)
    assert len({share // 10 for share in shares}) == len(shares)
    assert shares == sorted(shares)
    assert lines[-1] == f"spectra: 100 % ({total} of {total})"


def test_progress_is_logged_after_the_work_on_an_item_not_before(path):
    with run_log(path):
        for item in progress(iter("ab"), "letters", total=2):
            logging.info("%s", item)
    assert messages(path) == ["a", "letters: 50 % (1 of 2)", "b", "letters: 100 % (2 of 2)"]


def test_progress_of_unknown_length_tells_the_count_at_the_end(path):
    with run_log(path):
        assert list(progress((i for i in range(7)), "steps")) == list(range(7))
    assert messages(path) == ["steps: 7 done"]


def test_progress_draws_a_bar_on_a_terminal_and_logs_nothing(path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with run_log(path):
        assert list(progress([1, 2], "spectra")) == [1, 2]
    assert "spectra: 100%" in capsys.readouterr().err
    assert path.read_text() == ""
