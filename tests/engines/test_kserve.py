"""The protocol between clients and servers: URLs, tensors as bytes and as numbers, answers that are not trusted."""

from __future__ import annotations

import json
import socket
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engines import jsonfile, kserve
from engines.errors import DamagedError, OptimizeError, UsageError

ARRAYS = arrays.arrays(
    st.sampled_from([np.dtype(name) for name in kserve.DATATYPES]), arrays.array_shapes(min_side=0, max_side=4)
)


@pytest.mark.parametrize(
    "url, expected",
    [
        ("http://node:8000/m", ("node", 8000, False, "", "m")),
        ("http://node/v2/models/m", ("node", 80, False, "", "m")),
        ("https://node/behind/proxy/m%20a", ("node", 443, True, "/behind/proxy", "m a")),
        ("HTTP://[::1]:8000/m/", ("::1", 8000, False, "", "m")),
    ],
)
def test_a_url_names_a_server_and_a_model(url, expected):
    assert kserve.is_url(url) and kserve.place(url) == expected


@pytest.mark.parametrize(
    "url",
    ["http://node:8000", "http:///m", "ftp://node/m", "http://node:x/m", "http://u:secret@node/m", "http://n/m?k=v"],
)
def test_a_url_that_is_none_is_refused_and_secrets_are_not_repeated(url):
    with pytest.raises(UsageError) as error:
        kserve.place(url)
    assert "secret" not in error.value.message and "http://node:8000/" in error.value.hint


@given(array=ARRAYS, binary=st.booleans())
def test_tensors_travel_unchanged(array, binary):
    if not binary and array.dtype.kind == "f":
        array = np.nan_to_num(array, nan=1.0, posinf=2.0, neginf=3.0)
    body, headers = kserve.encode({"x": array, "y": array}, "inputs", binary, {"id": "7"})
    value, raw = kserve.split(body, headers.get(kserve.HEADER))
    found = kserve.decode(value["inputs"], raw)
    assert value["id"] == "7" and list(found) == ["x", "y"]
    for got in found.values():
        assert got.dtype == array.dtype and got.shape == array.shape
        np.testing.assert_array_equal(got, array)


def test_numbers_that_json_has_no_words_for_are_null():
    array = np.array([[1.5, np.nan], [np.inf, -np.inf]], np.float16)
    body, headers = kserve.encode({"x": array}, "outputs", False)
    value = jsonfile.loads(body.decode())
    assert value["outputs"][0]["data"] == [1.5, None, None, None] and kserve.HEADER not in headers
    found = kserve.decode(value["outputs"], memoryview(b""), null=True)["x"]
    np.testing.assert_array_equal(found, np.array([[1.5, np.nan], [np.nan, np.nan]], np.float16))


def test_null_is_a_number_of_no_whole_ones_and_true_of_none_in_an_answer_either():
    for word, value in (("INT32", None), ("FP32", True)):
        one = {"name": "x", "datatype": word, "shape": [1], "data": [value]}
        with pytest.raises(DamagedError, match="are expected"):
            kserve.decode([one], memoryview(b""), null=True)


@pytest.mark.parametrize("length", ["9" * 5000, "0" * 5000, "-1", "²", "1.0", ""])
def test_a_length_that_is_none_is_refused(length):
    with pytest.raises(DamagedError, match="the body has 2 bytes"):
        kserve.split(b"{}", length)


@pytest.mark.filterwarnings("error")
def test_a_number_beyond_its_datatype_is_infinite_without_a_word():
    for word, number in (("FP16", 1e300), ("FP32", -1e300)):
        one = {"name": "x", "datatype": word, "shape": [1], "data": [number]}
        assert np.isinf(kserve.decode([one], memoryview(b""))["x"][0])


@given(data=st.data())
def test_a_body_that_was_changed_is_refused_or_read_but_never_more_than_it_holds(data):
    body, headers = kserve.encode({"x": np.arange(12, dtype=np.float32).reshape(3, 4)}, "inputs", True)
    length = data.draw(st.one_of(st.none(), st.text(max_size=6), st.just(headers[kserve.HEADER])))
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(changed[: data.draw(st.integers(0, len(body)))])
    try:
        value, raw = kserve.split(cut, length)
        found = kserve.decode(value.get("inputs"), raw)
    except DamagedError:
        return
    assert sum(array.nbytes for array in found.values()) <= max(len(cut), 8 * len(cut))


@pytest.mark.parametrize(
    "tensor",
    [
        None,
        {},
        {"name": "x"},
        {"name": "x", "datatype": "FP32"},
        {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["a"]},
        {"name": "x", "datatype": "FP32", "shape": [-1], "data": [1]},
        {"name": "x", "datatype": "FP32", "shape": [True], "data": [1]},
        {"name": "x", "datatype": "FP32", "shape": [2], "data": [1]},
        {"name": "x", "datatype": "FP32", "shape": [1], "data": ["one"]},
        {"name": "x", "datatype": "FP32", "shape": [1], "data": 1},
        {"name": "x", "datatype": "UINT8", "shape": [1], "data": [[1, 2], [3]]},
        {"name": "x", "datatype": "FP32", "shape": [2], "data": [1.0, None]},
        {"name": "x", "datatype": "FP32", "shape": [2], "data": [1.0, True]},
        {"name": "x", "datatype": "FP32", "shape": [2], "data": [1.0, "1"]},
        {"name": "x", "datatype": "FP16", "shape": [2, 1], "data": [[1.0], [None]]},
        {"name": "x", "datatype": "FP64", "shape": [2, 1], "data": [[1.0], [False]]},
        {"name": "x", "datatype": "INT64", "shape": [1], "data": [1.5]},
        {"name": "x", "datatype": "BOOL", "shape": [1], "data": [None]},
        {"name": "x", "datatype": "FP32", "shape": [1 << 30, 1 << 30], "parameters": {"binary_data_size": 4}},
        {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}},
        {"name": "x", "datatype": "FP32", "shape": [0], "parameters": {"binary_data_size": 0.0}},
        {"name": "x", "datatype": "FP32", "shape": [1], "parameters": 4},
    ],
)
def test_a_tensor_that_is_none_is_refused(tensor):
    with pytest.raises(DamagedError):
        kserve.decode([tensor], memoryview(b""))


def test_bytes_left_over_and_a_tensor_given_twice_are_refused():
    one = {"name": "x", "datatype": "UINT8", "shape": [1], "parameters": {"binary_data_size": 1}}
    with pytest.raises(DamagedError, match="1 bytes are left over"):
        kserve.decode([one], memoryview(b"12"))
    with pytest.raises(DamagedError, match="given twice"):
        kserve.decode([one, one], memoryview(b"12"))


@pytest.fixture
def answering():
    """A socket that answers each connection with the bytes it is given, and closes it."""
    listening = socket.create_server(("127.0.0.1", 0))
    answers = []

    def run():
        for answer in answers:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

    def start(*texts):
        answers.extend(texts)
        threading.Thread(target=run, daemon=True).start()
        return kserve.Connection(kserve.place(f"http://127.0.0.1:{listening.getsockname()[1]}/m"), patience_s=10)

    yield start
    listening.close()


def http(status, text, more=""):
    return f"HTTP/1.1 {status} Word\r\nContent-Length: {len(text)}\r\n{more}\r\n{text}".encode()


def test_what_a_server_says_of_a_refusal_is_passed_on_in_one_line(answering):
    connection = answering(http(404, json.dumps({"error": "no\nsuch model"})), http(500, "<html>"), http(400, "{}"))
    with pytest.raises(UsageError, match=r"no such model \(HTTP 404\)"):
        connection.json("GET", "/v2/models/m")
    connection.close()
    with pytest.raises(OptimizeError, match=r"<html> \(HTTP 500\)") as error:
        connection.json("GET", "/v2/models/m")
    assert error.value.exit_code == 1
    connection.close()
    with pytest.raises(UsageError, match=r"Word \(HTTP 400\)"):
        connection.json("GET", "/v2/models/m")


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again(answering):
    connection = answering(http(200, "1"), http(200, "2"))
    assert [connection.json("GET", "/v2") for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("text", ["", "nonsense", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort"])
def test_a_server_that_leaves_in_the_middle_is_told(answering, text):
    with pytest.raises(OptimizeError, match="does not answer"):
        answering(text.encode()).json("GET", "/v2")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 5 << 20])
def test_an_answer_of_any_size_is_read_whole_and_costs_no_more_than_it_has(answering, size, chunked):
    body = bytes(range(256)) * (size // 256) or b"x" * size
    sent, head = body, b"Content-Length: %d" % size
    if chunked:
        sent, head = (b"%x\r\n%s\r\n" % (size, body) if size else b"") + b"0\r\n\r\n", b"Transfer-Encoding: chunked"
    connection = answering(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n%s" % (head, sent))
    tracemalloc.start()
    try:
        _, text = connection.ask("GET", "/v2")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert text == body and most < 4 * size + (8 << 20)


def test_an_answer_beyond_the_limit_is_not_read(answering, monkeypatch):
    monkeypatch.setattr(kserve, "_LARGEST", 1 << 20)
    with pytest.raises(DamagedError, match="an answer of more than"):
        answering(http(200, " " * (3 << 20))).ask("GET", "/v2")


def test_an_answer_that_is_no_json_is_told(answering):
    with pytest.raises(DamagedError, match="not the JSON"):
        answering(http(200, "NaN")).json("GET", "/v2")


def test_a_server_that_is_not_there_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(OptimizeError, match=f"http://127.0.0.1:{port} does not answer: .*refused"):
        kserve.Connection(kserve.place(f"http://127.0.0.1:{port}/m")).ask("GET", "/v2")
