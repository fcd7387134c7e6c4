"use strict";
(() => {
  const form = document.getElementById("filters");
  if (!form) return; // no mistakes
  const list = document.getElementById("mistakes");
  const cards = Array.from(list.children);
  const words = { loss: "the highest loss", sureness: "the surest" };
  const filters = ["attribute", "label", "kind"].map((name) => form.elements[name]);

  function show() {
    const order = form.elements.kind.value === "confident" ? "sureness" : "loss";
    list.append(...cards.sort((one, other) => other.dataset[order] - one.dataset[order]));
    for (const card of cards) {
      card.hidden = !filters.every(({ name, value }) => !value || card.dataset[name].split(" ").includes(value));
    }
    const shown = cards.filter((card) => !card.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${cards.length} shown, ${words[order]} first`;
  }

  form.addEventListener("change", show);
  form.querySelector("button").addEventListener("click", () => {
    for (const filter of filters) filter.value = "";
    show();
  });
  form.hidden = false;
  show(); // a browser may have kept what was chosen before a reload
})();
