"""Random files in the formats of published corpora: read, or refused by a documented error."""

from fuzz_world import fuzz, mutated, read_both_ways, spans_of, texts, to_json, values
from hypothesis import given
from hypothesis import strategies as st

from dataset_scripts.options import SourceOptions
from dataset_scripts.sources import bio, mnre, wikidiverse
from dataset_scripts.sources.wikidiverse import TYPES


def read_all(source, **choices):
    """Reads files with both ways of handling errors, and checks what they return."""
    lenient, strict = read_both_ways(source.read, SourceOptions(**choices))
    if lenient is not None:
        assert strict is None or strict.records == lenient.records


# BIO and BIOES

TOKENS = st.sampled_from(["Ada", "met", "鳥", "é", "👩🏽‍💻", "IMGID:a", "-DOCSTART-"]) | texts(3)
TAGS = st.sampled_from(["O", "B-PER", "I-PER", "E-PER", "S-LOC", "I-LOC", "B-", "B", "X-PER"])
BIO_LINES = (
    st.tuples(TOKENS, st.sampled_from([" ", "\t", "  ", " x "]), TAGS | texts(2)).map("".join)
    | st.sampled_from(["", "IMGID:a.png", "IMGID:", "IMGID:../b", "-DOCSTART- O", "\t", "alone"])
    | texts(4)
)


@fuzz()
@given(st.data())
def test_tagged_files(tmp_path, data):
    lines = st.lists(BIO_LINES, max_size=12).map(
        lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
    )
    (tmp_path / "a.bio").write_bytes(data.draw(mutated(lines)))
    joiner = data.draw(st.sampled_from(["auto", "space", "none"]))
    read_all(bio, data_dir=str(tmp_path), image_dir=str(tmp_path), joiner=joiner)


# MNRE


@st.composite
def mnre_lines(draw):
    tokens = draw(st.lists(st.sampled_from(["Ada", "met", "Bob", "鳥"]) | texts(2), max_size=5))
    end = st.integers(0, len(tokens) + 1)

    def mention():
        first, last = sorted((draw(end), draw(end)))
        name = draw(st.just(" ".join(tokens[first:last])) | texts(2))
        return {"name": name, "pos": draw(st.sampled_from([[first, last], (first, last)]))}

    line = {"token": tokens, "h": mention(), "t": mention(), "img_id": "a.jpg"}
    line["relation"] = draw(st.sampled_from(["/per/org/member_of", "None"]))
    changed = st.dictionaries(st.sampled_from([*line, "x"]), values(["name", "pos"]), max_size=1)
    return repr(line | draw(changed)).encode("utf-8", "surrogatepass")


ODD_LITERALS = [
    b"0x" + b"f" * 5000, b"{'h': 0x" + b"f" * 5000 + b"}", b"(" * 300, b"-" * 5000 + b"1",
    b"{**{}}", b"{'token': [" + b"1," * 3000 + b"]}", b"{[]: 1}", b"b'\\x'", b"'\\N{no such}'",
    b"{'token': ['a', 'b'], 'h': {'name': 'a', 'pos': [0x" + b"f" * 5000 + b", 1]}, 't': 1, "
    b"'img_id': 1, 'relation': 'r'}", b"1" * 5000, b"{'relation': 'r', 'token': 0b" + b"1" * 60000,
]  # fmt: skip


@fuzz()
@given(st.data())
def test_mnre(tmp_path, data):
    line = mutated(mnre_lines(), most=2) | st.sampled_from(ODD_LITERALS)
    for part in ("train", "val", "test"):
        lines = data.draw(st.lists(line, max_size=2))
        (tmp_path / f"mnre_{part}.txt").write_bytes(b"\n".join(lines))
    read_all(mnre, data_dir=str(tmp_path), image_dir=str(tmp_path))


# WikiDiverse


@st.composite
def samples(draw):
    text = draw(st.sampled_from(["Ada met Bob", "我在北京大学", "👩🏽‍💻 and é"]) | texts())
    mentions = []
    for span in draw(spans_of(text)):
        start, end = (*span, 0, 0)[:2]
        surface = draw(st.just(text[max(start, 0) : max(end, 0)]) | texts(2))
        mentions.append([surface, draw(st.sampled_from([*TYPES[:3], "Other"])), start, end, "u"])
    url = draw(st.sampled_from(["https://a.org/b.svg", None, "x" * 300, "a/..", "a/.JPG/../b"]))
    sample = [text, url, "topic", mentions]
    if draw(st.integers(0, 3)) == 0:
        sample[draw(st.integers(0, 3))] = draw(values())
    return sample


@fuzz()
@given(st.data())
def test_wikidiverse(tmp_path, data):
    files = st.lists(samples() | values(), max_size=3).map(to_json) | values().map(to_json)
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.json").write_bytes(data.draw(mutated(files, most=2)))
    read_all(wikidiverse, data_dir=str(tmp_path), image_dir=str(tmp_path))
