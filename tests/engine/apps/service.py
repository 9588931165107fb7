"""A deployment and its state."""

import os
import time

import modal

app = modal.App("service")
volume = modal.Volume.from_name("service-data", create_if_missing=True)
other = modal.Volume.from_name("service-other", create_if_missing=True, version=2)
VERSION = os.environ.get("SERVICE_VERSION", "1")


@app.function(scaledown_window=2, env={"VERSION": VERSION})
def version():
    print("asked for the version", flush=True)
    return os.environ["VERSION"]


@app.function(env={"VERSION": VERSION})
def relay():
    """The version of whoever is called, and of the caller."""
    return version.remote() + os.environ["VERSION"] + Stamp(prefix="v").mark.remote()


@app.cls(env={"VERSION": VERSION})
class Stamp:
    prefix: str = modal.parameter()

    @modal.method()
    def mark(self):
        return self.prefix + os.environ["VERSION"]


@app.cls(volumes={"/data": volume, "/mnt/deep/er": other})
class Keeper:
    @modal.method()
    def keep(self, name, text):
        with open(f"/data/{name}", "w") as file:
            file.write(text)
        volume.commit()
        volume.reload()
        with open(f"/mnt/deep/er/{name}", "w") as file:
            file.write(text)
        return open(f"/data/{name}").read()


@app.function(min_containers=1, max_containers=2, scaledown_window=2)
@modal.concurrent(max_inputs=2)
def warm(folder, n):
    """Waits until `n` of these run at once; in how many containers."""
    os.symlink(os.environ["MODAL_TASK_ID"], f"{folder}/{modal.current_input_id()}")
    while len(os.listdir(folder)) < n:
        time.sleep(0.01)
    return len({os.readlink(f"{folder}/{name}") for name in os.listdir(folder)})


@app.function(max_containers=2, scaledown_window=2)
@modal.concurrent(max_inputs=2, target_inputs=1)
def burst(folder, n):
    """The same, with containers that scale out before they take a second input."""
    return warm.local(folder, n)
