"""The demo page: examples, inputs and the result."""

import base64
import json
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import gradio as gr
import rendering
from examples import CREDITS, Example, examples
from middleware import MAX_UPLOAD_AGE, MAX_UPLOAD_BYTES, RequestFilter
from predictor import Predictor
from starlette.middleware import Middleware

_HERE = Path(__file__).parent

_TITLE = "What is meant?"
_INTRO = """<header class="hm-head"><h1>What is meant?</h1>
<p>Mark words in a sentence, add a picture if there is one, and give the labels to choose from: any
words may be used, also labels of which the model has seen no sample in training.</p></header>"""

_HINTS = {
    1: "Select the words of the mention: drag over them, or double-click.",
    2: "Select the head, then the tail: drag over the words, or double-click.",
}

_MAX_QUEUE = 20
_DELETE_INTERVAL = 600  # seconds
_MAX_SESSIONS = 200

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


def build(predictor: Predictor) -> gr.Blocks:
    """Builds the page.

    Args:
        predictor: The predictor behind the page.

    Returns:
        The page, for :func:`launch`.
    """
    count = 2 if predictor.relation else 1
    offered = examples("relation" if predictor.relation else "typing")
    if not predictor.reads_images:
        offered = [example for example in offered if example.image is None]
    with gr.Blocks(
        title=_TITLE, analytics_enabled=False, delete_cache=(_DELETE_INTERVAL, MAX_UPLOAD_AGE)
    ) as page:
        gr.HTML(_INTRO, apply_default_css=False)
        chosen = gr.HTML(
            _cards(offered), elem_id="examples", js_on_load=_EXAMPLES_JS, apply_default_css=False
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
                    visible=predictor.reads_images,
                    alt_text="The picture that belongs to the sentence",
                )
                labels = gr.Dropdown(
                    predictor.labels,
                    value=predictor.labels,
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
                        label=f"Calibrated (γ = {predictor.gamma:.3g})",
                        info="Subtracts γ from the scores of labels seen in training, which models "
                        "otherwise favour.",
                    )
                    method = gr.Radio(
                        [
                            ("Attention: how much each part is weighted", "attention"),
                            (
                                "Occlusion: how the score changes without it (slower)",
                                "occlusion",
                            ),
                        ],
                        value="attention",
                        label="Explanation",
                    )
                predict = gr.Button("Predict", variant="primary", elem_id="predict")
            with gr.Column(elem_id="outputs"):
                shown = gr.HTML(rendering.placeholder(), elem_id="answer", apply_default_css=False)
                with gr.Accordion("As JSON", open=False, elem_id="data"):
                    data = gr.JSON(label="Prediction", show_label=False)
        gr.HTML(
            f'<footer class="hm-foot"><p>{escape(CREDITS)}</p></footer>', apply_default_css=False
        )

        def load(event: gr.EventData) -> tuple[Any, ...]:
            """Fills in the selected example."""
            index = event._data.get("index") if isinstance(event._data, dict) else None
            if type(index) is not int or not 0 <= index < len(offered):
                raise gr.Error("No such example", print_exception=False)
            example = offered[index]
            given = example.labels or predictor.labels
            return example.text, example.spans, example.load_image(), given

        # Mentions are marked in the browser: calls to the server would be slow and need protection.
        marks: dict[str, Any] = {"inputs": [sentence, mentions], "outputs": [mentions, marked]}
        sentence.select(fn=None, js=_js(f"mark(text, marks, {count}, null)"), **marks)
        sentence.input(fn=None, js=_js(f"edited(text, marks, {count})"), **marks)
        for index, button in enumerate(buttons):
            button.click(fn=None, js=_js(f"mark(text, marks, {count}, {index})"), **marks)
        clear.click(fn=None, js=_js(f"unmark(text, {count})"), **marks)
        all_labels.click(fn=None, js=f"() => {_list(predictor.labels)}", outputs=labels)
        no_labels.click(fn=None, js="() => [[]]", outputs=labels)

        call: dict[str, Any] = {
            "fn": predictor,
            "inputs": [sentence, mentions, picture, labels, calibrated, method],
            "outputs": [data, shown],
            "preprocess": False,  # Gradio would decode images of any size
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "show_progress_on": shown,
        }
        predict.click(
            **call,
            api_name="predict",
            api_description="Predicts the entity type or the relation, with an explanation.",
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
        ).success(**call, api_visibility="private").then(fn=None, js="() => hmgrl.reveal()")
    return page


def launch(page: gr.Blocks, folder: Path, host: str | None, port: int | None) -> None:
    """Serves the page until the process is interrupted.

    Args:
        page: The page.
        folder: Folder of uploads, as set in ``GRADIO_TEMP_DIR``.
        host: Address to listen on; None takes ``GRADIO_SERVER_NAME`` or 127.0.0.1.
        port: Port; None takes ``GRADIO_SERVER_PORT`` or the first free port from 7860 on.
    """
    # The others are computed in the browser.
    functions = {index for index, one in page.fns.items() if one.fn is not None}
    page.queue(max_size=_MAX_QUEUE, default_concurrency_limit=4, api_open=False)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        show_error=False,
        max_file_size=MAX_UPLOAD_BYTES,
        max_threads=8,
        state_session_capacity=_MAX_SESSIONS,
        app_kwargs={"middleware": [Middleware(RequestFilter, folder=folder, functions=functions)]},
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
    """Formats a list for JavaScript, safe inside a script element."""
    return json.dumps([names]).replace("<", "\\u003c")


def _cards(offered: list[Example]) -> str:
    """Formats the examples as buttons."""
    cards = []
    for index, example in enumerate(offered):
        image = ""
        if example.image is not None:
            content = base64.b64encode(example.image).decode("ascii")
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
        '<section aria-label="Examples"><h2>Examples</h2>'
        f'<div class="hm-cards">{"".join(cards)}</div></section>'
    )
