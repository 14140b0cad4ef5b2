"""The page's answers without a server: what is asked, what is refused, what is escaped."""

import re
import sys
import tomllib
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_world import tiny_model, tiny_picture, tiny_processor

from modeling_hmgrl import ZeroShotTypingPipeline

DEMO = Path(__file__).parents[2] / "demo"
sys.path.insert(0, str(DEMO))

import examples  # noqa: E402
import rendering  # noqa: E402
import space  # noqa: E402
from predictor import Predictor  # noqa: E402

TEXT = "anna sees the fox today"


def make(task="typing", **settings):
    fields = {"seen_labels": ["animal", "plant"], "generator_labels": ["tool"], **settings}
    model = tiny_model(task, calibration_gamma=0.25, **fields)
    return Predictor(ZeroShotTypingPipeline(model, tiny_processor(task)))


@pytest.fixture(scope="module")
def answers():
    return make()


@pytest.fixture
def picture(tmp_path):
    tiny_picture("animal", size=(48, 40)).save(tmp_path / "a.png")
    return {"path": str(tmp_path / "a.png"), "meta": {"_type": "gradio.FileData"}}


def plain(html):
    return unescape(re.sub(r"<[^>]+>", "", html))


def test_an_answer_is_that_of_the_pipeline_and_the_page_shows_it(answers, picture):
    labels = ["plant", "lute", "animal", "harp & <b>"]
    data, html = answers(TEXT, [[14, 17]], picture, labels, True, "attention")
    told = answers.pipe(TEXT, spans=[[14, 17]], image=picture["path"], labels=labels, top_k=None)
    assert [entry["label"] for entry in data["labels"]] == told["labels"]
    found = [entry["probability"] for entry in data["labels"]]
    np.testing.assert_allclose(found, told["probabilities"], rtol=1e-4)
    assert {entry["label"] for entry in data["labels"] if entry["seen"]} == {"plant", "animal"}
    bars = re.findall(r'<li class="(\w+)"><span class="hm-name" dir="auto">(.*?)</span>', html)
    assert [(unescape(name), kind) for kind, name in bars] == [
        (entry["label"], "seen" if entry["seen"] else "unseen") for entry in data["labels"]
    ]
    assert data["gamma"] == 0.25
    assert "γ = 0.25" in html
    assert np.array(data["explanation"]["image"]).shape == (4, 4)
    assert 'src="data:image/jpeg;base64,' in html
    assert '<mark class="hm-mark mention">' in html


def test_words_given_as_strings_are_found(answers):
    by_words, by_offsets = (answers(TEXT, m, None, ["a", "b"])[0] for m in (["fox"], [[14, 17]]))
    assert by_words == by_offsets
    assert "occurs at [0, 4]" in answers("fox fox", ["fox"], None, ["a"])[0]["error"]


def test_uncalibrated_scores_keep_their_gamma_but_not_their_colour(answers):
    calibrated, plain_scores = (
        answers(TEXT, [[14, 17]], None, ["plant", "lute"], flag)[0] for flag in (True, False)
    )
    score = {
        which["gamma"]: {e["label"]: e["score"] for e in which["labels"]}
        for which in (calibrated, plain_scores)
    }
    assert score[None]["plant"] - score[0.25]["plant"] == pytest.approx(0.25, abs=1e-3)
    assert score[None]["lute"] == score[0.25]["lute"]
    assert [e["seen"] for e in plain_scores["labels"] if e["label"] == "plant"] == [True]


@pytest.mark.parametrize("method", ["attention", "occlusion"])
def test_all_of_the_text_is_shown_once_and_escaped(answers, method, picture):
    text = 'anna <img src=x onerror="alert(1)"> & the old fox'
    start = text.index("old")
    labels = ["<script>alert(2)</script>", "b"]
    _, html = answers(text, [[start, start + 7]], picture, labels, True, method)
    [words] = re.findall(r'<p class="hm-words".*?</p>', html)
    assert plain(words) == text
    [mark] = re.findall(r"<mark.*?</mark>", words)
    assert plain(mark) == "old fox"
    assert "<script" not in html
    assert html.count("<img") == 1  # the heat


def test_long_texts_say_what_was_read(answers):
    text = "the old town " * 40 + "fox " + "quietly again " * 40
    start = text.index("fox")
    data, html = answers(text, [[start, start + 3]], None, ["a", "b"])
    kept = sum(end - start for start, end in data["window"])
    assert f"{kept:,} of {len(text):,} characters" in html
    assert 0 < kept < 400
    [words] = re.findall(r'<p class="hm-words".*?</p>', html)
    assert len(plain(words)) < 600
    assert "[…]" in words


def test_shares_are_set_beside_an_even_one():
    times = rendering._relative(np.array([0.2, 0.4, 0.2]), np.array([1, 2, 1]))
    assert times == pytest.approx([1, 1, 1])
    assert "1.00 to 1.00 times an even share: nearly even" in rendering._range("Words", times)
    times = rendering._relative(np.array([[1.0, 3.0], [0.0, 0.0]]))
    assert times == pytest.approx(np.array([[1, 3], [0, 0]]))
    assert rendering._range("Parts", times) == "Parts get 0.00 to 3.00 times an even share."
    assert rendering._relative(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]
    assert rendering._scale(np.array([0.01, 0.0]), 0.02).tolist() == [0.5, 0]
    assert rendering._scale(np.array([0.0, 0.0]), 0.0).tolist() == [0, 0]


def test_photographs_that_lie_on_their_side_are_set_upright(answers, tmp_path):
    wide = tiny_picture("animal", size=(48, 24))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    for mode, name in (("RGB", "a.jpg"), ("L", "b.jpg")):
        wide.convert(mode).save(tmp_path / name, exif=exif)
        assert answers._open_image({"path": str(tmp_path / name)}).size == (24, 48)


LONG = "x" * 10_001


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sentence": "  "}, "Sentence: write one first"),
        ({"sentence": None}, "Sentence: got NoneType, expected a text"),
        ({"sentence": LONG}, "Sentence: 10,001 characters, expected at most 10,000"),
        ({"sentence": "a \ud800 fox"}, "Sentence: contains half a character"),
        ({"mentions": []}, "Mention: none is marked, mark one in the sentence"),
        ({"mentions": None}, "Mention: none is marked"),
        ({"mentions": [None]}, "Mention: 0 marked, this model requires one"),
        ({"mentions": [[0, 2], [5, 9]]}, "Mention: 2 marked, this model requires one"),
        ({"mentions": {"a": 1}}, "Mention: expected a list"),
        ({"mentions": ["wolf"]}, "'wolf' not found"),
        ({"mentions": [[0, 99]]}, "expected 0 <= start < end <= 23"),
        ({"mentions": [[True, 2]]}, "Mention: expected [start, end] in characters"),
        ({"mentions": [[4, 5]]}, "contains whitespace only"),
        ({"labels": []}, "Labels: none are chosen, add at least one"),
        ({"labels": "animal"}, "Labels: got str, expected a list"),
        ({"labels": ["a", 3]}, "Label: got int, expected a text"),
        ({"labels": ["a", " "]}, "expected a label that is a non-blank string"),
        ({"labels": ["a" * 201]}, "Label: 201 characters, expected at most 200"),
        ({"labels": ["a"] * 1001}, "Labels: 1,001 are chosen, expected at most 1,000"),
        ({"method": "guess"}, "Method: expected one of attention, occlusion"),
        ({"picture": "/etc/passwd"}, "Picture: expected an uploaded file"),
        ({"picture": {"path": "/nowhere/x.png"}}, "Picture: the upload has been deleted"),
    ],
)
def test_what_cannot_be_used_is_reported(answers, changes, expected):
    asked = {"sentence": TEXT, "mentions": [[14, 17]], "labels": ["animal"], **changes}
    data, html = answers(**asked)
    assert expected in data["error"]
    assert 'role="alert"' in html
    assert expected in plain(html)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"no picture", "Picture: not an image, expected JPEG"),
        ("bomb", "Picture: 9000 x 8000 pixels, expected at most 64000000 pixels"),
        ("cut off", "Picture: truncated or damaged"),
    ],
)
def test_bad_images_are_reported_without_their_path(answers, tmp_path, content, expected):
    path = tmp_path / "a.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        bomb = content == "bomb"
        image = Image.new("1", (9000, 8000)) if bomb else Image.effect_noise((60, 60), 50)
        image.save(path)
        if not bomb:
            path.write_bytes(path.read_bytes()[:-200])
    data, html = answers(TEXT, [[14, 17]], {"path": str(path)}, ["animal"])
    assert expected in data["error"]
    assert str(tmp_path) not in html


def test_relations_take_a_head_and_a_tail():
    answers = make("relation")
    text = "anna feeds the fox"
    data, html = answers(text, [[0, 4], [15, 18]], None, ["owner of", "sibling of"])
    assert data["label"] in ("owner of", "sibling of")
    assert [
        plain(m) for m in re.findall(r'<mark class="hm-mark (?:head|tail)">.*?</mark>', html)
    ] == [
        "anna",
        "fox",
    ]
    assert (
        "mark two, a head and a tail in the sentence" in answers(text, [], None, ["a"])[0]["error"]
    )
    assert "1 marked" in answers(text, [[0, 4], None], None, ["a"])[0]["error"]
    swapped = answers(text, ["fox", "anna"], None, ["owner of", "sibling of"])[0]
    assert swapped["labels"] != data["labels"]


def test_models_without_images_refuse_them(picture):
    answers = make(vision=False)
    assert "reads text only" in answers(TEXT, [[14, 17]], picture, ["a"])[0]["error"]
    assert answers(TEXT, [[14, 17]], None, ["a"])[0]["label"] == "a"


def test_the_cache_of_labels_is_bounded(answers, monkeypatch):
    monkeypatch.setattr("predictor._MAX_CACHED_LABELS", 30)
    for turn in range(4):
        names = [f"label {turn} {i}" for i in range(20)]
        answers(TEXT, [[14, 17]], None, names)
        assert len(answers.pipe.label_cache) <= 50


@pytest.mark.parametrize("task", ["typing", "relation"])
def test_examples_mark_whole_words_and_have_images_that_open(task):
    found = examples.examples(task)
    assert len(found) >= 3
    for example in found:
        assert len(example.spans) == (1 if task == "typing" else 2)
        for start, end in example.spans:
            assert re.search(rf"\b{re.escape(example.text[start:end])}\b", example.text)
        image = example.load_image()
        assert image is None or image.size == (128, 128)
    assert sum(example.image is not None for example in found) == (5 if task == "typing" else 0)


def test_a_space_installs_what_the_package_needs(tmp_path):
    project = tomllib.loads((DEMO.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (DEMO / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    assert listed == [*project["dependencies"], *project["optional-dependencies"]["demo"]]
    gradio = re.search(r"sdk_version: (\S+)", (DEMO / "README.md").read_text(encoding="utf-8"))
    assert listed[-1].startswith(f"gradio>={gradio[1].removesuffix('.0')}")
    space.collect(tmp_path / "space", "user/name")
    page = (tmp_path / "space" / "README.md").read_text(encoding="utf-8")
    assert page.startswith("---\ntitle:")
    assert "\nmodels:\n- user/name\n---\n" in page
    with pytest.raises(FileExistsError):
        space.collect(tmp_path / "space", "user/name")
