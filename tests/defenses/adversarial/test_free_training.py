import pytest
import torch
from torch import nn

from fedsec.data.examples import Examples
from fedsec.defenses.adversarial.free_training import FreeTraining
from fedsec.federation.shards import Shard, local_order
from fedsec.federation.training import LocalTraining
from fedsec.models.lanes import gradient_step

from .small_lanes import batch, close, dense, flat, lanes_of, trained

CONV = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def pool_of(n=21, shape=(1, 8, 8), classes=3):
    x, y = batch(lanes=1, size=n, shape=shape, classes=classes)
    return Examples(x[0], y[0])


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize("layers", [CONV, (nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))])
def test_one_replay_without_size_is_sgd_bit_for_bit(layers, optimizer):
    model, pool = flat(*layers), pool_of()
    local = LocalTraining(epochs=2, batch_size=8, learning_rate=0.1, optimizer=optimizer)
    free, _ = trained(model, local, [FreeTraining(replays=1, eps=0.0)], [Shard.of(pool)], [4])
    plain, _ = trained(model, local, [], [Shard.of(pool)], [4])
    assert torch.equal(free, plain)
    sized, _ = trained(model, local, [FreeTraining(replays=1, eps=0.1)], [Shard.of(pool)], [4])
    assert not torch.equal(sized, plain)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("engine", ["sequential", "stacked"])
def test_it_is_algorithm_1(engine, norm):
    """Written out: m replays of each batch, one backward pass for both, the perturbation carried and never reset."""
    model, pool, eps, m = flat(*CONV), pool_of(), 0.2, 3
    local = LocalTraining(epochs=3, batch_size=8, learning_rate=0.1)
    found, _ = trained(
        model, local, [FreeTraining(replays=m, eps=eps, norm=norm)], [Shard.of(pool)], [4], engine=engine
    )
    net = model.instance(model.vector())
    delta = torch.zeros(8, 1, 8, 8)
    order = local_order(Shard.of(pool), local, seed=4)
    assert len(order.bounds) == 9
    for first, last in order.bounds[:3]:
        x, y = pool.x[order.rows[first:last]], pool.y[order.rows[first:last]]
        for _ in range(m):
            inputs = (x + delta[: len(x)]).clamp(0, 1).requires_grad_()
            loss = nn.functional.cross_entropy(net(inputs), y)
            *gradients, uphill = torch.autograd.grad(loss, [*net.parameters(), inputs])
            with torch.no_grad():
                for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
                if norm == "linf":
                    moved = (delta[: len(x)] + eps * uphill.sign()).clamp(-eps, eps)
                else:
                    flat_uphill = uphill.flatten(1)
                    unit = (flat_uphill / flat_uphill.norm(dim=1, keepdim=True)).view_as(uphill)
                    moved = delta[: len(x)] + eps * unit
                    size = moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                    moved = moved * (eps / size).clamp_max(1.0)
                delta[: len(x)] = moved
    wanted = torch.cat([p.detach().reshape(-1) for p in net.parameters()]) - model.vector()
    torch.testing.assert_close(found[0], wanted, atol=1e-5, rtol=1e-4)


def test_the_perturbation_is_carried_boxed_and_forgotten_with_the_client():
    lanes, (x, y) = lanes_of(dense(nn.Linear(6, 2))), batch()
    seen = []

    def step(lanes, inputs, y):
        seen.append(inputs)
        return gradient_step(lanes, inputs, y)

    free = FreeTraining(eps=0.3).local(step)
    other, labels = batch(seed=9)
    edge = torch.where(other > 0.5, 1.0, 0.0)
    for inputs in (x, edge, x[:, :2]):
        free(lanes, inputs, labels[:, : inputs.shape[1]])
    assert torch.equal(seen[0], x)
    assert ((seen[1] - edge).abs() > 0.1).any()
    assert (seen[1].min(), seen[1].max()) == (0.0, 1.0)
    assert (seen[2] - x[:, :2]).abs().max() == pytest.approx(0.3, abs=1e-6)
    fresh = lanes_of(dense(nn.Linear(6, 2)))
    free(fresh, x, y)
    assert torch.equal(seen[-1], x)


def test_a_step_that_something_else_wraps_gives_the_same():
    lanes, (x, y) = lanes_of(dense(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 2))), batch()
    other = lanes_of(dense(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 2)))
    fused, apart = FreeTraining().local(gradient_step), FreeTraining().local(lambda *given: gradient_step(*given))
    for _ in range(3):
        close(fused(lanes, x, y), apart(other, x, y))
    assert torch.equal(lanes.recall("free-at", x), other.recall("free-at", x))


def test_it_reads_one_batch_in_m():
    pool = pool_of(40)
    read = []

    class Watch:
        def local(self, step):
            def wrapped(lanes, x, y):
                read.append((lanes.step, y))
                return step(lanes, x, y)

            return wrapped

    local = LocalTraining(epochs=2, batch_size=5, learning_rate=0.1)
    trained(flat(*CONV), local, [Watch(), FreeTraining(replays=8)], [Shard.of(pool)], [4])
    assert [step for step, _ in read] == list(range(16))
    assert all(torch.equal(read[i][1], read[0][1]) for i in range(8))
    assert all(torch.equal(read[i][1], read[8][1]) for i in range(8, 16))
