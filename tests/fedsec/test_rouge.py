from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.rouge import longest_common_subsequence, rouge_l, rouge_n

sentences = st.lists(st.integers(0, 4), max_size=9)


def slow_lcs(a, b):
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + slow_lcs(a[:-1], b[:-1])
    return max(slow_lcs(a[:-1], b), slow_lcs(a, b[:-1]))


@settings(deadline=None, max_examples=60)
@given(sentences, sentences)
def test_longest_common_subsequence_by_recursion(a, b):
    assert longest_common_subsequence(a, b) == slow_lcs(a, b)


@settings(deadline=None, max_examples=60)
@given(sentences, sentences, st.integers(1, 3))
def test_rouge_n_by_removing_one_gram_after_the_other(a, b, n):
    mine = [tuple(a[i : i + n]) for i in range(len(a)) if i + n <= len(a)]
    theirs = [tuple(b[i : i + n]) for i in range(len(b)) if i + n <= len(b)]
    left, common = list(theirs), 0
    for gram in mine:
        if gram in left:
            left.remove(gram)
            common += 1
    expected = 0.0
    if mine and theirs and common:
        precision, recall = common / len(mine), common / len(theirs)
        expected = 2 * precision * recall / (precision + recall)
    assert rouge_n(a, b, n=n) == pytest.approx(expected)


def test_known_values():
    # police killed the gunman / police kill the gunman / the gunman kill police (Lin 2004, section 3.1)
    true, near, far = [1, 2, 3, 4], [1, 5, 3, 4], [3, 4, 5, 1]
    assert rouge_l(near, true) == 0.75
    assert rouge_l(far, true) == 0.5
    assert rouge_n(near, true, n=2) == rouge_n(far, true, n=2) == pytest.approx(1 / 3)


@settings(deadline=None, max_examples=30)
@given(sentences)
def test_a_copy_is_perfect_and_nothing_is_nothing(a):
    assert rouge_l(a, a) == rouge_n(a, a, n=1) == (1.0 if a else 0.0)
    assert rouge_l(a, []) == rouge_n([], a, n=1) == 0.0
    assert Counter(a).total() == longest_common_subsequence(a, a)
