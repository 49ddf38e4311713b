"use strict";
// Everything shown here comes from files and models: it is set as text, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = document.getElementById("rows");
  if (!rows) return;
  const search = document.getElementById("search");
  const status = document.getElementById("status");
  const detail = document.getElementById("detail");
  const view = { key: "variance", falling: true, selected: null };

  for (const candidate of data.candidates) {
    const texts = [candidate.id, candidate.trajectory, candidate.domain, candidate.expert,
      ...candidate.history.map((message) => message.content),
      ...candidate.samples.map((sample) => sample.text)];
    candidate.haystack = texts.join("\n").toLowerCase();
  }

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const fixed = (value, digits) => (value === null ? "–" : value.toFixed(digits));
  const words = (name) => name.replaceAll("_", " ");

  function compare(left, right) {
    const [a, b] = [left[view.key], right[view.key]];
    if (a === b) return left.id < right.id ? -1 : 1;
    if (a === null) return 1;
    if (b === null) return -1;
    return (a < b ? -1 : 1) * (view.falling ? -1 : 1);
  }

  function list() {
    const wanted = search.value.trim().toLowerCase();
    const found = data.candidates
      .filter((c) => (!status.value || c.status === status.value) && c.haystack.includes(wanted))
      .sort(compare);
    rows.replaceChildren(...found.map(row));
    document.getElementById("shown").textContent = `${found.length} shown`;
    return found;
  }

  function row(candidate) {
    const line = element("tr");
    const name = element("th");
    name.scope = "row";
    const button = element("button", "", candidate.trajectory);
    button.type = "button";
    name.append(button);
    const state = element("td");
    state.append(element("span", `status ${candidate.status}`, words(candidate.status)));
    line.append(name, element("td", "n", candidate.turn), element("td", "n", fixed(candidate.mean, 2)),
      element("td", "n", fixed(candidate.variance, 3)), state);
    if (candidate === view.selected) line.setAttribute("aria-current", "true");
    line.addEventListener("click", () => {
      rows.querySelector("[aria-current]")?.removeAttribute("aria-current");
      line.setAttribute("aria-current", "true");
      show(candidate);
    });
    return line;
  }

  function show(candidate) {
    view.selected = candidate;
    const interval = candidate.wilson.every((end) => end !== null)
      ? `, 95 % Wilson interval ${candidate.wilson.map((end) => end.toFixed(2)).join("–")}` : "";
    const summary = `${words(candidate.status)} · ${candidate.domain} · mean ${fixed(candidate.mean, 3)}`
      + `${interval} · variance ${fixed(candidate.variance, 3)} · ${candidate.n} valid samples`;
    detail.replaceChildren(
      element("h3", "", `${candidate.trajectory}, turn ${candidate.turn}`), element("p", "", summary),
      history(candidate), element("h4", "", "Expert action"), element("pre", "expert", candidate.expert),
      element("h4", "", `${candidate.samples.length} samples`), ...candidate.samples.map(sampleBlock));
    detail.scrollTop = 0;
  }

  function history(candidate) {
    const folded = element("details");
    const omitted = candidate.left_out ? `, ${candidate.left_out} earlier ones left out` : "";
    folded.append(element("summary", "", `History: ${candidate.history.length} messages${omitted}`));
    for (const message of candidate.history) {
      folded.append(element("p", "role", message.role), element("pre", "", message.content));
    }
    return folded;
  }

  function sampleBlock(sample) {
    const block = element("div", "sample");
    const head = element("div", "sample-head");
    head.append(element("b", "", fixed(sample.reward, 2)));
    for (const [name, value] of Object.entries(sample.criteria)) {
      const sign = value >= 1 ? "✓" : value <= 0 ? "✗" : value.toFixed(2);
      const state = value >= 1 ? "met" : value <= 0 ? "unmet" : "";
      head.append(element("span", `chip ${state}`, `${sign} ${words(name)}`));
    }
    for (const flag of ["malformed", "truncated"]) {
      if (sample[flag]) head.append(element("span", "tag", flag));
    }
    if (sample.error !== null) head.append(element("span", "tag", `error: ${sample.error}`));
    block.append(head, element("pre", "", sample.text));
    if (sample.reason) block.append(element("p", "reason", sample.reason));
    return block;
  }

  const heads = [...document.querySelectorAll("[data-sort]")];
  for (const head of heads) {
    head.addEventListener("click", () => {
      const key = head.dataset.sort;
      const numeric = ["mean", "variance"].includes(key);
      view.falling = view.key === key ? !view.falling : numeric;
      view.key = key;
      for (const other of heads) other.parentElement.setAttribute("aria-sort", "none");
      head.parentElement.setAttribute("aria-sort", view.falling ? "descending" : "ascending");
      list();
    });
  }
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", list);
  status.addEventListener("change", list);

  const first = list()[0];
  if (first) {
    show(first);
    rows.firstElementChild.setAttribute("aria-current", "true");
  }
})();
