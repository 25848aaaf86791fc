"""Broken twins fail the one test that sees what is wrong with them; the right ones pass every test that applies."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from fedsec import registry
from fedsec.cli.app import app
from fedsec.cli.check_defense import built, table
from fedsec.defenses.secure_aggregation.plugin import SecureAggregation
from fedsec.errors import ConfigurationError, PluginError
from fedsec.protocol.payload import Kind
from fedsec.selftests.bench import Bench
from fedsec.selftests.run import TESTS, check_defense
from fedsec.selftests.secrets_held import common, patterns, secrets_in

from .broken_twins import (
    ChangesItsInput,
    ForgetsRounds,
    InvertedAdaptiveClipping,
    NoiseBeforeClipping,
    NoiseByPlace,
    PairwiseMasks,
    SecretAtTheServer,
    UnbiasedTopK,
    WeightedSensitivity,
)

TWINS = {
    "masks from 28-bit seeds": (PairwiseMasks(seed_bits=28), ("seed-entropy",)),
    "masks used again": (PairwiseMasks(reused=True), ("freshness", "mask-uniformity")),
    "no masks": (PairwiseMasks(unmasked=True), ("plaintext-canaries", "freshness", "mask-uniformity")),
    "adaptive clipping with inverted sign": (InvertedAdaptiveClipping(), ("clip-fixed-point",)),
    "noise before clipping": (NoiseBeforeClipping(), ("noise",)),
    "sensitivity from weighted clients": (WeightedSensitivity(), ("sensitivity",)),
    "secret key in the server's context": (SecretAtTheServer(), ("server-holds-no-key",)),
    "top-k without residual claimed unbiased": (UnbiasedTopK(), ("unbiased",)),
    "a DP that forgets rounds": (ForgetsRounds(), ("composition",)),
    "a stage that changes its input": (ChangesItsInput(), ("input-unchanged",)),
    "noise by place": (NoiseByPlace(), ("chunks",)),
}  # fmt: skip


@pytest.mark.parametrize("twin", TWINS)
def test_broken_twins_fail_by_name(twin: str) -> None:
    defense, expected = TWINS[twin]
    found = check_defense(defense)
    assert set(found.failed) == set(expected), [r for r in found.results if r.outcome == "fails"]
    assert not found.holds


def test_pairwise_masks_with_long_keys_hold() -> None:
    found = check_defense(PairwiseMasks())
    assert found.holds, found.failed
    by_name = {result.test: result.outcome for result in found.results}
    assert {by_name[n] for n in ("sum", "sum-of-rows", "freshness", "mask-uniformity", "seed-entropy")} == {"holds"}


def hiding() -> list[str]:
    families = {
        "clipping", "compression", "differential privacy", "homomorphic encryption", "perturbation",
        "secret sharing", "secure aggregation",
    }  # fmt: skip
    return [name for name in registry.names("defenses") if registry.get("defenses", name).family in families]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n == "paillier" else ()) for n in hiding()])
def test_our_own_hold(name: str) -> None:
    found = check_defense(registry.get("defenses", name)())
    assert found.holds, [r for r in found.results if r.outcome == "fails"]
    # soteria acts inside local training, which the bench does not run: nothing is asked, and nothing shown
    assert (found.document()["applied"] == 0) == (name == "soteria")


def test_secrets_are_found_wherever_they_hide() -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    key = X25519PrivateKey.generate()
    assert not list(secrets_in({"public": [key.public_key(), b"some bytes that are no context" * 9]}, "s"))
    (found,) = secrets_in({"a": ({"b": [key]},)}, "scheme")
    assert found.startswith("scheme['a'][0]['b'][0]: ")
    assert not list(secrets_in([SimpleNamespace(party="helper:1", key=key)], "s"))
    assert len(list(secrets_in([SimpleNamespace(party="server", key=key)], "s"))) == 1
    loop: dict[str, object] = {}
    loop["self"] = loop
    assert not list(secrets_in(loop, "s"))


def test_canaries_are_found_as_they_are_usually_written() -> None:
    row = torch.full((9,), 0.0371704)
    forms = {name for name, pattern in patterns(0.0371704, 3.0) if pattern in row.numpy().tobytes()}
    assert forms == {"the value as float32 (little-endian)"}
    forms = {name for name, pattern in patterns(0.0371704, 3.0) if pattern in (3 * row.double()).numpy().tobytes()}
    assert not forms  # another rounding: float32 of the value, not the value
    words = (row.double() * 2**20).round().int().numpy().tobytes()
    assert any(pattern in words for _, pattern in patterns(0.0371704, 1.0))
    assert common(words, words) == 1.0
    assert common(words, bytes(len(words))) == 0.0


def test_the_command_says_which_test_fails(tmp_path) -> None:
    (tmp_path / "own_rounding.py").write_text(OWN)
    runner = CliRunner()
    right = runner.invoke(app, ["check-defense", f"{tmp_path / 'own_rounding.py'}:Rounding"])
    assert right.exit_code == 0, right.output
    assert "all 2 that apply hold" in right.output
    wrong = runner.invoke(app, ["check-defense", f"{tmp_path / 'own_rounding.py'}:Rounding", "--with", "sure=true"])
    assert wrong.exit_code == 1
    assert "1 of 3 fail: unbiased" in wrong.output
    as_json = runner.invoke(app, ["check-defense", "clip", "--with", "c=0.5", "--json"])
    document = json.loads(as_json.output)
    assert as_json.exit_code == 0
    assert document["parameters"]["c"] == 0.5
    assert document["failed"] == []
    assert {test["outcome"] for test in document["tests"]} == {"holds", "does not apply"}
    assert len(document["tests"]) == len(TESTS) == len({test.name for test in TESTS})


def test_what_is_no_defense_is_said() -> None:
    with pytest.raises(PluginError, match="no defense 'clipp'"):
        built("clipp", [])
    with pytest.raises(PluginError, match="derive from"):
        built("fedsec.models.flat:Layout", [])
    with pytest.raises(PluginError, match="there is no file"):
        built("nowhere.py:Thing", [])
    with pytest.raises(ConfigurationError, match="name=value"):
        built("clip", ["c"])
    with pytest.raises(ConfigurationError, match="c"):
        built("clip", ["c=-1"])


def test_a_defense_with_nothing_to_ask_shows_nothing() -> None:
    found = check_defense(registry.get("defenses", "krum")(f=1))
    assert "nothing was shown" in table(found)
    assert "needs a server with a model" in " ".join(table(found, every=True).split())


def test_a_stage_that_breaks_fails_and_the_others_go_on() -> None:
    class Breaks(PairwiseMasks):
        def mask(self, seed: int, count: int):
            raise OSError("no entropy")

    found = check_defense(Breaks())
    assert {result.outcome for result in found.results} == {"fails", "does not apply"}
    assert all("no entropy" in result.found for result in found.results if result.outcome == "fails")


def test_the_bench_is_a_federation_whose_rounds_are_right() -> None:
    bench = Bench(registry.get("defenses", "clip")(c=100.0))
    done = bench.round(bench.stages(), bench.updates(), bench.weights())
    torch.testing.assert_close(done.mean, done.right, atol=1e-7, rtol=0)
    assert done.weight == 78.0
    assert bench.defense.emits in (None, Kind.PLAIN)


OWN = """
from dataclasses import dataclass
from typing import Annotated, ClassVar
from pydantic import Field
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Defense, Guarantee


@dataclass(frozen=True, kw_only=True)
class Rounding(Defense):
    name: ClassVar[str] = "rounding"
    summary: ClassVar[str] = "Rounds"
    family: ClassVar[str] = "compression"
    cost: ClassVar[str] = "accuracy"
    guarantee: ClassVar[Guarantee] = Guarantee(protects="digits", against="readers", assuming="nothing")

    sure: Annotated[bool, Field(description="claim to be unbiased")] = False

    def claims(self, setting):
        return {"estimator": "unbiased" if self.sure else "biased"}

    def seal(self, update, context):
        return Plain((update.values / 0.01).round() * 0.01, update.weights)
"""


def test_sizes_of_another_federation_are_no_fault() -> None:
    """A ring with room for equal weights only, and a minimum above the clients of the bench."""
    found = check_defense(SecureAggregation(max_weight=1, minimum_cohort=36, value_range=4.0, bits=16))
    assert found.failed == ()
    assert found.parameters["minimum_cohort"] == 3
    assert found.parameters["max_weight"] >= 12
    assert check_defense(SecureAggregation()).parameters["max_weight"] == 1024
