// Marks mentions by selecting them in the sentence. Offsets count code points, as in Python.
window.hmgrl = ((hints) => {
  const kinds = { 1: ["mention"], 2: ["head", "tail"] };
  const CONTEXT = 90; // characters shown around the mentions
  let shown = ""; // the text that the marks belong to

  const escaped = (text) =>
    text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
  const points = (text, units) => [...text.slice(0, units)].length;
  const overlap = (a, b) => a && b && a[0] < b[1] && b[0] < a[1];
  const overlaps = (span) => (mark) => overlap(mark, span);

  // Returns the selection in the sentence without surrounding white space, or null.
  function selected() {
    const area = document.querySelector("#sentence textarea");
    if (!area) return null;
    let [start, end] = [area.selectionStart, area.selectionEnd];
    while (start < end && /\s/.test(area.value[start])) start++;
    while (start < end && /\s/.test(area.value[end - 1])) end--;
    return start < end ? [points(area.value, start), points(area.value, end)] : null;
  }

  // Returns the index of a new selection: of the mention it overlaps, else of the first missing one.
  function indexOf(marks, span, count) {
    if (count === 1) return 0;
    const overlapping = marks.findIndex(overlaps(span));
    if (overlapping >= 0) return overlapping;
    return [...Array(count).keys()].find((index) => !marks[index]) ?? -1;
  }

  function show(text, marks, count) {
    shown = text ?? "";
    marks = marks ?? [];
    if (!marks.some(Boolean)) return `<p class="hm-hint">${hints[count]}</p>`;
    const letters = [...shown];
    const offsets = marks.filter(Boolean).flat();
    const from = Math.max(0, Math.min(...offsets) - CONTEXT);
    const to = Math.min(letters.length, Math.max(...offsets) + CONTEXT);
    const bounds = [...new Set([from, to, ...offsets])].sort((a, b) => a - b);
    let html = from > 0 ? "…" : "";
    for (let i = 0; i + 1 < bounds.length; i++) {
      const [start, end] = [bounds[i], bounds[i + 1]];
      let piece = escaped(letters.slice(start, end).join(""));
      kinds[count].forEach((kind, index) => {
        const mark = marks[index];
        if (mark && mark[0] <= start && end <= mark[1]) {
          const tag = count > 1 && end === mark[1] ? `<small>${kind}</small>` : "";
          piece = `<mark class="hm-mark ${kind}">${piece}${tag}</mark>`;
        }
      });
      html += piece;
    }
    if (to < letters.length) html += "…";
    return `<p class="hm-marked" dir="auto">${html}</p>`;
  }

  // Marks the selection as the mention of an index, or of any index if it is null.
  function mark(text, marks, count, which) {
    const span = selected();
    marks = [...(marks ?? [])];
    const index = span && (which ?? indexOf(marks, span, count));
    if (span && index >= 0) {
      for (let i = 0; i < index; i++) marks[i] ??= null;
      marks[index] = span;
    }
    return [marks, show(text, marks, count)];
  }

  // Removes the marks, and the selection, which the browser may report again.
  function unmark(text, count) {
    const area = document.querySelector("#sentence textarea");
    if (area) area.setSelectionRange(area.selectionEnd, area.selectionEnd);
    return [[], show(text, [], count)];
  }

  // Moves the marks with the text around them; a mark is removed if its own text was edited.
  function edited(text, marks, count) {
    const [before, after] = [[...shown], [...(text ?? "")]];
    const shorter = Math.min(before.length, after.length);
    let head = 0;
    while (head < shorter && before[head] === after[head]) head++;
    let tail = 0;
    while (tail < shorter - head && before.at(-1 - tail) === after.at(-1 - tail)) tail++;
    const moved = (marks ?? []).map((span) => {
      if (!span || span[1] <= head) return span;
      const by = after.length - before.length;
      return span[0] >= before.length - tail ? [span[0] + by, span[1] + by] : null;
    });
    const kept = moved.some(Boolean) ? moved : [];
    return [kept, show(text, kept, count)];
  }

  // Scrolls to the result if it is below the visible part of the page, as on a phone.
  function reveal() {
    const answer = document.getElementById("answer");
    const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (answer && answer.getBoundingClientRect().top > innerHeight - 120)
      answer.scrollIntoView({ behavior: reduced ? "auto" : "smooth", block: "start" });
  }

  // Gradio names the remove buttons by number; screen readers should announce the label instead.
  new MutationObserver(() => {
    for (const button of document.querySelectorAll("#labels .token-remove")) {
      const name = button.closest(".token")?.querySelector("span")?.textContent;
      if (name) button.title = button.ariaLabel = `Remove ${name.trim()}`;
    }
  }).observe(document, { childList: true, subtree: true, characterData: true });

  return { edited, mark, reveal, show, unmark };
})(HINTS);
