import math

import pytest
import torch

from fedsec.attacks.evasion.forecast import Forecast

BUDGET = 5000


def stalled(query):
    return 5.0


def steady(query):
    """As much with every doubling, so that zero is reached with the last query."""
    return math.log2(BUDGET / query)


def ended(margin, *, clean=8.0, white=4.0, dead=0, sound=40, leaving=0):
    """The query after which the first example is given up, or None, in a batch of sound examples like it."""
    alike = 1 + sound
    gone = torch.arange(alike) < 1 + dead
    forecast = Forecast(torch.full((alike,), clean), torch.full((alike,), white), gone & (dead > 0), BUDGET)
    rows = torch.arange(alike - leaving)
    for query in range(100, BUDGET + 1, 100):
        leave = forecast(query, rows, torch.full((len(rows),), margin(query)))
        if leave[rows == 0].any():
            assert forecast.given_up == leave.sum()
            return query
    return None


def test_a_search_that_stands_still_ends_at_the_first_chance():
    assert ended(stalled) == 1000


def test_one_that_would_arrive_is_never_ended():
    assert ended(steady) is None


@pytest.mark.parametrize(("speed", "query"), [(1.0, 1000), (2.0, None)])
def test_it_is_four_times_the_progress_that_must_not_arrive(speed, query):
    found = ended(lambda at: 20 - speed * math.log2(at), clean=16.0, white=8.0)
    whole = 4 * speed * math.log2(BUDGET / 1000)
    assert (whole < 20 - speed * math.log2(1000)) == (query is not None)
    assert found == query


@pytest.mark.parametrize(
    "reason",
    [
        {"clean": 30.0, "white": 1.0},  # near: less than a quarter of the margin is left
        {"white": 8.0},  # gradients moved nothing
        {"white": 7.0},  # less than half of what the search did
        {"dead": 1},  # the gradient of this one is zero
        {"dead": 8},  # so are a tenth of them
        {"leaving": 3},  # the search misled more than gradients let expect
    ],
)
def test_an_example_is_kept_where_there_is_a_reason(reason):
    assert ended(stalled, **reason) is None


def test_one_zero_gradient_among_many_does_not_keep_the_others():
    clean, dead = torch.full((40,), 8.0), torch.zeros(40, dtype=torch.bool)
    dead[3] = True
    forecast = Forecast(clean, clean / 2, dead, BUDGET)
    for query in range(100, 1100, 100):
        leave = forecast(query, torch.arange(40), torch.full((40,), 5.0))
    assert torch.equal(leave, ~dead)
