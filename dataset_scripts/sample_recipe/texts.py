"""Finds the texts of the embedded sample: sentences in which a word belongs to its type.

A mention is a WordNet word of a type, such as "beagle" of mammals. `Senses` decides whether a form
in a text denotes the mention, and `find_candidates` searches all glosses and examples.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from dataset_scripts.sample_recipe.concepts import (
    ACTIVITY_TYPES,
    CONCEPTS,
    INSTANCE_TYPES,
    RELATED_TOPICS,
    UNWANTED_MENTIONS,
    UNWANTED_PARTS,
    UNWANTED_TEXTS,
)
from dataset_scripts.sample_recipe.sources import WordNet

# The origin of a text: an example sentence of the mention's own entry, which certainly has the
# right sense, or an example or a gloss of another entry.
KINDS = ("own example", "example", "gloss")
MAX_COMPOUND_WORDS = 4
MIN_MENTION_LENGTH = 3
MIN_TEXT_WORDS = 4
MAX_TEXT_WORDS = 40
MAX_LIST_MARKS = 2
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_NAME = r"(?:[A-Z][\w'-]*|\d[\d.,-]*)"
_NAMES = re.compile(rf"\b{_NAME}(?: {_NAME})*")


@dataclass(frozen=True)
class Mention:
    """A word that belongs to a type.

    Attributes:
        word: The lemma as WordNet writes it.
        label: Name of the type.
        concept: The noun whose images represent the word.
        synset: Key of the word's synset.
        images: Short names of the images that may be used.
    """

    word: str
    label: str
    concept: str
    synset: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A text that contains a mention.

    Attributes:
        mention: The mention.
        text: The text.
        start: Offset of the mention in the text.
        end: End offset of the mention, exclusive.
        kind: Origin of the text, one of `KINDS`.
        source: Key of the synset whose gloss contains the text.
    """

    mention: Mention
    text: str
    start: int
    end: int
    kind: str
    source: str


def read_concepts(wordnet: WordNet, emoji: dict[str, str]) -> list[Mention]:
    """Lists the mentions of all types.

    A synset below several concepts of a type is assigned to the nearest; a synset below two types
    is excluded.

    Args:
        wordnet: The database.
        emoji: Characters of the emoji by their short names.
    """
    by_type = {}
    for label, (topics, table) in CONCEPTS.items():
        nearest: dict[str, tuple[int, str, tuple[str, ...]]] = {}
        for concept, key, images in _parse(wordnet, emoji, topics, table):
            for member, distance in wordnet.descendants(key).items():
                if member not in nearest or distance < nearest[member][0]:
                    nearest[member] = (distance, concept, images)
        by_type[label] = nearest
    claims = Counter(member for nearest in by_type.values() for member in nearest)
    mentions = []
    for label, nearest in by_type.items():
        for key, (_, concept, images) in nearest.items():
            synset = wordnet.synsets[key]
            if claims[key] > 1 or (synset.is_instance and label not in INSTANCE_TYPES):
                continue
            for word in synset.words:
                if (
                    len(word) >= MIN_MENTION_LENGTH
                    and word not in UNWANTED_MENTIONS
                    and UNWANTED_PARTS.isdisjoint(word.split())
                ):
                    mentions.append(Mention(word, label, concept, key, images))
    return mentions


def _parse(
    wordnet: WordNet, emoji: dict[str, str], topics: tuple[int, ...], table: str
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    if table == "{}":
        countries = wordnet.descendants(wordnet.find_noun("country", topics).key)
        for name in sorted(name for name in emoji if name.startswith("flag: ")):
            country = name.removeprefix("flag: ")
            for key in wordnet.senses.get((country.lower(), "n"), []):
                if key in countries:
                    yield country, key, (name,)
                    break
        return
    for entry in " ".join(table.split()).split(";"):
        noun, _, names = entry.strip().partition("=")
        noun, _, number = noun.partition(".")
        images = tuple(name.strip() for name in (names or noun).split(","))
        missing = [name for name in images if name not in emoji]
        if missing:
            raise KeyError(f"concept {noun!r}: no image has the name {missing[0]!r}")
        yield noun, wordnet.find_noun(noun, topics, int(number or 0)).key, images


class Senses:
    """Decides whether a form has the sense of a mention, without regard to its context.

    Args:
        wordnet: The database.
        own: Keys of the synsets of each type.
    """

    def __init__(self, wordnet: WordNet, own: dict[str, set[str]]):
        self._wordnet = wordnet
        self._own = own
        self._lemmas: dict[tuple[str, str], set[str]] = defaultdict(set)
        for lemma, pos in wordnet.senses:
            for form in wordnet.forms(lemma, pos):
                self._lemmas[form.lower(), pos].add(lemma)
        self.is_unambiguous = cache(self._is_unambiguous)

    def _is_unambiguous(self, form: str, mention: Mention, at_start: bool) -> bool:
        """Returns whether WordNet has no other sense of a form, or only much rarer ones.

        Args:
            form: The form as it occurs in the text.
            mention: The mention that the form may denote.
            at_start: Whether the form begins the text, so that its capital is not informative.
        """
        is_name = mention.word != mention.word.lower()
        wanted = others = n_others = 0
        for pos in "nvar":
            if pos != "n" and is_name and not at_start:
                continue
            if pos == "v" and mention.label in ACTIVITY_TYPES and form.endswith("ing"):
                continue
            for lemma in sorted(self._lemmas[form.lower(), pos]):
                for number, key in enumerate(self._wordnet.senses[lemma, pos], 1):
                    synset = self._wordnet.synsets[key]
                    written = [word for word in synset.words if word.lower() == lemma]
                    # "China" does not denote china, nor "china" China.
                    same_case = any((word != lemma) == is_name for word in written)
                    if pos == "n" and not (at_start or same_case):
                        continue
                    uses = self._wordnet.uses.get((lemma, pos, number), 0)
                    related = pos == "n" and synset.topic in RELATED_TOPICS.get(mention.label, ())
                    if key in self._own[mention.label] or related:
                        wanted += uses
                    else:
                        others += uses
                        n_others += 1
        return n_others == 0 or (wanted >= 3 and wanted >= 5 * others)


class Matcher:
    """Finds mentions in a text, except for those that are part of a longer expression.

    Args:
        wordnet: The database; mentions inside its multi-word entries are skipped.
        mentions: The words to find.
    """

    def __init__(self, wordnet: WordNet, mentions: list[Mention]):
        self._mentions: dict[str, list[Mention]] = defaultdict(list)
        for mention in mentions:
            for form in wordnet.forms(mention.word, "n"):
                self._mentions[form].append(mention)
        self._compounds = {
            form.lower()
            for (lemma, pos) in wordnet.senses
            if " " in lemma
            for form in wordnet.forms(lemma, pos)
        }

    def find(self, text: str) -> Iterator[tuple[Mention, int, int]]:
        """Yields the mentions in a text with their offsets."""
        words = [(m.group(), m.start(), m.end()) for m in _WORD.finditer(text)]
        for first in range(len(words)):
            for last in range(first, min(first + MAX_COMPOUND_WORDS, len(words))):
                start, end = words[first][1], words[last][2]
                form = text[start:end]
                if first == 0 and form not in self._mentions:
                    form = form[0].lower() + form[1:]
                if form not in self._mentions or self._is_part(text, words, first, last):
                    continue
                # The end of a word as in "o'clock", or a quoted word as in "the word `cat'".
                if re.search(r"\w['’]$|`$", text[:start]):
                    continue
                for mention in self._mentions[form]:
                    yield mention, start, end

    def _is_part(self, text: str, words: list[tuple[str, int, int]], first: int, last: int) -> bool:
        for left in range(max(0, last - MAX_COMPOUND_WORDS + 1), first + 1):
            for right in range(last, min(left + MAX_COMPOUND_WORDS, len(words))):
                if right - left > last - first:
                    wider = text[words[left][1] : words[right][2]].lower()
                    if wider in self._compounds:
                        return True
        # Two adjacent capitalised words are one name ("New Mexico"), even if WordNet lacks it.
        neighbours = [words[i][0] for i in (first - 1, last + 1) if 0 < i < len(words)]
        adjoining = text[: words[first][1]].endswith(" ") or first == 0
        return (
            words[first][0][0].isupper()
            and adjoining
            and any(word[0].isupper() for word in neighbours)
        )


def label_pattern(label: str) -> re.Pattern[str]:
    """Returns a pattern that matches the last word of a type's name, in singular or plural."""
    word = label.rsplit(maxsplit=1)[-1]
    stem = word[:-1] if word.endswith("y") else word
    return re.compile(rf"\b{re.escape(stem)}(y|ies|s|es)?\b", re.IGNORECASE)


def is_usable(text: str, label: str) -> bool:
    """Returns whether a text has a suitable length and no name of its type or unwanted part."""
    return (
        MIN_TEXT_WORDS <= len(text.split()) <= MAX_TEXT_WORDS
        and text.count(";") <= MAX_LIST_MARKS
        and not label_pattern(label).search(text)
        and not any(part in text for part in UNWANTED_TEXTS)
    )


def skeleton(text: str, start: int, end: int) -> str:
    """Returns a text without its mention, names and numbers.

    Texts with the same skeleton follow a pattern ("a native or inhabitant of Peru"), from which a
    type with many such texts could be inferred.

    Args:
        text: The text.
        start: Offset of the mention.
        end: End offset of the mention, exclusive.
    """
    return _NAMES.sub("_", text[:start] + "_" + text[end:])


def find_candidates(wordnet: WordNet, mentions: list[Mention]) -> list[Candidate]:
    """Collects every usable text of every mention.

    Args:
        wordnet: The database.
        mentions: The words to find.
    """
    own: dict[str, set[str]] = defaultdict(set)
    for mention in mentions:
        own[mention.label].add(mention.synset)
    senses = Senses(wordnet, own)
    matcher = Matcher(wordnet, mentions)
    found = []
    for synset in wordnet.synsets.values():
        texts = [(text, KINDS[1]) for text in synset.examples] + [(synset.definition, KINDS[2])]
        for text, kind in texts:
            for mention, start, end in matcher.find(text):
                in_own_example = mention.synset == synset.key and kind == KINDS[1]
                form = text[start:end]
                if not in_own_example and not senses.is_unambiguous(form, mention, start == 0):
                    continue
                if is_usable(text, mention.label):
                    origin = KINDS[0] if in_own_example else kind
                    found.append(Candidate(mention, text, start, end, origin, synset.key))
    return found
