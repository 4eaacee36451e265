// What a page gains from a script: keys, and the day under the pointer. Everything else works without.
"use strict";
(() => {
  const help = document.getElementById("help");
  const button = document.querySelector("[data-help]");
  if (button && help) { button.hidden = false; button.addEventListener("click", () => help.showModal()); }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) return;
    if (event.key === "?" && help) { help.showModal(); return; }
    const link = document.querySelector(`a[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (link && event.key.length === 1) link.click();
  });
  // A chart's table is its data: its rows are the plot's buckets from left to right.
  for (const figure of document.querySelectorAll("figure.chart[id]")) {
    const picture = figure.querySelector("svg.picture"), rows = figure.querySelectorAll("tbody tr");
    if (!picture || rows.length < 2) continue;
    const plot = picture.querySelector("path[d^='M0,0h']");
    let readout = null;
    const hide = () => { if (readout) { readout.remove(); readout = null; } };
    picture.addEventListener("pointermove", (event) => {
      const box = (plot || picture).getBoundingClientRect(), outer = figure.getBoundingClientRect();
      const place = Math.round((event.clientX - box.left) / box.width * (rows.length - 1));
      if (place < 0 || place >= rows.length) { hide(); return; }
      if (!readout) { readout = document.createElement("div"); readout.className = "readout"; readout.setAttribute("aria-hidden", "true"); figure.append(readout); }
      readout.textContent = Array.from(rows[place].cells, (cell) => cell.textContent).filter(Boolean).join("  ");
      const left = Math.min(event.clientX - outer.left + 12, outer.width - readout.offsetWidth - 6);
      readout.style.left = `${Math.max(4, left)}px`;
      readout.style.top = `${event.clientY - outer.top - 30}px`;
    });
    picture.addEventListener("pointerleave", hide);
  }
})();
