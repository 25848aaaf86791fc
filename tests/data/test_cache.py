import hashlib

import pytest

from fedsec.data import cache
from fedsec.data.holdings import EMBEDDED, HOLDINGS, File, Holding
from fedsec.errors import DataError


@pytest.fixture
def toy(monkeypatch):
    """A dataset of one file, so that no test depends on a real one."""
    content = b"rows\n"
    holding = Holding(
        folder="some/toy",
        files=(
            File(
                name="toy.csv",
                sha256=hashlib.sha256(content).hexdigest(),
                urls=("https://first.invalid/toy.csv", "https://second.invalid/toy.csv"),
            ),
        ),
    )
    monkeypatch.setattr(cache, "HOLDINGS", {"toy": holding, "by-hand": HOLDINGS["orl-faces"]})
    return content


@pytest.fixture
def web(monkeypatch, toy):
    """Stands in for the download: what each URL gives, or the error it raises."""
    import pooch

    answers, asked = {}, []

    def retrieve(url, known_hash, fname, path):
        asked.append(url)
        answer = answers[url]
        if isinstance(answer, Exception):
            raise answer
        if known_hash != f"sha256:{hashlib.sha256(answer).hexdigest()}":
            raise ValueError("SHA256 hash of downloaded file does not match the known hash")
        (path / fname).write_bytes(answer)
        return str(path / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    return answers, asked


def test_the_variable_says_where_data_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDSEC_DATA", str(tmp_path))
    assert cache.data_root() == tmp_path
    monkeypatch.delenv("FEDSEC_DATA")
    assert "fedsec" in str(cache.data_root())


def test_status_of_every_kind(toy, tmp_path):
    assert {cache.status(name) for name in EMBEDDED} == {"embedded"}
    assert cache.status("toy", tmp_path) == "missing"
    (tmp_path / "some/toy").mkdir(parents=True)
    assert cache.status("toy", tmp_path) == "missing"
    (tmp_path / "some/toy/toy.csv").write_bytes(b"")
    assert cache.status("toy", tmp_path) == "present"
    assert cache.locate("toy", tmp_path) == tmp_path / "some/toy"


def test_a_missing_file_says_where_and_what_to_type(toy, tmp_path):
    with pytest.raises(DataError) as caught:
        cache.locate("toy", tmp_path)
    for word in ("toy.csv", str(tmp_path / "some/toy"), "no such folder", "fedsec data fetch toy", "FEDSEC_DATA"):
        assert word in str(caught.value)


def test_unknown_and_embedded_names_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="there are adult"):
        cache.status("mnits", tmp_path)
    with pytest.raises(DataError, match="embedded"):
        cache.fetch("digits", tmp_path)


def test_fetching_takes_the_first_place_that_answers(web, toy, tmp_path):
    answers, asked = web
    answers["https://first.invalid/toy.csv"] = OSError("no route to host")
    answers["https://second.invalid/toy.csv"] = toy
    folder = cache.fetch("toy", tmp_path)
    assert (folder / "toy.csv").read_bytes() == toy
    assert len(asked) == 2
    cache.fetch("toy", tmp_path)
    assert len(asked) == 2


def test_offline_is_an_error_that_says_what_to_do(web, tmp_path):
    answers, _ = web
    for url in ("https://first.invalid/toy.csv", "https://second.invalid/toy.csv"):
        answers[url] = ConnectionError("name resolution failed")
    with pytest.raises(DataError, match="copy the file to") as caught:
        cache.fetch("toy", tmp_path)
    assert "name resolution failed" in str(caught.value)


def test_other_bytes_are_not_accepted(web, tmp_path):
    answers, _ = web
    for url in ("https://first.invalid/toy.csv", "https://second.invalid/toy.csv"):
        answers[url] = b"something else"
    with pytest.raises(DataError, match="hash"):
        cache.fetch("toy", tmp_path)
    assert cache.status("toy", tmp_path) == "missing"


def test_a_dataset_without_a_canonical_file_says_how_to_get_it(toy, tmp_path):
    with pytest.raises(DataError, match="cannot be fetched automatically") as caught:
        cache.fetch("by-hand", tmp_path)
    assert "PGM" in str(caught.value)
    assert str(tmp_path / "faces-orl") in str(caught.value)


@pytest.mark.parametrize("name", sorted(HOLDINGS))
def test_every_file_has_a_checksum_and_a_way_to_get_it(name):
    holding = HOLDINGS[name]
    for file in holding.files:
        assert len(bytes.fromhex(file.sha256)) == 32
        assert file.urls or holding.manual
        assert all(url.startswith(("https://", "http://")) for url in file.urls)


def test_every_dataset_with_files_has_a_holding():
    from importlib.metadata import entry_points

    names = {entry.name for entry in entry_points(group="fedsec.datasets") if entry.value.startswith("fedsec.data.")}
    assert names == set(HOLDINGS) | set(EMBEDDED)


def test_a_refused_connection_is_no_traceback(monkeypatch, tmp_path):
    file = File(name="toy.csv", sha256="0" * 64, urls=("http://127.0.0.1:9/toy.csv",))
    monkeypatch.setattr(cache, "HOLDINGS", {"toy": Holding(folder="toy", files=(file,))})
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9.*ConnectionError"):
        cache.fetch("toy", tmp_path)
