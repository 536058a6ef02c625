"""The child that parses a weight file's header: nobody, with nothing, able to do next to nothing.

A signed model may still carry an exploit for its parser. So the header is read by a process that
has no privileges, no files but the one on its standard input, no more than ``_MOST_BYTES`` of
memory, and, where the kernel filters system calls for this processor, only those by which it reads
that file and answers. It imports everything first and parses last.
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys
from dataclasses import asdict

from appliance.bundle.format.content import look
from appliance.core.model import FileKind
from appliance.errors import ApplianceError

MOST_ANSWER_BYTES = 1 << 16
"""Its answer is a file in memory, so that this limit of the kernel holds for it."""
_MOST_BYTES = 512 << 20
_MOST_SECONDS = 20
_NOBODY = 65534
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2

_ALLOWED = {
    "x86_64": (
        0xC000003E,
        # read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask
        # rt_sigreturn ioctl mremap madvise exit futex exit_group getrandom newfstatat
        (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 25, 28, 60, 202, 231, 318, 262),
    ),
    "aarch64": (
        0xC00000B7,
        (63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 29, 216, 233, 93, 98, 94, 278, 79),
    ),
}
"""The audit architecture, and the numbers of the calls above in the kernel's table for it."""


def confine() -> None:
    """Give up everything; there is no way back."""
    for limit, most in (
        (resource.RLIMIT_AS, _MOST_BYTES),
        (resource.RLIMIT_CPU, _MOST_SECONDS),
        (resource.RLIMIT_FSIZE, MOST_ANSWER_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no new privileges")
    known = _ALLOWED.get(platform.machine())
    if known is not None:
        program = _program(*known)
        words = ctypes.create_string_buffer(program)
        header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(words))
        if libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.c_char_p(header), 0, 0):
            raise OSError(ctypes.get_errno(), "system call filter")


def _program(architecture: int, calls: tuple[int, ...]) -> bytes:
    """Return a BPF program: kill on another architecture, allow the calls, kill on all others."""
    load, equal, answer = 0x20, 0x15, 0x06
    allow, kill = 0x7FFF0000, 0x80000000

    def word(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    tests = [
        word(equal, len(calls) - number, 0, call) for number, call in enumerate(calls)
    ]  # a match jumps over the tests that are left and over the killing
    return b"".join(
        [
            word(load, 0, 0, 4),
            word(equal, 1, 0, architecture),
            word(answer, 0, 0, kill),
            word(load, 0, 0, 0),
            *tests,
            word(answer, 0, 0, kill),
            word(answer, 0, 0, allow),
        ]
    )


def main() -> None:
    """Parse the file on standard input, which the command line names; write one line of JSON."""
    file, path, kind = sys.stdin.buffer, sys.argv[2], FileKind(sys.argv[3])
    confine()
    try:
        answer: dict[str, object] = {"facts": asdict(look(path, kind, file))}
    except ApplianceError as error:
        answer = {"error": error.to_wire()}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
