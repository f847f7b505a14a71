// Several photos: a tile for each, with its progress and its faces. One of them is shown large.

import { Problem, fetchEmotions } from "/page/api.js";
import { colorOf, countWords } from "/page/emotions.js";
import { reduced } from "/page/large_photos.js";

const AT_A_TIME = 2;
const MAX_ATTEMPTS = 5; // while the service is busy
const THUMBNAIL_WIDTH = 240; // in pixels

class Item {
  constructor(photo, choose) {
    this.photo = photo;
    this.answer = null;
    this.problem = null;
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("aria-hidden", "true");
    this.canvas.width = THUMBNAIL_WIDTH;
    this.canvas.height = (THUMBNAIL_WIDTH * 3) / 4;
    this.name = document.createElement("span");
    this.name.className = "name";
    this.name.textContent = photo.name;
    this.state = document.createElement("span");
    this.state.className = "state";
    this.button = document.createElement("button");
    this.button.type = "button";
    this.button.append(this.canvas, this.name, this.state);
    this.button.addEventListener("click", () => choose(this));
    this.tile = document.createElement("li");
    this.tile.append(this.button);
    this.setState("waiting");
  }

  get done() {
    return Boolean(this.answer ?? this.problem);
  }

  setState(kind) {
    this.tile.className = `tile ${kind}`;
    const texts = {
      waiting: "Waiting",
      reading: "Analyzing…",
      answered: this.answer?.faces.length ? countWords(this.answer) : "No face",
      failed: this.problem?.title ?? "Something went wrong",
    };
    this.state.textContent = texts[kind];
  }

  /** Draw the photo small, with its boxes. Formats that the browser cannot show keep an empty tile. */
  async draw() {
    let bitmap;
    try {
      bitmap = await createImageBitmap(this.photo, { resizeWidth: THUMBNAIL_WIDTH, resizeQuality: "medium" });
    } catch {
      return;
    }
    this.canvas.height = Math.min(bitmap.height, 3 * THUMBNAIL_WIDTH);
    const context = this.canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    if (!this.answer) return;
    const scale = THUMBNAIL_WIDTH / this.answer.image.width;
    context.lineWidth = 3;
    for (const face of [...this.answer.faces].reverse()) {
      const { x, y, width, height } = face.box;
      context.strokeStyle = colorOf(face).background;
      context.setLineDash(face.reliable ? [] : [4, 3]);
      context.strokeRect(x * scale, y * scale, width * scale, height * scale);
    }
  }
}

export class Album {
  /** `handlers`: show(item), whenever the chosen item changes, picked(item), once the visitor sees it, and progress(items). */
  constructor(list, handlers) {
    this.list = list;
    this.handlers = handlers;
    this.items = [];
  }

  clear() {
    this.items = [];
    this.chosen = null;
    this.list.replaceChildren();
    this.list.hidden = true;
  }

  /** Analyze photos, a few at a time, until `signal` is aborted. Throw the problem that all of them have. */
  async run(photos, signal) {
    const pick = async (item) => {
      await this.choose(item);
      if (item === this.chosen) this.handlers.picked(item);
    };
    const items = photos.map((photo) => new Item(photo, pick));
    this.items = items;
    this.list.replaceChildren(...items.map(({ tile }) => tile));
    this.list.hidden = false;
    this.choose(items[0]);
    const waiting = items.values(); // shared: each takes the next
    const work = async () => {
      for (const item of waiting) {
        if (signal.aborted) return;
        await this.analyze(item, signal);
      }
    };
    await Promise.all(Array.from({ length: AT_A_TIME }, work));
  }

  async analyze(item, signal) {
    item.setState("reading");
    this.handlers.progress(this.items);
    try {
      await checkReadable(item.photo);
      item.photo = await reduced(item.photo);
      item.answer = await fetchPatiently(item.photo, signal);
    } catch (error) {
      if (signal.aborted || error.needsKey) throw error;
      item.problem = error;
    }
    await item.draw();
    if (signal.aborted) return;
    item.setState(item.answer ? "answered" : "failed");
    this.handlers.progress(this.items);
    if (item === this.chosen) this.handlers.show(item);
  }

  choose(item) {
    this.chosen = item;
    for (const each of this.items) each.button.setAttribute("aria-pressed", String(each === item));
    return this.handlers.show(item);
  }
}

/** Fetch emotions; while the service is busy, wait as long as it asks. */
async function fetchPatiently(photo, signal) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await fetchEmotions(photo, signal);
    } catch (error) {
      if (!error.retryAfter || attempt === MAX_ATTEMPTS) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * error.retryAfter));
    }
  }
}

/** A dropped folder is a file that cannot be read; sending it would look like a broken connection. */
export async function checkReadable(photo) {
  try {
    await photo.slice(0, 1).arrayBuffer();
  } catch {
    throw new Problem("Not readable", `${photo.name} is a folder, or a file that cannot be read.`);
  }
}
