"""A deployment and its state."""

import os

import modal

app = modal.App("service")
volume = modal.Volume.from_name("service-data", create_if_missing=True)
other = modal.Volume.from_name("service-other", create_if_missing=True, version=2)
VERSION = os.environ.get("SERVICE_VERSION", "1")


@app.function(scaledown_window=2, env={"VERSION": VERSION})
def version():
    print("asked for the version", flush=True)
    return os.environ["VERSION"]


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
