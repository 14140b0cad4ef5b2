"""Finds the texts of the embedded sample: sentences in which a word shows its type.

A mention is a word of WordNet that stands for a type, such as "beagle" for mammals. `Senses`
decides whether a form met in some text can be taken for the mention, and `find_candidates` goes
through all glosses and examples.
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
    KIN_TOPICS,
    UNWANTED_MENTIONS,
    UNWANTED_PARTS,
    UNWANTED_TEXTS,
)
from dataset_scripts.sample_recipe.sources import WordNet

# Where a text comes from: an example sentence of the mention's own entry, which has the right
# sense for sure, or an example or a gloss of another entry.
KINDS = ("own example", "example", "gloss")
LONGEST_COMPOUND = 4
SHORTEST_MENTION = 3
SHORTEST_TEXT = 4
LONGEST_TEXT = 40
MOST_LIST_MARKS = 2
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_NAME = r"(?:[A-Z][\w'-]*|\d[\d.,-]*)"
_NAMES = re.compile(rf"\b{_NAME}(?: {_NAME})*")


@dataclass(frozen=True)
class Mention:
    """A word that belongs to a type.

    Attributes:
        word: The lemma as WordNet writes it.
        label: Name of the type.
        concept: The noun whose pictures show the word.
        synset: Key of the word's synset.
        pictures: Short names of the pictures to choose from.
    """

    word: str
    label: str
    concept: str
    synset: str
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A text that contains a mention.

    Attributes:
        mention: The mention.
        text: The text.
        start: Offset of the mention in the text.
        end: Offset behind the mention.
        kind: Where the text comes from, one of `KINDS`.
        source: Key of the synset whose gloss holds the text.
    """

    mention: Mention
    text: str
    start: int
    end: int
    kind: str
    source: str


def read_concepts(wordnet: WordNet, emoji: dict[str, str]) -> list[Mention]:
    """Lists the mentions of all types.

    A synset under several concepts of a type belongs to the nearest; one that falls under two
    types belongs to neither.

    Args:
        wordnet: The database.
        emoji: Short names of the pictures.
    """
    by_type = {}
    for label, (topics, table) in CONCEPTS.items():
        nearest: dict[str, tuple[int, str, tuple[str, ...]]] = {}
        for concept, key, pictures in _parse(wordnet, emoji, topics, table):
            for member, distance in wordnet.below(key).items():
                if member not in nearest or distance < nearest[member][0]:
                    nearest[member] = (distance, concept, pictures)
        by_type[label] = nearest
    claims = Counter(member for nearest in by_type.values() for member in nearest)
    mentions = []
    for label, nearest in by_type.items():
        for key, (_, concept, pictures) in nearest.items():
            synset = wordnet.synsets[key]
            if claims[key] > 1 or (synset.is_instance and label not in INSTANCE_TYPES):
                continue
            for word in synset.words:
                if (
                    len(word) >= SHORTEST_MENTION
                    and word not in UNWANTED_MENTIONS
                    and UNWANTED_PARTS.isdisjoint(word.split())
                ):
                    mentions.append(Mention(word, label, concept, key, pictures))
    return mentions


def _parse(
    wordnet: WordNet, emoji: dict[str, str], topics: tuple[int, ...], table: str
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    if table == "{}":
        countries = wordnet.below(wordnet.noun("country", topics).key)
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
        pictures = tuple(name.strip() for name in (names or noun).split(","))
        missing = [name for name in pictures if name not in emoji]
        if missing:
            raise KeyError(f"concept {noun!r}: no picture has the name {missing[0]!r}")
        yield noun, wordnet.noun(noun, topics, int(number or 0)).key, pictures


class Senses:
    """Decides whether a form alone can be taken in a mention's sense.

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
        self.is_plain = cache(self._is_plain)

    def _is_plain(self, form: str, mention: Mention, at_start: bool) -> bool:
        """Tells whether WordNet knows no other reading, or its counts of use speak against it.

        Args:
            form: The form as it stands in the text.
            mention: What the form may stand for.
            at_start: Whether the form opens the text, so that its capital tells nothing.
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
                    # "China" is no china, and "china" no China.
                    same_case = any((word != lemma) == is_name for word in written)
                    if pos == "n" and not (at_start or same_case):
                        continue
                    uses = self._wordnet.uses.get((lemma, pos, number), 0)
                    kin = pos == "n" and synset.topic in KIN_TOPICS.get(mention.label, ())
                    if key in self._own[mention.label] or kin:
                        wanted += uses
                    else:
                        others += uses
                        n_others += 1
        return n_others == 0 or (wanted >= 3 and wanted >= 5 * others)


class Matcher:
    """Finds mentions in a text, the longest one at a place.

    Args:
        wordnet: The database; its many-word entries are what a mention may be a part of.
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
            for last in range(first, min(first + LONGEST_COMPOUND, len(words))):
                start, end = words[first][1], words[last][2]
                form = text[start:end]
                if first == 0 and form not in self._mentions:
                    form = form[0].lower() + form[1:]
                if form not in self._mentions or self._is_part(text, words, first, last):
                    continue
                # A tail as in "o'clock", or a word that is spoken about, as in "the word `cat'".
                if re.search(r"\w['’]$|`$", text[:start]):
                    continue
                for mention in self._mentions[form]:
                    yield mention, start, end

    def _is_part(self, text: str, words: list[tuple[str, int, int]], first: int, last: int) -> bool:
        for left in range(max(0, last - LONGEST_COMPOUND + 1), first + 1):
            for right in range(last, min(left + LONGEST_COMPOUND, len(words))):
                if right - left > last - first:
                    wider = text[words[left][1] : words[right][2]].lower()
                    if wider in self._compounds:
                        return True
        # Two capitals in a row are one name ("New Mexico", "Victoria Falls"), known or not.
        neighbours = [words[i][0] for i in (first - 1, last + 1) if 0 < i < len(words)]
        adjoining = text[: words[first][1]].endswith(" ") or first == 0
        return (
            words[first][0][0].isupper()
            and adjoining
            and any(word[0].isupper() for word in neighbours)
        )


def label_pattern(label: str) -> re.Pattern[str]:
    """Returns a pattern that finds the name of a type, or its last word, in a text."""
    word = label.rsplit(maxsplit=1)[-1]
    stem = word[:-1] if word.endswith("y") else word
    return re.compile(rf"\b{re.escape(stem)}(y|ies|s|es)?\b", re.IGNORECASE)


def is_usable(text: str, label: str) -> bool:
    """Tells whether a text has a fit length, no name of its type and no known fault."""
    return (
        SHORTEST_TEXT <= len(text.split()) <= LONGEST_TEXT
        and text.count(";") <= MOST_LIST_MARKS
        and not label_pattern(label).search(text)
        and not any(part in text for part in UNWANTED_TEXTS)
    )


def skeleton(text: str, start: int, end: int) -> str:
    """Returns a text without its mention, names and numbers.

    Texts of one skeleton follow one pattern ("a native or inhabitant of Peru"); a type in which
    they abound could be told by the pattern.

    Args:
        text: The text.
        start: Offset of the mention.
        end: Offset behind the mention.
    """
    return _NAMES.sub("_", text[:start] + "_" + text[end:])


def find_candidates(wordnet: WordNet, mentions: list[Mention]) -> list[Candidate]:
    """Collects every usable text of every mention.

    Args:
        wordnet: The database.
        mentions: The words to look for.
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
                if (in_own_example or senses.is_plain(form, mention, start == 0)) and is_usable(
                    text, mention.label
                ):
                    kind_here = KINDS[0] if in_own_example else kind
                    found.append(Candidate(mention, text, start, end, kind_here, synset.key))
    return found
