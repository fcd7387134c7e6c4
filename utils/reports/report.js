"use strict";
(() => {
  const form = document.getElementById("filters");
  if (!form) return; // no mistakes
  const list = document.getElementById("mistakes");
  const more = document.getElementById("more");
  const cards = [...list.children, ...document.getElementById("others").content.children];
  const words = { loss: "the highest loss", sureness: "the surest" };
  const filters = ["attribute", "label", "cell", "kind"].map((name) => form.elements[name]).filter(Boolean);
  const step = Number(list.dataset.atOnce);
  let most = step;

  function show() {
    const order = form.elements.kind.value === "confident" ? "sureness" : "loss";
    const fitting = cards
      .filter((card) => filters.every(({ name, value }) => !value || card.dataset[name].split(" ").includes(value)))
      .sort((one, other) => other.dataset[order] - one.dataset[order]);
    list.replaceChildren(...fitting.slice(0, most));
    more.hidden = fitting.length <= most;
    more.textContent = `Show ${Math.min(step, fitting.length - most)} more of ${fitting.length}`;
    form.querySelector("output").textContent = `${list.children.length} of ${cards.length} shown, ${words[order]} first`;
  }

  function restart() {
    most = step;
    show();
  }

  form.addEventListener("change", restart);
  form.querySelector("button").addEventListener("click", () => {
    for (const filter of filters) filter.value = "";
    restart();
  });
  more.addEventListener("click", () => {
    most += step;
    show();
  });
  for (const link of document.querySelectorAll("a[data-filter]")) {
    link.addEventListener("click", () => {
      for (const filter of filters) filter.value = filter.name === link.dataset.filter ? link.dataset.value : "";
      restart();
    });
  }
  form.hidden = false;
  show(); // a browser may have kept what was chosen before a reload
})();
