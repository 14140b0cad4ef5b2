"""Readers of the sample's three sources: WordNet, the CLDR annotations and an emoji font.

Each reader searches the folder of an unpacked package for its files by name, independently of the
layout of a distribution. `fontTools` is required only to extract the images from the font when the
sample is built.
"""

from __future__ import annotations

import importlib
import io
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

PARTS_OF_SPEECH = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
_POS_OF_SENSE_KEY = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
_EXAMPLE = re.compile(r'"([^"]*)"')
_VARIATION_SELECTOR = 0xFE0F


@dataclass(frozen=True)
class Synset:
    """One WordNet synset.

    Attributes:
        key: Part of speech and byte offset, e.g. `"n02084071"`; unique.
        topic: Number of the lexicographer file (5 contains animals, 13 food, ...).
        words: The lemmas, with spaces instead of underscores.
        parents: Keys of the hypernyms, including instance hypernyms.
        is_instance: Whether the synset is an instance ("Paris") rather than a class ("city").
        definition: The gloss without its examples.
        examples: The quoted sentences of the gloss.
    """

    key: str
    topic: int
    words: tuple[str, ...]
    parents: tuple[str, ...]
    is_instance: bool
    definition: str
    examples: tuple[str, ...]


def find_file(root: Path, name: str) -> Path:
    """Returns the only file below `root` whose path ends in `name`.

    Args:
        root: Folder of an unpacked package.
        name: File name, or the end of a path such as `"annotations/en.xml"`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there are several.
    """
    found = sorted(root.rglob(name))
    if not found:
        raise FileNotFoundError(f"{root}: found no file named {name!r} below this folder")
    if len(found) > 1:
        raise ValueError(f"{root}: expected one file named {name!r}, found {len(found)}")
    return found[0]


def split_gloss(gloss: str) -> tuple[str, tuple[str, ...]]:
    """Splits a gloss into its definition and its quoted examples.

    Args:
        gloss: The text after the bar of a WordNet data line.

    Returns:
        The definition, without a leading remark in parentheses and empty if it contains a
        quotation, and the examples.
    """
    head, quote, tail = gloss.partition('"')
    examples = tuple(example.strip(" ;,") for example in _EXAMPLE.findall(quote + tail))
    # A definition with a quotation inside would be truncated there, so it is discarded.
    whole = not quote or head.rstrip().endswith((";", ":", ",", "-"))
    definition = re.sub(r"^\([^)]*\)\s*", "", head.strip(" ;,:-")) if whole else ""
    return " ".join(definition.split()), tuple(" ".join(e.split()) for e in examples if e)


class WordNet:
    """The WordNet database: synsets, senses in order of frequency, and usage counts.

    Args:
        root: Folder that contains `data.*`, `index.*`, `noun.exc`, `verb.exc` and `cntlist.rev`,
            at any depth.
    """

    def __init__(self, root: Path):
        self.synsets: dict[str, Synset] = {}
        self.senses: dict[tuple[str, str], list[str]] = {}
        self.uses: dict[tuple[str, str, int], int] = {}
        self.exceptions: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._children: dict[str, list[str]] = defaultdict(list)
        for part, pos in PARTS_OF_SPEECH.items():
            for synset in self._read_data(find_file(root, f"data.{part}"), pos):
                self.synsets[synset.key] = synset
                for parent in synset.parents:
                    self._children[parent].append(synset.key)
            for line in self._lines(find_file(root, f"index.{part}")):
                fields = line.split()
                count = int(fields[2])
                lemma = fields[0].replace("_", " ")
                self.senses[lemma, pos] = [pos + offset for offset in fields[-count:]]
        for line in self._lines(find_file(root, "cntlist.rev")):
            sense_key, number, uses = line.split()
            lemma, _, rest = sense_key.partition("%")
            pos = _POS_OF_SENSE_KEY[rest[0]]
            self.uses[lemma.replace("_", " "), pos, int(number)] = int(uses)
        for part in ("noun", "verb"):
            for line in self._lines(find_file(root, f"{part}.exc")):
                form, *lemmas = line.replace("_", " ").split()
                for lemma in lemmas:
                    self.exceptions[lemma, PARTS_OF_SPEECH[part]].append(form)

    @staticmethod
    def _lines(path: Path) -> Iterator[str]:
        # The licence precedes the data, on lines that begin with two spaces.
        for line in path.read_text("latin-1").splitlines():
            if line and not line.startswith("  "):
                yield line

    @classmethod
    def _read_data(cls, path: Path, pos: str) -> Iterator[Synset]:
        for line in cls._lines(path):
            data, _, gloss = line.partition("|")
            fields = data.split()
            n_words = int(fields[3], 16)
            words = [re.sub(r"\(\w+\)$", "", w) for w in fields[4 : 4 + 2 * n_words : 2]]
            start = 4 + 2 * n_words
            pointers = [
                fields[start + 1 + 4 * i : start + 5 + 4 * i] for i in range(int(fields[start]))
            ]
            up = [p for p in pointers if p[0] in ("@", "@i")]
            definition, examples = split_gloss(gloss)
            yield Synset(
                key=pos + fields[0],
                topic=int(fields[1]),
                words=tuple(word.replace("_", " ") for word in words),
                parents=tuple(p[2] + p[1] for p in up),
                is_instance=any(p[0] == "@i" for p in up),
                definition=definition,
                examples=examples,
            )

    def find_noun(self, lemma: str, topics: Iterable[int], number: int = 0) -> Synset:
        """Finds a noun's sense.

        Args:
            lemma: The noun.
            topics: Lexicographer files to search.
            number: Sense number, from 1; 0 selects the most frequent sense within `topics`.

        Raises:
            KeyError: If there is no such sense.
        """
        keys = self.senses.get((lemma.lower(), "n"), [])
        if number:
            return self.synsets[keys[number - 1]]
        wanted = set(topics)
        for key in keys:
            if self.synsets[key].topic in wanted:
                return self.synsets[key]
        raise KeyError(f"WordNet has no noun {lemma!r} within the files {sorted(wanted)}")

    def descendants(self, key: str) -> dict[str, int]:
        """Returns a synset and all its hyponyms, with their distance from it."""
        distance = {key: 0}
        queue = deque([key])
        while queue:
            current = queue.popleft()
            for child in self._children[current]:
                if child not in distance:
                    distance[child] = distance[current] + 1
                    queue.append(child)
        return distance

    def forms(self, lemma: str, pos: str) -> list[str]:
        """Returns the inflected forms of a word, including irregular ones.

        Regular forms are also returned for irregular words, so a few forms are not in use.

        Args:
            lemma: The word; of a compound, the last part is inflected.
            pos: Part of speech; adjectives and adverbs are not inflected.
        """
        if pos not in "nv":
            return [lemma]
        first, space, last = lemma.rpartition(" ")
        if pos == "v" and space:
            return [lemma]
        forms = [last]
        if re.search(r"[^aeiou]y$", last):
            forms.append(last[:-1] + "ies")
        elif re.search(r"(s|x|z|ch|sh)$", last):
            forms.append(last + "es")
        else:
            forms.append(last + "s")
        if pos == "v":
            stem = last.removesuffix("e")
            past = last[:-1] + "i" if re.search(r"[^aeiou]y$", last) else stem
            forms += [past + "ed", stem + "ing"]
            if re.search(r"[aeiou][^aeiouwxy]$", last):
                forms += [last + last[-1] + "ed", last + last[-1] + "ing"]
        forms += self.exceptions.get((last, pos), [])
        return [first + space + form for form in dict.fromkeys(forms)]


def read_emoji(root: Path) -> dict[str, str]:
    """Reads the English short names of the emoji.

    Args:
        root: Folder that contains `annotations/en.xml` and `annotationsDerived/en.xml`.

    Returns:
        The characters of each emoji, by its short name.
    """
    names: dict[str, str] = {}
    for folder in ("annotations", "annotationsDerived"):
        tree = ElementTree.parse(find_file(root, f"{folder}/en.xml"))
        for annotation in tree.iter("annotation"):
            if annotation.get("type") == "tts" and annotation.text:
                names.setdefault(annotation.text, annotation.attrib["cp"])
    return names


class EmojiFont:
    """Extracts images from a colour font that stores them as bitmaps (CBDT).

    Args:
        root: Folder that contains `NotoColorEmoji.ttf`, at any depth.
    """

    def __init__(self, root: Path):
        # Imported here, because the library is required only to build the sample.
        library: Any = importlib.import_module("fontTools.ttLib")
        font = library.TTFont(find_file(root, "NotoColorEmoji.ttf"))
        self.version: str = font["name"].getDebugName(5)
        self._characters: dict[int, str] = font.getBestCmap()
        self._bitmaps = font["CBDT"].strikeData[0]
        self._ligatures: dict[tuple[str, ...], str] = {}
        for lookup in font["GSUB"].table.LookupList.Lookup:
            for table in lookup.SubTable:
                for first, ligatures in getattr(table, "ligatures", {}).items():
                    for ligature in ligatures:
                        parts = (first, *ligature.Component)
                        self._ligatures.setdefault(parts, ligature.LigGlyph)

    def draw(self, emoji: str, size: int, colours: int) -> bytes:
        """Draws an emoji on a white square.

        Args:
            emoji: The characters of the emoji.
            size: Height and width of the image in pixels.
            colours: Size of the palette; fewer colours make a smaller file.

        Returns:
            The bytes of a PNG file.

        Raises:
            KeyError: If the font does not have the emoji.
        """
        codes = [ord(c) for c in emoji if ord(c) != _VARIATION_SELECTOR]
        glyphs = tuple(self._characters[code] for code in codes)
        glyph = glyphs[0] if len(glyphs) == 1 else self._ligatures[glyphs]
        bitmap = io.BytesIO(self._bitmaps[glyph].imageData)
        drawing = Image.open(bitmap, formats=("PNG",)).convert("RGBA")
        side = max(drawing.size)
        canvas = Image.new("RGBA", (side, side), "white")
        corner = ((side - drawing.width) // 2, (side - drawing.height) // 2)
        canvas.alpha_composite(drawing, corner)
        image = canvas.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
        reduced = image.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        stream = io.BytesIO()
        reduced.save(stream, "PNG", optimize=True)
        return stream.getvalue()
