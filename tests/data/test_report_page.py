"""The page of a data report: nothing lost, nothing of the data taken for HTML, always the same."""

import io
import json
import re
import sys
import warnings
from html import unescape
from html.parser import HTMLParser

import pytest
from PIL import Image

from dataset_scripts import load_gzs
from dataset_scripts.__main__ import main
from dataset_scripts.report.figure import (
    GROUP_COLOURS,
    NO_FIGURE,
    _font_families,
    draw_labels,
    ordered_labels,
    shorten,
)
from dataset_scripts.report.page import save_report
from dataset_scripts.report.samples import choose_samples, mark_spans, thumbnail
from dataset_scripts.schema import Place

LABELS = ("person", "city", "river", "animal")
VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a page holds, with a check that its elements are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def record(number, labels=LABELS, **change):
    values = {
        "id": f"r{number:03d}",
        "text": f"Ada met Bob {number}",
        "spans": [[0, 3]],
        "label": labels[number % len(labels)],
    }
    return {**values, **change}


def load(tmp_path, records, **options):
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    lines = [json.dumps(values) + "\n" for values in records]
    (folder / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    return load_gzs("records", str(folder), cache_dir=str(tmp_path / "cache"), **options)


@pytest.fixture
def data(tmp_path):
    return load(tmp_path, [record(number) for number in range(40)])


def read_page(data, tmp_path, **options):
    text = save_report(data, tmp_path / "out", **options)[2].read_text(encoding="utf-8")
    return text, Page(text)


def test_three_files(data, tmp_path):
    folder = tmp_path / "a" / "b"
    paths = save_report(data, folder)
    assert [path.name for path in paths] == ["report.json", "labels.png", "report.html"]
    assert sorted(folder.iterdir()) == sorted(paths)
    saved = json.loads(paths[0].read_text(encoding="utf-8"))
    assert saved == {**data.report.to_dict(), "label_texts": data.label_texts}
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in save_report(data, folder)] == before
    with pytest.raises(ValueError, match="examples: expected 0 or more, got -1"):
        save_report(data, folder, examples=-1)


def test_json_is_for_reading(tmp_path):
    labels = ("人物", "城市", "river 🌊")
    data = load(tmp_path, [record(number, labels) for number in range(30)])
    text = save_report(data, tmp_path)[0].read_bytes().decode("utf-8")
    assert '"人物"' in text
    assert '"river 🌊"' in text
    assert text.startswith('{\n  "source": "records"')


def test_without_matplotlib_the_report_lacks_only_the_figure(data, tmp_path, monkeypatch):
    whole = save_report(data, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    paths = save_report(data, tmp_path / "out")
    assert [path.name for path in paths] == ["report.json", "report.html"]
    assert set((tmp_path / "out").iterdir()) == set(paths)
    assert whole[0].read_bytes() == paths[0].read_bytes()
    page = Page(paths[1].read_text(encoding="utf-8"))
    assert page.text.count(NO_FIGURE) == 1
    assert "img" not in page.tags
    with pytest.raises(ImportError, match=r'pip install "hmgrl\[report\]"'):
        draw_labels(data)


def test_the_command_says_what_the_figure_requires(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    load(tmp_path, [record(number) for number in range(40)])
    out = tmp_path / "out"
    main(["report", "--source", "records", "--data-dir", str(tmp_path / "data"),
          "--out", str(out)])  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.count(NO_FIGURE) == 1
    assert f"Written: {out / 'report.html'}" in printed
    assert (out / "report.html").is_file()


def pixels_of(image, colour):
    rgb = tuple(bytes.fromhex(colour[1:]))
    return sum(count for count, found in image.getcolors(1 << 24) if found == rgb)


def test_the_figure_grows_and_shows_each_group(tmp_path):
    heights = []
    for number in (3, 60):
        labels = [f"label {index}" for index in range(number)]
        (tmp_path / str(number)).mkdir()
        records = [record(index, labels) for index in range(10 * number)]
        image = Image.open(io.BytesIO(draw_labels(load(tmp_path / str(number), records))))
        image = image.convert("RGB")
        assert image.width == 1210
        heights.append(image.height)
        assert all(pixels_of(image, colour) > 300 for colour in GROUP_COLOURS.values())
    assert 180 < heights[0] < 300
    assert 1200 < heights[1] < 2400


def test_labels_go_by_group_and_number(tmp_path):
    numbers = {"a": 10, "b": 20, "c": 10, "d": 12, "e": 30, "f": 5}
    labels = [label for label, number in numbers.items() for _ in range(number)]
    lists = {"seen": ["a", "b", "c"], "validation_unseen": ["f"], "test_unseen": ["d", "e"]}
    data = load(tmp_path, [record(i, label=label) for i, label in enumerate(labels)], **lists)
    assert ordered_labels(data) == ["b", "a", "c", "f", "e", "d"]


def test_the_figure_takes_labels_for_text(tmp_path):
    # Not mathematics, no control of the line, and a character that hardly any font has.
    labels = ("$x$", "$\\frac{", "a\nb\tc", "人物 𓀀", "שלום", "🦊")
    data = load(tmp_path, [record(number, labels) for number in range(60)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_labels(data)
    from matplotlib import rcParams, rc_context  # noqa: I001, PLC0415

    plain = draw_labels(data)
    with rc_context({"axes.facecolor": "black", "text.color": "red"}):
        assert draw_labels(data) == plain
        assert rcParams["text.color"] == "red"


def test_fonts_are_looked_for_only_where_the_first_lacks_characters():
    assert _font_families(["city", "город", "a\u200db"]) == ["DejaVu Sans"]
    # Whatever is installed here, a font of boxes is no help.
    assert not any("Last Resort" in name for name in _font_families(["人物", "𓀀"]))


def test_long_names_keep_both_ends():
    assert shorten("a  b\n c") == "a b c"
    assert shorten("x" * 34) == "x" * 34
    short = shorten("/location/" + 40 * "-" + "/place_of_birth")
    assert len(short) == 34
    assert short.startswith("/location/")
    assert short.endswith("/place_of_birth")
    assert shorten("一二三四五六", 7) == "一二…六"
    assert shorten("一二三四五六", 12) == "一二三四五六"


def test_nothing_of_the_data_is_markup(tmp_path):
    evil = "<script>alert('x')</script>\"&amp;"
    labels = (evil, "city</td>", "<b>river", "animal")
    records = [
        record(number, labels, id=f"{evil}{number}", text=f"{evil} met {evil}", spans=[[0, 9]])
        for number in range(40)
    ]
    records.append(record(40, labels, spans=[[9, "<script>"]]))
    data = load(tmp_path, records, on_error="skip")
    text, page = read_page(data, tmp_path)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert not re.search(r"<script|onerror|src=\"(?!data:image/)|https?:|javascript:", text)
    assert page.text.count(evil) >= 2  # as a label of the table and of a sample
    assert any("[9, '<script>']" in part for part in page.text)  # why a record was left out
    (alt,) = {a["alt"] for a in page.attributes if a.get("src", "").startswith("data:image/png")}
    assert alt.startswith("Bars: ")


def test_a_file_whose_name_is_not_utf8(data, tmp_path):
    data.report.note("oddity", Place("caf\udce9.jsonl", 1), "found")
    paths = save_report(data, tmp_path / "out")
    saved = json.loads(paths[0].read_text(encoding="utf-8"))
    assert saved == {**data.report.to_dict(), "label_texts": data.label_texts}
    assert "caf\\udce9.jsonl:1" in paths[2].read_text(encoding="utf-8")


def test_the_page_says_what_it_is(data, tmp_path):
    text, page = read_page(data, tmp_path)
    metas = [a for tag, a in zip(page.tags, page.attributes, strict=True) if tag == "meta"]
    assert metas[0] == {"charset": "utf-8"}
    (policy,) = [a["content"] for a in metas if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert page.attributes[page.tags.index("html")] == {"lang": "en"}
    assert not any("style" in attributes for attributes in page.attributes)
    assert "records · typing · seed 0 · protocol version 1 · group_by none" in page.text
    assert page.tags.count("article") == 12
    assert str(tmp_path) not in text
    for split in ("train", "validation", "test"):
        assert f"of these in {split}" in page.text
    # No sentence comes twice, so the shares are of samples without overlap.
    assert "(0.0 %)" in page.text
    assert read_page(data, tmp_path, examples=0)[1].tags.count("article") == 0
    assert read_page(data, tmp_path, examples=1000)[1].tags.count("article") == 40


def test_samples_do_not_depend_on_the_order_of_rows(data, tmp_path):
    chosen = choose_samples(data.splits, 12)
    assert [sample.split for sample in chosen] == 4 * ["train"] + 4 * ["validation"] + 4 * ["test"]
    assert {sample.label for sample in chosen} == set(LABELS)
    seen = set(data.partition.seen)
    for split in ("validation", "test"):
        shown = [sample.label in seen for sample in chosen if sample.split == split]
        assert sorted(shown) == [False, False, True, True]
    assert [sample.id for sample in choose_samples(data.splits, 4)] == [
        chosen[place].id for place in (0, 1, 4, 8)
    ]
    turned = type(data.splits)(
        {split: rows.select(range(len(rows))[::-1]) for split, rows in data.splits.items()}
    )
    assert choose_samples(turned, 12) == chosen


def test_images_come_first_and_may_be_damaged(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = [f"{number}.png" for number in range(0, 40, 2)]
    for name in names:
        Image.new("RGBA", (700, 350), (200, 30, 60, 255)).save(folder / name)
    records = [
        record(number, image=names[number // 2] if number % 2 == 0 else None)
        for number in range(40)
    ]
    # Labels follow the number, so every other label has no picture at all: shown nevertheless.
    data = load(tmp_path, records, image_dir=str(folder))
    _, page = read_page(data, tmp_path)
    pictures = [a for a in page.attributes if a.get("src", "").startswith("data:image/jpeg")]
    assert 0 < len(pictures) < 12
    assert page.text.count("no image") == 12 - len(pictures)
    for name in names:
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / names[0]).unlink()
    _, page = read_page(data, tmp_path)
    assert page.text.count("image cannot be read") == len(pictures)


def test_of_a_label_samples_with_images_are_shown(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    records = [record(i, image="one.png" if i // 4 % 3 == 0 else None) for i in range(120)]
    data = load(tmp_path, records, image_dir=str(tmp_path))
    chosen = choose_samples(data.splits, 12)
    assert sum(sample.picture is not None for sample in chosen) > 6
    for sample in chosen:
        rows = data.splits[sample.split]
        label = rows.features["label"].str2int(sample.label)
        pictures = [row["image"] for row in rows if row["label"] == label]
        assert (sample.picture is not None) == any(pictures)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "1", "I;16", "CMYK"])
def test_thumbnails(mode, tmp_path):
    file = io.BytesIO()
    Image.new(mode, (900, 300)).save(file, "JPEG" if mode == "CMYK" else "PNG")
    small = Image.open(io.BytesIO(thumbnail({"bytes": file.getvalue(), "path": None})))
    assert (small.format, small.mode) == ("JPEG", "RGB")
    assert small.size in ((256, 85), (256, 86))
    assert thumbnail({"bytes": file.getvalue()[:-40], "path": None}) is None or mode == "CMYK"
    assert thumbnail({"bytes": None, "path": str(tmp_path)}) is None


def test_thumbnails_are_upright_and_bare():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    exif[0x010E] = "who took it"
    file = io.BytesIO()
    Image.new("RGB", (90, 30)).save(file, "JPEG", exif=exif, comment=b"where it was taken")
    content = thumbnail({"bytes": file.getvalue(), "path": None})
    assert Image.open(io.BytesIO(content)).size == (30, 90)
    assert b"taken" not in content
    assert b"who took it" not in content


def plain(html):
    """The text of marked HTML without the names of roles."""
    return unescape(re.sub(r"<[^>]*>", "", re.sub(r'<span class="role.*?</span>', "", html)))


def marked(html, role):
    """The text that is marked by a role."""
    pieces = re.findall(r'<mark class="([^"]*)">([^<]*)</mark>', html)
    return unescape("".join(text for roles, text in pieces if role in roles.split()))


@pytest.mark.parametrize(
    ("text", "head", "tail"),
    [
        ("Ada met Bob", "Ada", "Bob"),
        ("Ada met Bob", "Bob", "Ada"),
        ("SAP SE grew", "SAP SE", "SAP"),  # one in the other, with a common start
        ("the Tokyo Tower Hotel", "Tokyo Tower", "Tower Hotel"),  # crossing
        ("in Melbourne Taxi Service", "Taxi", "Melbourne Taxi Service"),
        ("AB", "A", "B"),  # touching, the whole text
        ("👩‍🚀🇯🇵在东京塔🗼下", "东京塔🗼", "东京"),
        ("x & <y> \"z\"\n & 'q'", "<y>", '& <y> "z"\n &'),
    ],
)
def test_marks(text, head, tail):
    starts = [text.index(part) for part in (head, tail)]
    spans = [(starts[0], starts[0] + len(head)), (starts[1], starts[1] + len(tail))]
    html = mark_spans(text, spans, ("head", "tail"))
    Page(html)
    assert plain(html) == text
    assert marked(html, "head") == head
    assert marked(html, "tail") == tail
    for role, start in zip(("head", "tail"), starts, strict=True):
        before, after = html.split(f'<span class="role {role}">{role}</span>')
        assert plain(before) == text[:start]
        assert after


def test_the_outer_of_two_spans_is_named_first():
    html = mark_spans("SAP SE grew", [(0, 3), (0, 6)], ("head", "tail"))
    assert re.findall(r'class="role (\w+)"', html) == ["tail", "head"]


def test_one_mention_needs_no_name():
    html = mark_spans("I ❤ 東京", [(4, 6)], ("mention",))
    assert html == 'I ❤ <mark class="mention">東京</mark>'


def test_long_texts_are_cut_around_the_mentions():
    words = "lorem ipsum " * 200
    text = f"{words}Ada {words}Bob {words}"
    ada, bob = text.index("Ada"), text.index("Bob")
    html = mark_spans(text, [(bob, bob + 3), (ada, ada + 3)], ("head", "tail"))
    assert (marked(html, "head"), marked(html, "tail")) == ("Bob", "Ada")
    pieces = plain(html).split("…")
    assert len(pieces) == 4
    assert (pieces[0], pieces[3]) == ("", "")
    for piece, name in zip(pieces[1:3], ("Ada", "Bob"), strict=True):
        assert piece in text
        assert name in piece
        assert 220 < len(piece) < 270
        assert set(piece.split()) == {"lorem", "ipsum", name}  # no word is torn


def test_long_texts_are_not_cut_at_their_ends():
    text = "字" * 1000
    assert plain(mark_spans(text, [(0, 2)], ("mention",))) == "字" * 112 + "…"
    assert plain(mark_spans(text, [(990, 1000)], ("mention",))) == "…" + "字" * 120
    # Of a mention that is long itself, both ends are shown.
    html = mark_spans(text, [(100, 900)], ("mention",))
    assert plain(html) == "字" * 220 + "…" + "字" * 220
    assert marked(html, "mention") == "字" * 240


def test_a_relation_page(tmp_path):
    records = [record(number, spans=[[8, 11], [0, 3]]) for number in range(40)]
    text, page = read_page(load(tmp_path, records), tmp_path)
    assert page.text.count("Ada") == 12
    assert text.count('<mark class="head">Bob</mark>') == 12
    assert text.count('<span class="role tail">tail</span>') == 12
