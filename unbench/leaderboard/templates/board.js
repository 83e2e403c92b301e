(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const controls = byId("controls");
  if (!controls) return;
  document.documentElement.classList.add("js");
  controls.hidden = false;
  const inputs = { q: byId("filter"), model: byId("model"), task: byId("task") };
  const boards = [...document.querySelectorAll("section.board")];
  const first = new Map(boards.map((board) => [board, [...board.querySelectorAll("tbody tr")]]));
  const sorts = new Map();

  const value = (row, column, numeric) => {
    const text = row.cells[column].dataset.value;
    return text === "" ? null : numeric ? Number(text) : text;
  };

  const sort = (board, key, direction) => {
    const heads = [...board.querySelectorAll("thead th")];
    const column = heads.findIndex((head) => head.dataset.key === key);
    if (column < 0 || !["ascending", "descending"].includes(direction)) return;
    const numeric = heads[column].dataset.type === "number";
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...first.get(board)].sort((a, b) => {
      const x = value(a, column, numeric), y = value(b, column, numeric);
      if (x === null || y === null) return (x === null) - (y === null); // what is missing stays last either way
      return sign * (numeric ? x - y : x < y ? -1 : x > y ? 1 : 0);
    });
    board.querySelector("tbody").append(...rows);
    heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? direction : "none"));
  };

  const filter = () => {
    const wanted = inputs.q.value.trim().toLowerCase();
    let shown = 0, all = 0;
    for (const board of boards) {
      board.hidden = (inputs.model.value && board.dataset.model !== inputs.model.value)
        || (inputs.task.value && board.dataset.task !== inputs.task.value);
      for (const row of first.get(board)) {
        row.hidden = wanted !== "" && !row.cells[0].textContent.toLowerCase().includes(wanted);
        all += 1;
        shown += !board.hidden && !row.hidden;
      }
    }
    byId("status").textContent = shown === all ? "" : `${shown} of ${all} runs shown`;
  };

  const save = () => {
    const state = new URLSearchParams();
    for (const [name, input] of Object.entries(inputs)) if (input.value) state.set(name, input.value);
    for (const [id, chosen] of sorts) state.append("sort", `${id}~${chosen}`);
    const query = state.toString();
    try {
      history.replaceState(null, "", location.pathname + (query ? `?${query}` : "") + location.hash);
    } catch { /* some browsers refuse this on file://; the page works without it */ }
  };

  const load = () => {
    const state = new URLSearchParams(location.search);
    for (const [name, input] of Object.entries(inputs)) {
      input.value = state.get(name) ?? "";
      if (input.selectedIndex === -1) input.value = "";
    }
    for (const chosen of state.getAll("sort")) {
      const [id, key, direction] = chosen.split("~");
      const board = boards.find((b) => b.id === id);
      if (board) { sort(board, key, direction); sorts.set(id, `${key}~${direction}`); }
    }
    filter();
  };

  for (const board of boards) {
    for (const head of board.querySelectorAll("thead th")) {
      head.querySelector("button").addEventListener("click", () => {
        const was = head.getAttribute("aria-sort");
        const start = head.dataset.type === "number" ? "descending" : "ascending";
        const direction = was === "none" ? start : was === "ascending" ? "descending" : "ascending";
        sort(board, head.dataset.key, direction);
        sorts.set(board.id, `${head.dataset.key}~${direction}`);
        save();
      });
    }
  }
  for (const input of Object.values(inputs)) input.addEventListener("input", () => { filter(); save(); });
  byId("reset").addEventListener("click", () => {
    for (const input of Object.values(inputs)) input.value = "";
    sorts.clear();
    for (const board of boards) sort(board, "overall", "descending");
    filter();
    save();
  });
  // A linked board that a filter hides would lead nowhere.
  addEventListener("hashchange", () => {
    const board = boards.find((b) => b.id === location.hash.slice(1));
    if (board && board.hidden) { inputs.model.value = inputs.task.value = ""; filter(); save(); board.scrollIntoView(); }
  });
  load();
})();
