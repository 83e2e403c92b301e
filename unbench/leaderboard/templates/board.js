(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const controls = byId("controls");
  if (!controls) return;
  document.documentElement.classList.add("js");
  controls.hidden = false;
  const inputs = ["q", "task", "model", "train", "kind", "verified"].map(byId);
  const ticks = [...controls.querySelectorAll("input[name=column]")];
  const VERIFIED = ["re-evaluated", "reproduced"];
  const SIZES = { k: 1e3, M: 1e6, G: 1e9 };

  // What a cell shows first is its value: "0.93", "1–3", "12.4k"; a dash is nothing.
  const figure = (text) => {
    const found = /^-?\d*\.?\d+/.exec(text);
    return found ? Number(found[0]) * (SIZES[text[found[0].length]] ?? 1) : null;
  };
  const boards = [...document.querySelectorAll("section.board")].map((section) => {
    const table = section.querySelector("table");
    const heads = [...table.tHead.rows[0].cells];
    const rows = [...table.tBodies[0].rows].map((row, index) => ({
      row, index, name: row.cells[1].textContent.toLowerCase(), kind: row.dataset.k ?? "", train: row.dataset.t ?? "",
      verified: VERIFIED.includes(row.lastElementChild.textContent.trim()),
    }));
    heads.forEach((head) => { if (head.dataset.key) head.setAttribute("aria-sort", "none"); });
    return { section, table, heads, rows, values: new Map(), sorted: -1 };
  });
  if (boards.length > 8) document.documentElement.classList.add("many");
  let order = null; // { key, direction }, or null: the boards' own order

  const valuesOf = (board, column) => {
    if (!board.values.has(column)) {
      const words = "words" in board.heads[column].dataset;
      board.values.set(column, board.rows.map(({ row }) => {
        const cell = row.cells[column];
        const text = words ? cell.textContent.trim() : (cell.firstChild?.data ?? "").trim();
        return words ? text.toLowerCase() || null : figure(text);
      }));
    }
    return board.values.get(column);
  };

  const sortBoard = (board) => {
    const column = order ? board.heads.findIndex((head) => head.dataset.key === order.key) : -1;
    let rows = board.rows;
    if (column >= 0) {
      const values = valuesOf(board, column);
      const sign = order.direction === "ascending" ? 1 : -1;
      rows = [...rows].sort((a, b) => {
        const x = values[a.index], y = values[b.index];
        if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index; // what is missing stays last
        return sign * (x < y ? -1 : x > y ? 1 : 0) || a.index - b.index;
      });
    }
    if (column >= 0 || board.sorted >= 0) board.table.tBodies[0].replaceChildren(...rows.map(({ row }) => row));
    board.table.classList.toggle("sorted", column >= 0);
    // Touching a head that stays as it is would cost its style once more, on every board.
    if (board.sorted >= 0 && board.sorted !== column) board.heads[board.sorted].setAttribute("aria-sort", "none");
    if (column >= 0) board.heads[column].setAttribute("aria-sort", order.direction);
    board.sorted = column;
  };

  // What is on the screen at once, the rest right after: with thousands of rows nobody waits for those far below.
  let waiting = 0;
  const sortAll = () => {
    clearTimeout(waiting);
    const near = ({ section }) => {
      const { top, bottom } = section.getBoundingClientRect();
      return bottom > 0 && top < innerHeight;
    };
    const first = boards.length > 8 ? boards.filter(near) : boards;
    first.forEach(sortBoard);
    if (first.length < boards.length) waiting = setTimeout(() => boards.forEach((one) => { if (!first.includes(one)) sortBoard(one); }), 40);
  };

  const filter = () => {
    const [q, task, model, train, kind] = inputs.slice(0, 5).map((input) => input.value);
    const wanted = q.trim().toLowerCase();
    let shown = 0, all = 0;
    for (const board of boards) {
      const { task: ownTask, model: ownModel } = board.section.dataset;
      const wrong = (task && task !== ownTask) || (model && model !== ownModel);
      let visible = 0;
      for (const one of board.rows) {
        const hidden = wrong || (wanted && !one.name.includes(wanted)) || (train && one.train !== train)
          || (kind && one.kind !== kind) || (inputs[5].checked && !one.verified);
        if (one.row.hidden !== Boolean(hidden)) one.row.hidden = Boolean(hidden);
        visible += !hidden;
      }
      board.section.hidden = visible === 0;
      shown += visible;
      all += board.rows.length;
    }
    byId("status").textContent = shown === all ? "" : `${shown} of ${all} runs shown`;
  };

  // Columns are hidden by a rule in the page's own style sheet, not cell by cell.
  const sheet = document.styleSheets[0];
  let rule = null;
  const choose = () => {
    if (rule !== null) sheet.deleteRule(rule);
    rule = null;
    const off = ticks.filter((tick) => !tick.checked).map((tick) => tick.value);
    const keys = boards[0].heads.map((head) => head.dataset.key);
    const places = off.map((key) => `.ranks tr>:nth-child(${keys.indexOf(key) + 1})`);
    if (places.length) rule = sheet.insertRule(`${places.join(",")}{display:none}`, sheet.cssRules.length);
  };

  const save = () => {
    const state = new URLSearchParams();
    for (const input of inputs) {
      if (input.type === "checkbox" ? input.checked : input.value) state.set(input.id, input.type === "checkbox" ? "1" : input.value);
    }
    if (order) state.set("sort", `${order.key}-${order.direction === "ascending" ? "up" : "down"}`);
    const off = ticks.filter((tick) => !tick.checked).map((tick) => tick.value);
    if (off.length) state.set("hide", off.join("."));
    const query = state.toString();
    try {
      history.replaceState(null, "", location.pathname + (query ? `?${query}` : "") + location.hash);
    } catch { /* some browsers refuse this on file://; the page works without it */ }
  };

  const load = () => {
    const state = new URLSearchParams(location.search);
    for (const input of inputs) {
      if (input.type === "checkbox") input.checked = state.get(input.id) === "1";
      else {
        input.value = state.get(input.id) ?? "";
        if (input.selectedIndex === -1) input.value = "";
      }
    }
    const off = (state.get("hide") ?? "").split(".");
    for (const tick of ticks) tick.checked = !off.includes(tick.value);
    const [key, way] = (state.get("sort") ?? "").split("-");
    const known = boards[0].heads.some((head) => head.dataset.key && head.dataset.key === key);
    order = known && (way === "up" || way === "down") ? { key, direction: way === "up" ? "ascending" : "descending" } : null;
    if (ticks.some((tick) => !tick.checked)) choose();
    sortAll();
    filter();
  };

  for (const { heads } of boards) {
    for (const head of heads) {
      head.querySelector("button")?.addEventListener("click", () => {
        const key = head.dataset.key;
        const start = "words" in head.dataset || key === "rank" ? "ascending" : "descending";
        const other = start === "ascending" ? "descending" : "ascending";
        // First way, the other way, back to the board's own order.
        if (order?.key !== key) order = { key, direction: start };
        else order = order.direction === start ? { key, direction: other } : null;
        sortAll();
        save();
      });
    }
  }
  for (const input of inputs) input.addEventListener("input", () => { filter(); save(); });
  for (const tick of ticks) tick.addEventListener("change", () => { choose(); save(); });
  controls.addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", () => {
    for (const input of inputs) { input.value = ""; input.checked = false; }
    for (const tick of ticks) tick.checked = true;
    order = null;
    choose();
    sortAll();
    filter();
    save();
  });
  const chooser = controls.querySelector(".choose");
  document.addEventListener("click", (event) => { if (!chooser.contains(event.target)) chooser.open = false; });
  chooser.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { chooser.open = false; chooser.querySelector("summary").focus(); }
  });
  // A linked board that a filter hides would lead nowhere.
  addEventListener("hashchange", () => {
    const board = boards.find(({ section }) => section.id === location.hash.slice(1));
    if (board?.section.hidden) {
      for (const input of inputs) { input.value = ""; input.checked = false; }
      filter();
      save();
      board.section.scrollIntoView();
    }
  });
  load();
})();
