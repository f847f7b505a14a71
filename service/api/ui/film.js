// A film: its frames one after another, as fast as the service answers.

import { Problem } from "/page/api.js";
import { FrameStream } from "/page/frame_stream.js";

const MIN_STEP_S = 0.2;
const MAX_FRAMES = 600; // of a long film
const ERROR_PAUSE_MS = 1000;
const FADE_S = 0.4; // what was seen so long ago counts for a third, as in `tandem video`

const UNREADABLE = "The browser cannot play this film. `tandem video` reads every format that FFmpeg knows.";

export class Film extends FrameStream {
  constructor(video, handlers) {
    super(video, handlers, 0);
    this.url = null;
  }

  /** Whether a file is a film, by its type. */
  static accepts({ type }) {
    return type.startsWith("video/");
  }

  async start(file) {
    this.running = true;
    this.started = this.finished = false;
    this.url = URL.createObjectURL(file);
    this.video.src = this.url;
    try {
      await happens(this.video, "loadedmetadata");
      if (!Number.isFinite(this.video.duration)) await this.seek(1e7); // a recording: its end is found by going there
      if (!this.video.videoWidth) throw new Error("no picture");
      this.step = Math.max(MIN_STEP_S, this.video.duration / MAX_FRAMES);
      this.smoothing = 3 ** (-this.step / FADE_S);
      this.duration = this.video.duration;
      await this.seek(0);
    } catch {
      if (!this.running) return;
      this.leave();
      throw new Problem("Not readable", UNREADABLE);
    }
    if (!this.running) return;
    this.started = true;
    this.handlers.started();
    this.attempts = 0;
    this.connect();
  }

  async seek(time) {
    this.time = time;
    this.video.currentTime = time;
    await happens(this.video, "seeked");
  }

  async next(socket, _, answered) {
    if (answered) {
      if (this.time + this.step >= this.duration) {
        this.finished = true;
        this.stop();
        return;
      }
      await this.seek(this.time + this.step);
    } else {
      await new Promise((resolve) => setTimeout(resolve, ERROR_PAUSE_MS));
    }
    this.send(socket);
  }

  /** Read no further; the frame that was read last stays. */
  stop() {
    if (!this.running) return;
    this.running = false;
    this.disconnect();
    if (this.started) this.handlers.stopped();
  }

  /** Forget the film. */
  leave() {
    if (!this.url) return;
    this.stop();
    this.video.removeAttribute("src");
    this.video.load();
    URL.revokeObjectURL(this.url);
    this.url = null;
  }
}

function happens(video, event) {
  return new Promise((resolve, reject) => {
    video.addEventListener(event, resolve, { once: true });
    video.addEventListener("error", () => reject(video.error), { once: true });
  });
}
