"""byzfl's aggregators and attacks without its benchmark package, which asks for torchvision when it is imported.

Nothing of byzfl is replaced: only ``byzfl/__init__.py``, which imports everything, is not run.
"""

import importlib.util
import sys
import types


def load():
    """The modules ``byzfl.aggregators`` and ``byzfl.attacks``."""
    package = types.ModuleType("byzfl")
    package.__path__ = list(importlib.util.find_spec("byzfl").submodule_search_locations)
    sys.modules["byzfl"] = package
    from byzfl import aggregators, attacks

    return aggregators, attacks
