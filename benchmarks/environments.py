"""Virtual environments of the peers, made on first use under ``bench-envs/`` (never committed)."""

import subprocess
import sys
import venv
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / "bench-envs"
PEERS = {
    "flower": ["flwr[simulation]==1.41.0", "ray==2.55.1"],
    "pfl": ["pfl==0.6.0"],
    "breaching": ["hydra-core==1.3.2", "scipy"],
    "byzfl": ["scipy", "matplotlib", "seaborn"],
    "rules": ["flwr==1.41.0", "cloudpickle", "scikit-learn"],
    "accounting": ["dp-accounting==0.6.0"],
    "evasion": ["foolbox==3.3.4", "scipy", "scikit-learn", "six", "tqdm", "packaging", "safetensors"],
}
WITHOUT_DEPENDENCIES = {
    "breaching": ["breaching==0.1.2"],
    "byzfl": ["byzfl==0.0.11"],
    "rules": ["byzpy==0.1.4", "fedml==0.9.6", "blades==0.0.13"],
    "evasion": ["torchattacks==3.5.1", "adversarial-robustness-toolbox==1.20.1"],
}
"""These ask for packages that what is measured does not use, such as torchvision, and some for an older torch."""
WITHOUT_TORCH = frozenset({"accounting"})


def python(name):
    """The interpreter of a peer's environment; torch goes in first, of our own version, if it is needed."""
    folder = ENVIRONMENTS / name
    interpreter = folder / "bin" / "python"
    ready = folder / ".ready"
    if not ready.exists():
        print(f"making {folder.relative_to(ROOT)}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        pinned = f"torch=={torch.__version__.split('+')[0]}"
        needed = [PEERS[name]] if name in WITHOUT_TORCH else [[pinned, "numpy"], [pinned, *PEERS[name]]]
        for wanted in needed:
            subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *wanted], check=True)
        if name in WITHOUT_DEPENDENCIES:
            alone = ["--no-deps", *WITHOUT_DEPENDENCIES[name]]
            subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *alone], check=True)
        ready.touch()
    return interpreter
