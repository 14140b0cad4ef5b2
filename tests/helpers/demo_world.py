"""The page for the tests: a server in a process of its own, and a visit to it in a browser."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import expect
from tiny_world import LABELS, SEEN, tiny_model, tiny_processor

ROOT = Path(__file__).parents[2]
WAIT = 30  # seconds; most waits end within one
expect.set_options(timeout=1000 * WAIT)


class Server:
    """The page on a free port, from a folder gathered for a Space."""

    def __init__(self, folder, task):
        self.model, self.log = folder / f"model-{task}", folder / f"{task}.log"
        model = tiny_model(
            task, seen_labels=SEEN, generator_labels=LABELS[2:], calibration_gamma=0.25
        )
        model.save_pretrained(self.model)
        tiny_processor(task).save_pretrained(self.model)
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.uploads = folder / f"uploads-{task}"
        self.uploads.mkdir()
        environment = {
            **{name: value for name, value in os.environ.items() if "GRADIO" not in name},
            "HMGRL_MODEL": str(self.model),
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(self.uploads),
            "OMP_NUM_THREADS": "1",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "app.py", "--port", str(self.port)],
                cwd=folder / "space",
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self):
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                return urllib.request.urlopen(self.url, timeout=5).close()
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"the page did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self):
        self.process.terminate()
        self.process.wait(20)

    def request(self, method, path, body=None, headers=None):
        """Status, headers and body of a request whose path is sent as it stands."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)) as line:
            line.request(method, path, body, headers or {})
            answer = line.getresponse()
            return answer.status, answer.headers, answer.read()

    def upload(self, content, name="a.png"):
        boundary = "xxxx"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"'
        body = f"{head}\r\n\r\n".encode() + content + f"\r\n--{boundary}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        status, _, answer = self.request("POST", "/gradio_api/upload", body, kind)
        return status, answer

    def call(self, *data):
        """Answer of the one endpoint, or the status of its refusal."""
        kind = {"Content-Type": "application/json"}
        body = json.dumps({"data": data})
        status, _, answer = self.request("POST", "/gradio_api/call/predict", body, kind)
        if status != 200:
            return status
        path = f"/gradio_api/call/predict/{json.loads(answer)['event_id']}"
        _, _, stream = self.request("GET", path)
        event = re.search(r"event: (\w+)\ndata: (.*)\n", stream.decode().replace("\r", ""))
        assert event[1] == "complete", stream
        return json.loads(event[2])[0]


@contextmanager
def served(folder, *tasks):
    """Servers for these tasks, started side by side as a Space would start them."""
    command = [sys.executable, ROOT / "demo" / "space.py", "--model", "user/name"]
    subprocess.run([*command, "--out", folder / "space"], check=True, capture_output=True)
    started = {task: Server(folder, task) for task in tasks}
    try:
        for server in started.values():
            server.wait()
        yield started
    finally:
        for server in started.values():
            server.process.terminate()
        for server in started.values():
            server.stop()


class Visit:
    """A page that is open, with what went wrong in it."""

    def __init__(self, browser, server, **options):
        self.server = server
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, **options}
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT * 1000)
        self.faults, self.foreign = [], []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._request)
        self.page.goto(server.url)
        expect(self.sentence).to_be_visible(timeout=WAIT * 1000)

    def _console(self, message):
        if message.type == "error":
            self.faults.append(message.text)

    def _request(self, request):
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != f"127.0.0.1:{self.server.port}":
            self.foreign.append(request.url)

    @property
    def sentence(self):
        return self.page.get_by_label("Sentence")

    @property
    def marks(self):
        return self.page.locator("#marked mark")

    def place(self, text, where):
        """Where a word of the sentence stands on the screen: its start, middle or end."""
        return self.page.evaluate(
            """([text, where]) => {
              const area = document.querySelector("#sentence textarea");
              const style = getComputedStyle(area);
              const copy = document.createElement("div");
              for (const name of ["font", "letterSpacing", "lineHeight", "padding", "border",
                                  "width", "boxSizing"]) copy.style[name] = style[name];
              copy.style.whiteSpace = "pre-wrap";
              copy.style.position = "fixed";
              const at = area.value.indexOf(text);
              const part = document.createElement("span");
              part.textContent = text;
              copy.append(area.value.slice(0, at), part, area.value.slice(at + text.length));
              document.body.append(copy);
              const [outer, inner] = [copy.getBoundingClientRect(), part.getBoundingClientRect()];
              copy.remove();
              const box = area.getBoundingClientRect();
              const share = { start: 0, middle: 0.5, end: 1 }[where];
              return [
                box.left + inner.left - outer.left + share * inner.width,
                box.top + inner.top - outer.top + inner.height / 2,
              ];
            }""",
            [text, where],
        )

    def double_click(self, word):
        self.page.mouse.dblclick(*self.place(word, "middle"))

    def drag(self, first, last):
        self.page.mouse.move(*self.place(first, "start"))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(last, "end"), steps=5)
        self.page.mouse.up()

    def mark_word(self, word, expected=None):
        """Double-clicks a word until it is marked.

        The page handles an edit and a selection one after the other, so a selection in the
        moment of the edit, which no hand makes, may be lost.
        """
        self._until_marked(lambda: self.double_click(word), expected or word)

    def mark_words(self, first, last, expected):
        """Drags over words until they are marked."""
        self._until_marked(lambda: self.drag(first, last), expected)

    def _until_marked(self, select, expected):
        deadline = time.monotonic() + WAIT
        while True:
            select()
            try:
                return expect(self.marks).to_have_text(expected, timeout=3000)
            except AssertionError:
                if time.monotonic() > deadline:
                    raise

    def no_labels(self):
        self.page.get_by_role("button", name="No labels").click()
        expect(self.page.locator("#labels .token")).to_have_count(0)

    def add_labels(self, *names):
        for name in names:
            self.page.get_by_role("combobox", name="Labels").fill(name)
            self.page.keyboard.press("Enter")
            expect(
                self.page.get_by_role("button", name=f"Remove {name}", exact=True)
            ).to_be_visible()

    def predict(self):
        """Presses the button and waits for another answer."""
        self.page.locator("#answer :is(.hm-empty, .hm-result, .hm-error)").evaluate(
            "answer => { answer.dataset.old = 'yes' }"
        )
        self.page.get_by_role("button", name="Predict").click()
        self.page.wait_for_selector("#answer :is(.hm-result, .hm-error):not([data-old])")

    def error(self):
        self.predict()
        return self.page.get_by_role("alert").inner_text()

    def bars(self):
        """Name, kind and width in percent of each bar."""
        found = []
        for row in self.page.locator(".hm-bars li").all():
            style = row.locator(".hm-track span").get_attribute("style")
            width = float(re.search(r"[\d.]+", style)[0])
            found.append((row.locator(".hm-name").inner_text(), row.get_attribute("class"), width))
        return found
