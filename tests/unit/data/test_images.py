from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from innerloop.data.images import ImageClasses, Rotations

ROTATIONS: tuple[Rotations, ...] = ("none", "classes", "episode")


def tagged(classes: int, instances: int, rotations: Rotations = "none") -> ImageClasses:
    """2x2 images [[class + 1, instance + 1], [0, 0]]: each tells its class, instance and quarter turn."""
    images = torch.zeros(classes, instances, 2, 2, dtype=torch.uint8)
    images[:, :, 0, 0] = torch.arange(1, classes + 1, dtype=torch.uint8)[:, None]
    images[:, :, 0, 1] = torch.arange(1, instances + 1, dtype=torch.uint8)
    return ImageClasses.from_classes(images, rotations)


def read_tags(x: Tensor) -> list[list[tuple[int, int, int]]]:
    """(class, instance, quarter turns) of every image of x [T, I, 1, 2, 2]."""
    # one turn counter-clockwise takes [[a, b], [0, 0]] to [[b, 0], [a, 0]], and so on
    where = {(0, 1): 0, (2, 0): 1, (3, 2): 2, (1, 3): 3}
    tags = []
    for task in (x * 255).round().long().flatten(2).tolist():
        row = []
        for pixels in task:
            turn = next(t for (a, b), t in where.items() if pixels[a] and pixels[b])
            a, b = next(k for k, t in where.items() if t == turn)
            row.append((pixels[a] - 1, pixels[b] - 1, turn))
        tags.append(row)
    return tags


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_read_tags_tells_every_turn_apart() -> None:
    images = tagged(3, 2).images[0, 2, 1]
    for turn in range(4):
        x = images.rot90(turn, (-2, -1)).float()[None, None] / 255
        assert read_tags(x) == [[(2, 1, turn)]]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rotations=st.sampled_from(ROTATIONS), seed=st.integers(0, 2**31))
def test_an_episode_is_what_it_says(data: st.DataObject, rotations: Rotations, seed: int) -> None:
    classes, instances = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 8))
    source = tagged(classes, instances, rotations)
    assert source.classes == classes * (4 if rotations == "classes" else 1)
    ways = data.draw(st.integers(2, source.classes))
    shots = data.draw(st.integers(1, instances))
    queries = data.draw(st.integers(0, instances - shots))
    tasks = data.draw(st.integers(1, 4))
    episode = source.episodes(ways, shots, queries, tasks)(seeded(seed))

    assert episode.support_x.shape == (tasks, ways * shots, 1, 2, 2)
    assert episode.query_x.shape == (tasks, ways * queries, 1, 2, 2)
    assert episode.support_x.dtype == torch.float32
    assert episode.support_y.dtype == episode.query_y.dtype == torch.int64
    support, query = read_tags(episode.support_x), read_tags(episode.query_x)
    for t in range(tasks):
        assert episode.support_y[t].tolist() == [n for n in range(ways) for _ in range(shots)]
        assert episode.query_y[t].tolist() == [n for n in range(ways) for _ in range(queries)]
        drawn = support[t] + query[t]
        labels = episode.support_y[t].tolist() + episode.query_y[t].tolist()
        assert len(set(drawn)) == len(drawn)  # no image twice, none in both sets
        key = [(c, turn) if rotations == "classes" else c for c, _, turn in drawn]
        assert len(set(key)) == ways
        assert len(set(zip(key, labels, strict=True))) == ways  # one label for a class, one class for a label
        assert len({(label, turn) for label, (_, _, turn) in zip(labels, drawn, strict=True)}) == ways
        if rotations == "none":
            assert {turn for *_, turn in drawn} == {0}


@settings(max_examples=15, deadline=None)
@given(rotations=st.sampled_from(ROTATIONS), seed=st.integers(0, 2**31))
def test_the_generator_decides_everything(rotations: Rotations, seed: int) -> None:
    draw = tagged(20, 10, rotations).episodes(5, 2, 3, 4)
    torch.manual_seed(seed)
    first, generator = draw(seeded(seed)), seeded(seed)
    torch.manual_seed(seed + 1)
    again, later = draw(generator), draw(generator)
    assert torch.equal(first.support_x, again.support_x)
    assert torch.equal(first.query_x, again.query_x)
    assert not torch.equal(first.support_x, later.support_x)


@pytest.mark.parametrize("rotations", ROTATIONS)
def test_every_class_instance_and_turn_is_drawn_about_equally_often(rotations: Rotations) -> None:
    classes, instances, tasks = 6, 4, 4000
    episode = tagged(classes, instances, rotations).episodes(2, 1, 1, tasks)(seeded())
    turns = range(1 if rotations == "none" else 4)
    outcomes = list(itertools.product(range(classes), range(instances), turns))
    for x in (episode.support_x, episode.query_x):
        drawn = [tag for task in read_tags(x) for tag in task]
        expected = len(drawn) / len(outcomes)
        assert set(drawn) == set(outcomes)
        assert all(abs(drawn.count(o) - expected) < 6 * expected**0.5 for o in outcomes)
    first = [task[0][0] for task in read_tags(episode.support_x)]  # nor does a label go with a class
    assert all(abs(first.count(c) - tasks / classes) < 6 * (tasks / classes) ** 0.5 for c in range(classes))


def test_a_class_at_two_angles_shares_a_task_only_with_classes() -> None:
    shared = {}
    for rotations in ROTATIONS:
        tags = read_tags(tagged(3, 2, rotations).episodes(3, 1, 1, 200)(seeded()).support_x)
        shared[rotations] = any(len({c for c, *_ in task}) < 3 for task in tags)
    assert shared == {"none": False, "classes": True, "episode": False}


def test_turns_match_rot90_of_the_whole_image() -> None:
    images = torch.randint(256, (3, 2, 5, 5), dtype=torch.uint8, generator=seeded())
    turned = ImageClasses.from_classes(images, "episode").images
    assert torch.equal(turned[0, :, :, 0], images)
    # a quarter turn counter-clockwise moves the right column to the top row
    assert torch.equal(turned[1, :, :, 0, 0], images[..., :, -1])
    assert torch.equal(turned[2, :, :, 0], images.flip(-1, -2))


def test_grey_levels_and_ink() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    draw = ImageClasses.from_classes(images).episodes(3, 1, 0, 1)
    assert torch.equal(draw(seeded()).support_x.unique(), torch.tensor([0.0, 0.2, 1.0]))
    inverted = ImageClasses.from_classes(images, invert=True).images.flatten()
    assert inverted.tolist() == [255, 204, 0]
    bits = ImageClasses.from_classes(images.clamp(max=1), invert=True, maximum=1)
    assert bits.images.flatten().tolist() == [1, 0, 0]
    assert set(bits.episodes(3, 1, 0, 1)(seeded()).support_x.flatten().tolist()) == {0.0, 1.0}


def test_colour_images() -> None:
    images = torch.randint(256, (4, 3, 3, 8, 6), dtype=torch.uint8)
    episode = ImageClasses.from_classes(images).episodes(2, 1, 2, 5)(seeded())
    assert episode.support_x.shape == (5, 2, 3, 8, 6)
    assert episode.query_x.shape == (5, 4, 3, 8, 6)


def test_moving_keeps_the_classes() -> None:
    source = tagged(3, 2, "classes").to("cpu")
    assert source.device == torch.device("cpu")
    assert (source.classes, source.instances, source.rotations) == (12, 2, "classes")
    meta = source.to("meta")
    assert meta.device.type == "meta"
    with pytest.raises(ValueError, match=r"the generator is on cpu and the images on meta"):
        meta.episodes(2, 1, 1, 1)(seeded())


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((1, 1, 1, 1), "ways=1: expected at least 2"),
        ((2, 0, 1, 1), "shots=0: expected at least 1"),
        ((2, 1, -1, 1), "queries=-1: expected at least 0"),
        ((2, 1, 1, 0), "tasks=0: expected at least 1"),
        ((7, 1, 1, 1), "ways=7: there are 6 classes"),
        ((2, 3, 3, 1), "shots=3 and queries=3 need 6 images of each class: there are 5"),
    ],
)
def test_impossible_episodes_are_refused(numbers: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tagged(6, 5).episodes(*numbers)


def test_classes_counts_the_turns_when_it_refuses() -> None:
    assert tagged(6, 5, "classes").episodes(24, 1, 1, 1).ways == 24
    with pytest.raises(ValueError, match="there are 24 classes"):
        tagged(6, 5, "classes").episodes(25, 1, 1, 1)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(2, 2, 4, 4), {}, r"float32 \[2, 2, 4, 4\]: expected uint8"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), {}, r"uint8 \[2, 4, 4\]: expected uint8"),
        (torch.zeros(0, 2, 4, 4, dtype=torch.uint8), {}, "no axis of length 0"),
        (
            torch.zeros(2, 2, 4, 5, dtype=torch.uint8),
            {"rotations": "episode"},
            "4x5: quarter turns need squares",
        ),
        (torch.full((2, 2, 4, 4), 9, dtype=torch.uint8), {"maximum": 1}, "grey level 9, above maximum=1"),
        (torch.zeros(2, 2, 4, 4, dtype=torch.uint8), {"maximum": 0}, "maximum is 0"),
        (torch.zeros(2, 2, 4, 4, dtype=torch.uint8), {"rotations": "all"}, "rotations is 'all'"),
    ],
)
def test_unsuitable_images_are_refused(images: Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageClasses.from_classes(images, **options)


def test_the_record_checks_its_own_shape() -> None:
    with pytest.raises(ValueError, match="from_classes makes it"):
        ImageClasses(torch.zeros(1, 2, 2, 1, 4, 4, dtype=torch.uint8), "episode")
