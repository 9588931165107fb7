"""The walls of a container: namespaces, mounts, death signals. Runs on: container.

Owns the system calls that make a forked process a container of its own. Imports the standard library only: it runs
under the interpreter of an image's environment, where modalbatch is not installed. It starts no process itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x0002_0000, 0x1000_0000, 0x2000_0000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_RDONLY, _MS_REMOUNT = 4096, 16384, 1 << 18, 1, 32
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
#: Flags of a mount that `statvfs` and `mount` have in common: nosuid, nodev, noexec, noatime, nodiratime.
_LOCKED = 2 | 4 | 8 | 1024 | 2048
_MS_MOVE = 8192
_MAX_OPTIONS_BYTES = 4095
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
#: An errno that mounts do not have.
_NO_OVERLAYS = 254

#: (source, target, read only, layer): `layer` is empty, or a folder with `upper` and `work` that takes what is written.
Bind = tuple[str, str, bool, str]


def die_with_parent() -> None:
    """Asks the kernel for SIGKILL when the parent ends; call it after any change of user namespace, which resets it."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Makes this process the parent of orphaned descendants, where there is no PID namespace to do it."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def enter_namespaces() -> bool:
    """Moves into new mount and PID namespaces (the latter for children only); False where the kernel refuses."""
    if _LIBC.unshare(_CLONE_NEWNS | _CLONE_NEWPID) == 0:
        return True
    uid, gid = os.getuid(), os.getgid()
    if _LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text)
    return True


def probe(folder: str) -> tuple[bool, bool]:
    """Whether the kernel gives a child of ours namespaces, and in them overlays over folders like this one."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for name in ("lower", "upper", "work", "shown"):
            os.mkdir(f"{place}/{name}")  # noqa: PTH102
        code = _run_in_child(lambda: _try_mounts(place))
        with contextlib.suppress(OSError):
            os.chmod(f"{place}/work/work", 0o700)  # noqa: PTH101
    return code in (0, _NO_OVERLAYS), code == 0


def _try_mounts(place: str) -> int:
    if not enter_namespaces():
        return 1
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    try:
        _show((f"{place}/lower", f"{place}/shown", False, place), f"{place}/shown")
    except OSError:
        return _NO_OVERLAYS
    return 0


def mount_folders(
    binds: list[Bind], scratch: str, layers: dict[str, Any] | None = None, workdir: str = ""
) -> list[str]:
    """Shows folders and files at absolute paths; needs `enter_namespaces` and an empty folder `scratch`.

    Missing mount points are made in the namespace only, never on the host's disk. With `layers` (`images/layer.py`)
    everything else that is written stays off it too, and `workdir` is made if it is missing; the places where the
    kernel refuses that are the result.

    Raises: OSError when the kernel refuses.
    """
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    ours = _Ours()
    refused: list[str] = []
    if layers is not None:
        refused = _move_to_overlays(scratch, layers, ours)
    elif any(not os.path.exists(bind[1]) for bind in binds):  # noqa: PTH110
        _move_to_copy_of_root(scratch)
        ours.folders.add("/")
    for bind in sorted(binds, key=lambda bind: bind[1]):
        _make_mount_point(bind[1], os.path.isdir(bind[0]), ours)  # noqa: PTH112
        _show(bind, bind[1])
    if workdir:
        _make_mount_point(workdir, True, ours)
    return refused


def mount_anew(pid: int, binds: list[Bind], scratch: str) -> int:
    """Replaces what another container shows at the binds' targets; errno, EBUSY when it uses something in there."""
    return _run_in_child(lambda: _replace_mounts(pid, binds, scratch))


def _replace_mounts(pid: int, binds: list[Bind], scratch: str) -> int:
    for name, kind in (("user", _CLONE_NEWUSER), ("mnt", _CLONE_NEWNS)):
        path = f"/proc/{pid}/ns/{name}"
        if os.path.samefile(path, f"/proc/self/ns/{name}"):  # noqa: PTH121
            continue
        descriptor = os.open(path, os.O_RDONLY)
        if _LIBC.setns(descriptor, kind) != 0:
            return ctypes.get_errno()
        os.close(descriptor)
    # The namespace's own root, not the container's: what it mounted cannot hide sources from us.
    root = scratch if os.path.ismount(scratch) else ""
    aside = tempfile.mkdtemp()
    try:
        for bind in binds:
            target = root + bind[1]
            # Ready before the old one goes: nothing is written to the bare folder in between, and nothing is lost if
            # it cannot be mounted.
            _show(bind, aside)
            if _LIBC.umount2(target.encode(), 0) != 0:
                code = ctypes.get_errno()
                _LIBC.umount2(aside.encode(), 0)
                return code
            _mount(aside, target, None, _MS_MOVE)
    finally:
        os.rmdir(aside)  # noqa: PTH106
    return 0


def _run_in_child(work: Callable[[], int]) -> int:
    """What `work` returns in a process of its own, or the errno of its failure; at most 255."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            code = work()
        except OSError as error:
            code = error.errno or code
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


def _show(bind: Bind, target: str) -> None:
    """Mounts one bind at a place that is there."""
    source, _, read_only, layer = bind
    if not layer:
        _mount(source, target, None, _MS_BIND | _MS_REC)
        if read_only:
            # What an ordinary user's mount has inherited cannot be taken from it, not even by not naming it.
            kept = os.statvfs(target).f_flag & _LOCKED
            _mount("none", target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept)
        return
    folders = {"lowerdir": source, "upperdir": f"{layer}/upper", "workdir": f"{layer}/work"}
    # `volatile`: nobody mounts a layer again after a crash, so the kernel need not write it to the disk. `userxattr`
    # is what a user namespace needs, and turns off everything that would make a layer more than plain files.
    options = ",".join([*(f"{name}={_escape(path)}" for name, path in folders.items()), "volatile", "userxattr"])
    _mount("overlay", target, "overlay", 0, options)


def _escape(path: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\:," else letter for letter in path)


def mount_proc() -> None:
    """Gives a new PID namespace its own /proc; where that is refused the old one stays, and shows all processes."""
    try:
        _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    except OSError:
        return


class _Ours:
    """Folders that exist in this namespace only: by name, and all of the overlays."""

    def __init__(self) -> None:
        self.folders: set[str] = set()
        self.devices: set[int] = set()

    def has(self, folder: str) -> bool:
        return folder in self.folders or os.stat(folder).st_dev in self.devices  # noqa: PTH116


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    if options and len(os.fsencode(options)) > _MAX_OPTIONS_BYTES:  # the kernel would cut it off
        raise OSError(errno.ENAMETOOLONG, f"mount on {target}: the folders' names are too long together")
    what, where, as_, data = (os.fsencode(t) if t is not None else None for t in (source, target, kind, options))
    if _LIBC.mount(what, where, as_, ctypes.c_ulong(flags), data) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mount {source} on {target}: {os.strerror(error)}")


def _move_to_copy_of_root(scratch: str) -> None:
    """Replaces / by a tmpfs that shows everything of the old one, so that new folders can appear in it."""
    folder = os.getcwd()  # noqa: PTH109
    _mount("tmpfs", scratch, "tmpfs", 0)
    _show_entries("/", scratch)
    os.chroot(scratch)
    os.chdir(folder)


def _move_to_overlays(scratch: str, layers: dict[str, Any], ours: _Ours) -> list[str]:
    """Replaces / by overlays over it and its folders; what they cannot cover shows through. The refused ones."""
    folder = os.getcwd()  # noqa: PTH109
    overlays: dict[str, str] = dict(layers["overlays"])
    hidden = _mounts_below(overlays)
    for place, options in layers["below"]:
        _mount("overlay", place, "overlay", 0, options)
    _mount("overlay", scratch, "overlay", 0, overlays.pop("/"))
    ours.devices.add(os.stat(scratch).st_dev)  # noqa: PTH116
    tops = [entry.path for entry in os.scandir("/") if not entry.is_symlink()]
    refused = []
    # Folders before what is in them; mounts within a place are hidden by its overlay, so they are shown again.
    for target in sorted({*tops, *hidden, *overlays, *layers["real"]}):
        place = f"{scratch}{target}"
        if target in overlays:
            try:
                _mount("overlay", place, "overlay", 0, overlays[target])
                ours.devices.add(os.stat(place).st_dev)  # noqa: PTH116
                continue
            except OSError:
                refused.append(target)
        if os.path.exists(target) and os.path.exists(place):  # noqa: PTH110
            # Not with what is below it where that is us.
            _mount(target, place, None, _MS_BIND if scratch.startswith(f"{target}/") else _MS_BIND | _MS_REC)
    os.chroot(scratch)
    os.chdir(folder)
    return refused


def _mounts_below(places: Iterable[str]) -> list[str]:
    """Mount points in folders."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    # The kernel writes blanks and backslashes in them as octal numbers.
    points = [re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), line.split()[4]) for line in lines]
    return [point for point in points if any(point.startswith(f"{place}/") for place in places if place != "/")]


def _show_entries(old: str, new: str) -> None:
    """Makes every entry of folder `old` visible in the empty tmpfs folder `new`."""
    for entry in os.scandir(old):
        target = f"{new}/{entry.name}"
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), target)  # noqa: PTH115, PTH211
        elif entry.is_dir():
            os.mkdir(target)  # noqa: PTH102
            _mount(entry.path, target, None, _MS_BIND | _MS_REC)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
            _mount(entry.path, target, None, _MS_BIND)


def _make_mount_point(path: str, is_folder: bool, ours: _Ours) -> None:
    """Makes a missing file or folder."""
    if os.path.exists(path):  # noqa: PTH110
        return
    parent = os.path.dirname(path)  # noqa: PTH120
    _make_mount_point(parent, True, ours)
    if not ours.has(parent):
        _cover(parent)
        ours.folders.add(parent)
    if is_folder:
        os.mkdir(path)  # noqa: PTH102
        ours.folders.add(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


def _cover(folder: str) -> None:
    """Puts a tmpfs over a host folder that shows the same entries, so that mount points can be made in it."""
    # An open descriptor still reaches what the tmpfs is about to hide.
    old = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    _mount("tmpfs", folder, "tmpfs", 0)
    _show_entries(f"/proc/self/fd/{old}", folder)
    os.close(old)
