"""Images with build functions."""

import json
import os
import time
from pathlib import Path

import modal

MODE = os.environ.get("BUILD_MODE", "")
FORCE = os.environ.get("BUILD_FORCE") == "1"
volume = modal.Volume.from_name("built-weights", create_if_missing=True)


def build(word, times=1):
    import sysconfig

    print("building", MODE, os.getcwd(), os.environ["COLOR"], os.environ["TOKEN"])
    for path in paths():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(word * times)
    Path(sysconfig.get_paths()["purelib"], "made_by_build.py").write_text("WORD = 'made'\n")
    Path("/weights/note").write_text(word)
    volume.commit()
    if MODE == "raises":
        raise ValueError("no such weights")
    if MODE == "dies":
        os._exit(7)
    if MODE in ("late", "slow"):
        time.sleep(60)


def extend():
    print("extending")
    with Path("/mb-built/deep/one.txt").open("a") as file:
        file.write("+")


def paths():
    return [
        Path("/mb-built/deep/one.txt"),
        Path("/opt/mb-built/one.txt"),
        Path("/root/mb-built.txt"),
        Path("mb-relative.txt"),
        Path("~/.cache/mb-built/one.txt").expanduser(),
        Path("/tmp/mb-built.txt"),
    ]


image = (
    modal.Image.debian_slim()
    .env({"COLOR": "red", "BUILD_MODE": MODE})
    .run_function(
        build,
        args=("ab",),
        kwargs={"times": 2},
        secrets=[modal.Secret.from_dict({"TOKEN": "t"})],
        volumes={"/weights": volume},
        timeout=1 if MODE == "late" else 60,
        force_build=FORCE,
    )
    .run_function(extend)
    .workdir("/srv/mb-built")
)
app = modal.App("built", image=image)


@app.function(volumes={"/weights": volume})
def look():
    import made_by_build

    found = {str(path): path.read_text() for path in paths() if path.exists()}
    others = [path.name for path in Path("/mb-built").iterdir()]
    Path("/mb-built/other.txt").write_text("of this container")
    return {
        "texts": found,
        "relative": Path("/root/mb-relative.txt").read_text(),
        "cwd": os.getcwd(),
        "module": made_by_build.WORD,
        "others": others,
        "volume": Path("/weights/note").read_text(),
        "hosts": Path("/etc/hosts").exists(),
    }


@app.local_entrypoint()
def main():
    print("RESULT " + json.dumps(look.remote()))
