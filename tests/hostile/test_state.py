"""A loss or a module that depends on something besides its tensors, wherever that lives, and however it is reached."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from hostile import places_in_containers, places_of_attributes, places_of_functions, places_outside
from hostile.harness import LONG, SHORT, Cases, Script, episodes, linear, play
from hostile.places import PLACES, Place, Read

assert all((places_of_attributes, places_in_containers, places_of_functions, places_outside))


class Reads(nn.Module):
    """A linear layer whose outputs are multiplied by what is read."""

    def __init__(self, read: Read) -> None:
        super().__init__()
        self.layer, self.read = linear(), read

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.read()


def made(make: Place, patch: pytest.MonkeyPatch):
    """What reads the number, and what puts another; some patch what is put back after the test."""
    return make(patch) if make.__code__.co_argcount else make()


def in_the_loss(make: Place) -> Callable[[pytest.MonkeyPatch], Script]:
    def script(patch: pytest.MonkeyPatch) -> Script:
        read, put = made(make, patch)
        return Script(linear(), lambda outputs, y: F.cross_entropy(outputs * read(), y), change=lambda n: put(2.0 + n))

    return script


def in_the_module(make: Place) -> Callable[[pytest.MonkeyPatch], Script]:
    def script(patch: pytest.MonkeyPatch) -> Script:
        read, put = made(make, patch)
        return Script(Reads(read), change=lambda n: put(2.0 + n))

    return script


cases = Cases()
for number, (sentence, make) in enumerate(PLACES.items()):
    cases(
        in_the_module(make),
        name=f"the module reads {sentence}",
        ways=(("serial", 1),),
        calls=SHORT if number % 4 == 0 else 11,
    )
    cases(
        in_the_loss(make),
        name=f"the loss reads {sentence}",
        ways=(cases.next_way(),),
        calls=SHORT if number % 8 else LONG,
    )


@cases.all
def test_a_change_is_seen_at_the_next_call(case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.play(monkeypatch)


@pytest.mark.parametrize("sentence", ["a value in a dict", "a tensor changed through data", "a closure"])
@pytest.mark.parametrize("execution", ["auto", "serial"])
def test_a_change_is_seen_after_150_calls(sentence: str, execution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = in_the_loss(PLACES[sentence])(monkeypatch)
    script.at, script.calls = (150,), 152
    play(script, execution)


def test_a_change_is_seen_after_1500_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    script = in_the_loss(PLACES["a closure"])(monkeypatch)
    script.at, script.calls, script.episode = (4, 1500), 1502, lambda call: episodes(call, tasks=1)
    play(script, "auto")
