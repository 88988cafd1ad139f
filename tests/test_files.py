"""Files appear whole or not at all, whoever is killed and however many write."""

import errno
import os
import re
import signal
import subprocess
import sys

import pytest

from iredinterp.files import atomic_file

WRITER = """
import sys, time
from iredinterp.files import atomic_file
with atomic_file(sys.argv[1]) as file:
    file.write(b"half")
    print("writing", flush=True)
    time.sleep(600)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_fails_in_mid_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.writelines([b"after", None])
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["a"]


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_of_other_files(tmp_path):
    path, other = tmp_path / "a[0]", tmp_path / ".b.01234567.tmp"
    other.touch()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
    writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert len(names(tmp_path)) == 2
    with atomic_file(path) as file:
        file.write(b"whole")
    assert names(tmp_path) == [".b.01234567.tmp", "a[0]"]
    assert path.read_bytes() == b"whole"


def test_two_writers_at_once_leave_the_whole_file_of_the_last(tmp_path):
    path = tmp_path / "a"
    with atomic_file(path) as first:
        first.write(b"first, ")
        with atomic_file(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        first.write(b"whole")
    assert path.read_bytes() == b"first, whole"
    assert names(tmp_path) == ["a"]


def test_a_failure_names_the_file(tmp_path):
    with pytest.raises(OSError, match=re.escape(f"'{tmp_path / 'a'}'")), atomic_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
