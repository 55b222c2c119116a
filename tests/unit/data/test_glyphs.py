"""Glyphs: the same everywhere, recognisable, and not too easy."""

import numpy as np
import pytest
import torch

from innerloop.data.glyphs import _SPLITS, draw_glyphs, glyphs


@pytest.fixture(scope="module")
def val():
    return glyphs("val")


def test_images_are_ink_on_paper(val):
    images = val.images[0]
    assert images.dtype == torch.uint8
    assert list(images.shape) == [300, 20, 1, 28, 28]
    assert images.amin(dim=(2, 3, 4)).max() == 0
    assert images.amax(dim=(2, 3, 4)).min() == 255
    share = images.double().mean(dim=(2, 3, 4)) / 255
    assert share.min() > 0.02
    assert share.max() < 0.35


def test_drawings_stay_on_the_paper(val):
    border = torch.ones(28, 28, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    touching = (val.images[0, :, :, 0][..., border] > 0).any(-1)
    assert touching.double().mean() < 0.05


def test_ink_0_is_the_negative(val):
    dark = glyphs("val", ink=0)
    assert torch.equal(dark.images, 255 - val.images)


def test_seed_decides_everything():
    first = draw_glyphs([3, 1500])
    assert torch.equal(first, draw_glyphs([3, 1500]))
    assert (first != draw_glyphs([3, 1500], seed=1)).flatten(1).any(1).all()


def test_a_class_does_not_depend_on_what_else_is_drawn():
    together = draw_glyphs(range(50))  # more than one chunk
    assert torch.equal(together[[47, 2]], draw_glyphs([47, 2]))
    assert torch.equal(together[:3, :6], draw_glyphs(range(3), drawings=6))
    assert torch.equal(together[:1], draw_glyphs([0], drawings=500)[:, :20])


def test_splits_are_disjoint_and_named(val):
    numbers = [c for split in _SPLITS.values() for c in split]
    assert len(numbers) == len(set(numbers)) == 3000
    assert torch.equal(val.images[0, :, :, 0], draw_glyphs(_SPLITS["val"]))
    assert [len(_SPLITS[name]) for name in ("train", "val", "test")] == [2000, 300, 700]


def test_all_drawings_differ(val):
    images = val.images.flatten(0, 2).flatten(1)
    assert len(images.unique(dim=0)) == 6000


def _nearest_neighbour(data, ways, tasks=300):
    episode = data.episodes(ways, 1, 5, tasks)(torch.Generator().manual_seed(0))
    nearest = torch.cdist(episode.query_x.flatten(2), episode.support_x.flatten(2)).argmin(-1)
    return (nearest == episode.query_y).double().mean().item()


def test_classes_are_recognisable_but_not_by_their_pixels(val):
    assert 0.45 < _nearest_neighbour(val, ways=5) < 0.75
    assert 0.2 < _nearest_neighbour(val, ways=20) < 0.55


def test_drawings_of_a_class_are_alike(val):
    x = val.images[0, :, :10].flatten(2).double() / 255
    within = torch.cdist(x, x).sum(dim=(1, 2)) / (10 * 9)
    between = torch.cdist(x, x.roll(1, 0)).mean(dim=(1, 2))
    assert (within < between).double().mean() > 0.9
    assert within.mean() < 0.9 * between.mean()


def test_golden_classes():
    """Weighted sums of what numpy 2 drew on x86-64. A platform may round a pixel in a million otherwise."""
    images = draw_glyphs([0, 1, 2, 2999], drawings=5).double().numpy()
    weights = np.cos(np.arange(5 * 28 * 28)).reshape(5, 28, 28)
    mean = images.mean(axis=(1, 2, 3))
    weighted = (images * weights).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(mean, [22.4224, 18.6388, 33.1148, 37.861], atol=1e-3)
    np.testing.assert_allclose(weighted, [116.17, -817.39, 232.27, -182.15], atol=4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: glyphs("training"), "split='training'"),
        (lambda: glyphs("val", ink=2), "ink=2"),
        (lambda: glyphs("val", rotations="all"), "rotations is 'all'"),
        (lambda: glyphs("val", seed=-1), "seed=-1"),
        (lambda: draw_glyphs([4, -2]), "lowest class -2"),
        (lambda: draw_glyphs([]), "0 classes"),
        (lambda: draw_glyphs([1], drawings=0), "drawings=0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rotations_reach_the_classes(val):
    turned = glyphs("val", rotations="classes")
    assert turned.classes == 1200
    assert torch.equal(turned.images[0], val.images[0])
