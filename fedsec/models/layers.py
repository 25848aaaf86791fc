"""One layer of a model by its name: its output alone, or a shift added to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from fedsec.errors import ConfigurationError, Problem


class _ReachedError(Exception):
    """Ends a forward pass at the layer that was asked for."""

    def __init__(self, output: Tensor) -> None:
        self.output = output


def find_layer(module: nn.Module, name: str) -> nn.Module:
    """The submodule of this name; the empty name is the whole module.

    Raises:
        ConfigurationError: there is none; it lists the names.
    """
    try:
        return module.get_submodule(name)
    except AttributeError:
        names = [known for known, _ in module.named_modules() if known]
        raise _misnamed(name, f"a layer of the model: {', '.join(names)}") from None


@contextmanager
def shifting(module: nn.Module, name: str, shift: Tensor) -> Iterator[None]:
    """Within, a forward pass adds ``shift`` to the output of a layer.

    Raises:
        ConfigurationError: there is no such layer, its output is no tensor, or a pass runs it not exactly once.
    """
    runs = 0

    def add(part: nn.Module, inputs: tuple[object, ...], output: object) -> Tensor:
        nonlocal runs
        runs += 1
        return _tensor(name, output) + shift

    handle = find_layer(module, name).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
    if runs != 1:
        raise ran(name, runs)


def run_until(module: nn.Module, name: str, call: Callable[[], object]) -> Tensor:
    """The output of a layer, from a forward pass ``call`` of the module that ends there.

    Raises:
        ConfigurationError: there is no such layer, its output is no tensor, or the pass does not run it.
    """

    def stop(part: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        raise _ReachedError(_tensor(name, output))

    handle = find_layer(module, name).register_forward_hook(stop)
    try:
        call()
    except _ReachedError as reached:
        return reached.output
    finally:
        handle.remove()
    raise ran(name, 0)


def ran(name: str, runs: int) -> ConfigurationError:
    """What to raise where a forward pass runs the named layer not exactly once."""
    return _misnamed(name, f"a layer that a forward pass runs once, and it runs this one {runs} times")


def _tensor(name: str, output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise _misnamed(name, f"a layer whose output is one tensor, and this gives a {type(output).__name__}")
    return output


def _misnamed(name: str, expected: str) -> ConfigurationError:
    return ConfigurationError([Problem(path="federation.model", found=name, expected=expected)])
