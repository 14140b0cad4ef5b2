"""The page: inputs, examples and the answer."""

import base64
import json
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import gradio as gr
import rendering
from examples import CREDITS, Example, examples
from middleware import KEPT_SECONDS, MAX_UPLOAD_BYTES, Gate
from predictor import Answers
from starlette.middleware import Middleware

_HERE = Path(__file__).parent

_TITLE = "What is meant?"
_INTRO = """<header class="hm-head"><h1>What is meant?</h1>
<p>Mark words in a sentence, add a picture if there is one, and give the labels to choose from: any
words will do, also labels of which the model has seen no sample in training.</p></header>"""

_HINTS = {
    1: "Select the words that are meant: drag over them, or double-click.",
    2: "Select the head, then the tail: drag over the words, or double-click.",
}

_WAITING = 20
_DELETE_EVERY = 600  # seconds
_SESSIONS = 200

_EXAMPLES_JS = """element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button) trigger('click', { index: Number(button.dataset.index) });
});"""

_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
_THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="slate",
    radius_size="lg",
    font=_FONTS,
    font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
).set(block_radius="14px", block_label_radius="12px 0 12px 0", input_radius="10px")


def build(answers: Answers) -> gr.Blocks:
    """Builds the page.

    Args:
        answers: What answers.

    Returns:
        The page, to be given to :func:`launch`.
    """
    count = 2 if answers.relation else 1
    tries = examples("relation" if answers.relation else "typing")
    if not answers.has_pictures:
        tries = [example for example in tries if example.picture is None]
    with gr.Blocks(
        title=_TITLE, analytics_enabled=False, delete_cache=(_DELETE_EVERY, KEPT_SECONDS)
    ) as page:
        gr.HTML(_INTRO, apply_default_css=False)
        chosen = gr.HTML(
            _cards(tries), elem_id="examples", js_on_load=_EXAMPLES_JS, apply_default_css=False
        )
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="inputs"):
                sentence = gr.Textbox(
                    label="Sentence",
                    lines=2,
                    max_lines=10,
                    placeholder="We saw a heron at the edge of the pond",
                    elem_id="sentence",
                )
                marked = gr.HTML(
                    f'<p class="hm-hint">{_HINTS[count]}</p>',
                    elem_id="marked",
                    apply_default_css=False,
                )
                with gr.Row(elem_id="mark-buttons"):
                    names = ("head", "tail") if count == 2 else ("mention",)
                    buttons = [gr.Button(f"Mark selection as {name}", size="sm") for name in names]
                    clear = gr.Button("Unmark", size="sm")
                mentions = gr.JSON(label="mentions", value=[], visible=False)
                picture = gr.Image(
                    label="Picture (optional)",
                    sources=["upload", "clipboard"],
                    type="filepath",
                    format="png",
                    height=190,
                    buttons=[],
                    elem_id="picture",
                    visible=answers.has_pictures,
                    alt_text="The picture to be read with the sentence",
                )
                labels = gr.Dropdown(
                    answers.labels,
                    value=answers.labels,
                    label="Labels to choose from",
                    info="Type a new one and press Enter.",
                    multiselect=True,
                    allow_custom_value=True,
                    elem_id="labels",
                )
                with gr.Row(elem_id="label-buttons"):
                    all_labels = gr.Button("All known labels", size="sm")
                    no_labels = gr.Button("No labels", size="sm")
                with gr.Accordion("Options", open=False, elem_id="options"):
                    calibrated = gr.Checkbox(
                        value=True,
                        label=f"Calibrated (γ = {answers.gamma:.3g})",
                        info="γ is taken off the scores of labels seen in training, which a model "
                        "favours otherwise.",
                    )
                    method = gr.Radio(
                        [
                            ("Attention: what goes into the answer", "attention"),
                            ("Occlusion: what the answer needs (slower)", "occlusion"),
                        ],
                        value="attention",
                        label="Where it looks",
                    )
                predict = gr.Button("Predict", variant="primary", elem_id="predict")
            with gr.Column(elem_id="outputs"):
                shown = gr.HTML(rendering.placeholder(), elem_id="answer", apply_default_css=False)
                with gr.Accordion("As JSON", open=False, elem_id="data"):
                    data = gr.JSON(label="Answer", show_label=False)
        gr.HTML(
            f'<footer class="hm-foot"><p>{escape(CREDITS)}</p></footer>', apply_default_css=False
        )

        def load(event: gr.EventData) -> tuple[Any, ...]:
            """Fills in the example that was clicked."""
            index = event._data.get("index") if isinstance(event._data, dict) else None
            if type(index) is not int or not 0 <= index < len(tries):
                raise gr.Error("No such example", print_exception=False)
            example = tries[index]
            given = example.labels or answers.labels
            return example.text, example.spans, example.image(), given

        # The page alone marks mentions: no call to the server, which would be slow and a surface.
        marks: dict[str, Any] = {"inputs": [sentence, mentions], "outputs": [mentions, marked]}
        sentence.select(fn=None, js=_js(f"mark(text, marks, {count}, null)"), **marks)
        sentence.input(fn=None, js=_js(f"edited(text, marks, {count})"), **marks)
        for index, button in enumerate(buttons):
            button.click(fn=None, js=_js(f"mark(text, marks, {count}, {index})"), **marks)
        clear.click(fn=None, js=_js(f"unmark(text, {count})"), **marks)
        all_labels.click(fn=None, js=f"() => {_list(answers.labels)}", outputs=labels)
        no_labels.click(fn=None, js="() => [[]]", outputs=labels)

        ask: dict[str, Any] = {
            "fn": answers,
            "inputs": [sentence, mentions, picture, labels, calibrated, method],
            "outputs": [data, shown],
            "preprocess": False,  # Gradio's would decode pictures without a bound
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "show_progress_on": shown,
        }
        predict.click(
            **ask,
            api_name="predict",
            api_description="Types the mention, or names the relation, and says where it looked.",
        ).then(fn=None, js="() => hmgrl.reveal()")
        chosen.click(
            load,
            outputs=[sentence, mentions, picture, labels],
            api_visibility="private",
            show_progress="hidden",
        ).success(
            fn=None,
            js=f"(text, marks) => hmgrl.show(text, marks, {count})",
            inputs=[sentence, mentions],
            outputs=marked,
        ).success(**ask, api_visibility="private").then(fn=None, js="() => hmgrl.reveal()")
    return page


def launch(page: gr.Blocks, folder: Path, host: str | None, port: int | None) -> None:
    """Serves the page until it is interrupted.

    Args:
        page: The page.
        folder: Folder of uploads, the one that ``GRADIO_TEMP_DIR`` names.
        host: Address to listen at; ``GRADIO_SERVER_NAME`` or 127.0.0.1 if None.
        port: Port; ``GRADIO_SERVER_PORT`` or the first free one from 7860 on if None.
    """
    page.queue(max_size=_WAITING, default_concurrency_limit=4, api_open=False)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        show_error=False,
        max_file_size=MAX_UPLOAD_BYTES,
        max_threads=8,
        state_session_capacity=_SESSIONS,
        app_kwargs={"middleware": [Middleware(Gate, folder=folder)]},
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        theme=_THEME,
        css_paths=_HERE / "page.css",
        head=f"<script>{_script()}</script>",
    )


def _script() -> str:
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return script.replace("HINTS", json.dumps(_HINTS))


def _js(call: str) -> str:
    return f"(text, marks) => hmgrl.{call}"


def _list(names: list[str]) -> str:
    """A list for JavaScript, safe inside of a script element."""
    return json.dumps([names]).replace("<", "\\u003c")


def _cards(tries: list[Example]) -> str:
    """The examples, as buttons."""
    cards = []
    for index, example in enumerate(tries):
        image = ""
        if example.picture is not None:
            content = base64.b64encode(example.picture).decode("ascii")
            image = f'<img src="data:image/png;base64,{content}" alt="" width="56" height="56">'
        bounds = sorted({0, len(example.text), *(o for span in example.spans for o in span)})
        text = ""
        for start, end in pairwise(bounds):
            piece = escape(example.text[start:end])
            inside = [i for i, (a, b) in enumerate(example.spans) if a <= start and end <= b]
            text += f'<b class="{("head", "tail")[inside[0]]}">{piece}</b>' if inside else piece
        cards.append(
            f'<button type="button" data-index="{index}">{image}<span>{text}</span></button>'
        )
    return (
        '<section aria-label="Examples"><h2>Try one</h2>'
        f'<div class="hm-cards">{"".join(cards)}</div></section>'
    )
