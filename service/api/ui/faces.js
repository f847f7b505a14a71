// Shows faces as cards with bars, and as boxes over the photo. Elements are updated instead of replaced, so that a
// face in the webcam keeps its card: nothing jumps, and a screen reader keeps its position.

import { colorOf, countWord, countWords } from "/page/emotions.js";

const GAP = 3; // between a box and its tag, in pixels
const LENGTHS = ["long", "short", "shorter", "shortest"]; // of a tag: all, no share, only the label, only the number
const COMPACT = 4; // bars of a card, if there are several; all bars once the face is chosen

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

function link(url, text) {
  const created = element("a", "", text);
  created.href = url;
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
    this.doubts = element("span", "");
    this.doubt = element("p", "doubt", this.doubts, " ", link("#explain", "What is this?"));
    this.card = element("li", "card", this.head, this.bars, this.doubt);
    this.number = element("span", "number");
    this.label = element("span", "label");
    this.share = element("span", "share");
    this.tag = element("span", "tag", this.number, element("span", "words", this.label, this.share));
    this.box = element("div", "box", this.tag);
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
    if (this.compact) this.head.setAttribute("aria-expanded", String(this.chosen));
    else this.head.removeAttribute("aria-expanded");
    this.card.classList.toggle("compact", this.compact);
    this.card.classList.toggle("expanded", this.chosen);
  }

  update(face, number, { image, mirrored, only, compact }) {
    this.face = face;
    this.compact = compact;
    this.name.textContent = `Face ${number}`;
    this.emotion.textContent = face.emotion;
    this.confidence.textContent = formatPercent(face.confidence);
    this.number.textContent = only ? "" : String(number);
    this.label.textContent = face.emotion;
    this.share.textContent = ` ${formatPercent(face.confidence)}`;
    this.doubts.textContent = reliabilityNote(face);
    this.doubt.hidden = face.reliable;
    this.place(face.box, image, mirrored);
    const { background, text } = colorOf(face);
    for (const part of [this.card, this.box]) {
      part.style.setProperty("--emotion", background);
      part.style.setProperty("--on-emotion", text);
      part.classList.toggle("doubted", !face.reliable);
    }
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
  }

  fillBars(face) {
    const labels = Object.keys(face.emotions);
    if (labels.join() !== [...this.rows.keys()].join()) {
      this.rows = new Map(labels.map((label) => [label, barRow(label)]));
    }
    const ranked = [...labels].sort((a, b) => face.emotions[b] - face.emotions[a]);
    const order = this.compact ? ranked : labels;
    updateChildren(this.bars, order.map((label) => this.rows.get(label).row));
    for (const [label, { row, fill, value }] of this.rows) {
      row.classList.toggle("rest", ranked.indexOf(label) >= COMPACT);
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
  /** `numbers` explains bare numbers; it is shown once there is one. */
  constructor(list, boxes, totals, numbers) {
    this.numbers = numbers;
    this.list = list;
    this.boxes = boxes;
    this.totals = totals;
    this.views = new Map();
    new ResizeObserver(() => this.placeTags()).observe(boxes);
  }

  clear() {
    this.views.clear();
    this.numbers.hidden = true;
    this.totals.replaceChildren();
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
      const only = answer.faces.length === 1;
      // The bars of a live face stay in place, so that they can be followed.
      const compact = !only && face.track === undefined;
      view.update(face, key, { image: answer.image, mirrored, only, compact });
      if (source) view.drawThumbnail(source, face.box, sourceWidth / answer.image.width, mirrored);
      this.views.set(key, view);
    });
    // Sorted by number, because the order by size changes from frame to frame.
    const views = [...this.views.entries()].sort(([a], [b]) => a - b).map(([, view]) => view);
    updateChildren(this.list, views.map((view) => view.card));
    updateChildren(this.boxes, boxes ? views.map((view) => view.box) : []);
    this.placeTags();
    this.showTotals(answer);
  }

  /** Say how many faces show what, such as "14 happy, 1 sad". */
  showTotals({ faces, summary }) {
    if (faces.length < 2) return this.totals.replaceChildren();
    const counts = Object.entries(summary).map(([emotion, count]) => {
      const dot = element("i", "dot");
      dot.style.setProperty("--emotion", colorOf(faces[0], emotion).background);
      return element("li", "", dot, countWord(emotion, count));
    });
    const doubted = faces.filter(({ reliable }) => !reliable).length;
    if (doubted) counts.push(element("li", "doubted", `${doubted} doubtful`));
    return this.totals.replaceChildren(...counts);
  }

  /** Put each tag where it covers no box and no other tag, and shorten it until there is such a place. */
  placeTags() {
    const frame = this.boxes.getBoundingClientRect();
    const views = [...this.views.values()].filter(({ box }) => box.isConnected);
    const boxes = views.map(({ box }) => relativeTo(frame, box.getBoundingClientRect()));
    const taken = [];
    views.forEach((view, index) => {
      const { tag } = view;
      let best;
      for (const length of LENGTHS) {
        tag.classList.remove(...LENGTHS);
        tag.classList.add(length);
        const { width, height } = tag.getBoundingClientRect();
        best = bestPlace(boxes[index], width, height, frame, [...boxes, ...taken]);
        // A tag that is wider than its box takes its neighbors' room.
        const fits = length === "shorter" || width <= boxes[index].right - boxes[index].left;
        if (views.length === 1 || (best.covered < 1 && fits)) break;
      }
      tag.style.setProperty("--left", `${best.place.left - boxes[index].left}px`);
      tag.style.setProperty("--top", `${best.place.top - boxes[index].top}px`);
      taken.push(best.place);
      if (tag.classList.contains("shortest")) this.numbers.hidden = false;
    });
  }

  choose(chosen, scroll = false) {
    for (const view of this.views.values()) {
      view.chosen = view === chosen && !view.chosen;
      view.highlight(false);
    }
    if (scroll) chosen.card.scrollIntoView({ block: "nearest" });
  }
}

function relativeTo(frame, { left, top, right, bottom }) {
  return { left: left - frame.left, top: top - frame.top, right: right - frame.left, bottom: bottom - frame.top };
}

/** The place around or in a box, and inside the frame, that covers the least of `others`. */
function bestPlace(box, width, height, frame, others) {
  const clamp = (value, max) => Math.max(0, Math.min(value, max));
  const columns = [box.left, box.right - width, (box.left + box.right - width) / 2].map((x) => clamp(x, frame.width - width));
  const corners = [
    ...[box.top - height - GAP, box.bottom + GAP].flatMap((top) => columns.map((left) => ({ left, top }))),
    ...[box.left - width - GAP, box.right + GAP].map((left) => ({ left, top: box.top })),
  ].filter(({ left, top }) => left >= 0 && top >= 0 && left + width <= frame.width && top + height <= frame.height);
  corners.push({ left: columns[0], top: clamp(box.top, frame.height - height) }); // in the box
  return corners
    .map(({ left, top }) => ({ left, top, right: left + width, bottom: top + height }))
    .map((place) => ({ place, covered: others.reduce((sum, other) => sum + overlap(place, other), 0) }))
    .reduce((best, each) => (each.covered < best.covered ? each : best));
}

function overlap(a, b) {
  const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  return width > 0 && height > 0 ? width * height : 0;
}

/** Replace a node's children only if they change: an element that is moved loses the focus. */
function updateChildren(node, wanted) {
  const same = wanted.length === node.children.length && wanted.every((child, index) => child === node.children[index]);
  if (!same) node.replaceChildren(...wanted);
}

/** Describe the answer in a sentence. */
export function summarize(answer) {
  const { faces } = answer;
  if (!faces.length) return "No face was found in this photo.";
  if (faces.length === 1) return `1 face: ${faces[0].emotion} ${formatPercent(faces[0].confidence)}.`;
  const doubted = faces.filter(({ reliable }) => !reliable).length;
  return `${faces.length} faces: ${countWords(answer)}${doubted ? `; ${doubted} doubtful` : ""}.`;
}
