import sys

import pytest
import torch
from torch import nn

from fedsec.data.embedded import Digits
from fedsec.data.user import load_dataset, load_model, load_object
from fedsec.errors import ConfigurationError, DataError, PluginError

DATASET = """
import torch
from fedsec.data.examples import Dataset, DatasetInfo, Examples

INFO = DatasetInfo(name="own", summary="", task="classification", input_shape=(2,), classes=("a", "b"),
                   bounds=(0.0, 1.0), modality="tabular")

def load(rows=4, high=1.0):
    e = Examples(torch.full((rows, 2), high), torch.arange(rows) % 2)
    return Dataset(info=INFO, train=e, test=e, fingerprint="")

def nothing():
    return 3

def broken():
    raise ValueError("the disk is on fire")

NUMBER = 5
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for modules whose names leave no trace behind."""
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_function_beside_the_audit_file_is_found(folder):
    (folder / "own_data.py").write_text(DATASET)
    path = list(sys.path)
    data = load_dataset("own_data:load", base=folder, parameters={"rows": 6})
    assert len(data.train) == 6
    assert len(data.fingerprint) == 64
    assert sys.path == path


def test_installed_objects_need_no_folder():
    assert load_object("fedsec.data.embedded:Digits") is Digits


@pytest.mark.parametrize("target", ["own_data", "own_data:", ":load", "own data:load", "a/b:load", ""])
def test_text_of_another_form_is_refused(target):
    with pytest.raises(ConfigurationError, match="module:name"):
        load_object(target)


def test_what_is_missing_is_named(folder):
    (folder / "own_missing.py").write_text(DATASET)
    (folder / "needs_other.py").write_text("import a_package_nobody_has\n")
    (folder / "no_python.py").write_text("def (:\n")
    with pytest.raises(PluginError, match="no module 'not_there'"):
        load_object("not_there:load", base=folder)
    with pytest.raises(PluginError, match="needs 'a_package_nobody_has'"):
        load_object("needs_other:load", base=folder)
    with pytest.raises(PluginError, match="SyntaxError"):
        load_object("no_python:load", base=folder)
    with pytest.raises(PluginError, match=r"it has .*load"):
        load_object("own_missing:laod", base=folder)


def test_a_wrong_result_is_refused(folder):
    (folder / "own_wrong.py").write_text(DATASET)
    with pytest.raises(PluginError, match=r"found builtins\.int"):
        load_dataset("own_wrong:nothing", base=folder)
    with pytest.raises(PluginError, match="disk is on fire"):
        load_dataset("own_wrong:broken", base=folder)
    with pytest.raises(PluginError, match="must be a function"):
        load_dataset("own_wrong:NUMBER", base=folder)
    with pytest.raises(PluginError, match="unexpected keyword"):
        load_dataset("own_wrong:load", base=folder, parameters={"columns": 3})
    with pytest.raises(DataError, match="inputs run from 2"):
        load_dataset("own_wrong:load", base=folder, parameters={"high": 2.0})
    with pytest.raises(PluginError, match=r"torch\.nn\.Module"):
        load_model("own_wrong:nothing", base=folder, info=Digits.info)


def test_models_may_ask_for_the_info_or_not(folder):
    (folder / "own_model.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, info, width=1):\n"
        "        super().__init__(64, len(info.classes) * width)\n"
        "def plain(width=3):\n"
        "    return nn.Linear(2, width)\n"
    )
    net = load_model("own_model:Net", base=folder, info=Digits.info, parameters={"width": 2})
    assert isinstance(net, nn.Linear)
    assert net.out_features == 20
    plain = load_model("own_model:plain", base=folder, info=Digits.info)
    assert isinstance(plain, nn.Linear)
    assert plain(torch.zeros(1, 2)).shape == (1, 3)


def test_a_file_whose_name_is_taken_is_refused_not_ignored(folder):
    (folder / "json.py").write_text(DATASET)
    with pytest.raises(PluginError, match="is taken by"):
        load_object("json:load", base=folder)
