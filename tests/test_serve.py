"""`python3 -m edgekit.runner serve`: the protocol, who may ask, what it refuses, how it starts, watches itself and stops."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("ai_edge_litert", reason="the runner needs an interpreter")

from devices import wait_until
from handmade_model import T, build, classifier, make_bundle, sum_and_product

from edgekit.errors import InputError
from edgekit.preprocess import Generic, parse_spec
from edgekit.runner import load
from edgekit.runner.check import read_golden
from edgekit.runner.serve.figures import Figures, SelfCheck
from edgekit.runner.serve.listeners import is_own_name, read_token, unix_listener
from edgekit.runner.serve.protocol import DTYPES, Inference, read_json, read_tensor, written
from edgekit.runner.serve.server import BODIES, CONNECTIONS, Listener, Server
from edgekit.runner.serve.wire import Answer, Refusal, Request, parse_head

DIGITS = np.random.default_rng(3).integers(0, 17, (8, 8, 8, 1)).astype(np.uint8)
TOKEN = "0123456789abcdef-a-token"
PATH = [entry for entry in sys.path if entry]


class UnixHTTP(http.client.HTTPConnection):
    """Python's own HTTP client, over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(connection, method, path, fields=None, **headers):
    """Status and JSON of an answer."""
    body = None if fields is None else fields if isinstance(fields, bytes) else json.dumps(fields)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    return response.status, json.loads(content)


def tensor(name, array, datatype="UINT8"):
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.reshape(-1).tolist()}


@contextlib.contextmanager
def serving(release, *options, environment=(), wait=True):
    """A service of its own process; what it printed is in `.out` when it has ended."""
    command = [sys.executable, "-s", "-m", "edgekit.runner", "serve", str(release), *map(str, options)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NOTIFY", "WATCHDOG"))}
    process = subprocess.Popen(
        command,
        env={**kept, "PYTHONPATH": os.pathsep.join(PATH), **dict(environment)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        process.first = process.stdout.readline() if wait else ""
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("serve") / "digits"
    return make_bundle(path, classifier(), raw=DIGITS, spec=Generic(scale=1 / 16), tolerance=2).path


@pytest.fixture(scope="module")
def service(digits, tmp_path_factory):
    """A running service of the digits, and where it listens."""
    path = str(tmp_path_factory.mktemp("s") / "r.sock")
    with serving(digits, "--socket", path) as process:
        assert process.first == f"serving handmade (int8) at {path}\n", process.stderr.read()
        process.path = path
        yield process
        assert process.poll() is None


@pytest.fixture
def client(service):
    with contextlib.closing(UnixHTTP(service.path)) as connection:
        yield connection


# --- the protocol ----------------------------------------------------------------------------------------------------


def test_health_and_metadata_are_those_of_the_open_inference_protocol(client, service, digits):
    live, ready = ask(client, "GET", "/v2/health/live"), ask(client, "GET", "/v2/health/ready")
    status, server = ask(client, "GET", "/v2")
    _, model = ask(client, "GET", "/v2/models/handmade")

    assert live == (200, {"live": True})
    assert ready == ask(client, "GET", "/v2/models/handmade/ready") == (200, {"name": "handmade", "ready": True})
    assert (status, server["name"], server["extensions"]) == (200, "edgekit", ["edgekit"])
    assert server["edgekit"]["pid"] == service.pid
    assert 10 << 20 < server["edgekit"]["rss_bytes"] < 1 << 30
    assert 0 < server["edgekit"]["p95_ms"] < 1000
    assert server["edgekit"]["release"] is None
    assert len(server["edgekit"]["bundle"]) == 64
    assert model == {
        "name": "handmade",
        "platform": "tensorflow_lite",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 8, 8, 1]}],
        "outputs": [{"name": "digit", "datatype": "FP32", "shape": [-1, 10]}],
    }


def test_an_answer_is_what_the_library_gives_to_the_bit_for_a_sample_and_a_batch(client, digits):
    model = load(digits)
    for raw, datatype in ((DIGITS, "UINT8"), (DIGITS[0], "UINT8"), (DIGITS[:1].astype(float), "FP32")):
        status, found = ask(
            client, "POST", "/v2/models/handmade/infer", {"id": "a", "inputs": [tensor("image", raw, datatype)]}
        )
        [output] = found["outputs"]
        wanted = model(raw)

        assert (status, found["id"], found["model_name"]) == (200, "a", "handmade")
        assert (output["name"], output["datatype"], output["shape"]) == ("digit", "FP32", list(wanted.shape))
        assert np.float32(output["data"]).tobytes() == wanted.tobytes()


def test_data_may_be_nested_and_the_inferences_are_counted(client):
    before = ask(client, "GET", "/v2")[1]["edgekit"]["inferences"]
    flat = tensor("image", DIGITS[:3])
    nested = {**flat, "data": DIGITS[:3].tolist()}
    answers = [ask(client, "POST", "/v2/models/handmade/infer", {"inputs": [one]})[1] for one in (flat, nested)]

    assert answers[0] == answers[1]
    assert ask(client, "GET", "/v2")[1]["edgekit"]["inferences"] == before + 6


def inference(bundle):
    """The protocol without a socket."""
    figures = Figures()
    answer = Inference(load(bundle), "m", figures, {})

    def call(method, path, fields):
        return answer(Request(method, tuple(path.split("/")), {}, json.dumps(fields).encode()))

    return call


def test_several_inputs_and_outputs_go_by_name_and_outputs_can_be_chosen(tmp_path):
    raw = {"a": np.float32([[1, 2, 3]]), "b": np.float32([[2, 2, 2]])}
    call = inference(make_bundle(tmp_path / "b", sum_and_product(), raw=raw).path)
    inputs = [tensor("b", raw["b"], "FP32"), tensor("a", raw["a"], "FP32")]
    both = call("POST", "v2/models/m/infer", {"inputs": inputs}).content["outputs"]
    one = call("POST", "v2/models/m/infer", {"inputs": inputs, "outputs": [{"name": "product"}]}).content["outputs"]

    assert [(o["name"], o["data"]) for o in both] == [("sum", [3, 4, 5]), ("product", [2, 4, 6])]
    assert [o["name"] for o in one] == ["product"]
    for outputs in ([{"name": "x"}], [{"name": "sum"}, {"name": "sum"}], {"name": "sum"}, [3]):
        with pytest.raises(Refusal) as refused:
            call("POST", "v2/models/m/infer", {"inputs": inputs, "outputs": outputs})
        assert refused.value.answer.status == 400


def test_what_is_not_finite_is_null_in_an_answer(tmp_path):
    raw = {"a": np.float32([[3e38, 1, 0]]), "b": np.float32([[3e38, 1, 0]])}
    call = inference(make_bundle(tmp_path / "b", sum_and_product(), raw={n: a * 0 for n, a in raw.items()}).path)
    answer = call("POST", "v2/models/m/infer", {"inputs": [tensor(n, a, "FP32") for n, a in raw.items()]})

    assert [o["data"] for o in answer.content["outputs"]] == [[None, 2, 0], [None, 1, 0]]


def test_images_are_preprocessed_and_metadata_say_what_they_are(tmp_path):
    spec = {"kind": "image", "height": 8, "width": 8, "range": [0, 1], "colour": "gray", "antialias": True}
    photos = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3)).astype(np.uint8)
    bundle = make_bundle(tmp_path / "b", classifier(), raw=photos, spec=parse_spec(spec)).path
    call = inference(bundle)
    metadata = call("GET", "v2/models/m", None).content
    answer = call("POST", "v2/models/m/infer", {"inputs": [tensor("image", photos[0])]}).content["outputs"][0]

    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, -1]}]
    assert np.float32(answer["data"]).tobytes() == load(bundle)(photos[0]).tobytes()


GOOD = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [1] * 64}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"inputs": NaN}', "NaN is not a JSON number"),
        (b'{"inputs": ' + b"9" * 500 + b"}", "hundreds of digits"),
        (b"\xff", "not JSON"),
        (3, "a JSON object"),
        ({}, "a list of inputs"),
        ({"inputs": []}, "a list of inputs"),
        ({"inputs": [3]}, "an object with a name"),
        ({"inputs": [GOOD, GOOD]}, "two inputs 'image'"),
        ({"inputs": [{**GOOD, "name": "\ud800;$()\n"}]}, "takes the inputs image"),
        ({"inputs": [{**GOOD, "datatype": "BYTES"}]}, "datatype is one of"),
        ({"inputs": [{**GOOD, "datatype": ["UINT8"]}]}, "datatype is one of"),
        ({"inputs": [{**GOOD, "shape": [64, True]}]}, "shape is a list"),
        ({"inputs": [{**GOOD, "shape": [-1, -64]}]}, "shape is a list"),
        ({"inputs": [{**GOOD, "shape": [0]}]}, "shape is a list"),
        ({"inputs": [{**GOOD, "shape": [1, 8, 8, 2]}]}, "has the shape [64], not [1, 8, 8, 2]"),
        ({"inputs": [{**GOOD, "data": [[1] * 32] * 2}]}, "has the shape [2, 32]"),
        ({"inputs": [{**GOOD, "data": [[1, 2], [3]]}]}, "lists of equal lengths"),
        ({"inputs": [{**GOOD, "data": ["1"] * 64}]}, "data are numbers"),
        ({"inputs": [{**GOOD, "data": [None] * 64}]}, "data are numbers"),
        ({"inputs": [{**GOOD, "data": [10**30] * 64}]}, "data are numbers"),
        ({"inputs": [{**GOOD, "data": [256] + [1] * 63}]}, "values that are not UINT8"),
        ({"inputs": [{**GOOD, "data": [-1] + [1] * 63}]}, "values that are not UINT8"),
        ({"inputs": [{**GOOD, "data": [1.5] + [1] * 63}]}, "values that are not UINT8"),
        ({"inputs": [{**GOOD, "datatype": "FP32", "data": [1e39] + [1] * 63}]}, "values that are not FP32"),
        (b'{"inputs": [{"name": "image", "shape": [1], "datatype": "FP32", "data": [1e999]}]}', "not FP32"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 64}}]}, "binary_data=False"),
        ({"inputs": [{**GOOD, "shape": [64]}]}, "wants shape (8, 8, 1)"),
        ({"inputs": [{**GOOD, "shape": [8, 8]}]}, "wants shape (8, 8, 1)"),
    ],
)
def test_a_request_that_is_not_right_is_told_so_and_the_next_one_is_answered(client, body, said):
    status, found = ask(client, "POST", "/v2/models/handmade/infer", body)

    assert status == 400
    assert said in found["error"]
    assert ask(client, "POST", "/v2/models/handmade/infer", {"inputs": [GOOD]})[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v3", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/handmade/versions/1", 404),
        ("GET", "/v2/models/%00%ff", 400),
        ("POST", "/v2/health/live", 405),
        ("GET", "/v2/models/handmade/infer", 405),
        ("DELETE", "/v2/models/handmade", 405),
        ("GET", "/../../etc/passwd", 404),
    ],
)
def test_what_is_not_there_is_not_found(client, method, path, status):
    assert ask(client, method, path, b"" if method == "POST" else None)[0] == status


NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3))


@given(
    st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=5), max_leaves=20),
    st.lists(st.integers(-2, 6), max_size=4) | NUMBERS,
    st.sampled_from([*DTYPES, "BYTES", ""]),
)
@settings(max_examples=100, deadline=None)
def test_any_tensor_becomes_an_array_of_just_these_numbers_or_is_refused(data, shape, datatype):
    try:
        array = read_tensor("x", {"shape": shape, "datatype": datatype, "data": data})
    except Refusal as refusal:
        array, status = None, refusal.answer.status
    if array is None:
        assert status == 400
        return

    assert array.dtype == DTYPES[datatype]
    assert list(array.shape) == shape
    flat = np.array(data, dtype=object).reshape(-1)
    if datatype not in ("FP16", "FP32", "FP64"):
        assert [int(value) for value in flat] == [int(value) for value in array.reshape(-1)]
    assert written(array)["shape"] == shape


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_json_or_refused(body):
    with contextlib.suppress(Refusal):
        assert isinstance(read_json(body), dict)


# --- HTTP ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([b"GET / HTTP/1.1", b"Host: a", b"Content-Length: 3", b"X", b": ", b"\x00", b"a:b", b" c"])
                | st.binary(max_size=12), max_size=6))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_any_head_is_read_or_refused(lines):
    try:
        head = parse_head(b"\r\n".join(lines), 1000)
    except Refusal as refusal:
        head, status = None, refusal.answer.status
    if head is None:
        assert 400 <= status < 600
        return

    assert 0 <= head.length <= 1000
    assert all("\n" not in part and "\r" not in part for part in head.headers.values())


def head(*lines):
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["GET /v2 HTTP/1.1"], 400),
        (["GET /v2 HTTP/1.1", "Host: a", "Host: b"], 400),
        (["GET /v2 HTTP/1.1", "Host : a"], 400),
        (["GET /v2 HTTP/1.1", "Host: a", " folded: b"], 400),
        (["GET /v2 HTTP/1.1", "Host: a\nX: y"], 400),
        (["GET  /v2 HTTP/1.1", "Host: a"], 400),
        (["GET http://a/v2 HTTP/1.1", "Host: a"], 505),
        (["GET /v2 HTTP/2.0", "Host: a"], 505),
        (["POST /v2 HTTP/1.1", "Host: a"], 411),
        (["POST /v2 HTTP/1.1", "Host: a", "Content-Length: 1", "Content-Length: 1"], 400),
        (["POST /v2 HTTP/1.1", "Host: a", "Content-Length: +1"], 400),
        (["POST /v2 HTTP/1.1", "Host: a", "Content-Length: 1, 1"], 400),
        (["POST /v2 HTTP/1.1", "Host: a", "Content-Length: 1001"], 413),
        (["POST /v2 HTTP/1.1", "Host: a", "Content-Length: " + "9" * 5000], 413),
        (["POST /v2 HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"], 501),
        (["POST /v2 HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "Content-Length: 1"], 400),
        (["POST /v2 HTTP/1.1", "Host: a", "Content-Encoding: gzip", "Content-Length: 1"], 415),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(lines, status):
    with pytest.raises(Refusal) as refused:
        parse_head(head(*lines), 1000)

    assert refused.value.answer.status == status


def test_connections_are_kept_open_unless_the_client_wants_otherwise():
    assert parse_head(b"GET / HTTP/1.1\r\nHost: a", 0).keeps_alive
    assert not parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close", 0).keeps_alive
    assert not parse_head(b"GET / HTTP/1.0", 0).keeps_alive


@contextlib.contextmanager
def server_of(answer, tmp_path, *, limit=1000):
    listener, remove = unix_listener(str(tmp_path / "s"))
    server = Server(answer, [listener], limit=limit)
    server.start()
    try:
        yield server, str(tmp_path / "s")
    finally:
        remove()
        server.stop(1)


def raw(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect(path)
    return sock


def read_all(sock):
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while block := sock.recv(1 << 16):
            found += block
    return found


def fine(request):
    return Answer(200, {"length": len(request.body)})


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(tmp_path):
    with server_of(fine, tmp_path) as (_, path), raw(path) as sock:
        sock.sendall(b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n")

        assert read_all(sock).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_expects_100_is_told_to_continue(tmp_path):
    with server_of(fine, tmp_path) as (_, path), raw(path) as sock:
        sock.sendall(b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")

        assert sock.recv(1000).endswith(b'{"length": 3}')


def test_requests_sent_one_behind_the_other_are_answered_in_order(tmp_path):
    with server_of(fine, tmp_path) as (_, path), raw(path) as sock:
        for length in (1, 2):
            sock.sendall(b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length)
        sock.sendall(b"GET /v2 HTTP/1.0\r\n\r\n")
        found = read_all(sock)

        assert [int(part.split(b"}")[0]) for part in found.split(b'"length": ')[1:]] == [1, 2, 0]


def test_a_request_that_trickles_in_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.runner.serve.wire.REQUEST_S", 0.2)
    with server_of(fine, tmp_path) as (_, path), raw(path) as sock:
        started = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            for byte in b"GET /v2 HTTP/1.1\r\nX: " + b"y" * 1000:
                sock.send(bytes([byte]))
                time.sleep(0.02)
                if time.monotonic() - started > 1:
                    break

        assert read_all(sock).startswith(b"HTTP/1.1 408 ")


def test_headers_without_end_are_refused(tmp_path):
    with server_of(fine, tmp_path) as (_, path), raw(path) as sock:
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(b"GET /v2 HTTP/1.1\r\n" + b"X: y\r\n" * 10_000)

        assert read_all(sock).startswith(b"HTTP/1.1 431 ")


def test_idle_connections_make_room_for_new_ones(tmp_path):
    with server_of(fine, tmp_path) as (_, path), contextlib.ExitStack() as stack:
        idle = [stack.enter_context(raw(path)) for _ in range(CONNECTIONS + 5)]
        one = stack.enter_context(raw(path))
        one.sendall(b"GET /v2 HTTP/1.0\r\n\r\n")

        assert read_all(one).startswith(b"HTTP/1.1 200 ")
        assert idle[0].recv(1) == b""


def test_busy_connections_do_not_and_who_comes_then_is_told_to_come_again(tmp_path):
    go, begun = threading.Event(), []

    def wait(request):
        begun.append(request)
        go.wait(20)
        return fine(request)

    with server_of(wait, tmp_path) as (_, path), contextlib.ExitStack() as stack:
        busy = [stack.enter_context(raw(path)) for _ in range(CONNECTIONS)]
        for sock in busy:
            sock.sendall(b"GET /v2 HTTP/1.0\r\n\r\n")
        wait_until(lambda: len(begun) == CONNECTIONS)  # a connection that has not asked yet would be let go for another
        late = stack.enter_context(raw(path))
        refused = read_all(late)
        go.set()

        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in refused
        assert all(read_all(sock).startswith(b"HTTP/1.1 200 ") for sock in busy)


def test_the_bytes_of_all_requests_together_are_bounded(tmp_path):
    with server_of(fine, tmp_path) as (server, path), contextlib.ExitStack() as stack:
        for _ in range(BODIES):
            sock = stack.enter_context(raw(path))
            sock.sendall(b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf of it")
        wait_until(lambda: server._bytes_left == 0)
        late = stack.enter_context(raw(path))
        late.sendall(b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")

        assert read_all(late).startswith(b"HTTP/1.1 503 ")


def test_a_fault_of_ours_is_told_the_log_and_not_the_client(tmp_path, capfd):
    def broken(request):
        raise KeyError("a secret")

    with server_of(broken, tmp_path) as (_, path), raw(path) as sock:
        sock.sendall(b"GET /v2 HTTP/1.0\r\n\r\n")
        found = read_all(sock)

    assert found.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in found
    assert "KeyError: 'a secret'" in capfd.readouterr().err


# --- who may ask -----------------------------------------------------------------------------------------------------


def test_the_socket_is_for_user_and_group_and_an_old_one_is_replaced(tmp_path):
    path = str(tmp_path / "r.sock")
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(path)
    dead.close()
    umask = os.umask(0)
    try:
        listener, remove = unix_listener(path)
    finally:
        os.umask(umask)

    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert os.listdir(tmp_path) == ["r.sock"]
    with raw(path):
        pass
    remove()
    assert os.listdir(tmp_path) == []
    listener.sock.close()


def test_what_is_no_dead_socket_is_left_alone(tmp_path):
    path = str(tmp_path / "r.sock")
    listener, _ = unix_listener(path)
    Path(tmp_path / "file").write_text("mine")

    with pytest.raises(InputError, match="another service listens"):
        unix_listener(path)
    with pytest.raises(InputError, match="is not a socket"):
        unix_listener(str(tmp_path / "file"))
    with pytest.raises(InputError, match="bytes"):
        unix_listener(str(tmp_path / ("x" * 120)))
    assert (tmp_path / "file").read_text() == "mine"
    listener.sock.close()


def test_taking_the_socket_away_leaves_that_of_the_next_service(tmp_path):
    path = str(tmp_path / "r.sock")
    first, remove = unix_listener(path)
    first.sock.close()
    second, _ = unix_listener(path)
    remove()

    with raw(path):
        pass
    second.sock.close()


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(TOKEN + "\n")
    return path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--http", "127.0.0.1:0"], "TCP needs a token"),
        (["--socket", "s", "--require", "gpu"], "gpu is required"),
        (["--http", "0.0.0.0:0", "--token-file", "TOKEN"], "can be reached from the network"),
        (["--http", "localhost:80", "--token-file", "TOKEN"], "is not ADDRESS:PORT"),
        (["--http", "127.0.0.1:99999", "--token-file", "TOKEN"], "is not ADDRESS:PORT"),
        (["--http", "127.0.0.1:0", "--token-file", "nowhere"], "cannot be read"),
        ([], "is not a deployed release"),
    ],
)
def test_it_does_not_listen_where_it_should_not(digits, token, options, said):
    with serving(digits, *[token if o == "TOKEN" else o for o in options], wait=False) as process:
        _, err = process.communicate(timeout=60)

    assert process.returncode == (4 if "--require" in options else 2)
    assert said in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 2


def test_a_token_must_be_long_and_a_secret(tmp_path, token):
    assert read_token(str(token)) == TOKEN
    token.chmod(0o640)
    with pytest.raises(InputError, match="can be read by others"):
        read_token(str(token))
    token.chmod(0o600)
    for text in ("", "short", "with a space in it, long", "0123456789abcdefé"):
        token.write_text(text)
        with pytest.raises(InputError):
            read_token(str(token))


def test_systemds_credential_is_the_token(token, monkeypatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(token.parent))

    assert read_token(None) == TOKEN


@pytest.mark.parametrize(
    ("host", "loopback", "network"),
    [
        ("127.0.0.1:80", True, True),
        ("localhost", True, True),
        ("[::1]:8000", True, True),
        ("192.168.1.7:80", False, True),
        ("evil.example", False, False),
        ("evil.example:80", False, False),
        ("127.0.0.1.evil.example", False, False),
        ("localhost.evil.example", False, False),
        (socket.gethostname() + ".local", False, True),
        ("", False, False),
        ("a b", False, False),
    ],
)
def test_a_page_that_points_its_own_name_here_is_not_answered(host, loopback, network):
    assert is_own_name(host, loopback=True) is loopback
    assert is_own_name(host, loopback=False) is network


def test_tcp_answers_who_has_the_token_and_nobody_else(digits, token):
    with serving(digits, "--http", "127.0.0.1:0", "--token-file", token) as process:
        port = int(process.first.rpartition(":")[2])
        good = {"Authorization": f"Bearer {TOKEN}"}
        asked = []
        for headers in (
            good,
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": f"Basic {TOKEN}"},
            {**good, "Host": "evil.example"},
        ):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
                asked.append(ask(connection, "GET", "/v2/health/live", **headers)[0])
        process.terminate()
        out, err = process.communicate(timeout=30)

    assert asked == [200, 401, 401, 401, 403]
    assert TOKEN not in out + err


# --- starting, watching, stopping ------------------------------------------------------------------------------------


class Systemd:
    """The other end of sd_notify, as systemd holds it."""

    def __init__(self, folder):
        self.path = str(folder / "notify")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)

    def environment(self, watchdog_s=None):
        told = {"NOTIFY_SOCKET": self.path}
        return {**told, "WATCHDOG_USEC": str(round(watchdog_s * 1e6))} if watchdog_s else told

    def next(self, timeout_s):
        """The next message, or None."""
        self.sock.settimeout(timeout_s)
        with contextlib.suppress(TimeoutError):
            return self.sock.recv(4096).decode().split("\n")
        return None

    def until(self, line, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if line in (self.next(deadline - time.monotonic()) or ()):
                return True
        return False


def stop(process):
    """SIGSTOP; returns when every thread of it stands still: one that waits for a core may run on for long."""
    process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task")
    while {(each / "stat").read_text().rpartition(")")[2].split()[0] for each in tasks.iterdir()} != {"T"}:
        time.sleep(0.01)


def test_systemd_is_told_ready_signs_of_life_and_stopping(digits, tmp_path):
    systemd = Systemd(tmp_path)
    with serving(digits, "--socket", tmp_path / "s", environment=systemd.environment(0.3), wait=False) as process:
        assert systemd.until("READY=1")
        for _ in range(3):
            assert systemd.until("WATCHDOG=1")
        stop(process)
        while systemd.next(0.01):  # what it had said by then
            pass
        silent = systemd.next(1)
        process.send_signal(signal.SIGCONT)
        process.terminate()
        assert systemd.until("STOPPING=1")
        out, err = process.communicate(timeout=30)

    assert silent is None
    assert (process.returncode, err) == (0, "")
    assert out.endswith("stopped\n")
    assert not (tmp_path / "s").exists()


class Heavy:
    """A model that can be kept from answering, or answers something else."""

    def __init__(self, model):
        self.model, self.gate, self.shift = model, threading.Event(), 0
        self.gate.set()

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, *args, **options):
        self.gate.wait()
        answer = self.model(*args, **options)
        return answer if not self.shift else answer + answer.dtype.type(self.shift)


def test_a_check_fails_when_answers_are_no_longer_the_golden_ones(digits):
    from edgekit.bundle import read_bundle

    figures = Figures()
    model = Heavy(load(digits))
    check = SelfCheck(model, read_golden(read_bundle(digits)), figures)
    assert check.run_all() == ""
    assert figures.is_healthy
    assert figures.has_passed_within(5)

    model.shift = 3
    assert "is 3 away" in check.run()
    assert not figures.is_healthy
    assert not figures.has_passed_within(5)
    answer = Inference(model.model, "m", figures, {})(Request("GET", ("v2", "health", "ready"), {}, b""))
    assert answer.status == 503

    model.shift = 0
    assert check.run() == ""
    assert figures.is_healthy


def test_a_check_during_which_the_service_is_stopped_is_not_called_a_failed_one(tmp_path, capsys):
    """SIGTERM removes the socket; the watch may be about to knock at it."""
    from edgekit.runner.serve.process import _watch

    ended, told = threading.Event(), []

    class Stopped:
        def run(self):
            ended.set()
            return ""

    def tell(*lines):
        told.extend(lines)

    tell.watchdog_s = 0.003
    _watch(Figures(), Stopped(), tell, [str(tmp_path / "removed")], ended)

    assert (told, capsys.readouterr().err) == ([], "")


def test_no_sign_of_life_without_an_answer(digits):
    """What the watchdog is fed on: an inference or a check of the last moments, by whatever clock."""
    now = [100.0]
    figures = Figures(clock=lambda: now[0])
    assert not figures.has_passed_within(10)
    figures.answered(0.001)
    now[0] += 9
    assert figures.has_passed_within(10)
    now[0] += 2
    assert not figures.has_passed_within(10)


def test_p95_is_of_the_last_thousand_samples():
    figures = Figures()
    for _ in range(5000):
        figures.answered(1.0)
    for i in range(1, 1001):
        figures.answered(i / 1e6)

    assert figures.fields()["p95_ms"] == 0.95
    assert figures.fields()["inferences"] == 6000


def crash_at_real_samples():
    """Loads, answers zeros, and dies of SIGFPE at INT_MIN and -1: LiteRT's FLOOR_MOD."""
    a, b, out = T("a", (1, 4), "int32"), T("b", (1, 4), "int32"), T("out", (1, 4), "int32")
    return build([("FLOOR_MOD", [a, b], [out])], inputs=[a, b], outputs=[out])


def test_a_model_that_kills_its_process_is_refused_and_the_service_says_so(tmp_path):
    zeros = {"a": np.zeros((1, 4), np.int32), "b": np.ones((1, 4), np.int32)}
    deadly = {"a": np.full((1, 4), -(2**31), np.int32), "b": np.full((1, 4), -1, np.int32)}
    bundle = make_bundle(tmp_path / "b", crash_at_real_samples(), raw=zeros).path
    replace_golden_inputs(bundle, deadly)
    with serving(bundle, "--socket", tmp_path / "s", wait=False) as process:
        out, err = process.communicate(timeout=60)

    assert process.returncode == 5
    assert "the model kills the process that runs it (SIGFPE)" in err
    assert out == ""
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
@pytest.mark.long
def test_of_damaged_models_with_fitting_hashes_none_kills_the_service(tmp_path):
    """Each is served or refused; a signal is only ever the child's."""
    random = np.random.default_rng(7)
    good = classifier()
    codes = []
    for number in range(60):
        damaged = bytearray(good)
        if number % 3 == 0:
            del damaged[random.integers(1, len(damaged)) :]
        else:
            for _ in range(random.integers(1, 9)):
                damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
        path = tmp_path / f"b{number}"
        make_bundle(path, good, raw=DIGITS, spec=Generic(scale=1 / 16), tolerance=200)
        replace(path, {"models/int8.tflite": bytes(damaged)})
        with serving(path, "--socket", tmp_path / "s") as process:
            if process.first.startswith("serving"):
                with contextlib.closing(UnixHTTP(str(tmp_path / "s"))) as client:
                    fields = {"inputs": [tensor("image", DIGITS)]}
                    assert ask(client, "POST", "/v2/models/handmade/infer", fields)[0] == 200
                process.terminate()
            process.wait(60)
            codes.append(process.returncode)

    assert set(codes) <= {0, 3, 5}
    assert len(set(codes)) > 1  # some of each, or the damage was of one kind only


def replace_golden_inputs(folder, inputs):
    """Other golden inputs with the same answers, in a bundle whose hashes fit."""
    import io

    from edgekit.bundle import read_bundle

    with np.load(read_bundle(folder).file("golden.npz")) as golden:
        arrays = {**golden, **{f"input/{name}": array for name, array in inputs.items()}}
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    replace(folder, {"golden.npz": packed.getvalue()})


def replace(folder, files):
    """Other files in a bundle, whose hashes fit."""
    from edgekit.bundle import read_bundle, write_bundle

    bundle = read_bundle(folder)
    contents = {name: bundle.file(name).read_bytes() for name in bundle.manifest.files} | files
    shutil.rmtree(folder)
    write_bundle(Path(folder), bundle.manifest, contents)


def test_a_release_whose_answers_are_wrong_is_not_served(tmp_path):
    bundle = make_bundle(tmp_path / "b", classifier(), raw=DIGITS, spec=Generic(scale=1 / 16), spoil=3).path
    with serving(bundle, "--socket", tmp_path / "s", wait=False) as process:
        out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (5, "")
    assert "3 away from the golden one" in err
    assert len(err.splitlines()) == 2


def test_a_damaged_model_is_not_served(tmp_path):
    bundle = make_bundle(tmp_path / "b", classifier(), raw=DIGITS, spec=Generic(scale=1 / 16))
    file = bundle.file("models/int8.tflite")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with serving(bundle.path, "--socket", tmp_path / "s", wait=False) as process:
        _, err = process.communicate(timeout=60)

    assert process.returncode == 3
    assert "is damaged" in err


def test_requests_that_have_begun_are_answered_when_it_is_stopped(tmp_path):
    begun, go = threading.Event(), threading.Event()

    def slow(request):
        begun.set()
        go.wait(10)
        return fine(request)

    listener, remove = unix_listener(str(tmp_path / "s"))
    server = Server(slow, [listener], limit=1000)
    server.start()
    with raw(str(tmp_path / "s")) as sock, raw(str(tmp_path / "s")) as idle:
        sock.sendall(b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
        begun.wait(10)
        ended = []
        stopping = threading.Thread(target=lambda: ended.append(server.stop(10)))
        stopping.start()
        assert idle.recv(1) == b""
        go.set()
        found = read_all(sock)
        stopping.join()
    remove()

    assert found.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" in found
    assert ended == [True]


def test_stopping_does_not_wait_for_ever(tmp_path):
    go = threading.Event()
    listener, _ = unix_listener(str(tmp_path / "s"))
    server = Server(lambda request: go.wait(20) and fine(request), [listener], limit=1000)
    server.start()
    with raw(str(tmp_path / "s")) as sock:
        sock.sendall(b"GET /v2 HTTP/1.0\r\n\r\n")
        wait_until(lambda: bool(server._connections) and not server._idle)
        ended = server.stop(0.2)
        go.set()

    assert ended is False


def test_many_clients_at_once_get_their_own_answers(client, service, digits):
    wanted = load(digits)(DIGITS)
    wrong = []

    def work(index):
        with contextlib.closing(UnixHTTP(service.path)) as connection:
            for _ in range(10):
                _, found = ask(
                    connection, "POST", "/v2/models/handmade/infer", {"inputs": [tensor("image", DIGITS[index])]}
                )
                if np.float32(found["outputs"][0]["data"]).tobytes() != wanted[index].tobytes():
                    wrong.append(index)

    threads = [threading.Thread(target=work, args=(i % 8,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_two_listeners_share_a_server(tmp_path):
    first, _ = unix_listener(str(tmp_path / "a"))
    second, _ = unix_listener(str(tmp_path / "b"))

    def nobody(request):
        raise Refusal(401, "no")

    server = Server(fine, [first, Listener(second.sock, nobody)], limit=1000)
    server.start()
    found = []
    for name in ("a", "b"):
        with raw(str(tmp_path / name)) as sock:
            sock.sendall(b"GET /v2 HTTP/1.0\r\n\r\n")
            found.append(read_all(sock)[:12])
    server.stop(1)

    assert found == [b"HTTP/1.1 200", b"HTTP/1.1 401"]
