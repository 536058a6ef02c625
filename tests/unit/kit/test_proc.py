"""A process is known by its pid and its start, and cannot talk its way out of that."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.kit.proc import ProcessId, identify

SLEEP = "import time; print(flush=True); time.sleep(60)"


@contextmanager
def running(code: str = SLEEP) -> Iterator[tuple["subprocess.Popen[bytes]", ProcessId]]:
    """Run Python code until the block ends; it prints a line when it has set itself up."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = identify(child.pid)
        assert found is not None
        try:
            yield child, found
        finally:
            child.kill()


def test_a_process_is_alive_until_it_ends() -> None:
    with running() as (child, found):
        assert found.is_alive()
        assert identify(child.pid) == found
        assert (found.resident_bytes() or 0) > 1 << 20
        child.kill()
        child.wait()
        assert not found.is_alive()
        assert found.resident_bytes() is None
        assert identify(child.pid) is None


def test_a_zombie_is_not_alive() -> None:
    with running() as (child, found):
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not found.is_alive()
        assert found.wait(0)


def test_another_process_with_the_same_pid_is_left_alone() -> None:
    with running() as (child, found):
        older = ProcessId(found.pid, found.start - 1)
        assert not older.is_alive()
        assert older.resident_bytes() is None
        assert older.wait(0)
        older.signal(signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.05)


def test_a_signal_reaches_the_process_and_is_no_error_afterwards() -> None:
    with running() as (child, found):
        found.signal(signal.SIGTERM)
        assert child.wait(10) == -signal.SIGTERM
        found.signal(signal.SIGTERM)


def test_waiting_ends_with_the_process_or_the_deadline() -> None:
    with running() as (child, found):
        assert not found.wait(0.01)
        threading.Timer(0.05, child.kill).start()
        began = time.monotonic()
        assert found.wait(10)
        assert time.monotonic() - began < 5


def test_waiting_works_in_a_process_with_many_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1200:
        pytest.skip("this machine lets a process open fewer than 1,200 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1050)]
    try:
        with running() as (child, found):
            assert not found.wait(0.01)
            child.kill()
            assert found.wait(10)
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("name", [rb"\xff\xfe", b") Z 1 (", b"a b\\nc", b""])
def test_a_process_may_call_itself_what_it_likes(name: bytes) -> None:
    code = f"import ctypes; ctypes.CDLL(None).prctl(15, b'{name.decode()}', 0, 0, 0); {SLEEP}"
    with running(code) as (child, found):
        assert found.is_alive()
        assert found.pid == child.pid


def test_ending_only_the_first_thread_hides_a_process_from_nobody() -> None:
    code = (
        "import ctypes, platform, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start(); print(flush=True)\n"
        "ctypes.CDLL(None).syscall({'x86_64': 60}.get(platform.machine(), 93), 0)"  # exit(2)
    )
    with running(code) as (child, found):
        deadline = time.monotonic() + 10
        while ") Z" not in Path(f"/proc/{child.pid}/stat").read_text():
            assert time.monotonic() < deadline
        assert found.is_alive()
        assert not found.wait(0)
        found.signal(signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL
