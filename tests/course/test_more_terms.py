"""The terms that came after `tutor` was trained: explained as the others are, and not among what it learned."""

import re
import tomllib
from importlib import resources

import pytest

from minivllm.course.glossary import terms
from minivllm.zoo.lexicon import load_lexicon


def read_toml(package, name):
    return tomllib.loads((resources.files(package) / name).read_text(encoding="utf-8"))["term"]


MORE = read_toml("minivllm.course", "more_terms.toml")
TAUGHT = read_toml("minivllm.zoo", "glossary.toml")


def test_the_model_is_taught_the_terms_of_its_own_file_and_no_others():
    assert [term.answer for term in load_lexicon().terms] == [term["answer"] for term in TAUGHT]
    assert {term["answer"] for term in MORE}.isdisjoint(term["answer"] for term in TAUGHT)


def test_the_book_has_both_kinds_and_each_later_term_in_its_place():
    order = [term.name for term in terms().values()]
    assert sorted(order) == sorted(term["name"] for term in TAUGHT + MORE)
    assert [name for name in order if name in {term["name"] for term in TAUGHT}] == [
        term["name"] for term in TAUGHT
    ]
    for term in MORE:
        assert order.index(term["name"]) == order.index(term["after"]) + 1


def test_chapters_never_go_back():
    chapters = [term.chapter for term in terms().values()]
    assert chapters == sorted(chapters)


def test_no_name_or_alias_means_two_things():
    names = [name.lower() for term in terms().values() for name in (term.name, *term.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("term", MORE, ids=lambda term: term["name"])
def test_an_explanation_is_short_and_names_its_term(term):
    assert set(term) == {"name", "aliases", "answer", "after"}
    answer = term["answer"]
    assert 8 <= len(answer.split()) <= 40 and answer.isascii() and answer.endswith(".")
    assert re.search(rf"\b{term['name']}\b", answer, re.I)
