"""What depends on the time of day, and on how long ago something was."""

import os
import socket

import modal

app = modal.App("timed")
seen = modal.Queue.from_name("timed-seen", create_if_missing=True)


def advance(seconds):
    """Puts the engine's clock ahead, from a client."""
    path = os.environ["MODAL_SERVER_URL"].removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as turn:
        turn.connect(os.path.join(os.path.dirname(path), "clock"))
        turn.sendall(f"{seconds}\n".encode())
        return float(turn.recv(100))


@app.function(schedule=modal.Cron("0 6 * * *", timezone="America/New_York"))
def morning():
    seen.put("morning")
    print("good morning", flush=True)


@app.function(schedule=modal.Period(hours=5))
def often():
    seen.put("often")


@app.function(schedule=modal.Period(hours=30))
def failing():
    seen.put("failing")
    raise ValueError("no coffee")


@app.function()
def double(x):
    return 2 * x


@app.local_entrypoint()
def main():
    print("DOUBLE", double.remote(2))
