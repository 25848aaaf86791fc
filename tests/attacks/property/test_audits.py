"""Property inference inside whole audits."""

import os

import pytest

from fedsec.audit.api import Audit
from fedsec.config import config_from
from fedsec.data import cache


def run(tmp_path, federation, attacks, defenses=("none",), seeds=(0,)):
    raw = {
        "version": 1,
        "name": "property",
        "federation": federation,
        "attacks": attacks,
        "defenses": list(defenses),
        "seeds": list(seeds),
        "device": "cpu",
    }
    return Audit(config_from(raw)).run(tmp_path, jobs=0, progress="none")


DIGITS = {
    "dataset": {"name": "digits", "train": 600, "auxiliary": 390, "test": 100},
    "partition": {"name": "attribute-mix", "properties": ["ink"], "size": 30},
    "model": {"name": "mlp", "hidden": [24]},
    "clients": 10,
    "rounds": 8,
    "evaluate_every": 8,
    "local": {"epochs": 1, "batch_size": 10, "learning_rate": 0.2},
}


def test_who_sees_what(tmp_path):
    result = run(
        tmp_path,
        DIGITS | {"clients_per_round": 3},
        [
            {"name": "property-inference", "label": "uploads", "rounds_used": 8, "shadow_updates": 40},
            {"name": "property-inference-aggregate", "label": "sums", "shadow_updates": 40},
            {"name": "property-inference-aggregate", "label": "member", "position": "client:0", "shadow_updates": 40},
        ],
        ("none", "ckks"),
    )
    assert {"auc", "permuted", "labels"} <= set(result["uploads", "none"]["metrics"])
    # behind secure sums the server reads nothing and a holder of the key reads every round's sum
    assert result["uploads", "ckks"]["status"] == "blocked"
    assert result["sums", "ckks"]["status"] == "blocked"
    assert result["member", "ckks"]["status"] == "measured"
    open_sums, member = (result[a, s]["metrics"]["auc"] for a, s in (("sums", "none"), ("member", "ckks")))
    assert member["n"] == open_sums["n"]


def test_an_active_participant_reads_the_rounds_it_is_in(tmp_path):
    result = run(
        tmp_path,
        DIGITS | {"clients_per_round": 4},
        [{"name": "property-inference-active", "fraction": 0.4, "shadow_updates": 20}],
    )
    finding = result["property-inference-active", "none"]
    assert finding["status"] == "measured"
    assert finding["metrics"]["auc"]["n"] <= 8


def test_a_released_model_is_guessed_once(tmp_path):
    result = run(
        tmp_path,
        DIGITS | {"partition": {"name": "attribute-skew", "attribute": "ink", "majority": 0.9}, "rounds": 3},
        [{"name": "property-inference-model", "shadows": 8, "assumed_examples": 30}],
    )
    metric = result["property-inference-model", "none"]["metrics"]["guessed"]
    assert metric["value"] in (0.0, 1.0)


@pytest.mark.parametrize(("name", "said"), [("age", "has no attribute 'age'"), ("ink=blue", "no value 'blue'")])
def test_what_the_dataset_does_not_tell_is_not_applicable(tmp_path, name, said):
    result = run(tmp_path, DIGITS | {"rounds": 1}, [{"name": "property-inference", "property": name}])
    finding = result["property-inference", "none"]
    assert finding["status"] == "not applicable"
    assert said in finding["reason"]


def test_sex_race_and_age_band_on_adult(tmp_path):
    if not os.environ.get("FEDSEC_DATA") or cache.status("adult") != "present":
        pytest.skip("the files of adult are not under FEDSEC_DATA")
    result = run(
        tmp_path,
        {
            "dataset": {"name": "adult", "train": 20000, "auxiliary": 4000, "test": 200},
            "partition": {"name": "attribute-mix", "properties": ["sex", "race!=0", "age-band=2"], "size": 60},
            "model": {"name": "mlp", "hidden": [16]},
            "clients": 10,
            "rounds": 3,
            "local": {"epochs": 1, "batch_size": 10, "learning_rate": 0.2},
        },
        [{"name": "property-inference", "properties": ["sex", "race!=White", "age-band=40 to 59"]}],
    )
    metrics = result["property-inference", "none"]["metrics"]
    for name in ("sex", "race!=White", "age-band=40-to-59"):
        assert metrics[f"auc:{name}"]["value"] > 0.75, name
        control = metrics[f"permuted:{name}"]
        assert control["low"] <= 0.5 <= control["high"]
        # the clients' labels are alike, so the property is not read off them
        assert metrics[f"labels:{name}"]["low"] <= 0.5


def test_a_group_of_people_on_faces_is_its_own_label(tmp_path):
    if not os.environ.get("FEDSEC_DATA") or cache.status("orl-faces") != "present":
        pytest.skip("the files of orl-faces are not under FEDSEC_DATA")
    group = "|".join(f"s{number}" for number in range(1, 21))
    codes = "|".join(str(number) for number in range(20))
    asked = {"name": "property-inference", "property": f"subject={group}", "shadow_updates": 40}
    result = run(
        tmp_path,
        {
            "dataset": {"name": "orl-faces", "shrink": 4, "auxiliary": 100, "test": 80},
            "partition": {
                "name": "attribute-mix",
                "properties": [f"subject={codes}"],
                "size": 18,
                "match_labels": False,
            },
            "model": {"name": "mlp", "hidden": [16]},
            "clients": 10,
            "rounds": 2,
            "local": {"epochs": 1, "batch_size": 5, "learning_rate": 0.05},
        },
        [asked | {"label": "matched"}, asked | {"label": "plain", "match_labels": False}],
    )
    # the class is the person, so no class has both kinds, and what is read is read off the labels
    assert result["matched", "none"]["status"] == "not applicable"
    metrics = result["plain", "none"]["metrics"]
    assert metrics["auc"]["value"] > 0.9
    assert metrics["labels"]["value"] > 0.9
