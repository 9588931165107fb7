"""Web functions: the real client makes them, plain HTTP clients use them."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from engine_bench import APPS, Bench, processes_of

from modalbatch.engines.local import LocalEngine

CALL_ID = re.compile(r"fc-\w{22}")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One engine for this module, with a clock that tests put ahead."""
    os.environ["MODALBATCH_CLOCK"] = "socket"
    home = tmp_path_factory.mktemp("home")
    with LocalEngine(home) as engine:
        os.environ.pop("MODALBATCH_CLOCK")
        yield Bench(home, engine)
    assert processes_of(home) == []


@pytest.fixture(scope="module")
def app(bench: Bench) -> Iterator[dict]:
    """The app while `modal run` holds it: its URLs by function."""
    client = subprocess.Popen(
        [sys.executable, "-m", "modal", "run", "web.py::main"],
        env=bench.environ(),
        cwd=APPS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    for line in client.stdout:
        said.append(line)
        if line.startswith("RESULT "):
            break
    assert said[-1].startswith("RESULT "), "".join(said)
    yield json.loads(said[-1].removeprefix("RESULT ")) | {"output": "".join(said)}
    client.stdin.close()
    assert client.wait() == 0, client.stdout.read()


def fetch(url: str, data: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body, whatever the status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urlopen(Request(url, data=data, headers=named)) as response:
            return response.status, dict(response.headers), response.read()
    except HTTPError as error:
        return error.code, dict(error.headers), error.read()


def connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).netloc)


def is_open(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((urlsplit(url).hostname, urlsplit(url).port)) == 0


def note(bench: Bench, name: str, value: object = True) -> None:
    bench.python(f"import modal; modal.Dict.from_name('web-notes')[{name!r}] = {value!r}")


def await_note(bench: Bench, name: str) -> object:
    """What an app has noted, as soon as it has."""
    source = (
        "import modal, time\n"
        "notes = modal.Dict.from_name('web-notes', create_if_missing=True)\n"
        f"while notes.get({name!r}) is None: time.sleep(0.01)\n"
        f"print(notes[{name!r}])"
    )
    return bench.python(source).strip()


def test_the_client_prints_urls_and_code_finds_them(app):
    assert all(app[name] in app["output"] for name in ("hello", "raw", "greet"))
    assert f"{app['secret']} 🔑" in app["output"]
    assert app["inside"] == app["hello"]
    assert app["refusal"].startswith("InvalidError: A webhook function cannot be invoked for remote execution")
    assert app["method"] == "moin"


def test_an_endpoint_of_fastapi_with_its_docs(app):
    status, headers, body = fetch(f"{app['hello']}/?name=you")
    assert (status, json.loads(body)) == (200, {"hello": "you"})
    assert CALL_ID.fullmatch(headers["Modal-Function-Call-Id"])
    assert b"/openapi.json" in fetch(f"{app['hello']}/docs")[2]
    assert json.loads(fetch(f"{app['hello']}/openapi.json")[2])["openapi"]
    assert fetch(app["hello"], b"x")[0] == 405


def test_a_method_with_the_parameters_of_its_class_in_the_query(app):
    assert json.loads(fetch(f"{app['greet']}?name=Bo")[2]) == {"said": "hello Bo"}
    assert json.loads(fetch(f"{app['greet']}?name=Bo&word=hi&times=2")[2]) == {"said": "hi Bohi Bo"}
    status, _, body = fetch(f"{app['greet']}?name=Bo&times=many")
    assert (status, body) == (400, b"modal-http: parameter times of the class cannot be 'many'\n")


def test_a_request_arrives_as_it_was_sent(app):
    status, headers, body = fetch(f"{app['raw']}/a%20b//c?x=1&y=%20", b"12345", X_Thing="a", Accept_Encoding="br")
    found = json.loads(body)
    assert status == 201
    assert headers["Content-Type"] == "application/json"
    assert (found["method"], found["path"], found["query"]) == ("POST", "/a b//c", "x=1&y=%20")
    assert found["n_bytes"] == 5
    assert ["x-thing", "a"] in found["headers"]
    assert ["host", urlsplit(app["raw"]).netloc] in found["headers"]
    assert found["client"] == "127.0.0.1"


def test_a_header_may_come_twice_and_head_has_no_body(app):
    connection = connect(app["raw"])
    connection.request("HEAD", "/", headers={"Content-Encoding": "gzip"})
    response = connection.getresponse()
    assert response.headers.get_all("X-A") == ["1", "2"]
    assert response.read() == b""
    connection.request("DELETE", "/again")  # over the same connection
    assert json.loads(connection.getresponse().read())["method"] == "DELETE"
    connection.close()


def test_large_bodies_in_both_directions(app):
    assert json.loads(fetch(app["raw"], b"z" * 40_000_000)[2])["n_bytes"] == 40_000_000
    assert len(fetch(f"{app['raw']}/stream?40x1000000")[2]) == 40_000_000
    assert len(fetch(f"{app['raw']}/stream?1x45000000")[2]) == 45_000_000


def test_a_response_streams_while_the_request_does(app):
    connection = connect(app["raw"])
    connection.putrequest("POST", "/talk")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    connection.send(b"2\r\nab\r\n")
    response = connection.getresponse()
    assert response.read(2) == b"AB"
    connection.send(b"3\r\ncde\r\n")
    assert response.read(3) == b"CDE"
    connection.send(b"0\r\n\r\n")
    assert response.read() == b"done"
    connection.close()


def test_a_client_that_asks_before_it_sends(app):
    connection = connect(app["raw"])
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", "3")
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n")
    connection.send(b"abc")
    assert json.loads(connection.getresponse().read())["n_bytes"] == 3
    connection.close()


def test_a_body_over_the_limit_is_refused_before_it_is_sent(app):
    connection = connect(app["raw"])
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str((4 << 30) + 1))
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, response.read()) == (413, b"modal-http: request body is larger than 4 GiB\n")
    connection.close()


def test_wsgi(app):
    assert fetch(f"{app['old']}/path", b"body")[2] == b"/path body"


def test_a_program_that_is_a_server(bench, monkeypatch):
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("WEB_PORT", str(port))
    bench.modal("deploy", "web_server.py")
    url = bench.python("import modal; print(modal.Function.from_name('web-server', 'server').get_web_url())").strip()
    has_eth0 = Path("/sys/class/net/eth0").exists()  # Modal's runtime wants it by this name
    if has_eth0:
        assert fetch(f"{url}/passwd")[2] == Path("/etc/passwd").read_bytes()
    assert fetch(f"{url}/nowhere")[0] == (404 if has_eth0 else 500)
    log = "\n".join(path.read_text(errors="replace") for path in (bench.home / "engine" / "logs").glob("ap-*.log"))
    assert f"`server` listens on port {port} of this machine, on every network: one container at a time" in log
    assert has_eth0 != ("web_server `server` cannot start: " in log)
    bench.modal("app", "stop", "web-server", "--yes")


def test_failures_answer_at_once(app):
    for path, text in (
        ("fail", "status Failure: KeyError('missing')"),
        ("nothing", "the app has ended without a response"),
        ("crash", "status Failure: container exited with code 3 while it ran the input"),
    ):
        status, _, body = fetch(f"{app['raw']}/{path}")
        assert (status, body.decode()) == (500, f"modal-http: internal error: {text}\n")
    assert fetch(app["slow"])[2] == b"modal-http: internal error: function execution timed out\n"
    assert fetch(app["broken"])[2] == b"modal-http: internal error: status Failure: RuntimeError('no app')\n"


def test_what_containers_and_requests_say_is_in_the_log(bench, app):
    fetch(f"{app['raw']}/fail")
    lines = [b"KeyError: 'missing'", b"   GET /fail -> 500 Internal Server Error  (duration: "]
    while not all(line in _log(bench) for line in lines):
        time.sleep(0.01)


def _log(bench: Bench) -> bytes:
    return b"".join(path.read_bytes() for path in (bench.home / "engine" / "logs").glob("ap-*.log"))


def test_after_a_crash_the_next_container_reads_the_body_again(app):
    assert fetch(f"{app['raw']}/crash_once?{uuid.uuid4().hex}", b"x" * 5_000_000)[2] == b"5000000"


def test_a_response_that_breaks_off_does_not_look_whole(bench, app):
    name = uuid.uuid4().hex
    connection = connect(app["raw"])
    connection.request("GET", f"/break_off?{name}")
    response = connection.getresponse()
    assert response.read(5) == b"first"
    note(bench, name)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()


def test_the_app_hears_of_a_client_that_leaves(bench, app):
    name = uuid.uuid4().hex
    connection = connect(app["raw"])
    connection.request("GET", f"/wait?{name}")
    response = connection.getresponse()
    assert response.read(5) == b"first"
    response.close()
    connection.close()
    assert await_note(bench, name) == "http.disconnect"


def test_work_for_a_client_that_has_left_is_cancelled(bench, app):
    name = uuid.uuid4().hex
    connection = connect(app["raw"])
    connection.request("GET", f"/stay?{name}")
    response = connection.getresponse()
    response.close()
    connection.close()
    assert await_note(bench, name) == "http.disconnect"
    bench.advance(120)
    assert await_note(bench, f"{name} end") == "cancelled"


def test_work_after_the_response_goes_on(bench, app):
    name = uuid.uuid4().hex
    assert fetch(f"{app['raw']}/background?{name}")[2] == b"accepted"
    assert await_note(bench, name) == "done"


def test_a_response_that_takes_too_long_is_fetched_elsewhere(bench, app):
    name = uuid.uuid4().hex
    connection = connect(app["raw"])
    connection.request("POST", f"/later?{name}", b"body")
    assert await_note(bench, f"{name} began") == "True"
    bench.advance(150)
    response = connection.getresponse()
    response.read()
    assert response.status == 303
    target = response.headers["Location"]
    assert re.fullmatch(rf"/later\?{name}&__modal_function_call_id=fc-\w{{22}}", target)
    assert fetch(app["raw"] + target, b"")[:3:2] == (400, b"modal-http: bad redirect method\n")
    assert fetch(app["hello"] + target)[:3:2] == (404, b"modal-http: invalid function call\n")
    note(bench, name)
    connection.request("GET", target)
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, f"late {name}".encode())
    connection.close()
    assert fetch(app["raw"] + target)[:3:2] == (404, b"modal-http: invalid function call\n")


def test_proxy_tokens(bench, app):
    path = bench.home / "proxy-tokens"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"tokens for requires_proxy_auth are in {path}" in app["output"]
    key, secret = path.read_text().splitlines()[1].split()[:2]
    item = {"data": b'{"a": 1}', "Content_Type": "application/json"}
    missing = b"modal-http: missing credentials for proxy authorization\n"
    assert fetch(app["secret"], **item)[:3:2] == (401, missing)
    assert fetch(app["secret"], Modal_Key=key, **item)[:3:2] == (401, missing)
    wrong = fetch(app["secret"], Modal_Key=key, Modal_Secret=secret[:-1], **item)
    assert wrong[:3:2] == (401, b"modal-http: invalid credentials for proxy authorization\n")
    assert json.loads(fetch(app["secret"], Modal_Key=key, Modal_Secret=secret, **item)[2]) == {"got": {"a": 1}}
    assert fetch(app["secret"], Authorization=f"Bearer {key}.{secret}", **item)[0] == 200


def test_proxy_tokens_of_the_command_line(bench, app):
    if "No such command" in bench.modal("workspace", "proxy-tokens", "--help", code=None):
        return  # an older client has no command for them
    made = json.loads(bench.modal("workspace", "proxy-tokens", "create", "--json"))
    headers = {"Modal_Key": made["Modal-Key"], "Modal_Secret": made["Modal-Secret"]}
    assert fetch(app["secret"], b"{}", Content_Type="application/json", **headers)[0] == 200
    assert made["Modal-Key"] in bench.modal("workspace", "proxy-tokens", "list", "--json")
    bench.modal("workspace", "proxy-tokens", "delete", made["Modal-Key"], "--yes")
    assert fetch(app["secret"], b"{}", Content_Type="application/json", **headers)[0] == 401


def test_websockets(bench, app):
    source = (
        "import aiohttp, asyncio, sys\n"
        "async def main(url):\n"
        "    async with aiohttp.ClientSession() as session:\n"
        "        async with session.ws_connect(url + '/' + sys.argv[2], protocols=['one', 'two']) as talk:\n"
        "            await talk.send_str('hello')\n"
        "            print(await talk.receive_str(), talk.protocol)\n"
        "            await talk.send_bytes(bytes([1, 2]))\n"
        "            print(await talk.receive_bytes())\n"
        "        async with session.ws_connect(url) as talk:\n"
        "            await talk.send_str('bye')\n"
        "            print((await talk.receive()).data, talk.close_code)\n"
        "        try:\n"
        "            await session.ws_connect(url + '/closed')\n"
        "        except aiohttp.WSServerHandshakeError as error:\n"
        "            print(error.status)\n"
        "asyncio.run(main(sys.argv[1]))\n"
    )
    name = uuid.uuid4().hex
    said = bench.command(sys.executable, "-c", source, app["raw"], name)
    assert said.splitlines() == ["HELLO one", "b'\\x02\\x01'", "4001 4001", "403"]
    assert await_note(bench, f"/{name}") == "websocket.disconnect"


def test_a_deployed_app_keeps_its_urls_and_stopping_it_closes_them(home):
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        first = deploy(bench)
        assert json.loads(fetch(first["hello"])[2]) == {"hello": "world"}
        assert deploy(bench) == first
        assert json.loads(fetch(first["hello"])[2]) == {"hello": "world"}
    assert not any(map(is_open, first.values()))
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        assert look_up(bench) == first  # which waits until the engine is up
        assert json.loads(fetch(first["hello"])[2]) == {"hello": "world"}
        connection = connect(first["raw"])
        connection.request("GET", f"/wait?{uuid.uuid4().hex}")
        response = connection.getresponse()
        assert response.read(5) == b"first"
        bench.modal("app", "stop", "web", "--yes")
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()
        assert not any(map(is_open, first.values()))


def test_a_port_that_somebody_else_has(home):
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        first = deploy(bench)
    with socket.create_server(("127.0.0.1", urlsplit(first["hello"]).port)), LocalEngine(home) as engine:
        bench = Bench(home, engine)
        second = look_up(bench)
        assert second["hello"] != first["hello"]
        assert second["greet"] == first["greet"]
        assert fetch(second["hello"])[0] == 200


def deploy(bench: Bench) -> dict[str, str]:
    """Deploys the app; the URLs of it that its command prints."""
    output = bench.modal("deploy", "web.py")
    found = look_up(bench)
    assert all(url in output for url in found.values()), output
    return found


def look_up(bench: Bench) -> dict[str, str]:
    """URLs of the deployed app, as code finds them."""
    source = (
        "import json, modal\n"
        "urls = {name: modal.Function.from_name('web', name).get_web_url() for name in ('hello', 'raw')}\n"
        "urls['greet'] = modal.Cls.from_name('web', 'Greeter')().greet.get_web_url()\n"
        "print(json.dumps(urls))"
    )
    return json.loads(bench.python(source))
