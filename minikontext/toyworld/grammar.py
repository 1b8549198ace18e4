"""The grammar: a fresh wording of an edit for every call.

A sentence is drawn top down. A template is text with `{symbols}` and `(this|or that)`. A symbol is
a fact of the case ({colour}: any form of "red" in the lexicon), a kind of speech ({remove}: any way
to say it) or a phrase of `PHRASES`, whose productions are templates again. A template is usable
only if the case has all its facts: "change it from {was} to {colour}" needs a colour that was.

Phrases and templates stand in phrases.toml. One template in ten, and one form in ten, is never used
in training (`held_out`): tests ask in them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from minikontext.toyworld.edits import Case
from minikontext.toyworld.lexicon import SPEECH, WORLD, forms, split_words
from minikontext.toyworld.lexicon import words as lexicon_words
from minikontext.toyworld.scene import Scene
from minikontext.toyworld.split import held_out
from minikontext.toyworld.tables import lines, read_families, read_table, said

_STORED = read_table("phrases")
_FAMILIES = read_families(_STORED["families"])
PHRASES = {name: lines(text) for name, text in _STORED["phrases"].items()}
TEMPLATES = {name: said(entry, _FAMILIES) for name, entry in _STORED["templates"].items()}

Facts = dict[str, tuple[str, str]]  # symbol -> (slot, concept); slot "" is a text as it is
LETTERS_OF_TYPOS = "abcdefghijklmnopqrstuvwxyz"

PLAIN_SHARE = 0.5  # of the forms: a concept's plain name
LONGEST = 31  # tokens of a sentence: an encoder of 32 closes it with <end>
LOOSE_SHARE = 0.35  # of the cases: a detail stays unsaid


@dataclass(frozen=True)
class Noise:
    """How sentences are typed: shares of the sentences, and of the words for `typos`.

    `polite` puts something in front of a request, and half as often something behind it; a share
    `no_articles` has no "the" and no "a".
    """

    polite: float = 0.3
    no_articles: float = 0.12
    typos: float = 0.03


CLEAN = Noise(0.0, 0.0, 0.0)
TYPED = Noise()

# The kinds of speech that are verbs.
VERBS = (
    "recolour", "change", "recolouring", "into", "replace", "remove", "undress", "add", "give",
    "dress", "shift", "bring", "redo", "write",
)  # fmt: skip

# ---------------------------------------------------------------- facts

# The slots that speak of an attribute: a pattern is an adjective or its markings, and so on.
SLOTS = {
    "pattern": ("pattern", "markings"),
    "eyes": ("eyes", "looks"),
    "background": ("background", "where", "scenery"),
    "time": ("time", "when", "sky", "weather"),
    "style": ("style", "artwork", "styled", "restyle"),
    "place": ("place", "move"),
}
OLD = {"character": "species", "accessory": "accessory", "thing": "thing", "marked": "thing"}


def facts(case: Case) -> Facts:
    """What the sentence may speak of: the wish's words and what the first picture shows."""
    found: Facts = {}
    for name, value in case.words.items():
        if value in WORLD["source"]:  # the part of one of several pictures
            found[f"source_{name}"] = ("source", value)
            continue
        slot = OLD[case.operation.split("_")[1]] if name == "old" else name
        for symbol in SLOTS.get(slot, (slot,)):
            key = "old" if name == "old" else symbol
            if name == "sign":
                found[key] = ("", value)
            elif symbol not in WORLD or value in WORLD[symbol]:
                found[key] = (symbol, value)
    found |= _shown(case.before) if case.before else {}
    return found | _conditions(case)


def _shown(scene: Scene) -> Facts:
    """What the first picture shows, for "from green to blue" and the like."""
    found: Facts = {
        "kind": ("species", scene.species),
        "colour_was": ("colour", scene.colour),
        "background_was": ("background", scene.background),
        "where_was": ("where", scene.background),
        "time_was": ("time", scene.time),
        "eyes_was": ("eyes", scene.eyes),
    }
    if scene.pattern != "plain":
        found["marks"] = ("markings", scene.pattern)
    if scene.accessory != "none":
        found["accessory_was"] = ("colour", scene.accessory_colour)
    if scene.sign:
        found["sign_was"] = ("", scene.sign)
    return found


def _conditions(case: Case) -> Facts:
    """Facts that say nothing and only allow a phrase, and those that need a look at the scene."""
    words, yes = case.words, ("", "")
    found: Facts = {"clear": yes}
    if case.operation == "text_to_image":
        found |= caption_facts(case)
    if "colour" not in words:
        found["vague"] = yes
    roles = [role for role in ("scene", "drawn") if role in words]
    if roles:
        found["both" if len(roles) == 2 else f"only_{roles[0]}"] = yes
    if words.get("pattern") == "plain":
        found["cleared"] = yes
    if "side" in words:
        side, before = words["side"], case.contexts[0]
        other = getattr(before, "left" if side == "right" else "right")
        found["thing_was"] = ("colour", getattr(before, f"{side}_colour"))
        if case.operation == "add_thing":
            # Without a side a new thing goes to the right, unless something is there.
            alone = side == "right" or other != "none"
            if other == words["thing"]:
                found["second_one"] = yes
        else:
            alone = other != getattr(before, side)
        found |= {"alone": yes} if alone else {}
    return found


def caption_facts(case: Case) -> Facts:
    """The parts of a caption that the case settles."""
    found: Facts = {}
    for name in case.claims:
        for slot in SLOTS.get(name, (name,)):
            found[slot] = (
                "colour" if slot == "accessory_colour" else slot,
                getattr(case.target, name),
            )
    found["caption"] = ("template", caption(case.claims))
    return found


def caption(claims: tuple[str, ...], article: str = "a ") -> str:
    """The template of a picture's description that mentions these attributes and no others."""
    said = set(claims)
    pieces = [article]
    pieces += ["{pattern} "] if "pattern" in said else []
    pieces += ["{colour} "] if "colour" in said else []
    pieces += ["{species}"] if "species" in said else ["{kind}"]
    if "accessory" in said:
        pieces += [
            " {wearing} a ",
            "{accessory_colour} " * ("accessory_colour" in said),
            "{accessory}",
        ]
    place = ["{where}"] if "background" in said else []
    place += ["{when}"] if "time" in said else []
    return "".join(pieces) + "".join(f" {piece}" for piece in place)


# ---------------------------------------------------------------- drawing a sentence


@cache
def symbols(template: str) -> tuple[str, ...]:
    """The symbols in a template, in their order."""
    return tuple(re.findall(r"{(\w+)}", template))


def is_unheard(operation: str, template: str) -> bool:
    """Whether a template of an operation is kept for tests."""
    return held_out("template", operation, template)


def templates(case: Case, known: Facts) -> list[tuple[str, str]]:
    """(family, template) for all that can be said: an operation's and those of this one value."""
    name, words = case.operation, case.words
    values = [
        words[key] for key in ("eyes", "place", "accessory", "thing", "background") if key in words
    ]
    families = [name, *(f"{name}>{value}" for value in values)]
    if "time" in words and case.contexts:
        families.append(f"{name}>{case.contexts[0].time}>{words['time']}")
    found = [(family, text) for family in families for text in TEMPLATES.get(family, ())]
    names = frozenset(known)
    return [(family, text) for family, text in found if usable(text, names)]


@lru_cache(maxsize=1 << 16)
def usable(template: str, known: frozenset[str]) -> bool:
    """Whether all symbols of a template can be filled in, if these facts are known."""
    return all(
        name in known
        or name in SPEECH
        or (name in PHRASES and any(usable(text, known) for text in PHRASES[name]))
        for name in symbols(template)
    )


def ask(case: Case, rng: random.Random, unheard: bool = False, noise: Noise = TYPED) -> str:
    """One wording of a case's wish, drawn afresh. `unheard` asks in a template kept for tests.

    In training (unheard=False) no template and no form that is kept for tests ever occurs. Say
    `loosened(case, rng)` before, so that some wishes leave details open.
    """
    return short(lambda: finish(wording(case, rng, unheard), rng, noise))


def short(draw: Callable[[], str]) -> str:
    """The first sentence drawn that fits an encoder; a sign takes a token for each letter."""
    while True:
        sentence = draw()
        letters = sum(map(len, re.findall(r"\b[A-Z]{2,4}\b", sentence)))
        if len(re.findall(r"\w+", sentence)) + letters <= LONGEST:
            return sentence


def wording(case: Case, rng: random.Random, unheard: bool = False, pronouns: bool = True) -> str:
    """The bare sentence, before politeness, dropped articles and typos: for two wishes in one.

    Without `pronouns` nothing is called "it": it might be something else that was spoken of.
    """
    known = facts(case)
    if not pronouns:
        del known["clear"]
    options = templates(case, known)
    kept = [text for family, text in options if is_unheard(family, text) == unheard]
    return fill(rng.choice(kept or [text for _, text in options]), known, rng, unheard)


def finish(sentence: str, rng: random.Random, noise: Noise = TYPED) -> str:
    """A sentence as it is typed: perhaps polite, hasty, capitalised, with a slip of the finger."""
    if rng.random() < noise.polite and sentence.split(" ")[0] in verbs():
        sentence = f"{_form('request', 'can you', rng)} {sentence}"
    elif rng.random() < noise.polite / 2:
        sentence = f"{_form('opening', 'ok', rng)} {sentence}"
    if rng.random() < noise.polite / 2:
        sentence = f"{sentence} {_form('polite', 'please', rng)}"
    if rng.random() < noise.no_articles:
        sentence = re.sub(r"\b(the|an?) (?=\w)", "", sentence)
    sentence = _mistyped(sentence, rng, noise.typos)
    if rng.random() < 0.5:
        sentence = sentence[:1].upper() + sentence[1:] + rng.choice(("", ".", "!"))
    return sentence


@cache
def template_words() -> frozenset[str]:
    """The small words of the templates that training hears."""
    heard = [t for family, group in TEMPLATES.items() for t in group if not is_unheard(family, t)]
    text = " ".join([*heard, *(t for group in PHRASES.values() for t in group), "an", "eye"])
    return frozenset(split_words(re.sub(r"{\w+}", " ", text)))


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word that a sentence in training can contain, typos aside, sorted."""
    return tuple(sorted({*lexicon_words(), *template_words()}))


@cache
def verbs() -> frozenset[str]:
    """The words with which a request begins: "could you" goes before these and no others."""
    plain = "make let have show draw paint use apply wake close open shut cut build plant write"
    said = [form for slot in VERBS for form in forms(slot, next(iter(SPEECH[slot])))]
    return frozenset(plain.split()) | {form.split()[0] for form in said}


def fill(template: str, known: Facts, rng: random.Random, unheard: bool = False) -> str:
    """A template with everything filled in, and with the articles that English wants."""
    text = mend(_expand(template, known, rng, unheard))
    return " ".join(text.split())


def _expand(template: str, known: Facts, rng: random.Random, unheard: bool) -> str:
    while group := re.search(r"\(([^()]*)\)", template):
        template = (
            template[: group.start()] + rng.choice(group[1].split("|")) + template[group.end() :]
        )
    return re.sub(r"{(\w+)}", lambda match: _symbol(match[1], known, rng, unheard), template)


def _symbol(name: str, known: Facts, rng: random.Random, unheard: bool) -> str:
    """The text for one symbol."""
    if name in known:
        slot, concept = known[name]
        if slot == "template":
            return _expand(concept, known, rng, unheard)
        return _form(slot, concept, rng, unheard) if slot else concept
    if name in PHRASES:
        names = frozenset(known)
        options = [text for text in PHRASES[name] if usable(text, names)]
        return _expand(rng.choice(options), known, rng, unheard)
    (concept,) = SPEECH[name]
    return _form(name, concept, rng, unheard)


def _form(slot: str, concept: str, rng: random.Random, unheard: bool = False) -> str:
    """A surface form: often the plain name, never one that is kept for tests in training."""
    options = _forms(slot, concept, unheard)
    plain = 0.2 if slot in SPEECH else PLAIN_SHARE
    return options[0] if rng.random() < plain else rng.choice(options)


@cache
def _forms(slot: str, concept: str, unheard: bool) -> tuple[str, ...]:
    return forms(slot, concept) if unheard else forms(slot, concept, unheard=False)


# English as people write it: the templates stay simple and this mends what they get wrong.
_PLURALS = (
    r"(?:glasses|spectacles|sunglasses|shades|specs|eyeglasses|goggles|sunnies|eyewear|scarves)"
)
_MENDS = (
    (rf"\ban? ((?:\S+ ){{0,3}}{_PLURALS})\b", r"\1"),
    (r"\b(a|the|an|some|one) (?=(?:a|the|an) )", ""),
    (r"\ba(?= (?:[aeio]|un(?!i)))", "an"),
    (r"\ban(?= one)", "a"),
    (r"\b(one|single|one big|cyclops) eyes\b", r"\1 eye"),
    (r"\bthey (is|has|needs|looks|goes|wears)\b", r"they \1"),
)


def mend(text: str) -> str:
    """Articles before plurals and vowels, and one eye instead of one eyes."""
    for wrong, right in _MENDS:
        text = re.sub(wrong, right, text)
    return text


# ---------------------------------------------------------------- noise


def _mistyped(text: str, rng: random.Random, share: float) -> str:
    """The text with typos in a share of its words; signs have capitals and stay as they are."""

    def perhaps(word: re.Match[str]) -> str:
        return typo(word[0], rng) if rng.random() < share else word[0]

    return re.sub(r"[a-z]{3,}", perhaps, text)


def typo(word: str, rng: random.Random) -> str:
    """The word with one letter missing, added, doubled or replaced, or two swapped."""
    i, letter = rng.randrange(len(word)), rng.choice(LETTERS_OF_TYPOS)
    slip = rng.choice(("delete", "insert", "substitute", "swap"))
    if slip == "delete":
        return word[:i] + word[i + 1 :]
    if slip == "insert":
        return word[:i] + rng.choice((letter, word[i])) + word[i:]
    if slip == "substitute":
        return word[:i] + letter + word[i + 1 :]
    i = min(i, len(word) - 2)
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]


# ---------------------------------------------------------------- what stays unsaid

# Details that a wish may leave open: the word, and the attribute that is then free.
LOOSE = {
    "add_accessory": "accessory_colour",
    "replace_accessory": "accessory_colour",
    "add_thing": "{side}_colour",
    "replace_thing": "{side}_colour",
}


def loosened(case: Case, rng: random.Random) -> Case:
    """The case, or now and then one that leaves the colour of a new thing open (any is right)."""
    if case.operation not in LOOSE or rng.random() >= LOOSE_SHARE:
        return case
    attribute = LOOSE[case.operation].format(**case.words)
    words = {name: value for name, value in case.words.items() if name != "colour"}
    claims = tuple(name for name in case.claims if name != attribute)
    return replace(case, words=words, claims=claims, free=(*case.free, attribute))
