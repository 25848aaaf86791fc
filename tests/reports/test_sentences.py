from __future__ import annotations

from fedsec import registry

render = registry.get("reports", "html")


def with_sentences(document, original):
    for finding in document["findings"]:
        if finding["attack"] == "dlg" and finding["status"] == "measured":
            finding["exhibits"] = {
                "sentences": {
                    "original": original,
                    "reconstruction": [["a", "<b>", "film", "film"], ["of"], []],
                    "score": [0.75, 0.3, 0.0],
                    "spaced": True,
                }
            }
    return render(document)


def test_words_of_the_true_sentence_are_marked_as_often_as_they_stand_there(document) -> None:
    page = with_sentences(document, [["a", "fine", "film"], ["x"], ["y"]])
    assert "<mark>a</mark> &lt;b&gt; <mark>film</mark> film" in page
    assert "a fine film" in page


def test_withheld_originals_are_not_given_away_by_marks(document) -> None:
    page = with_sentences(document, None)
    assert "<mark>" not in page
    assert "withheld" in page
