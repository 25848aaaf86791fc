import pytest
import torch
from torch import nn

from fedsec.attacks.evasion import pgd
from fedsec.data.embedded import Digits
from fedsec.data.examples import Examples
from fedsec.defenses.adversarial.ensemble import Ensemble, EnsembleOfArchitectures
from fedsec.defenses.adversarial.pgd_training import PGDTraining
from fedsec.federation.rounds import Federation
from fedsec.federation.shards import Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.convolutional import LeNet
from fedsec.models.dense import MLP, Softmax
from fedsec.models.flat import FlatModel
from fedsec.parameters import rebuild

from ...federation.conftest import build
from .small_lanes import trained
from .test_input_restriction import setting

INFO = Digits().load(None).info
SMALL = MLP(hidden=(12,))


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def ensemble(**kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(3)
        own = Softmax().build(INFO)
        whole = EnsembleOfArchitectures(**{"second": SMALL, **kwargs}).architecture(own, INFO)
    return own, whole


def flat(module):
    return FlatModel.of(module, task="classification", name="net")


def pool(count=40):
    return Examples(drawn(count, *INFO.input_shape), torch.arange(count) % len(INFO.classes))


@pytest.mark.parametrize(("weights", "shares"), [((), (0.5, 0.5)), ((3.0, 1.0), (0.75, 0.25))])
def test_probabilities_are_the_weighted_mean_of_the_members(weights, shares):
    _, whole = ensemble(weights=weights)
    x = drawn(7, *INFO.input_shape)
    first, second = (member(x).softmax(1) for member in whole.eval().members)
    found = whole(x)
    assert torch.allclose(found.exp(), shares[0] * first + shares[1] * second, atol=1e-6)
    assert torch.allclose(found.softmax(1), found.exp(), atol=1e-6)


def test_sure_members_that_disagree_give_finite_logits_with_gradients():
    class Sure(nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.sign = sign

        def forward(self, x):
            return torch.stack([self.sign * 1000 * x.sum(1), -self.sign * 1000 * x.sum(1)], 1)

    whole = Ensemble([Sure(1), Sure(-1)], [2.0, 1.0], 2).eval()
    x = drawn(3, 4).requires_grad_()
    assert torch.allclose(whole(x).exp(), torch.tensor([2 / 3, 1 / 3]).expand(3, 2))
    assert whole(x).isfinite().all()


@pytest.mark.parametrize("engine", ["sequential", "stacked"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_each_member_trains_as_if_it_were_alone(engine, optimizer):
    own, whole = ensemble()
    local = LocalTraining(epochs=2, batch_size=8, learning_rate=0.05, optimizer=optimizer)
    shards = [Shard(pool(), torch.arange(0, 20)), Shard(pool(), torch.arange(20, 40))]
    together, _ = trained(flat(whole), local, (), shards, [1, 2], engine=engine)
    alone = [trained(flat(member), local, (), shards, [1, 2])[0] for member in whole.members]
    assert torch.allclose(together, torch.cat(alone, 1), atol=1e-6)
    assert float(together.abs().max()) > 1e-3
    del own


def test_engines_agree_with_dropout_and_convolutions_and_adversarial_training():
    _, whole = ensemble(second=MLP(hidden=(12,), dropout=0.3), third=MLP(hidden=(12,), dropout=0.3))
    local = LocalTraining(epochs=1, batch_size=8, learning_rate=0.1)
    shards = [Shard(pool(), torch.arange(0, 20)), Shard(pool(), torch.arange(20, 40))]
    hooks = (PGDTraining(eps=0.1, steps=2, random_start=False),)
    one, two = (trained(flat(whole), local, hooks, shards, [1, 2], engine=e)[0] for e in ("sequential", "stacked"))
    # a signed step may fall to the other side where a gradient is zero up to rounding
    assert float((one - two).abs().mean()) < 1e-5
    salts = [part.salt for part in flat(whole).module.modules() if hasattr(part, "salt")]
    assert len(set(salts)) == 2


def test_the_federation_is_composed_once_from_its_own_initial_model(setup_of_digits):
    setup = setup_of_digits
    stack = (EnsembleOfArchitectures(second=SMALL),)
    composed = setup.of_stack(stack)
    own = setup.model.layout.size
    assert composed.model.layout.size > own
    assert torch.equal(composed.initial[:own], setup.initial)
    assert composed.of_stack(stack) is composed
    assert torch.equal(setup.of_stack(stack).initial, composed.initial)
    assert setup.of_stack((PGDTraining(),)) is setup
    assert composed.model.name == "ensemble+softmax"
    assert setup.setting(stack).layout == composed.model.layout


@pytest.fixture
def setup_of_digits():
    return build(rounds=10, evaluate_every=10)


def test_a_federation_trains_it_and_an_attack_on_the_average_still_works(setup_of_digits):
    stack = (EnsembleOfArchitectures(second=SMALL),)
    result = Federation(setup_of_digits, stack).run()
    assert result.accuracy[-1] > 0.6
    model = setup_of_digits.of_stack(stack).model.instance(result.released)
    test = setup_of_digits.split.test
    found = pgd(model, test.x[:60], test.y[:60], eps=0.3, steps=10)
    assert float((model(found).argmax(1) == test.y[:60]).float().mean()) < 0.2


@pytest.mark.parametrize(
    ("defense", "change", "found"),
    [
        (EnsembleOfArchitectures(), {"task": "regression"}, "no probabilities"),
        (EnsembleOfArchitectures(weights=(1.0,)), {}, "2 members"),
        (EnsembleOfArchitectures(third=LeNet(), weights=(1.0, 0.0, 1.0)), {}, "above zero"),
        (EnsembleOfArchitectures(), {"stack": ("trades", "ensemble")}, "one per member"),
    ],
)
def test_what_cannot_work_is_refused(defense, change, found):
    problems = defense.problems(setting(**change))
    assert len(problems) == 1
    assert found in problems[0][0]


def test_nested_parameters_are_read_and_written_back():
    spec = EnsembleOfArchitectures(third=LeNet(), weights=(1.0, 2.0, 1.0)).spec()
    assert rebuild("defenses", spec) == EnsembleOfArchitectures(third=LeNet(), weights=(1.0, 2.0, 1.0))
