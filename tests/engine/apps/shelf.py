"""Volumes as containers see them: two classes, so two containers, over the same two volumes."""

import json
import os
import shutil
import threading
import time
from contextlib import suppress

import modal

app = modal.App("shelf")
first = modal.Volume.from_name("first", create_if_missing=True, version=2)
second = modal.Volume.from_name("second", create_if_missing=True, version=1)
VOLUMES = {"first": first, "second": second}


class Reader:
    def read(self, path: str) -> str | None:
        """The text of a file below `/shelf`; None when it is not seen."""
        try:
            with open(f"/shelf/{path}") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def names(self, path: str) -> list[str]:
        return sorted(
            os.path.relpath(os.path.join(folder, name), "/shelf")
            for folder, folders, files in os.walk(f"/shelf/{path}")
            for name in folders + files
        )

    def reload(self, volume: str) -> None:
        VOLUMES[volume].reload()

    def await_file(self, path: str) -> str:
        """Reloads until a file is seen."""
        volume, _, _ = path.partition("/")
        while (text := self.read(path)) is None:
            VOLUMES[volume].reload()
        return text


@app.cls(volumes={f"/shelf/{name}": volume for name, volume in VOLUMES.items()}, max_containers=1, timeout=60)
class Shelf(Reader):
    name: str = modal.parameter()

    def work(self, steps: list) -> object:
        result = None
        for verb, *words in steps:
            result = getattr(self, verb)(*words)
        return result

    def write(self, path: str, text: str) -> None:
        os.makedirs(os.path.dirname(f"/shelf/{path}"), exist_ok=True)
        with open(f"/shelf/{path}", "w") as file:
            file.write(text)

    def append(self, path: str, text: str) -> None:
        with open(f"/shelf/{path}", "a") as file:
            file.write(text)

    def remove(self, path: str) -> None:
        if os.path.isdir(f"/shelf/{path}"):
            shutil.rmtree(f"/shelf/{path}")
        else:
            os.unlink(f"/shelf/{path}")

    def link(self, path: str, target: str) -> None:
        os.symlink(target, f"/shelf/{path}")

    def commit(self, volume: str) -> None:
        VOLUMES[volume].commit()

    def reload_with_open_file(self, path: str) -> str:
        with open(f"/shelf/{path}"):
            try:
                VOLUMES[path.partition("/")[0]].reload()
            except RuntimeError as error:
                return str(error)
        return ""

    def stamp(self, path: str, text: str) -> None:
        """Writes in place and sets the time back, as reproducible builds do."""
        with open(f"/shelf/{path}", "r+") as file:
            file.write(text)
        os.utime(f"/shelf/{path}", (0, 0))

    def write_beside_reloads(self, folder: str, n_reloads: int) -> int:
        """Reloads while a thread writes files; how many it wrote."""
        is_over, n_written = threading.Event(), 0

        def write() -> None:
            nonlocal n_written
            os.makedirs(f"/shelf/{folder}", exist_ok=True)
            while not is_over.is_set():
                with suppress(FileNotFoundError):  # the folder is not there yet after the first reload
                    with open(f"/shelf/{folder}/{n_written}", "w") as file:
                        file.write("x")
                    n_written += 1
                time.sleep(0.001)  # or there is always one open, and no reload

        writer = threading.Thread(target=write)
        writer.start()
        while n_reloads:
            with suppress(RuntimeError):  # one of the files is open
                VOLUMES[folder.partition("/")[0]].reload()
                n_reloads -= 1
        is_over.set()
        writer.join()
        return n_written

    def churn(self, folder: str, n_commits: int) -> None:
        """Commits while a thread makes files and removes them."""
        is_over = threading.Event()
        os.makedirs(f"/shelf/{folder}", exist_ok=True)

        def work() -> None:
            while not is_over.is_set():
                for number in range(50):
                    open(f"/shelf/{folder}/{number}", "w").close()
                for number in range(50):
                    os.unlink(f"/shelf/{folder}/{number}")

        worker = threading.Thread(target=work)
        worker.start()
        for _ in range(n_commits):
            VOLUMES[folder.partition("/")[0]].commit()
        is_over.set()
        worker.join()

    def die(self) -> None:
        os._exit(3)

    @modal.method()
    def do(self, *steps: list) -> object:
        return self.work(list(steps))

    @modal.method()
    def namespaces(self) -> list[str]:
        return [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "pid")]

    @modal.method()
    def where(self) -> str:
        """Where the variable says that the first volume is."""
        return json.loads(os.environ["MODALBATCH_MOUNTS"])["/shelf/first"]


@app.cls(volumes={"/shelf/first": first.read_only()}, max_containers=1)
class Looker(Reader):
    @modal.method()
    def do(self, verb: str, *words: str) -> object:
        return getattr(self, verb)(*words)

    @modal.method()
    def try_to_write(self) -> str:
        try:
            os.mkdir("/shelf/first/mine")
        except OSError as error:
            return error.strerror
        return ""
