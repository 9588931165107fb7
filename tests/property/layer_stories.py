"""Random stories of two containers that write to one volume, told over real overlays; run as a process of its own.

Every story ends with both having committed. Because each works in folders of its own and on one folder of both's, where
each file has one writer, what must be there is known: the same steps done to a plain folder.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from modalbatch.engines.local.containers import guest_isolation as isolation
from modalbatch.engines.local.storage.layer import Layer
from modalbatch.engines.local.storage.snapshot import Snapshots

_NAMES = ("a", "b", "c")


def _contents(folder: Path) -> dict[str, str]:
    """Every file and link below a folder with its content; folders too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        is_folder = path.is_dir() and not path.is_symlink()
        text = "" if is_folder else os.readlink(path) if path.is_symlink() else path.read_text()
        found[str(path.relative_to(folder))] = f"{'folder' if is_folder else 'file'} {text}"
    return found


def _change(draw: random.Random, root: Path, owner: str, text: str) -> None:
    """One thing that user code does below its own folder, or to its own files in the folder of both."""
    top = draw.choice([owner, owner, "both"])
    depth = draw.randint(1, 3)
    names = [draw.choice(_NAMES) for _ in range(depth)]
    if top == "both":
        names = [f"{owner}-{names[-1]}"]
    path = root / top / Path(*names)
    verb = draw.choice(["write", "write", "append", "remove", "mkdir", "link", "rename", "rewrite"])
    if verb in ("write", "append", "link", "mkdir"):
        for parent in [p for p in reversed(path.parents) if root in p.parents]:
            if parent.is_symlink() or parent.is_file():
                parent.unlink()
            parent.mkdir(exist_ok=True)
    is_folder = path.is_dir() and not path.is_symlink()
    if verb == "write" and not is_folder:
        path.unlink(missing_ok=True)
        path.write_text(text)
    elif verb == "append" and not is_folder and not path.is_symlink():
        with path.open("a") as file:
            file.write(text)
    elif verb == "rewrite" and path.is_file() and not path.is_symlink():
        path.write_text(text)
    elif verb == "remove" and is_folder:
        shutil.rmtree(path)
    elif verb == "remove" and os.path.lexists(path):
        path.unlink()
    elif verb == "mkdir" and top != "both" and not os.path.lexists(path):
        path.mkdir()
    elif verb == "link" and not os.path.lexists(path):
        path.symlink_to(text)
    elif verb == "rename" and path.is_file():
        path.rename(path.with_name(f"{path.name}x"))


def _tell(seed: int, place: Path) -> str:
    """Tells one story; what was wrong at its end."""
    draw = random.Random(seed)
    truth, volume, drafts = place / "truth", place / "volume", place / "drafts"
    for folder in (truth, volume):
        for name in ("x", "y", "both"):
            (folder / name).mkdir(parents=True)
    drafts.mkdir()
    for step in range(draw.randint(0, 20)):
        again = draw.getrandbits(64)
        for folder in (truth, volume):
            _change(random.Random(again), folder, "xy"[step % 2], f"{step} before")
    snapshots, views = Snapshots(place / "snapshots"), {}
    for owner in "xy":
        snapshot = snapshots.take(volume)
        layer = Layer(place / f"layer-{owner}", snapshot.path)
        (place / owner).mkdir()
        isolation.mount_folders([(str(snapshot.path), str(place / owner), False, str(layer.folder))], str(place))
        views[owner] = (place / owner, layer)
    for step in range(draw.randint(1, 30)):
        owner, again = draw.choice("xy"), draw.getrandbits(64)
        for folder in (truth, views[owner][0]):
            _change(random.Random(again), folder, owner, f"{step}")
        if draw.random() < 0.2:
            views[owner][1].commit(volume, drafts, all_files=draw.random() < 0.5)
    for _, layer in views.values():
        layer.commit(volume, drafts)
    expected, found = _contents(truth), _contents(volume)
    return "" if expected == found else f"story {seed}: expected {expected}, found {found}"


def main() -> int:
    """Tells as many stories as the first argument says."""
    if not isolation.enter_namespaces():
        print("no namespaces here")
        return 2
    for seed in range(int(sys.argv[1])):
        with tempfile.TemporaryDirectory(dir=sys.argv[2], ignore_cleanup_errors=True) as place:
            wrong = _tell(seed, Path(place))
            for owner in "xy":
                isolation._LIBC.umount2(f"{place}/{owner}".encode(), 2)
        if wrong:
            print(wrong)
            return 1
    print("all is well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
