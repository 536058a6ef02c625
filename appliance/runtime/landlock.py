"""Landlock: a process gives up writing anywhere and opening TCP connections, for good.

Works without privilege. Source: Linux's landlock(7) and include/uapi/linux/landlock.h; the system
call numbers are the same on every architecture.
"""

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_VERSION_QUERY = 1
_PR_SET_NO_NEW_PRIVS = 38

WRITE_FILE = 1 << 1
REMOVE_FILE = 1 << 5
MAKE_SOCK = 1 << 9
IOCTL_DEV = 1 << 15
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_REMOVE_DIR, _MAKE_REST = 1 << 4, 0b1_1101_1100_0000
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1 << 0, 1 << 1

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Return the kernel's Landlock ABI; 0 when it has none or it is switched off."""
    version: int = _libc.syscall(_CREATE_RULESET, None, 0, _VERSION_QUERY)
    return max(version, 0)


def no_new_privileges() -> None:
    """Never gain rights by executing a program; needed before ``restrict``.

    Raises:
        OSError: the kernel refused.
    """
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def restrict(writable: Sequence[tuple[Path, int]]) -> None:
    """Forbid this thread and all it starts to change files, but for what is listed.

    Files that are open already stay open. Where the kernel knows how, TCP and signals to outside
    processes are forbidden too.

    Args:
        writable: Paths with the rights that stay, such as ``MAKE_SOCK`` in a folder.

    Raises:
        OSError: the kernel has no Landlock, or refused.
    """
    version = abi()
    files = WRITE_FILE | _REMOVE_DIR | REMOVE_FILE | MAKE_SOCK | _MAKE_REST
    files |= _REFER if version >= 2 else 0
    files |= _TRUNCATE if version >= 3 else 0
    files |= IOCTL_DEV if version >= 5 else 0
    network = _BIND_TCP | _CONNECT_TCP if version >= 4 else 0
    scopes = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if version >= 6 else 0
    attributes = struct.pack("QQQ", files, network, scopes)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _check(_libc.syscall(_CREATE_RULESET, attributes, size, 0))
    try:
        for path, rights in writable:
            _allow(ruleset, path, rights & files)
        _check(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, handle)
        _check(_libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))
    finally:
        os.close(handle)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
