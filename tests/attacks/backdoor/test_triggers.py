"""Triggers whose pixels are known."""

import pytest
import torch

from fedsec.attacks.backdoor import bars, stamp, trigger


def pixels(mask):
    return sorted(map(tuple, mask.nonzero().tolist()))


def test_badnets_triggers_on_28_by_28():
    assert pixels(trigger("pixel", 28, 28)) == [(26, 26)]
    assert pixels(trigger("pattern", 28, 28)) == [(24, 26), (25, 25), (26, 24), (26, 26)]
    assert pixels(trigger("patch", 28, 28, size=2)) == [(25, 25), (25, 26), (26, 25), (26, 26)]


def test_dba_bars_are_those_of_the_papers_mnist_setting():
    parts = bars(28, 28)
    assert [pixels(part) for part in parts] == [
        [(0, 0), (0, 1), (0, 2), (0, 3)],
        [(0, 6), (0, 7), (0, 8), (0, 9)],
        [(3, 0), (3, 1), (3, 2), (3, 3)],
        [(3, 6), (3, 7), (3, 8), (3, 9)],
    ]


@pytest.mark.parametrize(("length", "gap", "shift"), [(4, 2, 0), (6, 3, 0), (1, 0, 5), (2, 1, 3)])
def test_the_union_of_the_bars_is_their_sum(length, gap, shift):
    parts = bars(28, 28, length=length, gap=gap, shift=shift)
    assert int(parts.sum()) == 4 * length
    torch.testing.assert_close(parts.any(0).long(), parts.long().sum(0))
    assert int(parts.any(0).nonzero().min()) == shift


@pytest.mark.parametrize("shape", ["pixel", "pattern", "patch"])
def test_triggers_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="the image has 28 x 1"):
        trigger(shape, 28, 1)
    with pytest.raises(ValueError, match="need 5 x 11 pixels"):
        bars(4, 28, shift=1)


def test_stamp_marks_copies_in_every_channel():
    x = torch.full((2, 3, 28, 28), 0.25, dtype=torch.float64)
    before = x.clone()
    mask = trigger("pattern", 28, 28)
    marked = stamp(x, mask, value=1.0)
    assert torch.equal(x, before)
    assert marked.dtype == torch.float64
    assert bool((marked[..., mask] == 1.0).all())
    assert torch.equal(marked[..., ~mask], x[..., ~mask])
    assert bool((stamp(x, mask, value=1.0, opacity=0.2)[..., mask] == 0.25 + 0.2 * 0.75).all())
