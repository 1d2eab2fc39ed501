// Drawing on canvases: the block map and the bars of the batches. Colours are Okabe and Ito's; numbers say the same again.

const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"];
const DARK_INK = new Set(["#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"]);

export function colourOf(id) {
  return COLOURS[id % COLOURS.length];
}

export function inkOn(colour) {
  return DARK_INK.has(colour) ? "#000000" : "#ffffff";
}

function themed(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A context in CSS pixels, sharp on any screen.
function prepare(canvas, height) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  canvas.style.height = height + "px";
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width };
}

// ---- the block map ----

const MAP_HEIGHT = 240;

// The largest cell with which all blocks fit.
function layOut(numBlocks, width) {
  for (let cell = 26; cell > 3; cell -= 1) {
    const columns = Math.floor(width / cell);
    if (Math.ceil(numBlocks / columns) * cell <= MAP_HEIGHT) return { cell, columns };
  }
  return { cell: 3, columns: Math.floor(width / 3) };
}

// Blocks to draw: all, or of a large pool the beginning with every block that was ever used, so that cells stay visible.
export function numDrawn(numBlocks, highest) {
  let drawn = 256;
  while (drawn <= highest) drawn *= 2;
  return Math.min(numBlocks, drawn);
}

export function drawMap(canvas, numBlocks, state, owners) {
  const { cell, columns } = layOut(numBlocks, canvas.clientWidth);
  const { context } = prepare(canvas, Math.ceil(numBlocks / columns) * cell);
  const gap = cell > 7 ? 2 : 1;
  const colours = { line: themed("--line"), page: themed("--page"), quiet: themed("--quiet"), text: themed("--text") };
  for (let block = 0; block < numBlocks; block += 1) {
    const box = { x: (block % columns) * cell, y: Math.floor(block / columns) * cell, side: cell - gap };
    drawBlock(context, box, owners.get(block), state.cached.has(block), block === 0, colours);
  }
  return { cell, columns };
}

function drawBlock(context, { x, y, side }, holders, isCached, isNull, colours) {
  if (isNull) {
    context.strokeStyle = colours.line;
    context.strokeRect(x + 0.5, y + 0.5, side - 1, side - 1);
    return;
  }
  if (!holders) {
    context.fillStyle = colours.line;
    context.globalAlpha = isCached ? 1 : 0.45;
    context.fillRect(x, y, side, side);
    context.globalAlpha = 1;
    if (isCached) stroke(context, [[x, y + side, x + side, y]], colours.quiet, side > 8 ? 2 : 1);
    return;
  }
  const share = side / Math.min(holders.length, 4);
  holders.slice(0, 4).forEach((id, i) => {
    context.fillStyle = colourOf(id);
    context.fillRect(x, y + i * share, side, share);
  });
  if (holders.length > 1) {
    context.strokeStyle = colours.text;
    context.lineWidth = side > 8 ? 2 : 1;
    context.strokeRect(x + 1, y + 1, side - 2, side - 2);
  }
  if (side >= 15) write(context, holders, x + side / 2, y + side / 2);
}

function write(context, holders, x, y) {
  const isShared = holders.length > 1;
  context.fillStyle = isShared ? "#000000" : inkOn(colourOf(holders[0]));
  if (isShared) {
    context.globalAlpha = 0.8;
    context.fillStyle = "#ffffff";
    context.fillRect(x - 7, y - 6, 14, 12);
    context.globalAlpha = 1;
    context.fillStyle = "#000000";
  }
  context.font = "9px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(isShared ? "×" + holders.length : String(holders[0] % 1000), x, y + 0.5);
}

function stroke(context, lines, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.beginPath();
  for (const [x1, y1, x2, y2] of lines) {
    context.moveTo(x1, y1);
    context.lineTo(x2, y2);
  }
  context.stroke();
}

// ---- the batches ----

const BAR_HEIGHT = 120;
const BAR_WIDTH = 6;

// The steps up to the shown one, each a bar of its requests' tokens. The scale follows the largest, the budget at most;
// a budget that is far above all bars is a dashed line over the scale.
export function drawBatches(canvas, frames, last, budget) {
  const { context, width } = prepare(canvas, BAR_HEIGHT);
  const steps = frames.slice(0, last + 1).filter((frame) => frame.batch && frame.batch.length);
  const shown = steps.slice(-Math.max(1, Math.floor((width - 44) / BAR_WIDTH)));
  const sums = shown.map((frame) => frame.batch.reduce((sum, [, count]) => sum + count, 0));
  const top = Math.min(budget, niceCeiling(Math.max(8, ...sums)));
  const base = BAR_HEIGHT - 4;
  const scale = (base - 30) / top;
  shown.forEach((frame, i) => {
    let y = base;
    for (const [id, count] of frame.batch) {
      const height = count * scale;
      context.fillStyle = colourOf(id);
      context.fillRect(i * BAR_WIDTH, y - height, BAR_WIDTH - 1, Math.max(0.5, height - (height > 3 ? 0.5 : 0)));
      y -= height;
    }
    if (frame.events.some(([kind]) => kind === "preempt")) markPreemption(context, i * BAR_WIDTH);
  });
  const quiet = themed("--quiet");
  const isBudget = top === budget;
  if (!isBudget) {
    context.setLineDash([5, 4]);
    stroke(context, [[0, 13.5, width - 40, 13.5]], themed("--bad"), 1);
    context.setLineDash([]);
  }
  stroke(context, [[0, base - top * scale, width - 40, base - top * scale]], isBudget ? themed("--bad") : themed("--line"), 1);
  stroke(context, [[0, base + 0.5, width - 40, base + 0.5]], themed("--line"), 1);
  context.fillStyle = quiet;
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "right";
  context.textBaseline = "middle";
  context.fillText(top.toLocaleString("en"), width, base - top * scale);
  if (!isBudget) context.fillText(budget.toLocaleString("en"), width, 13.5);
  context.fillText("0", width, base - 3);
}

function markPreemption(context, x) {
  context.fillStyle = themed("--bad");
  context.beginPath();
  context.moveTo(x - 1, 0);
  context.lineTo(x + BAR_WIDTH, 0);
  context.lineTo(x + BAR_WIDTH / 2, 8);
  context.fill();
}

function niceCeiling(value) {
  for (let step = 1; ; step *= 10) {
    for (const factor of [1, 2, 5]) if (factor * step >= value) return factor * step;
  }
}
