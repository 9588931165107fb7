"""Runs a command with fewer rights: `reduced.py user COMMAND` as an ordinary user has them, who gets namespaces only
together with a user namespace; `reduced.py none COMMAND` as in a container that gives none at all.
"""

from __future__ import annotations

import ctypes
import os
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWUSER = 0x0002_0000, 0x1000_0000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_PR_CAPBSET_DROP, _CAP_SYS_ADMIN = 24, 21


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _enter_copy_of_root() -> None:
    """The kernel gives no user namespace to a process whose root is not the machine's."""
    cwd = os.getcwd()
    _check(_LIBC.unshare(_CLONE_NEWNS | (0 if os.geteuid() == 0 else _CLONE_NEWUSER)))
    _check(_LIBC.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))
    _check(_LIBC.mount(b"/", b"/mnt", None, ctypes.c_ulong(_MS_BIND | _MS_REC), None))
    os.chroot("/mnt")
    os.chdir(cwd)


def main() -> None:
    """Gives up rights, then becomes the command."""
    if sys.argv[1] == "none":
        _enter_copy_of_root()
    _LIBC.prctl(_PR_CAPBSET_DROP, _CAP_SYS_ADMIN, 0, 0, 0)
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
