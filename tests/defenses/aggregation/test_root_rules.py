"""FLTrust as a defense: known answers with a server that says what its root update is, and what it rests on."""

import dataclasses

import pytest
import torch

from fedsec.defenses.aggregation import fltrust
from fedsec.defenses.aggregation.root_rules import FLTrust
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext, Setting
from fedsec.randomness import generator

LAYOUT = Layout((Slot("w", (3,), 0, 3, True),))


@dataclasses.dataclass
class Root:
    """A server whose training gives what it is told to."""

    update: torch.Tensor
    asked: list = dataclasses.field(default_factory=list)

    def root(self, count):
        self.asked.append(count)
        return "examples"

    def train(self, model, examples, *, draw):
        assert examples == "examples"
        self.asked.append(draw)
        return self.update


def context(server, number=4):
    return RoundContext(
        round=number, rounds=5, clients=(), layout=LAYOUT, population=20, cohort=10.0, sampling="all", seed=1,
        model=torch.zeros(3), server=server,
    )  # fmt: skip


def run(values, ctx, weights=None):
    weights = torch.ones(len(values)) if weights is None else weights
    return FLTrust(root_size=7).aggregate(Cohort([(tuple(range(len(values))), Plain(values, weights))]), ctx)


def test_known_answer():
    """Cosines to (2, 0, 0) are 1, 0.6, 0 and -1; the trusted are rescaled to length 2 and weigh 1 and 0.6."""
    server = Root(torch.tensor([2.0, 0.0, 0.0]))
    U = torch.tensor([[5.0, 0.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 9.0], [-1.0, 0.0, 0.0]])
    ctx = context(server)
    result = run(U, ctx, torch.tensor([1.0, 2.0, 4.0, 8.0]))
    expected = (torch.tensor([2.0, 0, 0]) + 0.6 * torch.tensor([1.2, 1.6, 0])) / 1.6
    torch.testing.assert_close(result.values[0], expected)
    assert result.weights.tolist() == [3.0]
    assert {k for k in ctx.report if k.startswith("excluded")} == {"excluded:2", "excluded:3"}
    assert [ctx.report[f"score:{c}"] for c in range(4)] == pytest.approx([0.0, 0.4, 1.0, 2.0], abs=1e-6)
    assert ctx.report["root norm"] == 2.0
    assert server.asked == [7, 4]  # the root's size, and another draw each round


def test_it_is_its_rule_and_length_buys_nothing():
    U, root = torch.randn(9, 3, generator=generator(0, "root")), torch.tensor([1.0, 2.0, 3.0])
    found = run(U, context(Root(root))).values[0]
    torch.testing.assert_close(found, fltrust(U, root))
    torch.testing.assert_close(run(U * torch.arange(1.0, 10.0).unsqueeze(1), context(Root(root))).values[0], found)


def test_a_round_that_nobody_trusts_is_skipped():
    ctx = context(Root(torch.tensor([1.0, 0, 0])))
    assert not run(torch.tensor([[-1.0, 0, 0], [0, 1.0, 0], [0, 0, 0]]), ctx).values.any()
    assert ctx.report["skipped"] == 1.0
    assert ctx.report["excluded:0"] == 1.0


def test_a_majority_of_attackers_is_held_off():
    root = torch.tensor([1.0, 0, 0])
    U = torch.cat([root.repeat(2, 1), -50 * root.repeat(8, 1)])
    torch.testing.assert_close(run(U, context(Root(root))).values[0], root)


def test_a_root_of_another_task_trusts_the_wrong_ones():
    """The root points where the attackers do; nothing else is known of what is right."""
    honest, wrong = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([-1.0, 0.1, 0.0])
    ctx = context(Root(wrong))
    result = run(torch.cat([honest.repeat(8, 1), -honest.repeat(2, 1)]), ctx)
    assert float(result.values[0] @ honest) < 0
    assert all(f"excluded:{c}" in ctx.report for c in range(8))


def test_too_few_clean_examples_are_refused_with_a_hint():
    setting = Setting(
        population=20, cohort=10, rounds=5, sampling="fixed", layout=LAYOUT, local_steps=1, batch_size=None,
        has_batch_norm=False, task="classification", bounds=None, stack=("fltrust",), public=30,
    )  # fmt: skip
    assert not FLTrust(root_size=30).problems(setting)
    ((found, hint),) = FLTrust().problems(setting)
    assert "100 clean examples" in found
    assert "auxiliary: 100" in hint
    assert "root_size: 30" in hint


@pytest.mark.parametrize("missing", [{"server": None}, {"model": None}])
def test_it_says_so_if_it_has_no_server_or_no_model(missing):
    ctx = dataclasses.replace(context(Root(torch.ones(3))), **missing)
    with pytest.raises(ValueError, match="clean examples"):
        run(torch.ones(3, 3), ctx)
