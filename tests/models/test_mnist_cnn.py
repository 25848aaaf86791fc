import pytest
import torch
from torch.nn import functional
from zoo import build, examples, info

from fedsec.errors import ConfigurationError
from fedsec.models.mnist_cnn import CnnMnist

DIGITS = info(shape=(1, 28, 28), classes=10)


def test_it_is_the_network_that_its_description_says():
    model = build(CnnMnist(), DIGITS)
    shapes = [tuple(slot.shape) for slot in model.layout.slots]
    sizes = [(20, 1, 5, 5), (20,), (50, 20, 5, 5), (50,), (500, 800), (500,), (10, 500), (10,)]
    assert shapes == sizes
    assert model.layout.size == 431_080

    data = examples(DIGITS, 6)
    start = torch.randn(model.layout.size, generator=torch.Generator().manual_seed(0)) * 0.05
    parts = [start[slot.start : slot.stop].view(slot.shape) for slot in model.layout.slots]
    hidden = (data.x - 0.1307) / 0.3081
    for place in (0, 2):
        hidden = functional.max_pool2d(functional.relu(functional.conv2d(hidden, parts[place], parts[place + 1])), 2, 2)
    hidden = functional.relu(functional.linear(hidden.reshape(6, 800), parts[4], parts[5]))
    logits = functional.linear(hidden, parts[6], parts[7])
    outputs = model.instance(start)(data.x)
    torch.testing.assert_close(outputs, logits)
    # the source ends in log_softmax and trains with NLLLoss: the same number
    loss = functional.nll_loss(functional.log_softmax(logits, dim=1), data.y)
    torch.testing.assert_close(model.loss(outputs, data.y).mean(), loss)


def test_inputs_are_standardised_by_its_parameters():
    data = examples(DIGITS, 3)
    plain, other = build(CnnMnist(mean=0.0, deviation=1.0), DIGITS), build(CnnMnist(mean=0.25, deviation=0.5), DIGITS)
    start = torch.randn(plain.layout.size, generator=torch.Generator().manual_seed(1)) * 0.05
    torch.testing.assert_close(other.instance(start)(data.x), plain.instance(start)((data.x - 0.25) / 0.5))


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ConfigurationError, match="16"):
        CnnMnist().build(info(shape=(1, 12, 12)))
