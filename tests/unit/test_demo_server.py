"""The demo's server: what it answers, what it refuses, and that refusing never stops it."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

import innerloop as il
from innerloop.cli.main import main
from innerloop.demo import Contender, Limits, Shown, application, opened
from innerloop.demo.guard import HEADERS
from innerloop.inner.starts import NewHead
from innerloop.learner.files import CheckpointError

NET = {"name": "conv4", "arguments": {"ways": 20, "filters": 2, "size": 16}}
LIMITS = Limits(shots=2, seconds=0.2, waiting=2)


def contender(key: str, lr: float) -> Contender:
    torch.manual_seed(0)
    adaptation = il.Adaptation(il.rules.sgd(lr), 3, start=NewHead())
    net = il.nets.conv4(ways=20, filters=2, size=16)
    return Contender(key, key, il.Learner(net, il.Method(adaptation, il.unrolled()), net_spec=NET), 3, {})


SHOWN = Shown((contender("slow", 0.01), contender("fast", 1.0)), size=16)
APP = application(SHOWN, LIMITS)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def asked(path: str, pieces: Iterable[bytes] = (), app: Any = APP, **headers: str) -> Answer:
    """Send one request to the application itself, without a socket."""
    given = {"host": "127.0.0.1:8765", **{name.replace("_", "-"): value for name, value in headers.items()}}
    sent: list[dict[str, Any]] = []

    async def bodies() -> AsyncIterator[dict[str, Any]]:
        for piece in pieces:
            yield {"type": "http.request", "body": piece, "more_body": True}
        yield {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.sleep(60)

    stream = bodies()
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST" if path.startswith("/api/") and path != "/api/setup" else "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, lambda: anext(stream), send)
    head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], head, b"".join(message.get("body", b"") for message in sent[1:]))


def get(path: str, **headers: str) -> Answer:
    return asyncio.run(asked(path, **headers))


def post(content: object, path: str = "/api/adapt", **headers: str) -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return asyncio.run(asked(path, [body[i : i + 500] for i in range(0, len(body), 500)], **{**JSON, **headers}))


JSON = {"content_type": "application/json"}


def image(seed: int) -> str:
    drawn = torch.randint(256, (256,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return base64.b64encode(bytes(drawn.tolist())).decode()


def task(ways: int = 3, shots: int = 1) -> dict[str, Any]:
    return {"classes": [[image(way)] * shots for way in range(ways)], "query": image(1)}


def test_the_page_and_its_files_are_served_under_a_strict_policy() -> None:
    page = get("/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    names = [part.partition('"')[0] for mark in ('src="', 'href="') for part in page.body.decode().split(mark)[1:]]
    for name in (name for name in names if not name.startswith("#")):
        answer = get(f"/{name}")
        assert answer.status == 200, name
        assert answer.headers.items() >= {name.lower(): value for name, value in HEADERS.items()}.items()
    assert "unsafe" not in page.headers["content-security-policy"]


def test_every_learner_answers_after_each_step() -> None:
    for ways, shots in ((2, 1), (3, 2), (20, 1)):
        slow, fast = post(task(ways, shots)).json["learners"]
        assert (slow["id"], fast["id"]) == ("slow", "fast")
        assert [len(row) for row in fast["probabilities"]] == [ways] * 4
        assert fast["probabilities"][0] == pytest.approx([1 / ways] * ways)  # the head begins at zero
        assert sum(fast["probabilities"][3]) == pytest.approx(1)
        assert len(fast["losses"]) == 4
        assert slow["losses"][3] < slow["losses"][0]
    assert post({"classes": task()["classes"]}).json["learners"][0]["probabilities"] is None


def test_the_answer_is_the_learners_own() -> None:
    x = torch.stack([torch.tensor(list(base64.b64decode(image(way)))) for way in range(3)]).view(3, 1, 16, 16) / 255
    trace = SHOWN.contenders[1].learner.trace(x, torch.arange(3), x[1:2], ways=3)
    answered = post(task()).json["learners"][1]["probabilities"]
    torch.testing.assert_close(torch.tensor(answered), trace.probabilities[:, 0])


def test_the_adapted_network_can_be_downloaded_and_used() -> None:
    answer = post({**task(), "learner": "fast", "names": ["a", "你", "c"]}, "/api/model")
    assert answer.status == 200
    assert "attachment" in answer.headers["content-disposition"]
    tensors = load(answer.body)
    header = json.loads(answer.body[8 : 8 + int.from_bytes(answer.body[:8], "little")])["__metadata__"]
    spec = json.loads(header["net"])
    net, support = il.nets.NETS[spec["name"]](**spec["arguments"]), tensors.pop("support")
    assert json.loads(header["classes"]) == ["a", "你", "c"]
    query = support[1:2]
    outputs = torch.func.functional_call(net, tensors, torch.cat([support, query]))[-1]
    expected = post(task()).json["learners"][1]["probabilities"][-1]
    torch.testing.assert_close(outputs.softmax(-1), torch.tensor(expected), rtol=1e-4, atol=1e-5)


SHORT, LONG = base64.b64encode(b"0" * 255).decode(), base64.b64encode(b"0" * 258).decode()


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 5000, 400, "not JSON"),
        (b"9" * 5000, 400, "not JSON"),
        ([], 422, "an object"),
        ({}, 422, "classes must be a list of 2 to 20"),
        ({**task(), "more": 1}, 422, "1 fields that mean nothing"),
        (task(1), 422, "2 to 20"),
        ({"classes": [[image(0)]] * 21}, 422, "2 to 20"),
        (task(2, 3), 422, "1 to 2 images"),
        ({"classes": [[], []]}, 422, "class 1 must be a list"),
        ({"classes": [["x"], [image(1)]]}, 422, "an image of class 1 must be 256 bytes"),
        ({"classes": [[SHORT], [image(1)]]}, 422, "256 bytes"),
        ({"classes": [[LONG], [image(1)]]}, 422, "256 bytes"),
        ({"classes": [["é" * 344], [image(1)]]}, 422, "not base64"),
        ({"classes": [["*" * 344], [image(1)]]}, 422, "not base64"),
        ({"classes": [[{}], [image(1)]]}, 422, "256 bytes"),
        ({**task(), "query": 7}, 422, "the query must be 256 bytes"),
        ({**task(), "names": ["a"]}, 422, "3 texts"),
        ({**task(), "names": ["a", "b", "c" * 41]}, 422, "at most 40"),
        ({**task(), "learner": "none"}, 422, "one of slow, fast"),
        ({**task(), "learner": ["slow"]}, 422, "one of slow, fast"),
        (b" " * 100_000, 413, "at most"),
    ],
)
def test_what_is_wrong_is_refused_with_the_reason(content: object, status: int, reason: str) -> None:
    answer = post(content)
    assert answer.status == status
    assert reason in answer.json["error"]
    assert post(task()).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "multipart/form-data"}, 415),
        ({"content_encoding": "gzip"}, 415),
        ({"content_length": "99999999999"}, 413),
        ({"content_length": "-1"}, 400),
        ({"content_length": "9" * 400}, 400),
        ({"host": "rebound.example"}, 403),
        ({"host": "rebound.example:8765"}, 403),
        ({"origin": "http://elsewhere.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_requests_of_another_kind_or_from_elsewhere_are_refused(headers: dict[str, str], status: int) -> None:
    answer = post(task(), **headers)
    assert answer.status == status
    assert answer.json["error"]


def test_its_own_page_may_ask_and_other_paths_do_not_exist() -> None:
    assert post(task(), origin="http://127.0.0.1:8765").status == 200
    assert post(task(), host="localhost", origin="http://localhost").status == 200
    for path in ("/nothing", "/../server.py", "/%2e%2e/server.py", "/index.html"):
        assert get(path).status == 404
        assert get(path).json["error"]
    assert get("/api/setup").json["ways"] == 20
    assert asyncio.run(asked("/api/setup/../adapt", [b"{}"], **JSON)).status == 404


def test_a_body_that_does_not_arrive_and_one_request_too_many() -> None:
    async def slow(started: asyncio.Event) -> Answer:
        async def receive() -> dict[str, Any]:
            started.set()
            await asyncio.sleep(60)
            raise AssertionError

        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/api/adapt", "query_string": b"", "headers": headers}
        await APP(scope, receive, send)
        return Answer(sent[0]["status"], {}, sent[1]["body"])

    async def together() -> list[Answer]:
        events = [asyncio.Event(), asyncio.Event()]
        waiting = [asyncio.create_task(slow(event)) for event in events]
        for event in events:
            await event.wait()
        third = await asked("/api/adapt", [json.dumps(task()).encode()], **JSON)
        return [third, *await asyncio.gather(*waiting)]

    third, *late = asyncio.run(together())
    assert third.status == 429
    assert third.headers["retry-after"] == "1"
    assert [answer.status for answer in late] == [408, 408]
    assert post(task()).status == 200


def test_a_network_with_a_head_of_its_own_chooses_among_the_classes_of_the_task(tmp_path: Path) -> None:
    spec = {"name": "conv4", "arguments": {"ways": 4, "filters": 2, "channels": 3, "size": 20}}
    il.Learner(il.nets.conv4(4, filters=2, channels=3, size=20), il.maml(0.1), net_spec=spec).save(tmp_path)
    shown = opened(tmp_path)
    assert (shown.channels, shown.size, shown.ways, shown.ink) == (3, 20, 4, None)
    assert [one.key for one in shown.contenders] == ["run", "untrained"]
    drawn = base64.b64encode(bytes(range(240)) * 5).decode()
    body = json.dumps({"classes": [[drawn], [drawn]], "query": drawn}).encode()
    answer = asyncio.run(asked("/api/adapt", [body], application(shown), **JSON))
    assert [len(row) for row in answer.json["learners"][0]["probabilities"]] == [2, 2]


def test_a_query_is_not_normalised_alone(tmp_path: Path) -> None:
    learner = il.Learner(il.nets.conv4(20, filters=2, size=16), il.maml(0.1), norm="transductive", net_spec=NET)
    learner.save(tmp_path)
    assert il.Learner.load(tmp_path).norm == "transductive"
    assert [one.learner.norm for one in opened(tmp_path).contenders] == ["inductive", "inductive"]


def test_a_learner_that_the_page_cannot_show_is_refused(tmp_path: Path) -> None:
    spec = {"name": "mlp", "arguments": {"inputs": 1, "outputs": 1}}
    learner = il.Learner(il.nets.mlp(), il.maml(0.1), loss_fn=torch.nn.functional.mse_loss, net_spec=spec)
    learner.save(tmp_path)
    with pytest.raises(CheckpointError, match="does not classify images"):
        opened(tmp_path)
    with pytest.raises(CheckpointError, match="no learner in"):
        opened(tmp_path / "none")


def test_the_package_opens_with_its_own_learners() -> None:
    shown = opened()
    assert [one.key for one in shown.contenders] == ["maml", "reptile", "untrained"]
    assert len({one.steps for one in shown.contenders}) == 1


def test_mistakes_on_the_command_line_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for argv, said in (
            ([str(tmp_path)], "no learner in"),
            (["--port", "70000"], "--port is 70000"),
            (["--port", str(taken.getsockname()[1])], "choose another --host or --port"),
        ):
            assert main(["demo", *argv]) == 2
            message = capsys.readouterr().err
            assert said in message
            assert message.count("\n") == 1


def test_what_nobody_waits_for_is_not_worked_on() -> None:
    """A page that asks anew closes its earlier request. Those must not keep the threads busy."""
    began = []

    class Slow(Contender):
        def answer(self, *arguments: Any) -> dict[str, Any]:
            began.append(1)
            time.sleep(0.05)
            return super().answer(*arguments)

    one = SHOWN.contenders[0]
    app = application(
        replace(SHOWN, contenders=(Slow(one.key, "", one.learner, 1, {}),) * 6), replace(LIMITS, working=1)
    )
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/api/adapt", "query_string": b"", "headers": headers}
    messages = [
        {"type": "http.request", "body": json.dumps(task()).encode(), "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def left() -> None:
        stream = iter(messages)

        async def receive() -> dict[str, Any]:
            return next(stream)

        async def send(message: dict[str, Any]) -> None:
            pass

        await app(scope, receive, send)

    asyncio.run(left())
    assert len(began) <= 1
    assert asyncio.run(asked("/api/adapt", [json.dumps(task()).encode()], app, **JSON)).status == 200
