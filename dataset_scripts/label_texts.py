"""Texts that represent labels: the name, an English clause, its parts, or a description.

The descriptions of published label sets were written for this project; users supply those of their
own labels. The choice is recorded with the splits, because it affects every score.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

LabelText = Literal["auto", "raw", "verbalised", "parts", "described"]

CLAUSES: MappingProxyType[str, str] = MappingProxyType(
    {
        "/loc/loc/contain": "location contains location",
        "/misc/loc/held_on": "event is held at location",
        "/misc/misc/part_of": "thing is part of thing",
        "/org/loc/locate_at": "organization is located at location",
        "/org/org/alternate_names": "organization is another name of organization",
        "/org/org/subsidiary": "organization is a subsidiary of organization",
        "/per/loc/place_of_birth": "person was born in location",
        "/per/loc/place_of_residence": "person lives in location",
        "/per/misc/awarded": "person was awarded prize",
        "/per/misc/nationality": "person has nationality",
        "/per/misc/present_in": "person is present in event",
        "/per/misc/race": "person is of race",
        "/per/misc/religion": "person follows religion",
        "/per/org/member_of": "person is a member of organization",
        "/per/per/alternate_names": "person is another name of person",
        "/per/per/alumi": "person went to the same school as person",
        "/per/per/charges": "person makes charges against person",
        "/per/per/couple": "person is in a couple with person",
        "/per/per/neighbor": "person is a neighbor of person",
        "/per/per/parent": "person is a parent of person",
        "/per/per/peer": "person is a peer of person",
        "/per/per/siblings": "person is a sibling of person",
    }
)

_MNRE: MappingProxyType[str, str] = MappingProxyType(
    {
        "/loc/loc/contain": "the first place contains the second, as a country contains a city",
        "/misc/loc/held_on": "an event, match or show takes place at a location",
        "/misc/misc/part_of": "one thing belongs to another, as a song to an album",
        "/org/loc/locate_at": "an organization, team or company is based in a place",
        "/org/org/alternate_names": "two names of one and the same organization",
        "/org/org/subsidiary": "one organization belongs to another, as a company to a group",
        "/per/loc/place_of_birth": "a person was born in a place or comes from it",
        "/per/loc/place_of_residence": "a person lives in a place",
        "/per/misc/awarded": "a person wins a prize, medal or title",
        "/per/misc/nationality": "a person is a national of a country",
        "/per/misc/present_in": "a person takes part in an event, show, film or match",
        "/per/misc/race": "a person belongs to an ethnic group",
        "/per/misc/religion": "a person follows a religion",
        "/per/org/member_of": "a person plays for, works for or belongs to an organization or team",
        "/per/per/alternate_names": "two names of one and the same person",
        "/per/per/alumi": "two people went to the same school",
        "/per/per/charges": "a person accuses another or takes him to court",
        "/per/per/couple": "two people are married or love each other",
        "/per/per/neighbor": "two people live next to each other",
        "/per/per/parent": "a person is father, mother or child of another",
        "/per/per/peer": "two people are colleagues, team mates, friends or rivals",
        "/per/per/siblings": "two people are brothers or sisters",
    }
)

_WIKIDIVERSE: MappingProxyType[str, str] = MappingProxyType(
    {
        "APP": "a piece of software, web site or online service",
        "Book": "a book, newspaper, magazine or other publication",
        "Building": "a building or structure, such as a stadium, church or bridge",
        "Country": "a country or state",
        "Currency": "the money of a country",
        "Event": "something that happens, such as a war, election, tournament or disaster",
        "Location": "a place, such as a city, region, river or mountain",
        "Movie": "a film or television series",
        "Music": "a song, album or other piece of music",
        "Organization": "a company, party, team, agency or other organization",
        "People": "a person, or several",
        "Site": "a site people go to, such as a park, airport or landmark",
    }
)

_SAMPLE: MappingProxyType[str, str] = MappingProxyType(
    {
        "aircraft": "a machine that flies, such as an aeroplane, helicopter or balloon",
        "bird": "an animal with feathers, a beak and wings",
        "body part": "a part of the body of a human or animal",
        "building": "a structure with walls and a roof that people use",
        "celestial body": "an object in the sky, such as a planet, star, moon or comet",
        "city": "a large town where many people live",
        "clothing": "something that people wear",
        "country": "a state with its own land and government",
        "currency": "the money of a country",
        "drink": "a liquid that people swallow for pleasure or against thirst",
        "electronic device": "a device that runs on electricity and handles signals or data",
        "fish": "an animal with fins and gills that lives in water",
        "flower": "a plant grown or known for its blossoms",
        "food": "something prepared for people to eat",
        "fruit": "the sweet fleshy part of a plant that is eaten",
        "furniture": "an object in a room to sit, lie, work or keep things on",
        "insect": "a small animal with six legs and often with wings",
        "landform": "a natural feature of the land, such as a hill, cliff or bay",
        "mammal": "a warm-blooded animal with hair that feeds its young with milk",
        "musical instrument": "an object that is played to make music",
        "occupation": "a job or profession by which people earn a living",
        "reptile": "a cold-blooded animal with scales, such as a snake, lizard or turtle",
        "sport": "a game or physical contest with rules",
        "tool": "an object held in the hand to do work with",
        "tree": "a tall plant with a trunk of wood and branches",
        "vegetable": "a plant or part of one that is eaten with a meal",
        "vehicle": "a machine on wheels that carries people or goods on land",
        "watercraft": "a boat, ship or other vessel that moves on water",
        "weapon": "an object made to fight or hunt with",
        "weather": "what the air and the sky are doing, such as rain, wind or sun",
    }
)

# By source, because another data set may use the same name in another sense.
DESCRIPTIONS: MappingProxyType[str, Mapping[str, str]] = MappingProxyType(
    {"mnre": _MNRE, "wikidiverse": _WIKIDIVERSE, "sample": _SAMPLE}
)

_TYPE_WORDS = {"per": "person", "org": "organization", "loc": "location", "misc": "thing"}
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def verbalise(label: str) -> str:
    """Converts a label name to English words, and a relation to a clause that begins with the head.

    Args:
        label: E.g. `"/per/org/member_of"` or `"MilitaryConflict"`.

    Returns:
        The clause from `CLAUSES`, e.g. "person is a member of organization". Other relations are
        composed of their parts, "/per/org/led_by" → "person led by organization". In all other
        names slashes and underscores become spaces, and names in capitals or camel case become
        lower case: "ART_WORK" → "art work".
    """
    if label in CLAUSES:
        return CLAUSES[label]
    parts = [part.replace("_", " ").strip() for part in label.split("/") if part.strip("_ ")]
    if label.startswith("/") and len(parts) == 3:
        head, name, tail = parts[0], parts[2], parts[1]
        return f"{_TYPE_WORDS.get(head, head)} {name} {_TYPE_WORDS.get(tail, tail)}"
    words = _CAMEL.sub(" ", " ".join(parts))
    if words.isupper() or words != " ".join(parts):
        words = words.lower()
    return " ".join(words.split()) or label


def split_clause(label: str) -> str:
    """Divides the clause of a relation into head, relation and tail.

    Args:
        label: A relation for which :func:`verbalise` returns at least three words.

    Returns:
        E.g. "person; is a member of; organization".

    Raises:
        ValueError: If the clause has fewer words.
    """
    words = verbalise(label).split()
    if len(words) < 3:
        raise ValueError(
            f"label_text: {label!r} is verbalised as {' '.join(words)!r}, expected a head, a "
            "relation and a tail for label_text='parts'"
        )
    return "; ".join([words[0], " ".join(words[1:-1]), words[-1]])


def recommended_text(label: str) -> str:
    """Returns a relation in three parts if its name defines them, and any other label in words.

    Args:
        label: E.g. `"/per/org/member_of"`, `"person; plays for; team"` or `"MilitaryConflict"`.

    Returns:
        E.g. "person; is a member of; organization", the name as it is, or "military conflict".
    """
    if label.count(";") == 2 and all(part.strip() for part in label.split(";")):
        return label
    first, *parts = label.split("/")
    is_path = not first and len(parts) == 3 and all(re.search(r"[^_\s]", part) for part in parts)
    if label in CLAUSES or is_path:
        return split_clause(label)
    return verbalise(label)


def make_label_texts(
    labels: Sequence[str],
    choice: LabelText,
    source: str,
    descriptions: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Returns the text that represents each label.

    Args:
        labels: Label names.
        choice: `"raw"`, `"verbalised"`, `"parts"`, `"described"`, or `"auto"` for
            :func:`recommended_text`; labels that would then have the same text keep their names.
        source: Name of the source, for which the package may contain descriptions.
        descriptions: The caller's descriptions, which take precedence.

    Raises:
        ValueError: If a label has no description or cannot be divided into parts, or two labels
            have the same text.
    """
    if choice == "auto":
        texts = {label: recommended_text(label) for label in labels}
        uses = Counter(texts.values())
        texts = {label: text if uses[text] == 1 else label for label, text in texts.items()}
    elif choice == "raw":
        texts = {label: label for label in labels}
    elif choice == "verbalised":
        texts = {label: verbalise(label) for label in labels}
    elif choice == "parts":
        texts = {label: split_clause(label) for label in labels}
    else:
        known = {**DESCRIPTIONS.get(source, {}), **(descriptions or {})}
        if missing := [label for label in labels if label not in known]:
            raise ValueError(
                f"label_descriptions: expected one for each of {len(labels)} labels, got none for "
                f"{missing}"
            )
        texts = {label: known[label] for label in labels}
    owner: dict[str, str] = {}
    for label, text in texts.items():
        if text in owner:
            raise ValueError(
                f"label_text: {owner[text]!r} and {label!r} have the same text {text!r}; expected "
                "a different text for each label"
            )
        owner[text] = label
    return texts
