import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.data.characters import speeches
from fedsec.data.text import SST2, AGNews, CoLA, TinyShakespeare
from fedsec.data.tokens import PADDING, UNKNOWN, Vocabulary, split_words
from fedsec.errors import DataError


def put(root, path, text):
    file = root / "text" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_words_numbers_and_marks():
    assert split_words("Don't pay $12.50, Zoë_!") == ["don't", "pay", "$", "12", ".", "50", ",", "zoë", "_", "!"]


def test_the_vocabulary_holds_the_most_frequent_words():
    words = Vocabulary.most_frequent([["b", "a", "a"], ["c", "b"]], size=4)
    assert words.words == ("<pad>", "<unk>", "a", "b")
    assert words.encode([["a", "c", "b", "a"], ["b"], []], length=3).tolist() == [[2, 1, 3], [3, 0, 0], [0, 0, 0]]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=8), min_size=1, max_size=8), st.integers(3, 10))
def test_known_words_come_back(sentences, size):
    words = Vocabulary.most_frequent(sentences, size=size)
    ids = words.encode(sentences, length=8)
    assert int(ids.max()) < len(words) <= size
    for row, sentence in zip(ids, sentences, strict=True):
        known = [word if word in words.words else "<unk>" for word in sentence]
        assert words.decode(row) == " ".join(known)


def test_sst2_is_read_as_it_stands(tmp_path):
    put(tmp_path, "sst2/train.tsv", "sentence\tlabel\nit 's \" good \t1\nbad bad film \t0\n")
    put(tmp_path, "sst2/validation.tsv", "sentence\tlabel\ngood film \t1\n")
    source = SST2(length=4, vocabulary=100)
    data = source.load(tmp_path)
    words = source.words(tmp_path)
    assert words.decode(data.train.x[0]) == "it 's \" good"
    assert data.train.y.tolist() == [1, 0]
    assert data.info.input_shape == (4,)
    assert data.info.vocabulary == len(words) == 8
    assert data.test.x[0, 2:].tolist() == [PADDING, PADDING]


def test_cola_clients_are_publications(tmp_path):
    put(tmp_path, "cola/in_domain_train.tsv", "gj04\t1\t\tFred slept.\nad03\t0\t*\tslept Fred.\n")
    put(tmp_path, "cola/in_domain_dev.tsv", "gj04\t1\t\tFred ran.\n")
    put(tmp_path, "cola/out_of_domain_dev.tsv", "clc95\t1\t\tFred?")
    data = CoLA().load(tmp_path)
    values = data.info.attributes[0].values
    assert [values[code] for code in data.train.attributes["publication"]] == ["gj04", "ad03"]
    assert [values[code] for code in data.test.attributes["publication"]] == ["gj04", "clc95"]
    assert data.test.x[0, :3].tolist().count(UNKNOWN) == 1
    put(tmp_path, "cola/in_domain_dev.tsv", "new\t1\t\tFred ran.\n")
    with pytest.raises(DataError, match="'new' is none of"):
        CoLA().load(tmp_path)


def test_ag_news_marks_are_undone(tmp_path):
    put(tmp_path, "ag-news/train_subset.tsv", '"It #39;s ""big""\\now"\tSports\nOil &amp; gas\tBusiness\n')
    put(tmp_path, "ag-news/test.tsv", "It\tWorld\n")
    source = AGNews(length=8)
    data = source.load(tmp_path)
    assert source.words(tmp_path).decode(data.train.x[0]) == 'it\'s " big " now'
    assert source.words(tmp_path).decode(data.train.x[1]) == "oil & gas"
    assert data.train.y.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("good\t1\n", "sentence<TAB>label"),
        ("sentence\tlabel\n", "must follow"),
        ("sentence\tlabel\ngood\n", "line 2 has 1 cells"),
        ("sentence\tlabel\ngood\t2\n", "'2' is none of 0, 1"),
    ],
)
def test_damaged_text_is_named(tmp_path, text, word):
    file = put(tmp_path, "sst2/train.tsv", text)
    put(tmp_path, "sst2/validation.tsv", "sentence\tlabel\ngood film \t1\n")
    with pytest.raises(DataError, match=word) as caught:
        SST2().load(tmp_path)
    assert str(file) in str(caught.value)


PLAY = "First Citizen:\nSpeak: now.\n\nAll:\nYes,\nspeak.\n\nFirst  Citizen:\nWell.\n"


def test_speeches_belong_to_their_speakers():
    assert speeches(PLAY) == {"First Citizen": "Speak: now.\nWell.", "All": "Yes,\nspeak."}


def test_windows_are_disjoint_and_targets_one_later(tmp_path):
    put(tmp_path, "tinyshakespeare/input.txt", (PLAY + "\n") * 4)
    source = TinyShakespeare(length=3)
    data = source.load(tmp_path)
    assert torch.equal(data.train.x[:, 1:], data.train.y[:, :-1])
    words = source.words()
    said = speeches((PLAY + "\n") * 4)
    whole = {words.decode([*x, y[-1]], separator="") for x, y in zip(data.train.x, data.train.y, strict=True)}
    assert whole <= {text[start : start + 4] for text in said.values() for start in range(0, len(text), 4)}
    assert data.info.attributes[0].values == ("First Citizen", "All")
    assert data.info.classes[2:4] == ("\n", " ")


def test_a_file_without_speeches_is_refused(tmp_path):
    put(tmp_path, "tinyshakespeare/input.txt", "nothing")
    with pytest.raises(DataError, match="0 windows"):
        TinyShakespeare().load(tmp_path)
