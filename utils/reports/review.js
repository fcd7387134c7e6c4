"use strict";
(() => {
  const form = document.getElementById("filters");
  if (!form) return; // no suspects
  const { storage, columns, decided, suspects } = JSON.parse(document.getElementById("data").textContent);
  const list = document.getElementById("suspects");
  const rows = [...list.children, ...document.getElementById("others").content.children]; // in the order of suspects
  const place = new Map(rows.map((row, k) => [row, k]));
  const suspectOf = new Map(suspects.map((suspect) => [suspect.mark, suspect]));
  const words = Object.fromEntries([...form.elements.decision.options].map(({ value, text }) => [value, text]));
  const keys = { a: "accept", o: "other", r: "reject", u: "unsure" };
  const missing = { accept: "Nothing to accept: no label can mend this.", other: "There is no third value here." };
  const steps = { arrowdown: 1, j: 1, arrowup: -1, k: -1 };
  const atOnce = Number(list.dataset.atOnce);
  const bar = document.getElementById("bar");
  const last = document.getElementById("last");
  let kept = true; // whether the browser keeps decisions
  let taken = load(); // [mark, decision] in the order in which they were taken; of a suspect the last one counts
  let saved = taken.length; // decisions that a download has, or that the browser has kept
  let fitting = rows; // that pass the filters
  let most = atOnce; // of them that are laid out
  let current = rows[0]; // which keys decide about

  function load() {
    try {
      localStorage.setItem(storage, localStorage.getItem(storage) ?? "[]");
      return JSON.parse(localStorage.getItem(storage)).filter(([mark]) => suspectOf.has(mark));
    } catch {
      kept = false;
      return [];
    }
  }

  function keep() {
    try {
      localStorage.setItem(storage, JSON.stringify(taken));
    } catch {
      kept = false;
    }
    show();
  }

  /** The decision about each suspect by its mark, the latest last. */
  function decisions() {
    const found = new Map();
    for (const [mark, decision] of taken) {
      found.delete(mark);
      found.set(mark, decision);
    }
    return found;
  }

  /** The rows of relabel.csv: those that were read, and new ones, which replace those of the same id and attribute. */
  function merged() {
    const key = ([id, attribute]) => JSON.stringify([id, attribute]);
    const found = new Map(decided.map((row) => [key(row), row]));
    for (const [mark, decision] of decisions()) {
      for (const row of suspectOf.get(mark).rows[decision]) found.set(key(row), row);
    }
    return [...found.values()];
  }

  function download() {
    const field = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const lines = [columns, ...merged()];
    const text = lines.map((line) => `${line.map(field).join(",")}\n`).join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = "relabel.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    saved = taken.length;
    last.value = `Downloaded: ${lines.length - 1} rows, ${decided.length} were there before.`;
  }

  /** Bring the page in line with what is decided and with the filters. */
  function show() {
    const found = decisions();
    suspects.forEach(({ mark }, k) => {
      if (rows[k].dataset.decision !== (found.get(mark) ?? "")) showDecision(k, found.get(mark) ?? "");
    });
    const [attribute, kind, decision] = ["attribute", "kind", "decision"].map((name) => form.elements[name].value);
    const passing = rows.filter(
      ({ dataset }) => (!attribute || dataset.attribute === attribute) && (!kind || dataset.kind === kind),
    );
    fitting = passing.filter(({ dataset }) => !decision || decision === (dataset.decision || "undecided"));
    layOut();
    const done = passing.filter((row) => !isOpen(row)).length;
    document.getElementById("none").hidden = fitting.length > 0;
    document.getElementById("refused").hidden = kept;
    document.getElementById("undo").disabled = !taken.length;
    bar.querySelector("progress").max = Math.max(passing.length, 1);
    bar.querySelector("progress").value = done;
    document.getElementById("count").value = `${done} of ${passing.length} decided`;
  }

  function showDecision(k, decision) {
    rows[k].dataset.decision = decision;
    for (const button of rows[k].querySelectorAll("button")) {
      button.setAttribute("aria-pressed", button.dataset.decision === decision);
    }
    const lines = decision && suspects[k].rows[decision].map((line) => line.slice(0, 3).join(" "));
    rows[k].querySelector(".state").textContent = decision && `${words[decision]}: ${lines.join("; ") || "writes nothing"}`;
  }

  /** Have the first of the fitting rows in the list, and leave those alone that are there already. */
  function layOut() {
    const wanted = fitting.slice(0, most);
    const all = new Set(wanted);
    for (const row of [...list.children]) if (!all.has(row)) row.remove();
    wanted.forEach((row, k) => {
      if (list.children[k] !== row) list.insertBefore(row, list.children[k] ?? null);
    });
  }

  /** Make a row the one that keys decide about. */
  function choose(row) {
    current.removeAttribute("aria-current");
    current = row;
    current.setAttribute("aria-current", "true");
  }

  function goTo(row) {
    if (!row.isConnected) {
      most = fitting.indexOf(row) + atOnce;
      layOut();
    }
    choose(row);
    row.focus({ preventScroll: true });
    row.scrollIntoView();
  }

  /** The first fitting row behind (1) or before (-1) the current one. */
  function beside(step, isWanted = () => true) {
    const ahead = (row) => step * (place.get(row) - place.get(current)) > 0 && isWanted(row);
    return step > 0 ? fitting.find(ahead) : fitting.findLast(ahead);
  }

  function isOpen(row) {
    return !row.dataset.decision;
  }

  function title(row) {
    return row.querySelector("h2").textContent;
  }

  function decide(decision) {
    const suspect = suspects[place.get(current)];
    if (decision in missing && !suspect.rows[decision].length) {
      last.value = missing[decision];
      return;
    }
    taken.push([suspect.mark, decision]);
    keep();
    const next = beside(1, isOpen) ?? fitting.find(isOpen);
    const end = next ? "" : " All that are shown are decided: download relabel.csv.";
    last.value = `${title(current)}: ${words[decision]}.${end}`;
    if (next) goTo(next);
  }

  function undo() {
    if (!taken.length) return;
    const [mark] = taken.pop();
    keep();
    const row = rows[suspects.findIndex((suspect) => suspect.mark === mark)];
    last.value = `${title(row)}: taken back.`;
    if (fitting.includes(row)) goTo(row);
  }

  /** Whether the current row is on the screen; else go to the one that is, so that no key decides unseen. */
  function isSeen() {
    const { top, bottom } = current.getBoundingClientRect(); // all 0 where it is not laid out
    if (top < innerHeight - bar.offsetHeight && bottom > 0) return true;
    const row = document.elementFromPoint(innerWidth / 2, innerHeight / 3)?.closest("#suspects > li");
    const target = row ?? (fitting.includes(current) ? current : fitting[0]);
    if (target) goTo(target);
    return false;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select")) return;
    // a keyboard of other letters, such as Korean ones, has ours in the same places
    const key = (/^[a-z]$/i.test(event.key) ? event.key : event.code.replace("Key", "")).toLowerCase();
    if (key in steps) {
      const next = isSeen() && beside(steps[key]);
      if (next) goTo(next);
    } else if (key in keys) {
      if (!event.repeat && isSeen()) decide(keys[key]);
    } else if (key === "z") {
      if (!event.repeat) undo();
    } else {
      return;
    }
    event.preventDefault();
  });
  list.addEventListener("click", (event) => {
    const decision = event.target.closest("button")?.dataset.decision;
    if (decision && event.detail < 2) decide(decision); // the second click of a double click meets the next row
  });
  list.addEventListener("focusin", (event) => choose(event.target.closest("#suspects > li")));
  function refilter() {
    most = atOnce;
    show();
    if (fitting.length && !fitting.includes(current)) choose(fitting[0]);
  }
  form.addEventListener("change", refilter);
  document.getElementById("all").addEventListener("click", () => {
    for (const filter of form.querySelectorAll("select")) filter.value = "";
    refilter();
  });
  document.getElementById("undo").addEventListener("click", undo);
  document.getElementById("download").addEventListener("click", download);
  new IntersectionObserver(
    ([end]) => {
      if (!end.isIntersecting || most >= fitting.length) return;
      most += atOnce;
      layOut();
    },
    { rootMargin: "3000px" },
  ).observe(document.getElementById("end"));
  addEventListener("storage", (event) => {
    if (event.key !== storage) return; // else the page is open twice
    taken = load();
    show();
  });
  addEventListener("beforeunload", (event) => {
    if (!kept && saved !== taken.length) event.preventDefault();
  });

  for (const part of document.querySelectorAll("#filters, #bar")) part.hidden = false;
  for (const row of rows) row.querySelector(".buttons").hidden = false;
  show(); // a browser may have kept what was chosen before a reload
  choose(fitting.find(isOpen) ?? fitting[0] ?? current);
  if (taken.length) {
    history.scrollRestoration = "manual";
    goTo(current);
  }
})();
