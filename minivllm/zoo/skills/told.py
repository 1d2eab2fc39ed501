"""Facts about the visitor, told early in a conversation and asked for later."""

from minivllm.zoo.skills.base import Exchange, Maker, made_up_word

# kind: (ways of telling, answer to that, ways of asking in training, held-out ways of asking, answer, when never told)
_KINDS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...], tuple[str, ...], str, str]] = {
    "name": (
        ("My name is {v}.", "I am {v}.", "Hello, my name is {v}.", "Hi, I am {v}.", "You can call me {v}.", "Call me {v}."),
        "Nice to meet you, {v}!",
        ("What is my name?", "Who am I?", "Do you know my name?", "What's my name?", "Tell me my name."),
        ("Can you tell me my name?", "Do you know what my name is?", "Please tell me my name."),
        "Your name is {v}.",
        "You have not told me your name.",
    ),
    "colour": (
        ("My favourite colour is {v}.", "My favorite color is {v}.", "The colour I like best is {v}."),
        "I will remember that your favourite colour is {v}.",
        ("What is my favourite colour?", "What is my favorite color?", "Which colour do I like best?", "Tell me my favourite colour."),
        ("Can you tell me my favourite colour?", "Do you know my favourite colour?"),
        "Your favourite colour is {v}.",
        "You have not told me your favourite colour.",
    ),
    "food": (
        ("My favourite food is {v}.", "My favorite food is {v}.", "The food I like best is {v}."),
        "I will remember that your favourite food is {v}.",
        ("What is my favourite food?", "What is my favorite food?", "Which food do I like best?", "Tell me my favourite food."),
        ("Can you tell me my favourite food?", "Do you know my favourite food?"),
        "Your favourite food is {v}.",
        "You have not told me your favourite food.",
    ),
    "pet": (
        ("I have a {v}.", "My pet is a {v}.", "At home I have a {v}."),
        "I will remember that your pet is a {v}.",
        ("What is my pet?", "Which animal do I have?", "What pet do I have?", "Tell me what my pet is."),
        ("Can you tell me what my pet is?", "Which pet do I have?"),
        "Your pet is a {v}.",
        "You have not told me about your pet.",
    ),
    "job": (
        ("I work as a {v}.", "I am a {v}.", "My job is {v}."),
        "I will remember that you work as a {v}.",
        ("What is my job?", "What do I work as?", "What do I do for work?", "Tell me my job."),
        ("Can you tell me my job?", "Do you know what my job is?"),
        "You work as a {v}.",
        "You have not told me your job.",
    ),
    "number": (
        ("My lucky number is {v}.", "Remember the number {v}.", "The number is {v}."),
        "I will remember the number {v}.",
        ("What is my lucky number?", "What is my number?", "Which number did I tell you?", "Tell me the number."),
        ("Can you tell me the number?", "Which number was it?"),
        "The number is {v}.",
        "You have not told me a number.",
    ),
    "word": (
        ("The secret word is {v}.", "Remember the word {v}.", "The password is {v}."),
        "I will remember the word {v}.",
        ("What is the secret word?", "What is the password?", "Which word did I tell you?", "Tell me the word."),
        ("Can you tell me the secret word?", "Which word was it?"),
        "The word is {v}.",
        "You have not told me a word.",
    ),
}
KINDS = tuple(_KINDS)


def _value(maker: Maker, kind: str) -> str:
    if kind == "number":
        return str(maker.rng.randint(2, 9999))
    if kind == "name" and maker.chance(0.4):
        return made_up_word(maker).capitalize()
    lists = {"name": "names", "colour": "colours", "food": "foods", "pet": "animals", "job": "jobs", "word": "listed"}
    return maker.word(lists[kind])


def telling(maker: Maker, kind: str) -> list[Exchange]:
    """Two exchanges that need not follow one another: the visitor tells a fact, and later asks for it."""
    ways, reply, asks, held_out, answer, _ = _KINDS[kind]
    value = _value(maker, kind)
    question = maker.rng.choice(asks if maker.split == "train" else held_out)
    return [
        Exchange("told_reply", maker.rng.choice(ways).format(v=value), reply.format(v=value)),
        Exchange("told", question, answer.format(v=value)),
    ]


def never_told(maker: Maker, kind: str) -> list[Exchange]:
    """The visitor asks for a fact that the conversation does not hold."""
    _, _, asks, held_out, _, refusal = _KINDS[kind]
    return [Exchange("never_told", maker.rng.choice(asks if maker.split == "train" else held_out), refusal)]
