"""A cohort as a stream, as a matrix, and as a mixture of its rows."""

import pytest
import torch

from fedsec.protocol.cohort import Cohort
from fedsec.protocol.payload import Plain
from fedsec.randomness import generator


def rows(n=6, d=5):
    return torch.randn(n, d, generator=generator("cohort"))


def cohort(values, clients=None):
    clients = tuple(range(10, 10 + len(values))) if clients is None else clients
    weights = torch.arange(1.0, 1.0 + len(values), dtype=torch.float64)
    half = len(values) // 2
    parts = [
        (clients[:half], Plain(values[:half], weights[:half])),
        (clients[half:], Plain(values[half:], weights[half:])),
    ]
    return Cohort(parts)


def test_a_stream_is_read_once_and_a_matrix_as_often_as_one_likes():
    values = rows()
    streamed = cohort(values)
    assert [len(ids) for ids, _ in streamed.chunks()] == [3, 3]
    assert list(streamed.chunks()) == []
    whole = cohort(values)
    assert torch.equal(whole.matrix()[1].values, values)
    assert torch.equal(whole.matrix()[1].values, values)
    assert [ids for ids, _ in whole.chunks()] == [(10, 11, 12, 13, 14, 15)]


def test_nobody_has_a_matrix_without_rows():
    nobody = Plain(torch.zeros(0, 5), torch.zeros(0, dtype=torch.float64))
    clients, payload = Cohort([], nobody=nobody).matrix()
    assert clients == ()
    assert payload.values.shape == (0, 5)
    with pytest.raises(ValueError, match="n = 0"):
        _ = Cohort([], nobody=nobody).geometry


def test_a_mixture_is_the_product_and_so_is_its_geometry():
    values = rows()
    mixing = torch.rand(6, 6, generator=generator("mix"), dtype=torch.float64)
    mixing /= mixing.sum(dim=1, keepdim=True)
    mixed = cohort(values).mixed(mixing)
    formed = mixing @ values.double()
    clients, payload = mixed.matrix()
    assert clients == tuple(range(10, 16))
    torch.testing.assert_close(payload.values.double(), formed, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mixed.geometry.squared_distances, torch.cdist(formed, formed).square())
    torch.testing.assert_close(payload.weights, mixing @ torch.arange(1.0, 7.0, dtype=torch.float64))


def test_buckets_stand_for_their_members_even_when_mixed_again():
    pairs = torch.zeros(3, 6, dtype=torch.float64)
    groups = [(10, 13), (15, 11), (12, 14)]
    for row, (a, b) in enumerate(groups):
        pairs[row, [a - 10, b - 10]] = 0.5
    mixed = cohort(rows()).mixed(pairs, groups=groups)
    assert mixed.matrix()[0] == (10, 11, 12)
    assert mixed.members == {10: (10, 13), 11: (15, 11), 12: (12, 14)}
    again = mixed.mixed(torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64), groups=[(10, 11)])
    assert again.matrix()[0] == (10,)
    assert again.members == {10: (10, 13, 15, 11)}
