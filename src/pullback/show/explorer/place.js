// Where everything stands for one choice of open boxes. placement.py does the same for the SVG files: a change here
// belongs there too.
function place(data, opened, sizes) {
  const [ROW_GAP, COLUMN_GAP, PADDING, HEAD, BESIDE, MINIMUM] = data.gaps;
  const TOP = -1, spotsOf = {}, linesOf = {};
  const name = (key) => key[0] + key[1];
  const isOpen = (key) => key[0] === "box" && opened.has(key[1]);
  const beside = {};
  for (const [number, sheet] of Object.entries(data.sheets)) {
    beside[number] = Object.fromEntries(sheet.beside.map(([key, others]) => [name(key), others]));
  }

  function extent(key, number) {
    let found;
    if (isOpen(key)) found = measure(key[1]);
    else {
      const [width, height] = sizes[name(key)] || [MINIMUM, 0];
      found = {left: width / 2, right: width / 2, height, own: width};
    }
    const others = (beside[number][name(key)] || []).map((each) => sizes[name(each)]);
    if (!others.length) return found;
    const wide = Math.max(...others.map((each) => each[0]));
    const tall = others.reduce((sum, each) => sum + each[1], BESIDE * (others.length - 1));
    return {...found, right: found.right + COLUMN_GAP + wide, height: Math.max(found.height, tall)};
  }

  function columns(sheet, extents) {
    const byRow = new Map(), bounds = new Map(), reach = new Map(), x = new Map();
    for (const item of [...sheet.rows].sort((a, b) => a[3] - b[3])) {
      if (!byRow.has(item[2])) byRow.set(item[2], []);
      byRow.get(item[2]).push(item);
      bounds.set(item[3], []);
      reach.set(item[3], Math.max(reach.get(item[3]) || 0, extents[name(item)].left));
    }
    for (const items of byRow.values()) {
      for (let k = 1; k < items.length; k++) {
        const distance = extents[name(items[k - 1])].right + extents[name(items[k])].left + COLUMN_GAP;
        bounds.get(items[k][3]).push([items[k - 1][3], distance]);
      }
    }
    let previous = 0;
    for (const column of [...bounds.keys()].sort((a, b) => a - b)) {
      let at = Math.max(previous, PADDING + reach.get(column));
      for (const [left, distance] of bounds.get(column)) at = Math.max(at, x.get(left) + distance);
      x.set(column, at);
      previous = at + MINIMUM;
    }
    return Object.fromEntries(sheet.rows.map((item) => [name(item), x.get(item[3])]));
  }

  function measure(number) {
    const sheet = data.sheets[number], own = {};
    for (const item of sheet.rows) own[name(item)] = extent(item, number);
    const lines = columns(sheet, own), heights = new Map(), tops = new Map(), spots = {};
    for (const item of sheet.rows) heights.set(item[2], Math.max(heights.get(item[2]) || 0, own[name(item)].height));
    let y = number === TOP ? PADDING : HEAD;
    for (const row of [...heights.keys()].sort((a, b) => a - b)) {
      tops.set(row, y);
      y += heights.get(row) + (heights.get(row) ? ROW_GAP : ROW_GAP / 4);
    }
    for (const item of sheet.rows) {
      const key = name(item), row = item[2], size = own[key];
      const height = isOpen(item) ? size.height : (sizes[key] || [0, 0])[1];
      const rest = heights.get(row) - height;
      spots[key] = {x: lines[key] - size.left, y: tops.get(row) + (item[0] === "value" ? rest : rest / 2),
        width: size.own, height, key: [item[0], item[1]]};
      const others = beside[number][key] || [];
      const tall = others.reduce((sum, each) => sum + sizes[name(each)][1], BESIDE * (others.length - 1));
      let top = tops.get(row) + (heights.get(row) - tall) / 2;
      for (const each of others) {
        const [width, high] = sizes[name(each)];
        spots[name(each)] = {x: spots[key].x + size.own + COLUMN_GAP, y: top, width, height: high, key: each};
        top += high + BESIDE;
      }
    }
    spotsOf[number] = spots;
    linesOf[number] = lines;
    const all = Object.values(spots);
    const right = Math.max(0, ...all.map((each) => each.x + each.width)) + PADDING;
    const bottom = Math.max(0, ...all.map((each) => each.y + each.height)) + PADDING;
    if (number === TOP) return {left: 0, right, height: bottom, own: right};
    const ports = sheet.rows.filter((item) => item[0] === "in" || item[0] === "out");
    ports.sort((a, b) => (a[0] === b[0] ? a[1] - b[1] : a[0] < b[0] ? -1 : 1));
    const line = ports.length ? lines[name(ports[0])] : right / 2;
    const width = Math.max(right, line + sizes["box" + number][0]);
    return {left: line, right: width - line, height: bottom, own: width};
  }

  const placed = {shapes: {}, open: [], pieces: [], beside: []};
  function put(number, corner) {
    const spots = {};
    for (const [key, spot] of Object.entries(spotsOf[number])) {
      spots[key] = {...spot, x: spot.x + corner.x, y: spot.y + corner.y};
    }
    for (const [key, spot] of Object.entries(spots)) {
      if (["op", "value", "result", "box"].includes(spot.key[0])) placed.shapes[key] = spot;
      if (isOpen(spot.key)) {
        placed.open.push(spot.key[1]);
        put(spot.key[1], {x: spot.x, y: spot.y});
      }
    }
    for (const [target, sources] of data.sheets[number].beside) {
      for (const source of sources) placed.beside.push([source, target]);
    }
    const line = (key, port) =>
      isOpen(key) ? spots[name(key)].x + linesOf[key[1]][port] : corner.x + linesOf[number][name(key)];
    for (const [value, source, target] of data.sheets[number].links) {
      const from = spots[name(source)], to = spots[name(target)];
      const start = {x: line(source, "out" + value), y: source[0] === "in" ? corner.y : from.y + from.height};
      const end = {x: line(target, "in" + value), y: to.y};
      if (target[0] === "out") end.y = corner.y + placed.shapes["box" + number].height;
      placed.pieces.push({
        value, start, end,
        leaves: ["op", "value"].includes(source[0]) || (source[0] === "box" && !isOpen(source)),
        arrives: ["op", "result"].includes(target[0]) || (target[0] === "box" && !isOpen(target)),
      });
    }
  }
  const whole = measure(TOP);
  put(TOP, {x: 0, y: 0});
  return {...placed, width: whole.right, height: whole.height};
}
