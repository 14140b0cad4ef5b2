"""Builds the embedded sample: real images and real sentences for entity typing.

A concept of `concepts` assigns images to a WordNet noun. All hyponyms of the noun are mentions of
the concept's type, and the texts are WordNet's example sentences and glosses that contain these
words. `texts` and `select` determine which of them are used.

    python -m dataset_scripts.sample_recipe.make_sample --wordnet DIR --cldr DIR --font DIR

The three folders contain the unpacked packages. The same packages give the same rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet

from dataset_scripts.sample_recipe.sources import EmojiFont, WordNet, read_emoji
from dataset_scripts.sample_recipe.texts import (
    KINDS,
    Candidate,
    find_candidates,
    read_concepts,
    skeleton,
)

TARGET = Path(__file__).parents[1] / "sample_data" / "sample.parquet"


def select(
    candidates: list[Candidate], per_type: int, per_mention: int, floor: int
) -> list[Candidate]:
    """Selects varied texts for each type, each text and each pattern of a text at most once.

    Selection begins with one text per mention and few per concept; both limits increase until the
    type is complete.

    Args:
        candidates: The candidates.
        per_type: Maximum number of texts of a type.
        per_mention: Maximum number of texts of a word, unless the type would stay below `floor`.
        floor: Minimum number of texts of a type, for which `per_mention` may be exceeded; types
            that do not reach it are excluded.
    """
    by_type: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_type[candidate.mention.label].append(candidate)
    used: set[str] = set()
    chosen = []
    # Types with the fewest texts are filled first, before other types use their texts.
    for label in sorted(by_type, key=lambda name: (len({c.text for c in by_type[name]}), name)):
        order = sorted(by_type[label], key=lambda c: (KINDS.index(c.kind), _digest(c)))
        own: list[Candidate] = []
        for bound in (4, 8, 16, 32, per_type):
            _fill(own, order, used, room=per_type, per_mention=per_mention, per_concept=bound)
        _fill(own, order, used, room=floor, per_mention=floor, per_concept=per_type)
        if len(own) >= floor:
            chosen += own
    return chosen


def _digest(candidate: Candidate) -> str:
    parts = (candidate.text, candidate.mention.word, candidate.mention.synset, candidate.start)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _fill(
    own: list[Candidate],
    order: list[Candidate],
    used: set[str],
    *,
    room: int,
    per_mention: int,
    per_concept: int,
) -> None:
    """Adds candidates to `own` in rounds, each of which allows one more text per word."""
    words = Counter(candidate.mention.word for candidate in own)
    concepts = Counter(candidate.mention.concept for candidate in own)
    for bound in range(1, per_mention + 1):
        for candidate in order:
            mention = candidate.mention
            if (
                len(own) >= room
                or words[mention.word] >= bound
                or concepts[mention.concept] >= per_concept
            ):
                continue
            pattern = skeleton(candidate.text, candidate.start, candidate.end)
            if used.isdisjoint((pattern, candidate.text)):
                own.append(candidate)
                used.update((pattern, candidate.text))
                words[mention.word] += 1
                concepts[mention.concept] += 1


def build_rows(
    chosen: list[Candidate], emoji: dict[str, str], font: EmojiFont, size: int, colours: int
) -> list[dict[str, object]]:
    """Combines each text with one of its images.

    Args:
        chosen: The texts.
        emoji: Characters of the emoji by their short names.
        font: Font that draws the images.
        size: Height and width of an image in pixels.
        colours: Number of colours of an image.

    Returns:
        The records, in an order independent of their types.
    """
    drawn: dict[str, bytes] = {}
    rows: list[dict[str, object]] = []
    for candidate in chosen:
        digest = _digest(candidate)
        names = candidate.mention.images
        name = names[int(digest, 16) % len(names)]
        if name not in drawn:
            drawn[name] = font.draw(emoji[name], size, colours)
        rows.append(
            {
                "id": digest[:12],
                "text": candidate.text,
                "image": {"bytes": drawn[name], "path": None},
                "spans": [[candidate.start, candidate.end]],
                "label": candidate.mention.label,
                "mention": candidate.text[candidate.start : candidate.end],
                "picture": name,
                "source": f"{candidate.source} {candidate.kind}",
            }
        )
    return sorted(rows, key=lambda row: str(row["id"]))


def write(rows: list[dict[str, object]], path: Path) -> None:
    """Writes records as Parquet, with the features by which `datasets` recognises images.

    Args:
        rows: The records.
        path: The file.
    """
    text = pa.string()
    schema = pa.schema(
        [
            ("id", text),
            ("text", text),
            ("image", pa.struct([("bytes", pa.binary()), ("path", text)])),
            ("spans", pa.list_(pa.list_(pa.int32()))),
            ("label", text),
            ("mention", text),
            ("picture", text),
            ("source", text),
        ]
    )
    features: dict[str, object] = {
        name: {"dtype": "string", "_type": "Value"} for name in schema.names
    }
    features["image"] = {"_type": "Image"}
    offset = {"dtype": "int32", "_type": "Value"}
    features["spans"] = {"feature": {"feature": offset, "_type": "List"}, "_type": "List"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(
        pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata)),
        path,
        compression="zstd",
        row_group_size=len(rows),
        # Above this size Parquet drops a column's dictionary and stores an image for each record.
        dictionary_pagesize_limit=16 * 2**20,
    )


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Build the embedded sample from unpacked packages of its sources.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--wordnet", type=Path, required=True, help="folder of WordNet 3.0")
    parser.add_argument("--cldr", type=Path, required=True, help="folder of the CLDR annotations")
    parser.add_argument("--font", type=Path, required=True, help="folder of NotoColorEmoji.ttf")
    parser.add_argument("--output", type=Path, default=TARGET, help="file to write")
    parser.add_argument("--per-type", type=int, default=130, help="maximum records of a type")
    parser.add_argument("--per-mention", type=int, default=4, help="maximum records of a word")
    parser.add_argument("--floor", type=int, default=50, help="minimum records of a type")
    parser.add_argument("--size", type=int, default=128, help="side of an image in pixels")
    parser.add_argument("--colours", type=int, default=64, help="number of colours of an image")
    return parser


def main() -> None:
    """Builds the sample from the command line."""
    args = build_parser().parse_args()
    wordnet = WordNet(args.wordnet)
    emoji = read_emoji(args.cldr)
    font = EmojiFont(args.font)
    candidates = find_candidates(wordnet, read_concepts(wordnet, emoji))
    chosen = select(candidates, args.per_type, args.per_mention, args.floor)
    rows = build_rows(chosen, emoji, font, args.size, args.colours)
    write(rows, args.output)

    print("| Type | Records | Words | Images | Examples | Glosses |")
    print("|---|---|---|---|---|---|")
    for label in sorted({str(row["label"]) for row in rows}):
        own = [row for row in rows if row["label"] == label]
        kinds = Counter(str(row["source"]).partition(" ")[2] for row in own)
        words = {str(row["mention"]).lower() for row in own}
        print(
            f"| {label} | {len(own)} | {len(words)} | {len({str(row['picture']) for row in own})} "
            f"| {kinds[KINDS[0]] + kinds[KINDS[1]]} | {kinds[KINDS[2]]} |"
        )
    images = {str(row["picture"]) for row in rows}
    print(f"\n{len(rows)} records, {len(images)} images, {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
