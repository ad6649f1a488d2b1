"""One endpoint over real session gateways and simulated engines: what a client sees of the routing."""

from __future__ import annotations

import gc
import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from aiohttp import ClientSession

from launcher.gateway.exchange import Exchange
from launcher.gateway.place import Place
from tests.hostile import HOSTILE
from tests.programs.front import BEARER, KEY, chat, events, wait_until
from tests.programs.recorder import Recorder, Seen
from tests.programs.replicas import REPLICA_KEY, Replica, RunningEndpoint, endpoint, pair

CHAT = "/v1/chat/completions"
PASSED_ON = (
    "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/v1/rerank", "/rerank", "/v2/rerank", "/v1/score",
    "/score", "/classify", "/pooling", "/v1/audio/speech", "/v1/embeddings", "/v1/completions", "/tokenize",
)  # fmt: skip


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[Replica]]:
    """Two sessions that do not change during these tests."""
    with pair() as made:
        yield made


@pytest.fixture(scope="module")
def front(replicas: list[Replica]) -> Iterator[RunningEndpoint]:
    """An endpoint with `org/chat` on two replicas, `other` on one, and `cold` on none."""
    with endpoint() as made:
        made.fleet.add("org/chat", *(replica.place for replica in replicas), served="tiny")
        made.fleet.add("other", replicas[0].place, cluster="far", served="tiny", framework="vllm")
        made.fleet.add("cold")
        yield made


@pytest.fixture
def fresh() -> Iterator[RunningEndpoint]:
    """An endpoint without any model."""
    with endpoint() as made:
        yield made


@pytest.fixture
def client(front: RunningEndpoint) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def test_models_are_listed_in_one_place_and_asked_by_name(
    client: openai.OpenAI, front: RunningEndpoint, replicas: list[Replica]
) -> None:
    """FIRST 1: one address and key; the list has ready and startable models, requests go by their model."""
    assert [(one.id, one.model_extra["state"]) for one in client.models.list() if one.model_extra] == [
        ("org/chat", "ready"),
        ("other", "ready"),
        ("cold", "startable"),
    ]
    assert client.models.retrieve("org/chat").id == "org/chat"
    with pytest.raises(openai.NotFoundError, match="org/chat, other, cold"):
        client.models.retrieve("org/none")
    before = [replica.usage.requests for replica in replicas]
    for _ in range(6):
        answer = client.chat.completions.create(
            model="org/chat", messages=[{"role": "user", "content": "Two words"}]
        )
        assert answer.choices[0].message.content == "Simulated answer: your question has 2 words."
    after = [replica.usage.requests for replica in replicas]
    assert all(now > then for now, then in zip(after, before, strict=True))
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.completions.create(model="org/none", prompt="x")


@pytest.mark.parametrize("root", ["", "/resource_server", "/node/n1/1234"])
def test_paths_with_a_cluster_and_a_framework(root: str, front: RunningEndpoint) -> None:
    """FIRST 1: the shape `/{cluster}/{framework}/v1/…`, which must be right for the model."""
    body = chat(model="other")
    assert front.ask("POST", f"{root}/far/vllm{CHAT}", body=body).status == 200
    assert front.ask("POST", f"{root}/far/vllm{CHAT}/", body=body).status == 200
    listed = front.ask("GET", f"{root}/far/vllm/v1/models").json()["data"]
    assert [one["id"] for one in listed] == ["other"]
    for path, words in (
        ("/local/vllm", 'is not on cluster "local", but on far'),
        ("/far/infinite", 'runs on vllm, not on "infinite"'),
        ("/nowhere/vllm", 'is not on cluster "nowhere"'),
    ):
        refused = front.ask("POST", f"{root}{path}{CHAT}", body=body)
        assert (refused.status, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert words in refused.json()["error"]["message"]


def test_lists_of_endpoints_and_jobs_and_who_asks(front: RunningEndpoint) -> None:
    """FIRST 6: `/list-endpoints`, `/{cluster}/jobs`, `/whoami`, `/health`."""
    listed = front.ask("GET", "/resource_server/list-endpoints/").json()["clusters"]
    assert listed["local"]["frameworks"]["simulated"]["models"] == ["org/chat", "cold"]
    assert listed["far"]["frameworks"]["vllm"]["endpoints"]["chat"] == "/vllm/v1/chat/completions"
    assert listed["far"]["base_url"] == f"{front.url}/far"
    jobs = front.ask("GET", "/far/jobs").json()
    assert jobs == {"running": [{"Models": "other"}], "queued": [], "stopped": [], "others": []}
    refused = front.ask("GET", "/$(id)/jobs")
    assert (refused.status, refused.json()["error"]["code"]) == (404, "cluster_not_found")
    assert front.ask("GET", "/whoami").json()["name"] == "session"
    assert front.ask("GET", "/health", key=False).json() == {"status": "up"}
    for path in ("/whoami", "/list-endpoints", "/far/jobs", "/v1/models", "/status", "/metrics"):
        assert front.ask("GET", path, key=False).status == 401


def test_streams_come_as_they_are_made_and_end_with_the_client(fresh: RunningEndpoint, sockets: Path) -> None:
    """FIRST 2: the first byte is not kept back, and a client that leaves ends the answer at the engine."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    go_on, left = threading.Event(), threading.Event()

    def answer(seen: Seen) -> Iterator[bytes]:
        yield head + b"b\r\ndata: one\n\n\r\n"
        go_on.wait(20)
        yield b"b\r\ndata: two\n\n\r\n"
        try:
            while True:
                left.wait(0.01)
                yield b"b\r\ndata: and\n\n\r\n"
        finally:
            left.set()

    upstream = Recorder(sockets, answer, secret=KEY)
    fresh.fleet.add("m", Place(upstream.socket, REPLICA_KEY))
    with fresh.connect() as connection:
        body = chat(model="m", stream=True).encode()
        lines = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(lines.encode() + body)
        received = b""
        while b"data: one\n\n" not in received:
            received += connection.recv(65536)
        assert b"data: two" not in received
        go_on.set()
        while b"data: two\n\n" not in received:
            received += connection.recv(65536)
    wait_until(left.is_set)
    wait_until(lambda: fresh.usage.in_flight == 0 and fresh.fleet.known["m"][0].in_flight == 0)
    assert not upstream.faults
    upstream.close()


@pytest.mark.parametrize("path", PASSED_ON)
def test_each_api_goes_to_its_model_under_the_name_that_it_has_there(
    path: str, fresh: RunningEndpoint, sockets: Path
) -> None:
    """FIRST 2: what passes, with the replica's key for ours and its name for the model."""
    upstream = Recorder(sockets, secret=KEY)
    fresh.fleet.add("org/m", Place(upstream.socket, REPLICA_KEY), served="org/m --as it's served")
    body = '{"input": "x", "model": "org/m", "pi": 3.140}'
    headers = {"Content-Type": "application/json", "Cookie": "launcher_x=1; a=b", "X-Launcher-Own": "1"}
    assert fresh.ask("POST", f"{path}?x=%20", headers, body).json()["target"] == f"{path}?x=%20"
    (seen,) = upstream.requests
    assert seen.header("Authorization") == f"Bearer {REPLICA_KEY}"
    assert seen.header("X-Launcher-Own") is None
    assert seen.header("Cookie") == "a=b"
    assert seen.body.startswith(b'{"input": "x", "model": "org/m", "pi": 3.140,')
    assert json.loads(seen.body)["model"] == "org/m --as it's served"
    assert not upstream.faults
    upstream.close()


def test_a_stream_brings_its_usage_only_to_who_asked(front: RunningEndpoint) -> None:
    front.used.clear()
    plain = events(front.ask("POST", CHAT, body=chat(model="org/chat", stream=True)).body)
    assert not any(event.get("usage") for event in plain[:-1])
    asked = chat(model="org/chat", stream=True, stream_options={"include_usage": True})
    assert events(front.ask("POST", CHAT, body=asked).body)[-2]["usage"]["completion_tokens"] == 7
    assert [(model, status, tokens) for model, _, status, tokens in front.used] == [
        ("org/chat", 200, (2, 7)),
        ("org/chat", 200, (2, 7)),
    ]


@pytest.mark.parametrize("late", [True, False])
def test_a_recording_goes_to_the_model_that_the_form_names_at_its_end(
    late: bool, front: RunningEndpoint, replicas: list[Replica]
) -> None:
    model = b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\norg/chat\r\n'
    sound = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    sound += b"\r\n--X" * 750_000 + b"\r\n"
    body = (sound + model if late else model + sound) + b"--XX--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=XX"}
    answer = front.ask("POST", "/v1/audio/transcriptions", headers, body)
    size = len(body) - len("org/chat") + len("tiny")
    assert answer.json() == {"text": f"Simulated transcription of {size} bytes."}


def test_a_form_without_a_model_is_refused(front: RunningEndpoint) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=XX"}
    for body in (b"--XX\r\nContent-Disposition: form-data; name=x\r\n\r\ny\r\n--XX--\r\n", b"no form"):
        refused = front.ask("POST", "/v1/audio/transcriptions", headers, body)
        assert (refused.status, refused.json()["error"]["message"]) == (400, 'The form has no field "model".')


async def test_a_websocket_goes_to_the_model_of_its_query(front: RunningEndpoint) -> None:
    async with ClientSession() as session:
        url = f"{front.url}/v1/realtime?model=org%2Fchat&x=1"
        async with session.ws_connect(url, headers=BEARER) as socket:
            assert (await socket.receive_json())["session"]["model"] == "tiny"
            await socket.send_str("words")
            assert await socket.receive_str() == "words"
    wait_until(lambda: front.usage.websockets == 0)
    assert all(lane.in_flight == 0 for lane in front.fleet.known["org/chat"])


def test_a_cold_model_says_when_to_come_again_or_holds_who_asks_for_it(
    fresh: RunningEndpoint, replicas: list[Replica]
) -> None:
    """FIRST 3: 503 with Retry-After, state and estimate; fifty that wait cause one start and are all answered."""
    fresh.fleet.add("cold", message="It waits for a GPU.", retry_s=42.4)
    refused = fresh.ask("POST", CHAT, body=chat(model="cold"))
    assert (refused.status, refused.header("Retry-After")) == (503, "42")
    error = refused.json()["error"]
    assert (error["code"], error["state"], error["estimate_s"]) == ("model_starting", "startable", 42)
    assert error["message"] == "It waits for a GPU. About 42 s are left."

    def start(model: str) -> list[Place]:
        wait_until(lambda: fresh.status()["models"][0]["waiting"] == 50)
        return [replica.place for replica in replicas]

    fresh.fleet.starts = start
    with ThreadPoolExecutor(50) as pool:
        answers = list(
            pool.map(
                lambda _: fresh.ask("POST", CHAT, {"X-Launcher-Hold": "30"}, chat(model="cold")), range(50)
            )
        )
    assert [answer.status for answer in answers] == [200] * 50
    assert fresh.fleet.started == ["cold"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_model_of_any_name_is_not_there(name: str, front: RunningEndpoint) -> None:
    answer = front.ask("POST", CHAT, body=chat(model=name))
    assert answer.status == (404 if name else 400)
    assert set(answer.json()["error"]) == {"message", "type", "code", "param"}


def test_what_was_used_is_told_before_the_client_has_the_whole_answer(front: RunningEndpoint) -> None:
    front.used.clear()
    spent = front.rules.spent.get("other", 0)
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=20)
    for number in range(1, 21):
        connection.request("POST", CHAT, chat(model="other"), BEARER)
        with connection.getresponse() as response:
            response.read()
        assert len(front.used) == number
    connection.close()
    assert set(front.used) == {("other", "other-1", 200, (2, 7))}
    wait_until(lambda: front.rules.spent["other"] == spent + 20 * 9)


def test_other_methods_and_paths(front: RunningEndpoint) -> None:
    wrong = front.ask("GET", CHAT)
    assert (wrong.status, wrong.header("Allow")) == (405, "POST")
    assert front.ask("DELETE", "/v1/models/org/chat").status == 405
    for path in ("/sleep", "/v1/load_lora_adapter", "/invocations", "/v1/nothing"):
        assert front.ask("POST", path, body=chat(model="org/chat")).status == 404
        assert front.ask("GET", path).status == 404
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        for root in ("", "/far/vllm"):
            kept = front.ask(method, f"{root}/v1/responses/resp_1{path}").json()["error"]
            assert (kept["code"], "its own address" in kept["message"]) == ("kept_by_session", True)
    long = front.ask("POST", CHAT, body=chat("word " * 400_000 + "end", model="org/chat"))
    assert long.json()["usage"]["prompt_tokens"] == 400_001


def test_metrics_tell_each_model_and_replica(front: RunningEndpoint) -> None:
    text = front.ask("GET", "/metrics").body.decode()
    assert 'launcher_endpoint_ready{model="org/chat"} 1.0' in text
    assert 'launcher_endpoint_replicas{model="org/chat"} 2.0' in text
    assert 'launcher_endpoint_ready{model="cold"} 0.0' in text
    assert "launcher_session_ready" not in text


def test_what_goes_on_has_one_reading_however_it_came(fresh: RunningEndpoint, sockets: Path) -> None:
    """Chunked, asked for first, several at once on a connection, in small pieces: strict for the replica."""
    upstream = Recorder(sockets, secret=KEY)
    fresh.fleet.add("m", Place(upstream.socket, REPLICA_KEY), served="served")
    body = chat("word " * 30_000, model="m").encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:], b""))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n".encode()
    with fresh.connect() as connection:
        connection.sendall(head + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(chunks)
        rest = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        connection.sendall(rest + rest)
        received = b""
        while received.count(b'{"target"') < 3:
            received += connection.recv(65536)
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert [json.loads(seen.body)["model"] for seen in upstream.requests] == ["served"] * 3
    assert len({seen.body for seen in upstream.requests}) == 1
    assert not upstream.faults
    upstream.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_is_over_leaves_nothing_for_the_collector(
    front: RunningEndpoint, stream: bool
) -> None:
    """Else each costs a fifth more, and its body stays in memory until the collector comes."""

    def left() -> int:
        return sum(isinstance(one, Exchange) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            assert front.ask("POST", CHAT, body=chat(model="org/chat", stream=stream)).status == 200
        wait_until(lambda: left() < 10)
    finally:
        gc.enable()
