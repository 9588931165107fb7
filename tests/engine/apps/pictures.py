"""Images of every kind that the engine honours."""

import json
import os
import sys

import modal

HERE = os.path.dirname(os.path.abspath(__file__))
WHEELS = os.environ.get("WHEELS", "/nonexistent")
image = (
    modal.Image.debian_slim(python_version=f"3.{sys.version_info.minor}" if modal.is_local() else None)
    .apt_install("ffmpeg")
    .pip_install("tinywheel", find_links=WHEELS, extra_options="--no-index")
    .env({"GREETING": "hello world", "TOOLS": "/opt/tools", "PATH": "/opt/tools/bin:$PATH"})
    .run_commands("echo built > /built")
    .workdir("/srv/work")
    .add_local_file(f"{HERE}/data/one.txt", "/opt/copied/one.txt", copy=True)
    .add_local_dir(f"{HERE}/data", "/app/prompts")
    .add_local_file(f"{HERE}/data/one.txt", "/etc/mb-test/one.txt")
    .add_local_dir(f"{HERE}/data", "/root/mb-data")
    .add_local_python_source("parcel")
)
app = modal.App("pictures", image=image)


@app.function(gpu="H100:2")
def look():
    import parcel
    import tinywheel

    with open("written.txt", "w") as file:
        file.write("x")
    texts = {}
    for path in (
        "/opt/copied/one.txt",
        "/app/prompts/one.txt",
        "/app/prompts/sub/two.txt",
        "/etc/mb-test/one.txt",
        "/root/mb-data/one.txt",
    ):
        with open(path) as file:
            texts[path] = file.read()
    return {
        "tinywheel": tinywheel.VALUE,
        "parcel": parcel.NAME,
        "greeting": os.environ["GREETING"],
        "path": os.environ["PATH"].split(":")[0],
        "cwd": os.getcwd(),
        "texts": texts,
        "hosts": os.path.exists("/etc/hosts"),
        "python": sys.version_info.minor,
    }


@app.local_entrypoint()
def main():
    print("RESULT " + json.dumps(look.remote()))
