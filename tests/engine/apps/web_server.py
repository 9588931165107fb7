"""A program of one's own behind a web function; the port is the caller's choice."""

import os
import subprocess
import sys

import modal

PORT = os.environ["WEB_PORT"]
image = modal.Image.debian_slim().pip_install("fastapi")  # as in web.py: one environment for both
app = modal.App("web-server", image=image)


@app.function(secrets=[modal.Secret.from_dict({"WEB_PORT": PORT})])
@modal.web_server(int(PORT))
def server():
    subprocess.Popen([sys.executable, "-m", "http.server", PORT, "--directory", "/etc"])
