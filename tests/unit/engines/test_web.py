"""The pure parts of web functions: scopes, targets, class parameters, ports, tokens."""

from __future__ import annotations

import pickle
import socket

import pytest

from modalbatch.engines.local.calls.call import Call
from modalbatch.engines.local.calls.stream import DataStream
from modalbatch.engines.local.web import asgi, port
from modalbatch.engines.local.web.token import ProxyTokens
from modalbatch.engines.local.wire import proto


def scope(kind="http", target="/", headers=()):
    return asgi.scope(kind, method="GET", target=target, headers=headers, client=("127.0.0.1", 5))


def test_a_scope_has_a_decoded_path_and_the_query_as_it_came():
    found = scope(target="/a%20b/%C3%A4?x=%20&y", headers=[(b"X-A", b"B")])
    assert (found["type"], found["method"], found["scheme"]) == ("http", "GET", "http")
    assert (found["path"], found["query_string"]) == ("/a b/ä", b"x=%20&y")
    assert found["headers"] == [(b"x-a", b"B")]


def test_a_websocket_s_scope_has_subprotocols_and_no_method():
    found = scope("websocket", headers=[(b"Sec-WebSocket-Protocol", b"a, b"), (b"sec-websocket-protocol", b"c")])
    assert found["scheme"] == "ws"
    assert found["subprotocols"] == ["a", "b", "c"]
    assert "method" not in found


def test_an_input_calls_the_function_with_its_scope():
    item = asgi.web_input(scope(), "greet")
    assert pickle.loads(item.args) == ((scope(),), {})
    assert item.method_name == "greet"


@pytest.mark.parametrize(
    ("target", "split"),
    [
        ("/", ("/", "")),
        ("//a?b?c", ("//a", "b?c")),
        ("http://host:1/a?b", ("/a", "b")),
        ("http://host", ("/", "")),
        ("*", ("*", "")),
    ],
)
def test_targets_of_every_form(target, split):
    assert asgi.split_target(target) == split


def test_the_address_of_a_result_keeps_the_query_and_names_one_call():
    assert asgi.result_target("/a?b=1", "fc-2") == "/a?b=1&__modal_function_call_id=fc-2"
    assert asgi.result_target("/?__modal_function_call_id=fc-1", "fc-2") == "/?__modal_function_call_id=fc-2"


def test_headers_of_the_app_s_own_connection_are_dropped():
    flat = [b"Set-Cookie", b"a", b"set-cookie", b"b", b"Transfer-Encoding", b"chunked", b"Connection", b"close"]
    assert asgi.response_headers(flat) == [("Set-Cookie", "a"), ("set-cookie", "b")]


def specs():
    kind = proto.ClassParameterSpec
    return [
        kind(name="word", type=proto.PARAM_TYPE_STRING),
        kind(name="times", type=proto.PARAM_TYPE_INT, has_default=True, int_default=3),
        kind(name="loud", type=proto.PARAM_TYPE_BOOL, has_default=True, bool_default=True),
    ]


def test_class_parameters_from_a_query():
    data = asgi.class_parameters(specs(), {"word": "a", "loud": "False", "other": "x"})
    values = proto.ClassParameterSet.FromString(data).parameters
    assert [(value.name, value.type) for value in values] == [
        ("word", proto.PARAM_TYPE_STRING),
        ("times", proto.PARAM_TYPE_INT),
        ("loud", proto.PARAM_TYPE_BOOL),
    ]
    assert (values[0].string_value, values[1].int_value, values[2].bool_value) == ("a", 3, False)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({}, "parameter word of the class is missing in the query"),
        ({"word": "a", "times": "b"}, "parameter times of the class cannot be 'b'"),
        ({"word": "a", "loud": "b"}, "parameter loud of the class cannot be 'b'"),
    ],
)
def test_class_parameters_that_a_query_does_not_give(query, text):
    with pytest.raises(ValueError) as caught:
        asgi.class_parameters(specs(), query)
    assert str(caught.value) == text


def test_labels_are_modal_s():
    def named(**changed):
        return port.label(
            **{"requested": "", "app": "a", "function": "f", "method": "", "is_ephemeral": False} | changed
        )

    assert named() == "a-f"
    assert named(function="C.*", method="m") == "a-C-m"
    assert named(requested="mine") == "mine"
    assert named(is_ephemeral=True) == "a-f-dev"


def test_ports_follow_from_the_label_and_the_next_one_is_taken_if_need_be():
    ports = port.preferred_ports("main", "a-f")
    assert ports == port.preferred_ports("main", "a-f") != port.preferred_ports("main", "a-g")
    assert all(20_000 <= number < 30_000 for number in ports[:-1])
    with socket.create_server(("127.0.0.1", 0)) as busy:
        taken = busy.getsockname()[1]
        with port.listen([taken, 0]) as other:
            assert other.getsockname()[0] == "127.0.0.1"
            assert other.getsockname()[1] != taken


def test_tokens_are_a_file_that_only_its_owner_reads(tmp_path):
    tokens = ProxyTokens(tmp_path / "proxy-tokens")
    assert tokens.all() == []
    tokens.ensure()
    [first] = tokens.all()
    assert (first.key[:3], first.secret[:3]) == ("wk-", "ws-")
    assert tokens.path.stat().st_mode & 0o777 == 0o600
    tokens.ensure()
    assert tokens.all() == [first]
    second = tokens.create("two words")
    assert tokens.all()[1].name == "two words"
    assert tokens.rename(second.key, "").name == ""
    assert tokens.rename("wk-no", "") is None
    assert tokens.delete(first.key)
    assert not tokens.delete(first.key)
    assert [token.key for token in tokens.all()] == [second.key]


def test_a_token_s_two_words_open_in_either_form(tmp_path):
    tokens = ProxyTokens(tmp_path / "proxy-tokens")
    tokens.path.write_text("# by hand\n\nwk-1 ws-1\nwk-2 ws-2\n")
    assert tokens.refusal({"Modal-Key": "wk-2", "Modal-Secret": "ws-2"}) is None
    assert tokens.refusal({"Authorization": "Bearer wk-1.ws-1"}) is None
    missing, wrong = "missing credentials for proxy authorization", "invalid credentials for proxy authorization"
    assert tokens.refusal({}) == tokens.refusal({"Modal-Key": "wk-1"}) == missing
    assert tokens.refusal({"Authorization": "Basic wk-1.ws-1"}) == missing
    assert tokens.refusal({"Modal-Key": "wk-1", "Modal-Secret": "ws-2"}) == wrong
    assert tokens.refusal({"Modal-Key": "ä", "Modal-Secret": "ö"}) == wrong


def test_an_answer_has_begun_with_its_first_chunk():
    call = Call("fc-1", None, True, False)
    call.open_stream().put([proto.DataChunk(index=1)])
    assert not call.is_begun  # a generator's
    call.body = DataStream()
    assert call.is_begun
