"""A user's own dataset or model, named as ``module:function`` beside the audit file."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from fedsec.data.build import build_dataset
from fedsec.data.examples import Dataset, DatasetInfo
from fedsec.errors import ConfigurationError, PluginError, Problem


def load_object(target: str, *, base: Path | None = None) -> Any:
    """The object that ``package.module:name`` (or ``module:Class.name``) stands for.

    Args:
        target: module and name.
        base: folder of the audit file, searched before everything else while the module is imported.

    Raises:
        ConfigurationError: the text is not of this form.
        PluginError: the module cannot be imported, another module of that name is in the way, or the name is not in it.
    """
    module_name, _, name = target.partition(":")
    parts = [*module_name.split("."), *name.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise ConfigurationError(
            [
                Problem(
                    path="",
                    found=repr(target),
                    expected="a user's own object is written as module:name",
                    hint="For the function load in my_data.py beside the audit file, write my_data:load",
                )
            ]
        )
    module = _import(module_name, base=base)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = ", ".join(sorted(key for key in vars(module) if not key.startswith("_"))[:20])
            raise PluginError(f"{target}: {module_name} has no {name!r}; it has {public or 'no public names'}")
        found = getattr(found, part)
    return found


def load_dataset(target: str, *, base: Path | None = None, parameters: Mapping[str, Any] | None = None) -> Dataset:
    """The dataset that a user's function returns, checked, with its fingerprint computed from its contents.

    Args:
        target: ``module:function``; the function takes ``parameters`` and returns a `Dataset`
            (`fedsec.data.build.build_dataset` makes one). A `Dataset` that stands there already is taken as it is.
        base: folder of the audit file.
        parameters: keyword arguments of the function.

    Raises:
        ConfigurationError: the text is not of this form.
        PluginError: it cannot be imported, fails, or returns something else.
        DataError: the examples are not what the dataset's info says.
    """
    found = load_object(target, base=base)
    value = found if isinstance(found, Dataset) else _call(target, found, (), dict(parameters or {}), base=base)
    if not isinstance(value, Dataset):
        raise PluginError(
            f"{target}: must return a fedsec.data.examples.Dataset, found {_type_name(value)}; "
            "fedsec.data.build.build_dataset(info, train=..., test=...) makes one"
        )
    return build_dataset(value.info, train=value.train, test=value.test)


def load_model(
    target: str, *, info: DatasetInfo, base: Path | None = None, parameters: Mapping[str, Any] | None = None
) -> nn.Module:
    """The module that a user's function builds.

    Args:
        target: ``module:function`` or ``module:Class``; called with the dataset's info if it can take one positional
            argument, else without, and with ``parameters``.
        info: of the dataset that the model is for.
        base: folder of the audit file.
        parameters: keyword arguments.

    Raises:
        ConfigurationError: the text is not of this form.
        PluginError: it cannot be imported, fails, or returns something else.
    """
    found = load_object(target, base=base)
    keywords = dict(parameters or {})
    arguments = (info,) if _takes_positional(found, keywords) else ()
    value = _call(target, found, arguments, keywords, base=base)
    if not isinstance(value, nn.Module):
        raise PluginError(f"{target}: must return a torch.nn.Module, found {_type_name(value)}")
    return value


@contextlib.contextmanager
def _importing_from(base: Path | None) -> Iterator[None]:
    """The folder first on ``sys.path``, and gone again afterwards."""
    if base is None:
        yield
        return
    folder = str(base.resolve())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _import(name: str, *, base: Path | None) -> ModuleType:
    try:
        with _importing_from(base):
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            where = f" in {base.resolve()} or" if base is not None else ""
            raise PluginError(f"there is no module {name!r}{where} among the installed packages") from error
        raise PluginError(f"{name} cannot be imported: it needs {error.name!r}, which is not installed") from error
    except Exception as error:
        raise PluginError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    _refuse_namesake(module, name, base=base)
    return module


def _refuse_namesake(module: ModuleType, name: str, *, base: Path | None) -> None:
    """A module imported earlier under the same name must not stand in for the user's file."""
    if base is None:
        return
    stem = base.resolve().joinpath(*name.split("."))
    for own in (stem.with_suffix(".py"), stem / "__init__.py"):
        if own.is_file() and Path(module.__file__ or "").resolve() != own.resolve():
            raise PluginError(
                f"the name {name!r} of {own} is taken by {module.__file__ or 'a built-in module'}; rename the file"
            )


def _takes_positional(function: Any, keywords: Mapping[str, Any]) -> bool:
    """Whether a call may pass one positional argument beside these keywords."""
    try:
        signature = inspect.signature(function)
        signature.bind(None, **keywords)
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    first = next(iter(signature.parameters.values()), None)
    # an argument with a default, such as hidden=32, is no place for the info unless it is called so
    return (
        first is not None
        and first.kind in positional
        and (first.default is inspect.Parameter.empty or first.name == "info")
    )


def _call(
    target: str, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], *, base: Path | None
) -> Any:
    if not callable(function):
        raise PluginError(f"{target}: must be a function, found {_type_name(function)}")
    try:
        with _importing_from(base):
            return function(*arguments, **keywords)
    except Exception as error:
        raise PluginError(f"{target} failed: {type(error).__name__}: {error}") from error


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
