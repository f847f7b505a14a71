// Shows faces as cards with bars, and as boxes over the photo. Elements are updated instead of replaced, so that a
// face in the webcam keeps its card: nothing jumps, and a screen reader keeps its position.

const percent = new Intl.NumberFormat("en", { style: "percent" });

export function formatPercent(probability) {
  return probability > 0 && probability < 0.005 ? "<1%" : percent.format(probability);
}

function element(name, className, ...children) {
  const created = document.createElement(name);
  created.className = className;
  created.append(...children);
  return created;
}

class FaceView {
  constructor(choose) {
    this.canvas = element("canvas", "");
    this.canvas.width = this.canvas.height = 88;
    this.canvas.setAttribute("aria-hidden", "true");
    this.name = element("span", "name");
    this.emotion = element("span", "emotion");
    this.confidence = element("span", "confidence");
    this.head = element("button", "head", this.canvas, element("span", "", this.name, this.emotion), this.confidence);
    this.head.type = "button";
    this.bars = element("ul", "bars");
    this.doubt = element("p", "doubt");
    this.card = element("li", "card", this.head, this.bars, this.doubt);
    this.number = element("span", "number");
    this.words = element("span", "words");
    this.box = element("div", "box", element("span", "tag", this.number, this.words));
    this.rows = new Map();
    this.head.addEventListener("click", () => choose(this));
    this.box.addEventListener("click", () => choose(this, true));
    for (const part of [this.card, this.box]) {
      part.addEventListener("pointerenter", () => this.highlight(true));
      part.addEventListener("pointerleave", () => this.highlight(false));
    }
    this.chosen = false;
  }

  highlight(on) {
    for (const part of [this.card, this.box]) part.classList.toggle("chosen", on || this.chosen);
    this.head.setAttribute("aria-pressed", String(this.chosen));
  }

  update(face, number, { image, mirrored, only }) {
    this.name.textContent = `Face ${number}`;
    this.emotion.textContent = face.emotion;
    this.confidence.textContent = formatPercent(face.confidence);
    this.number.textContent = only ? "" : String(number);
    this.words.textContent = `${face.emotion} ${formatPercent(face.confidence)}`;
    this.doubt.textContent = reliabilityNote(face);
    this.place(face.box, image, mirrored);
    this.box.classList.toggle("only", only);
    this.fillBars(face);
    this.highlight(false);
  }

  place({ x, y, width, height }, image, mirrored) {
    const left = mirrored ? image.width - x - width : x;
    const share = (part, whole) => `${(100 * part) / whole}%`;
    this.box.style.setProperty("--x", share(left, image.width));
    this.box.style.setProperty("--y", share(y, image.height));
    this.box.style.setProperty("--width", share(width, image.width));
    this.box.style.setProperty("--height", share(height, image.height));
    // A tag that would leave the picture goes below the box, or to its right edge.
    this.box.classList.toggle("high", y < 0.07 * image.height);
    this.box.classList.toggle("right", left > 0.72 * image.width);
  }

  fillBars(face) {
    const labels = Object.keys(face.emotions);
    if (labels.join() !== [...this.rows.keys()].join()) {
      this.rows = new Map(labels.map((label) => [label, barRow(label)]));
      this.bars.replaceChildren(...[...this.rows.values()].map(({ row }) => row));
    }
    for (const [label, { row, fill, value }] of this.rows) {
      fill.style.setProperty("--p", face.emotions[label].toFixed(4));
      value.textContent = formatPercent(face.emotions[label]);
      row.classList.toggle("first", label === face.emotion);
    }
  }

  /** Draw the face on its card. */
  drawThumbnail(source, { x, y, width, height }, scale, mirrored) {
    const side = 1.25 * Math.max(width, height);
    const context = this.canvas.getContext("2d");
    const pixels = this.canvas.width;
    context.setTransform(mirrored ? -1 : 1, 0, 0, 1, mirrored ? pixels : 0, 0);
    context.clearRect(0, 0, pixels, pixels);
    const left = (x + width / 2 - side / 2) * scale;
    const top = (y + height / 2 - side / 2) * scale;
    context.drawImage(source, left, top, side * scale, side * scale, 0, 0, pixels, pixels);
  }
}

function barRow(label) {
  const fill = element("div", "fill");
  const track = element("div", "track", fill);
  track.setAttribute("aria-hidden", "true");
  const value = element("span", "value");
  return { row: element("li", "", element("span", "label", label), track, value), fill, value };
}

function reliabilityNote(face) {
  const reasons = face.unreliable_because ?? [];
  return reasons.length ? `Less reliable: ${reasons.join(", ").replaceAll("_", " ")}.` : "";
}

export class FacesView {
  constructor(list, boxes) {
    this.list = list;
    this.boxes = boxes;
    this.views = new Map();
  }

  clear() {
    this.views.clear();
    this.list.replaceChildren();
    this.boxes.replaceChildren();
  }

  /** Show the faces of an answer. `source` is the image or video to cut thumbnails from, `sourceWidth` its width. */
  show(answer, { source = null, sourceWidth = 0, mirrored = false, boxes = true } = {}) {
    const before = this.views;
    this.views = new Map();
    answer.faces.forEach((face, index) => {
      const key = face.track ?? index + 1;
      const view = before.get(key) ?? new FaceView((chosen, scroll) => this.choose(chosen, scroll));
      view.update(face, key, { image: answer.image, mirrored, only: answer.faces.length === 1 });
      if (source) view.drawThumbnail(source, face.box, sourceWidth / answer.image.width, mirrored);
      this.views.set(key, view);
    });
    // Sorted by number, because the order by size changes from frame to frame.
    const views = [...this.views.entries()].sort(([a], [b]) => a - b).map(([, view]) => view);
    updateChildren(this.list, views.map((view) => view.card));
    updateChildren(this.boxes, boxes ? views.map((view) => view.box) : []);
  }

  choose(chosen, scroll = false) {
    for (const view of this.views.values()) {
      view.chosen = view === chosen && !view.chosen;
      view.highlight(false);
    }
    if (scroll) chosen.card.scrollIntoView({ block: "nearest" });
  }
}

/** Replace a node's children only if they change: an element that is moved loses the focus. */
function updateChildren(node, wanted) {
  const same = wanted.length === node.children.length && wanted.every((child, index) => child === node.children[index]);
  if (!same) node.replaceChildren(...wanted);
}

/** Describe the answer in a sentence. */
export function summarize({ faces }) {
  if (!faces.length) return "No face was found in this photo.";
  const shown = faces.slice(0, 5).map((face) => `${face.emotion} ${formatPercent(face.confidence)}`);
  const more = faces.length > 5 ? ` and ${faces.length - 5} more` : "";
  return `${faces.length === 1 ? "1 face" : `${faces.length} faces`}: ${shown.join(", ")}${more}.`;
}
