"""Lets tests import the zoo of small models by name, also in the worker processes that they spawn."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "models"))
