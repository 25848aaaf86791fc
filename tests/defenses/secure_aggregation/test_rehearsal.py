"""The known answers of the protocol hold for ours, and fail for clients and servers that are wrong."""

from __future__ import annotations

import pytest

from fedsec.defenses.secure_aggregation.client import Client
from fedsec.defenses.secure_aggregation.plugin import SecureAggregation
from fedsec.defenses.secure_aggregation.rehearsal import KNOWN_ANSWERS, both_shares, colluders, every_phase
from fedsec.defenses.secure_aggregation.server import Server
from fedsec.selftests.bench import Bench


@pytest.mark.parametrize(
    "defense",
    [SecureAggregation(neighbours=6), SecureAggregation(active_server=False, ring=64)],
    ids=["graph of 6", "curious server"],
)
def test_they_hold(defense: SecureAggregation) -> None:
    assert defense.known_answers() == KNOWN_ANSWERS
    for test in KNOWN_ANSWERS:
        answer = test.run(Bench(defense))
        assert answer.holds, answer


def test_a_client_that_answers_everything_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "unmask", lambda self, request: b"shares")
    answer = both_shares(Bench(SecureAggregation()))
    assert not answer.holds
    assert "both shares" in answer.found


def test_a_wrong_sum_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Server.finish
    monkeypatch.setattr(Server, "finish", lambda self: right(self) + 1)
    answer = every_phase(Bench(SecureAggregation(neighbours=2)))
    assert not answer.holds
    assert "0 gone at keys: a wrong sum" in answer.found


def test_a_client_without_masks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsec.defenses.secure_aggregation.client.add_mask", lambda *a, **k: None)
    assert not colluders(Bench(SecureAggregation())).holds
