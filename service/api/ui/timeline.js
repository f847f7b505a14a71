// The emotions of each face over the time of a film: a row of colors for each.

import { colorOf } from "/page/emotions.js";

const HEIGHT = 18; // of a row, in pixels
const DOUBTED = 0.4; // opacity

const percent = new Intl.NumberFormat("en", { style: "percent" });

export class Timeline {
  constructor(root) {
    this.root = root;
    this.list = root.querySelector("ol");
    this.end = root.querySelector(".end");
    this.legend = root.querySelector(".legend");
    this.rows = new Map();
    this.explained = new Set();
  }

  start(duration, step) {
    this.clear();
    this.step = step;
    this.frames = Math.max(1, Math.ceil(duration / step));
    this.end.textContent = `${duration.toFixed(1)} s`;
    this.root.hidden = false;
  }

  clear() {
    this.rows.clear();
    this.explained.clear();
    this.list.replaceChildren();
    this.legend.replaceChildren();
    this.root.hidden = true;
  }

  /** Color what each face of a frame shows. */
  add(time, { faces }) {
    const column = Math.round(time / this.step);
    for (const face of faces) {
      const row = this.rows.get(face.track) ?? this.addRow(face.track);
      row.context.globalAlpha = face.reliable ? 1 : DOUBTED;
      row.context.fillStyle = colorOf(face).background;
      row.context.fillRect(column, 0, 1, HEIGHT);
      row.counts[face.emotion] = (row.counts[face.emotion] ?? 0) + 1;
      row.canvas.setAttribute("aria-label", describe(row.counts));
      row.likeliest.textContent = mostFrequent(row.counts)[0][0];
      if (!this.explained.has(face.emotion)) this.explain(face);
    }
  }

  /** Say which emotion has the color that a face now has for the first time. */
  explain(face) {
    this.explained.add(face.emotion);
    const dot = document.createElement("i");
    dot.className = "dot";
    dot.style.setProperty("--emotion", colorOf(face).background);
    const entry = document.createElement("span");
    entry.append(dot, face.emotion);
    this.legend.append(entry);
  }

  addRow(track) {
    const canvas = document.createElement("canvas");
    canvas.width = this.frames;
    canvas.height = HEIGHT;
    canvas.setAttribute("role", "img");
    const name = document.createElement("span");
    name.textContent = `Face ${track}`;
    const likeliest = document.createElement("span");
    likeliest.className = "likeliest";
    const item = document.createElement("li");
    item.append(name, canvas, likeliest);
    this.list.append(item);
    const row = { canvas, likeliest, context: canvas.getContext("2d"), counts: {} };
    this.rows.set(track, row);
    return row;
  }
}

function mostFrequent(counts) {
  return Object.entries(counts).sort(([, a], [, b]) => b - a);
}

/** Such as "happiness 80%, neutral 20%", of the frames in which a face was seen. */
function describe(counts) {
  const frames = Object.values(counts).reduce((sum, count) => sum + count, 0);
  return mostFrequent(counts).map(([emotion, count]) => `${emotion} ${percent.format(count / frames)}`).join(", ");
}
