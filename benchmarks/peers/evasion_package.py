"""torchattacks, foolbox and ART behind one set of calls, each with its own copy of a network.

Foolbox and ART write gradients into the parameters of a model. Random starts come from the libraries themselves, after
a seed; `start` in the answer of ``pgd`` is the point that the library drew, with its own code and the same seed.
"""

import copy

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn


def network(kind, path):
    """A network with the weights of a file: the ``reference`` CNN for 28x28 images, or a ``small`` one for 8x8."""
    if kind == "small":
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 5))
    else:
        net = nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1568, 100),
            nn.ReLU(),
            nn.Linear(100, 10),
        )
    net.load_state_dict(load_file(path))
    return net.eval()


class Torchattacks:
    """torchattacks' attacks."""

    def __init__(self, net):
        import torchattacks

        self.package, self.model = torchattacks, copy.deepcopy(net)

    def fgsm(self, x, y, eps):
        """One step from the images."""
        return self.package.FGSM(self.model, eps=eps)(x, y), x

    def pgd(self, x, y, eps, step, steps, seed=None):
        """Signed steps from the images, or after a seed from the library's own draw."""
        attack = self.package.PGD(self.model, eps=eps, alpha=step, steps=steps, random_start=seed is not None)
        if seed is None:
            return attack(x, y), x
        torch.manual_seed(seed)
        found = attack(x, y)
        torch.manual_seed(seed)
        attack.steps = 0  # what is left is the start
        return found, attack(x, y)


class Foolbox:
    """foolbox's attacks; its results are those clipped to the bounds."""

    def __init__(self, net):
        import foolbox

        self.package = foolbox
        self.model = foolbox.PyTorchModel(copy.deepcopy(net), bounds=(0, 1), device="cpu")

    def _run(self, attack, x, y, eps=None):
        return attack(self.model, x.clone(), y, epsilons=eps)[1], x

    def fgsm(self, x, y, eps):
        """One step from the images."""
        return self._run(self.package.attacks.LinfFastGradientAttack(random_start=False), x, y, eps)

    def pgd(self, x, y, eps, step, steps, seed=None, norm="Linf"):
        """Signed steps from the images, or after a seed from the library's own draw."""
        made = getattr(self.package.attacks, f"{norm}ProjectedGradientDescentAttack")
        attack = made(abs_stepsize=step, steps=steps, random_start=seed is not None)
        if seed is None:
            return self._run(attack, x, y, eps)
        torch.manual_seed(seed)
        found, _ = self._run(attack, x, y, eps)
        torch.manual_seed(seed)
        start = made(abs_stepsize=step, steps=0, random_start=True)
        return found, self._run(start, x, y, eps)[0]

    def deepfool(self, x, y):
        """Its own settings, those of the paper."""
        return self._run(self.package.attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02), x, y)

    def carlini_wagner(self, x, y, searches, steps):
        """The Euclidean attack with the settings of the paper."""
        attack = self.package.attacks.L2CarliniWagnerAttack(
            binary_search_steps=searches, steps=steps, stepsize=0.01, confidence=0, initial_const=1e-3, abort_early=True
        )
        return self._run(attack, x, y)


class Art:
    """ART's evasion attacks."""

    def __init__(self, net):
        from art.estimators.classification import PyTorchClassifier

        classes = net[-1].out_features
        shape = (1, 28, 28) if classes == 10 else (1, 8, 8)
        self.classifier = PyTorchClassifier(
            copy.deepcopy(net),
            loss=nn.CrossEntropyLoss(),
            input_shape=shape,
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )

    def fgsm(self, x, y, eps):
        """One step from the images."""
        from art.attacks.evasion import FastGradientMethod

        attack = FastGradientMethod(self.classifier, eps=eps, batch_size=len(x))
        return torch.from_numpy(attack.generate(x.numpy(), y.numpy())), x

    def pgd(self, x, y, eps, step, steps, seed=None):
        """Signed steps from the images, or after a seed from the library's own draw."""
        from art.attacks.evasion import ProjectedGradientDescent
        from art.utils import random_sphere

        given = {"eps": eps, "eps_step": step, "max_iter": steps, "num_random_init": int(seed is not None)}
        attack = ProjectedGradientDescent(self.classifier, **given, batch_size=len(x), verbose=False)
        np.random.seed(seed)  # noqa: NPY002 (what ART draws from)
        found = torch.from_numpy(np.asarray(attack.generate(x.numpy(), y.numpy())))
        if seed is None:
            return found, x
        np.random.seed(seed)  # noqa: NPY002 (what ART draws from)
        drawn = random_sphere(len(x), x[0].numel(), eps, np.inf).reshape(x.shape).astype(np.float32)
        return found, (x + torch.from_numpy(drawn)).clamp(0, 1)


PEERS = {"torchattacks": Torchattacks, "foolbox": Foolbox, "ART": Art}
