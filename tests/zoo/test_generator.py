"""The generated dialogues: the same from the same seed, and every answer right by a judge with no code of theirs."""

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from minivllm.zoo.cases import SKILLS, THRESHOLDS, cases
from minivllm.zoo.dialogue import SINGLES, Mixture, conversation, make_maker
from minivllm.zoo.lexicon import Lexicon, Phrasing, load_lexicon
from minivllm.zoo.skills import glossary, lookup, smalltalk, stories, told, words
from minivllm.zoo.skills.base import Exchange, careless_zh, with_articles

SEEDS = range(150)


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return load_lexicon()


def plain(text: str) -> str:
    """A question without case and marks."""
    return re.sub(r"[^\w{}]+", " ", text).strip().lower()


def phrasings(lexicon: Lexicon) -> Iterator[tuple[str, Phrasing]]:
    yield from lexicon.phrasings.items()
    yield from ((intent.name, intent.phrasing) for intent in lexicon.intents)
    yield from ((name, fact.phrasing) for name, fact in lexicon.told.items())
    yield from lexicon.elsewhere.items()


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_one_seed_gives_one_conversation(lexicon, split):
    def talk(seed: str) -> list[Exchange]:
        return conversation(make_maker(lexicon, seed, split), 300, Mixture())

    assert talk("a") == talk("a")
    assert talk("a") != talk("b")


def test_one_seed_gives_one_evaluation(lexicon):
    for skill in SKILLS:
        assert list(cases(lexicon, skill, 3)) == list(cases(lexicon, skill, 3))


def test_no_way_of_asking_is_both_trained_and_held_out(lexicon):
    for name, phrasing in phrasings(lexicon):
        assert phrasing.train and phrasing.held_out, name
        assert not {plain(text) for text in phrasing.train} & {plain(text) for text in phrasing.held_out}, (
            name
        )


def test_the_glossary_is_asked_in_forty_ways_and_ten_more(lexicon):
    ways = lexicon.phrasings["glossary"]
    assert len({plain(text) for text in ways.train}) >= 39  # "{t}" and "{t}?" are alike but for the mark
    assert len({plain(text) for text in ways.held_out}) == 10


def test_no_phrase_belongs_to_two_intents(lexicon):
    owners: dict[str, set[str]] = {}
    for intent in lexicon.intents:
        for text in (*intent.phrasing.train, *intent.phrasing.held_out):
            owners.setdefault(plain(text), set()).add(intent.name)
    assert {text: names for text, names in owners.items() if len(names) > 1} == {}


def test_unseen_words_are_never_trained(lexicon):
    unseen = set(lexicon.words["unseen"])
    for seed in SEEDS:
        for exchange in conversation(make_maker(lexicon, f"unseen:{seed}"), 400, Mixture()):
            assert not unseen & set(re.findall(r"[a-z]+", f"{exchange.user} {exchange.assistant}".lower()))


def listed_in(lexicon: Lexicon, operation: str, question: str) -> list[str]:
    """The words of a word game, by matching the question with every template of the operation."""
    ways = lexicon.phrasings[operation]
    for template in sorted((*ways.train, *ways.held_out), key=len, reverse=True):
        before, _, after = template.partition("{w}")
        if question.startswith(before) and question.endswith(after):
            return re.findall(r"\w+", question[len(before) : len(question) - len(after)])
    raise AssertionError(f"no template fits {question!r}")


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("scene", [words.listed_words, words.other_words])
def test_word_games_are_answered_right(lexicon, scene, split):
    seen = Counter()
    for seed in SEEDS:
        (exchange,) = scene(make_maker(lexicon, f"{scene.__name__}:{seed}", split))
        operation = exchange.skill.partition("_")[0]
        given = listed_in(lexicon, operation, exchange.user)
        seen[operation] += 1
        if operation == "count":
            assert re.findall(r"\d+", exchange.assistant) == [str(len(given))]
            continue
        answered = re.findall(r"\w+", exchange.assistant)[1:]
        assert Counter(answered) == Counter(given)
        order = [given.index(word) for word in answered]
        if operation == "copy":
            assert order == list(range(len(given)))
        elif operation == "reverse":
            assert order == list(range(len(given) - 1, -1, -1))
        else:
            assert all(one <= other for one, other in zip(answered, answered[1:], strict=False))
    assert set(seen) == set(words.OPERATIONS)


def facts_that_answer(text: str, question: str) -> list[str]:
    """Every sentence of the text whose key stands in the question, by reading the sentences only."""
    patterns = (
        (r"The code for (\w+) is \w+\.", "code"),
        (r"The (\w+) of \w+ is kept at [\w ]+\.", ""),
        (r"(\w+) likes [\w ]+\.", "like|eat"),
        (r"(\w+) works as an? [\w ]+\.", "job|work|do"),
        (r"The (\w+) lives at [\w ]+\.", ""),
    )
    asked = set(re.findall(r"\w+", question.lower()))
    found = []
    for pattern, cue in patterns:
        for match in re.finditer(pattern, text):
            if match.group(1).lower() in asked and (not cue or re.search(cue, question.lower())):
                found.append(match.group(0))
    return found


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_looked_up_facts_stand_in_the_text_once(lexicon, split):
    for seed in SEEDS:
        exchanges = lookup.lookup(make_maker(lexicon, f"facts:{seed}", split), 25, 4)
        text, questions = exchanges[0].user, [exchange.user for exchange in exchanges[1:]]
        for question, exchange in zip(questions, exchanges[1:], strict=True):
            value = re.findall(r"\w+", exchange.assistant)
            holders = [fact for fact in facts_that_answer(text, question) if value[-1] in fact]
            assert holders, (question, exchange.assistant)
            assert len(set(holders)) == 1, (question, holders)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_story_questions_are_answered_by_the_story(lexicon, split):
    for seed in SEEDS:
        exchanges = stories.reading(make_maker(lexicon, f"story:{seed}", split), 7)
        story = exchanges[0].user
        for exchange in exchanges:
            content = [
                word for word in re.findall(r"\w+", exchange.assistant) if word not in ("The", "They", "A")
            ]
            assert all(
                word in story for word in content if word not in ("was", "at", "ate", "lost", "found", "a")
            )
        text = " ".join(exchange.assistant for exchange in exchanges)
        colour, thing = re.search(r"The (\w+) was (\w+)\.", text).group(2, 1)
        assert f"{colour} {thing}" in story
        finder = re.search(r"The ([\w ]+) found the", text).group(1)
        assert re.search(rf"[Aa]n?(?: \w+)? {finder}\b", story)
        eaten = re.search(r"They ate ([\w ]+)\.", text).group(1)
        assert re.search(rf"(ate|shared some) {eaten}\b", story)


def test_a_told_fact_comes_back(lexicon):
    for kind in lexicon.told:
        for seed in range(20):
            tell, ask = told.telling(make_maker(lexicon, f"{kind}:{seed}"), kind)
            value = set(re.findall(r"\w+", tell.user)) & set(re.findall(r"\w+", ask.assistant))
            assert value & set(re.findall(r"\w+", tell.assistant))
            assert ask.user not in tell.user


def test_definitions_answer_the_term_that_was_asked(lexicon):
    owner = {spelling.lower(): term for term in lexicon.terms for spelling in term.spellings}
    for split in ("train", "held_out"):
        for seed in SEEDS:
            (exchange,) = glossary.definition(make_maker(lexicon, f"term:{seed}", split))
            asked = [
                name for name in owner if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", exchange.user.lower())
            ]
            assert any(owner[name].answer == exchange.assistant for name in asked), exchange


def test_unknown_terms_are_not_in_the_glossary(lexicon):
    names = {spelling.lower() for term in lexicon.terms for spelling in term.spellings}
    ways = [
        plain(way) for way in lexicon.phrasings["glossary"].train + lexicon.phrasings["glossary"].held_out
    ]
    known = {way.replace("{t}", plain(name)) for way in ways for name in names}
    for split in ("train", "held_out"):
        for seed in SEEDS:
            (exchange,) = glossary.unknown(make_maker(lexicon, f"unknown:{seed}", split))
            assert exchange.assistant.startswith("I do not know that term.")
            assert plain(exchange.user) not in known


def test_confusion_is_never_a_bare_term(lexicon):
    names = {spelling.lower() for term in lexicon.terms for spelling in term.spellings}
    for seed in range(500):
        (exchange,) = smalltalk.confused(make_maker(lexicon, f"confused:{seed}"))
        assert exchange.user.lower() not in names


def test_every_skill_asked_for_can_be_evaluated():
    assert set(THRESHOLDS) <= set(SKILLS)


def test_every_single_scene_has_questions_and_answers(lexicon):
    for name, (_, scene) in SINGLES.items():
        for exchange in scene(make_maker(lexicon, name)):
            assert exchange.skill and exchange.user and exchange.assistant


def test_articles_fit_the_word_after_them():
    text = "A old owl had a orange hat, a uniform and a umbrella. A fox saw a uncle."
    assert (
        with_articles(text) == "An old owl had an orange hat, a uniform and an umbrella. A fox saw an uncle."
    )


def test_chinese_questions_keep_their_words_whatever_their_spacing(lexicon):
    questions = {
        careless_zh(make_maker(lexicon, f"zh:{seed}"), "什么是 PagedAttention？") for seed in range(300)
    }
    assert {question.replace(" ", "").rstrip("?？。") for question in questions} == {"什么是PagedAttention"}
    assert {
        "什么是 PagedAttention？",
        "什么是PagedAttention？",
        "什么是 PagedAttention",
        "什么是PagedAttention",
    } <= questions
