"""The glossary and the word lists that ship as data: their format, their limits, and that they contradict nothing."""

import re
import tomllib
from collections import Counter
from importlib import resources
from typing import Any

import pytest

STORY_LISTS = {
    "names": 60,
    "animals": 40,
    "places": 40,
    "objects": 60,
    "colours": 20,
    "foods": 30,
    "jobs": 30,
    "openings": 30,
}
TERM_KEYS = {"name", "aliases", "answer", "chapter", "see"}
CHINESE_KEYS = {"name_zh", "answer_zh"}


def read_toml(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("minivllm") / "zoo" / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def terms() -> list[dict[str, Any]]:
    return read_toml("glossary.toml")["term"]


@pytest.fixture(scope="module")
def words() -> dict[str, list[str]]:
    return read_toml("words.toml")


def squash(name: str) -> str:
    """The name without case, punctuation and plural s: "Logit" and "logits" are one term to a reader."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("s")


def repeated(items: list[str]) -> list[str]:
    return [item for item, count in Counter(items).items() if count > 1]


def test_there_are_enough_terms(terms: list[dict[str, Any]]) -> None:
    assert len(terms) >= 64


def test_every_term_has_exactly_the_known_keys(terms: list[dict[str, Any]]) -> None:
    for term in terms:
        keys = set(term)
        assert keys in (TERM_KEYS, TERM_KEYS | CHINESE_KEYS), (term["name"], keys)
        assert term["chapter"] in range(15), term["name"]


def test_names_are_unique_and_differ_by_more_than_a_plural(terms: list[dict[str, Any]]) -> None:
    assert repeated([term["name"].lower() for term in terms]) == []
    assert repeated([squash(term["name"]) for term in terms]) == []


def test_no_alias_is_another_name_or_given_twice(terms: list[dict[str, Any]]) -> None:
    owners: dict[str, str] = {squash(term["name"]): term["name"] for term in terms}
    for term in terms:
        assert repeated([alias.lower() for alias in term["aliases"]]) == [], term["name"]
        assert term["name"] not in term["aliases"]
        for alias in term["aliases"]:
            # a different spelling of the term's own name ("copy on write") is what an alias is for
            assert owners.setdefault(squash(alias), term["name"]) == term["name"], (alias, term["name"])


def test_see_names_other_terms_of_the_file(terms: list[dict[str, Any]]) -> None:
    names = {term["name"] for term in terms}
    for term in terms:
        assert set(term["see"]) <= names - {term["name"]}, term["name"]
        assert repeated(term["see"]) == [], term["name"]
        assert term["see"], f"{term['name']} leads nowhere"


def test_answers_are_short_plain_sentences(terms: list[dict[str, Any]]) -> None:
    for term in terms:
        answer = term["answer"]
        assert 8 <= len(answer.split()) <= 40, term["name"]
        assert (answer[0].isupper() and answer.endswith(".")) and answer == " ".join(answer.split()), term[
            "name"
        ]
        english = [term["name"], answer, *term["aliases"], *term["see"]]
        assert all(text.isascii() and text.isprintable() for text in english), term["name"]


def test_answers_are_unique_and_open_with_their_own_term(terms: list[dict[str, Any]]) -> None:
    assert repeated([term["answer"] for term in terms]) == []
    for term in terms:
        assert term["name"].lower() in term["answer"].lower(), (
            f"the answer to {term['name']} does not name it"
        )
    assert repeated([" ".join(term["answer"].split()[:6]) for term in terms]) == []


def test_the_main_terms_are_also_in_chinese(terms: list[dict[str, Any]]) -> None:
    chinese = [term for term in terms if "answer_zh" in term]
    assert len(chinese) >= 20
    assert repeated([term["name_zh"].lower() for term in chinese]) == []
    assert repeated([term["answer_zh"] for term in chinese]) == []
    for term in chinese:
        answer = term["answer_zh"]
        assert len(answer) <= 45 and answer.endswith("。") and answer.count("。") == 1, term["name"]
        assert re.search(r"[\u4e00-\u9fff]", answer), term["name"]
    kept = {term["name"]: term["name_zh"] for term in chinese}
    assert kept["PagedAttention"] == "PagedAttention"


def test_a_chinese_name_is_never_the_english_name_of_another_term(terms: list[dict[str, Any]]) -> None:
    owner = {text.lower(): term["name"] for term in terms for text in [term["name"], *term["aliases"]]}
    for term in terms:
        if "name_zh" in term:
            assert owner.get(term["name_zh"].lower(), term["name"]) == term["name"]


def test_word_lists_have_the_promised_sizes(words: dict[str, list[str]]) -> None:
    sizes = {key: len(value) for key, value in words.items()}
    assert sizes == {"listed": 500, "unseen": 300, **STORY_LISTS}


def test_no_list_repeats_itself(words: dict[str, list[str]]) -> None:
    for key, items in words.items():
        assert repeated([item.lower() for item in items]) == [], key
        assert all(item.isascii() and item == item.strip() for item in items), key


def test_listed_and_unseen_are_short_lower_case_words(words: dict[str, list[str]]) -> None:
    for word in words["listed"] + words["unseen"]:
        assert re.fullmatch(r"[a-z]{3,9}", word), word


def test_unseen_words_occur_nowhere_else(words: dict[str, list[str]], terms: list[dict[str, Any]]) -> None:
    practised = set(words["listed"])
    for term in terms:
        practised.update(
            re.findall(r"[a-z]+", " ".join([term["name"], *term["aliases"], term["answer"]]).lower())
        )
    for key in STORY_LISTS:
        for phrase in words[key]:
            practised.update(re.findall(r"[a-z]+", phrase.lower()))
    assert practised.isdisjoint(words["unseen"])


def test_a_story_word_belongs_to_one_kind(words: dict[str, list[str]]) -> None:
    kinds = ("names", "animals", "places", "objects", "colours", "foods", "jobs")
    assert repeated([word.lower() for kind in kinds for word in words[kind]]) == []


def test_places_and_openings_read_well_inside_a_sentence(words: dict[str, list[str]]) -> None:
    assert all(place.startswith("the ") and place.islower() for place in words["places"])
    assert all(text[0].isupper() and text[-1] in ",." for text in words["openings"])
    assert all(name.isalpha() and name.istitle() for name in words["names"])
