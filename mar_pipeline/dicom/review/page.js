// The review page: shows one slice at a time as original, corrected and difference; runs behind page_pixels.js.
(() => {
  const ZOOM = 3;
  const PRESETS = [["Soft tissue", 40, 400], ["Bone", 400, 1800], ["Lung", -600, 1500], ["Metal", 1500, 5000]]; // HU
  // Blue, white, red: less, the same, more; as the differences of the project's other figures.
  const RDBU = ["053061", "2166ac", "4393c3", "92c5de", "d1e5f0", "f7f7f7", "fddbc7", "f4a582", "d6604d", "b2182b", "67001f"];
  const GREYS = tableOf(["000000", "ffffff"]), COLOURS = tableOf(RDBU);
  const find = (id) => document.getElementById(id);
  const frames = [...document.querySelectorAll("#panes .frame")].map(makeLayer);
  const series = readSlices();
  const state = { series: 0, slice: 0, center: 40, width: 400, flip: false, outline: true, difference: true, range: 200,
    zoom: false, pointer: null, request: 0, shown: null };

  // 256 colours, red, green and blue of each, linear between stops.
  function tableOf(stops) {
    const channels = stops.map((stop) => [0, 2, 4].map((at) => parseInt(stop.slice(at, at + 2), 16)));
    return Uint8Array.from({ length: 768 }, (_, i) => {
      const place = (Math.floor(i / 3) / 255) * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
      const [from, to] = [channels[low][i % 3], channels[low + 1][i % 3]];
      return Math.round(from + (to - from) * (place - low));
    });
  }

  function readSlices() {
    const found = [...document.querySelectorAll(".of-series[data-role=head]")].map(() => []);
    for (const element of document.querySelectorAll("script.slice")) {
      found[Number(element.dataset.series)].push({ ...JSON.parse(element.textContent), id: element.id });
    }
    return found;
  }

  function makeLayer(frame) {
    const layer = frame.appendChild(document.createElement("div"));
    layer.className = "layer";
    const canvas = layer.appendChild(document.createElement("canvas"));
    const svg = layer.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
    svg.setAttribute("preserveAspectRatio", "none");
    const [metal, cross] = ["metal", "cross"].map((name) => {
      const path = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
      path.setAttribute("class", name);
      return path;
    });
    return { frame, layer, canvas, svg, metal, cross, caption: frame.closest("figure").querySelector("figcaption") };
  }

  // --- drawing ---------------------------------------------------------------------------------------------------------

  function paint(view, slice, colours, indexOf) {
    const { rows, columns } = slice;
    if (view.canvas.width !== columns || view.canvas.height !== rows) Object.assign(view.canvas, { width: columns, height: rows });
    const context = view.canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
    const image = context.createImageData(columns, rows);
    for (let i = 0, k = 0; i < rows * columns; i++, k += 4) {
      const at = 3 * indexOf(i);
      image.data[k] = colours[at];
      image.data[k + 1] = colours[at + 1];
      image.data[k + 2] = colours[at + 2];
      image.data[k + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }

  function draw() {
    const slice = series[state.series][state.slice], shown = state.shown;
    const greyOf = Pixels.greyOf(state.center, state.width);
    const second = state.flip ? shown.original : shown.corrected;
    paint(frames[0], slice, GREYS, (i) => greyOf(shown.original[i]));
    paint(frames[1], slice, GREYS, (i) => greyOf(second[i]));
    if (state.difference) {
      const scale = 255 / (2 * state.range);
      paint(frames[2], slice, COLOURS, (i) => Math.min(255, Math.max(0, Math.round((shown.corrected[i] - shown.original[i]) * scale + 127.5))));
    }
    for (const view of frames) {
      view.svg.setAttribute("viewBox", `0 0 ${slice.columns} ${slice.rows}`);
      view.metal.setAttribute("d", state.outline ? shown.outline : "");
      view.frame.style.setProperty("--aspect", (slice.columns * slice.spacing[1]) / (slice.rows * slice.spacing[0]));
    }
    readout();
    document.body.dataset.shown = slice.id;
  }

  function drawControls() {
    for (const [id, pressed] of [["flip", state.flip], ["outline", state.outline], ["zoom", state.zoom], ["show-difference", state.difference]]) {
      find(id).setAttribute("aria-pressed", String(pressed));
    }
    [...find("presets").children].forEach((button, i) => {
      button.setAttribute("aria-pressed", String(PRESETS[i][1] === state.center && PRESETS[i][2] === state.width));
    });
    find("center").value = state.center;
    find("width").value = state.width;
    find("panes").classList.toggle("two", !state.difference);
    frames[2].frame.closest("figure").hidden = !state.difference;
    const title = frames[1].caption.querySelector("b");
    title.textContent = state.flip ? "Original, in place of the corrected" : "Corrected";
    title.classList.toggle("flipped", state.flip);
    for (const view of frames.slice(0, 2)) view.caption.querySelector("span").textContent = `center ${state.center}, width ${state.width} HU`;
    const ends = frames[2].caption.querySelectorAll(".ramp span");
    ends[0].textContent = `−${state.range}`;
    ends[2].textContent = `+${state.range} HU`;
  }

  function change(changes) {
    Object.assign(state, changes);
    drawControls();
    if (state.shown) draw();
  }

  function readout() {
    const slice = series[state.series][state.slice], at = state.pointer, shown = state.shown;
    const line = find("readout");
    for (const view of frames) view.cross.setAttribute("d", "");
    if (!at || !shown || at.row >= slice.rows || at.column >= slice.columns) {
      line.textContent = "Point at an image for its values in HU.";
      return;
    }
    const i = at.row * slice.columns + at.column, change = shown.corrected[i] - shown.original[i];
    const values = { original: shown.original[i], corrected: shown.corrected[i], difference: `${change > 0 ? "+" : ""}${change}` };
    line.replaceChildren(...Object.entries(values).map(([name, value]) => {
      const part = document.createElement("span"), number = document.createElement("b");
      number.textContent = value;
      number.dataset.value = name;
      part.append(`${name} `, number, " HU");
      return part;
    }), `at column ${at.column}, row ${at.row}${shown.metal[i] ? ", metal" : ""}`);
    const x = at.column + 0.5, y = at.row + 0.5, w = slice.columns / 100, h = slice.rows / 100;
    const cross = `M${x - 4 * w} ${y}h${3 * w}m${2 * w} 0h${3 * w}M${x} ${y - 4 * h}v${3 * h}m0 ${2 * h}v${3 * h}`;
    for (const view of frames) if (view.frame !== at.frame) view.cross.setAttribute("d", cross);
  }

  // --- slices and series -----------------------------------------------------------------------------------------------

  async function show(index) {
    const slices = series[state.series];
    state.slice = Math.min(slices.length - 1, Math.max(0, index));
    const slice = slices[state.slice], request = ++state.request;
    find("slice").value = state.slice;
    find("slice").setAttribute("aria-valuetext", slice.label);
    find("label").textContent = slice.label;
    find("figures").replaceChildren(...slice.figures.map(([name, value]) => {
      const pair = document.createElement("div");
      pair.appendChild(document.createElement("dt")).textContent = name;
      pair.appendChild(document.createElement("dd")).textContent = value;
      return pair;
    }));
    fillRegions(slice.regions);
    try {
      const shown = await Pixels.decode(slice);
      if (request !== state.request) return; // another slice was asked for meanwhile
      find("message").hidden = true;
      state.shown = shown;
      draw();
    } catch (error) {
      if (request !== state.request) return;
      state.shown = null;
      for (const view of frames) view.canvas.width = view.canvas.width; // no image rather than another slice's
      find("message").textContent = `${slice.label} cannot be shown: ${error.message}`;
      find("message").hidden = false;
      document.body.dataset.shown = "failed";
    }
  }

  function fillRegions(regions) {
    const rows = [["HU: mean ± SD (min to max)", 0], ["Before", 1], ["After", 2]].map(([name, part]) => {
      const row = document.createElement("tr"), kind = part === 0 ? "th" : "td";
      for (const text of [name, ...regions.map((region) => region[part])]) row.appendChild(document.createElement(kind)).textContent = text;
      return row;
    });
    find("regions").querySelector("thead").replaceChildren(rows[0]);
    find("regions").querySelector("tbody").replaceChildren(...rows.slice(1));
    find("regions").hidden = regions.length === 0;
  }

  function step(count) {
    const target = state.slice + count;
    if (target >= 0 && target < series[state.series].length) show(target);
  }

  function choose(index) {
    state.series = index;
    for (const element of document.querySelectorAll(".of-series")) element.hidden = Number(element.dataset.series) !== index;
    find("series").value = index;
    const slices = series[index], count = slices.length;
    find("viewer").hidden = find("all").hidden = count === 0;
    document.body.classList.toggle("viewing", count > 0);
    if (count === 0) return;
    find("slice").max = count - 1;
    for (const element of document.querySelectorAll(".track, .scroller button, .legend")) element.hidden = count === 1;
    drawStrip(slices);
    Object.assign(find("all"), { open: false, hidden: slices.every((slice) => slice.figures.length === 0) });
    const most = Math.max(...slices.map((slice) => slice.metal));
    show(slices.findIndex((slice) => slice.metal === most));
  }

  function drawStrip(slices) {
    const count = slices.length, top = Math.max(...slices.map((slice) => slice.changed), 1e-9);
    const [bars, dots] = find("strip").children;
    find("strip").setAttribute("viewBox", count > 1 ? `0 0 ${count - 1} 1` : "-0.5 0 1 1");
    const wide = Math.min(0.7, 0.008 * Math.max(1, count - 1));
    bars.setAttribute("stroke-width", wide);
    dots.setAttribute("stroke-width", "0.2");
    bars.setAttribute("d", slices.map((slice, i) => (slice.changed ? `M${i} 1v${-slice.changed / top}` : "")).join(""));
    dots.setAttribute("d", slices.map((slice, i) => (slice.metal ? `M${i - wide} 1h${2 * wide}` : "")).join(""));
  }

  function fillTable() {
    const slices = series[state.series], names = [...new Set(slices.flatMap((slice) => slice.figures.map(([name]) => name)))];
    const cell = (row, kind, text) => { row.appendChild(document.createElement(kind)).textContent = text; };
    const head = document.createElement("tr");
    ["Slice", ...names].forEach((name) => cell(head, "th", name));
    find("all").querySelector("thead").replaceChildren(head);
    find("all").querySelector("tbody").replaceChildren(...slices.map((slice, i) => {
      const row = document.createElement("tr"), button = document.createElement("button"), values = new Map(slice.figures);
      Object.assign(button, { type: "button", textContent: slice.label, onclick: () => show(i) });
      row.appendChild(document.createElement("td")).append(button);
      names.forEach((name) => cell(row, "td", values.get(name) ?? ""));
      return row;
    }));
  }

  // --- keys, wheel, pointer --------------------------------------------------------------------------------------------

  function zoom() {
    const on = !state.zoom, slice = series[state.series][state.slice], at = state.pointer;
    const origin = at ? `${(100 * (at.column + 0.5)) / slice.columns}% ${(100 * (at.row + 0.5)) / slice.rows}%` : "50% 50%";
    for (const view of frames) {
      view.layer.style.transformOrigin = origin;
      view.layer.style.transform = on ? `scale(${ZOOM})` : "";
      view.layer.classList.toggle("zoomed", on);
    }
    change({ zoom: on });
  }

  const toggles = { o: () => change({ flip: !state.flip }), d: () => change({ difference: !state.difference }),
    m: () => change({ outline: !state.outline }), z: zoom, s: () => choose((state.series + 1) % series.length),
    "?": () => find("help").showModal(), ArrowLeft: () => step(-1), ArrowUp: () => step(-1), ArrowRight: () => step(1),
    ArrowDown: () => step(1) };
  PRESETS.forEach(([, center, width], i) => { toggles[i + 1] = () => change({ center, width }); });
  const onSlider = { PageUp: () => show(state.slice - 10), PageDown: () => show(state.slice + 10), Home: () => show(0), End: () => show(1e9) };

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || find("help").open || find("viewer").hidden && event.key !== "s") return;
    if (event.target.closest("select, input[type=number], .wide, .warnings")) return;
    const action = toggles[event.key] ?? (event.target === find("slice") ? onSlider[event.key] : undefined);
    if (!action) return;
    event.preventDefault();
    action();
  }

  let turned = 0;
  function onWheel(event) {
    if (event.ctrlKey) return; // the browser's zoom
    event.preventDefault();
    turned += event.deltaMode === 0 ? event.deltaY / 50 : event.deltaY; // pixels, as of touch pads, or lines
    if (Math.abs(turned) < 1) return;
    step(Math.sign(turned));
    turned = 0;
  }

  function onPointer(view, event) {
    const slice = series[state.series][state.slice], box = view.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * slice.columns);
    const row = Math.floor(((event.clientY - box.top) / box.height) * slice.rows);
    const inside = column >= 0 && row >= 0 && column < slice.columns && row < slice.rows;
    state.pointer = inside ? { column, row, frame: view.frame } : null;
    readout();
  }

  PRESETS.forEach(([name, center, width], i) => {
    const button = find("presets").appendChild(document.createElement("button"));
    Object.assign(button, { type: "button", title: `center ${center}, width ${width} HU (${i + 1})`, onclick: toggles[i + 1] });
    button.append(name, Object.assign(document.createElement("kbd"), { textContent: i + 1 }));
  });
  for (const [id, key] of [["flip", "o"], ["outline", "m"], ["zoom", "z"], ["show-difference", "d"], ["open-help", "?"]]) find(id).onclick = toggles[key];
  find("previous").onclick = () => step(-1);
  find("next").onclick = () => step(1);
  find("slice").oninput = (event) => show(Number(event.target.value));
  for (const [id, least] of [["center", -1e5], ["width", 2]]) {
    find(id).onchange = ({ target }) => change({ [id]: target.value === "" ? state[id] : Math.max(least, Number(target.value)) });
  }
  find("difference-range").onchange = (event) => change({ range: Number(event.target.value) });
  find("series").onchange = (event) => choose(Number(event.target.value));
  find("all").ontoggle = () => find("all").open && fillTable();
  find("panes").addEventListener("wheel", onWheel, { passive: false });
  document.addEventListener("keydown", onKey);
  for (const view of frames) {
    view.frame.addEventListener("pointermove", (event) => onPointer(view, event));
    view.frame.addEventListener("pointerleave", () => { state.pointer = null; readout(); });
    view.frame.addEventListener("dblclick", zoom);
  }
  document.querySelectorAll(".of-series .head").forEach((head, i) => {
    find("series").add(new Option([...head.children].map((part) => part.textContent).join(": "), i));
  });
  find("series-choice").hidden = series.length < 2;
  document.body.classList.toggle("several", series.length > 1);
  drawControls();
  if (series.length) choose(0);
})();
