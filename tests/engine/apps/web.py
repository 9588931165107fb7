"""Web functions of every kind."""

import asyncio
import json
import os
import sys
import time

import modal

image = modal.Image.debian_slim().pip_install("fastapi")
app = modal.App("web", image=image)
notes = modal.Dict.from_name("web-notes", create_if_missing=True)


@app.function()
@modal.fastapi_endpoint(docs=True)
def hello(name: str = "world"):
    return {"hello": name}


@app.function()
@modal.fastapi_endpoint(method="POST", label="web-secret", requires_proxy_auth=True)
def secret(item: dict):
    return {"got": item}


@app.cls()
class Greeter:
    word: str = modal.parameter(default="hello")
    times: int = modal.parameter(default=1)

    @modal.fastapi_endpoint()
    def greet(self, name: str):
        return {"said": f"{self.word} {name}" * self.times}

    @modal.method()
    def plain(self):
        return self.word


async def read_body(receive):
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        yield message["body"]
        if not message["more_body"]:
            return


async def answer(send, body, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def echo(scope, receive, send):
    parts = [part async for part in read_body(receive)]
    found = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
        "client": scope["client"][0],
        "n_bytes": sum(map(len, parts)),
    }
    kind = b"application/json"
    await answer(send, json.dumps(found).encode(), 201, [(b"Content-Type", kind), (b"X-A", b"1"), (b"X-A", b"2")])


async def stream(scope, receive, send):
    """Parts of a size, as many as the query says; the next one only when the one before was asked for."""
    n, size = map(int, scope["query_string"].decode().split("x"))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(n):
        await send({"type": "http.response.body", "body": b"x" * size, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def talk(scope, receive, send):
    """A line is answered when it comes, before the next one: both directions at once."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    async for part in read_body(receive):
        if part:
            await send({"type": "http.response.body", "body": part.upper(), "more_body": True})
    await send({"type": "http.response.body", "body": b"done"})


async def wait(scope, receive, send):
    """Waits for its client to leave, and notes that."""
    name = scope["query_string"].decode()
    await answer_start(send)
    message = await receive()
    while message["type"] == "http.request":
        message = await receive()
    await notes.put.aio(name, message["type"])


async def stay(scope, receive, send):
    """Goes on although its client has left."""
    name = scope["query_string"].decode()
    try:
        await wait(scope, receive, send)
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await notes.put.aio(f"{name} end", "cancelled")
        raise


async def answer_start(send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})


async def later(scope, receive, send):
    """Answers when a note is there."""
    name = scope["query_string"].decode()
    await notes.put.aio(f"{name} began", True)
    while not await notes.get.aio(name):
        await asyncio.sleep(0.01)
    await answer(send, f"late {name}".encode())


async def background(scope, receive, send):
    """Goes on after its response."""
    name = scope["query_string"].decode()
    await answer(send, b"accepted")
    await notes.put.aio(name, "done")


async def crash_once(scope, receive, send):
    """Ends its container, the first time; the next one gets the body again."""
    n_bytes = sum([len(part) async for part in read_body(receive)])
    if await notes.put.aio(scope["query_string"].decode(), True, skip_if_exists=True):
        os._exit(3)
    await answer(send, str(n_bytes).encode())


async def crash(scope, receive, send):
    os._exit(3)


async def break_off(scope, receive, send):
    await answer_start(send)
    while (await notes.get.aio(scope["query_string"].decode())) is None:
        await asyncio.sleep(0.01)
    os._exit(3)


async def fail(scope, receive, send):
    raise KeyError("missing")


async def nothing(scope, receive, send):
    return


async def converse(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/closed":
        await send({"type": "websocket.close", "code": 1000})
        return
    await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "bye":
            await send({"type": "websocket.close", "code": 4001, "reason": "bye"})
        elif message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"].upper()})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"][::-1]})
    await notes.put.aio(scope["path"], message["type"])


@app.function()
@modal.concurrent(max_inputs=20)
@modal.asgi_app()
def raw():
    pages = {name: globals()[name] for name in ("stream", "talk", "wait", "later", "background", "crash_once", "crash")}
    pages |= {name: globals()[name] for name in ("break_off", "fail", "nothing", "stay")}

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            raise ValueError("this app has no lifespan")  # as ASGI wants it said
        if scope["type"] == "websocket":
            return await converse(scope, receive, send)
        return await pages.get(scope["path"].lstrip("/"), echo)(scope, receive, send)

    return application


@app.function(timeout=1)
@modal.asgi_app()
def slow():
    async def application(scope, receive, send):
        if scope["type"] == "http":
            time.sleep(1000)

    return application


@app.function()
@modal.wsgi_app()
def old():
    def application(environ, start_response):
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode(), b" ", body]

    return application


@app.function()
@modal.asgi_app()
def broken():
    raise RuntimeError("no app")


@app.function()
def plain():
    return hello.get_web_url()


def urls():
    found = {name: globals()[name].get_web_url() for name in ("hello", "secret", "raw", "slow", "old", "broken")}
    return found | {"greet": Greeter().greet.get_web_url()}


@app.local_entrypoint()
def main():
    """Says where everything is, and stays until its input ends."""
    try:
        hello.remote()
        refusal = ""
    except Exception as error:
        refusal = f"{type(error).__name__}: {error}"
    inside = plain.remote()
    method = Greeter(word="moin").plain.remote()
    print("RESULT " + json.dumps(urls() | {"refusal": refusal, "inside": inside, "method": method}), flush=True)
    sys.stdin.read()
