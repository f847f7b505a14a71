// The webcam and films: both send frames, and their faces are followed.

import { Camera } from "/page/camera.js";
import { Film } from "/page/film.js";
import { Timeline } from "/page/timeline.js";
import { byId, clearProblem, hidePicture, setStatus, showAnswer, showHint, showPicture, showProblem } from "/page/view.js";

const ANNOUNCE_INTERVAL_MS = 3000; // for screen readers

export class Live {
  /** `offerFilm` takes what was read of a film, once it ends. */
  constructor(faces, offerFilm) {
    this.faces = faces;
    this.offerFilm = offerFilm;
    this.frames = []; // of a film: times and answers
    this.timeline = new Timeline(byId("timeline"));
    const video = byId("video");
    const shared = { answer: (...answer) => this.show(...answer), problem: showProblem };
    this.camera = new Camera(video, {
      ...shared,
      started: () => this.begin("The webcam is on. Frames are never stored."),
      stopped: () => this.end("The webcam is off."),
    });
    this.film = new Film(video, {
      ...shared,
      started: () => {
        this.begin("Reading the film. Frames are never stored.");
        this.frames = [];
        this.timeline.start(this.film.duration, this.film.step);
      },
      stopped: () => this.endFilm(),
    });
    byId("stop").addEventListener("click", () => this.film.stop());
  }

  /** Stop what runs and show a photo's place again. */
  leave() {
    this.camera.stop();
    if (!this.film.url) return;
    this.film.leave();
    this.timeline.clear();
    this.end("");
  }

  async startCamera() {
    setStatus("Waiting for the camera…");
    try {
      await this.camera.start();
    } catch (error) {
      showProblem(error);
      setStatus("The webcam is off.");
    }
  }

  async readFilm(file) {
    setStatus("Opening the film…");
    try {
      await this.film.start(file);
    } catch (error) {
      showProblem(error);
      setStatus(`There is no result for this film: ${error.message}`);
    }
  }

  begin(status) {
    const { camera } = this;
    const video = byId("video");
    this.faces.clear();
    byId("photo").hidden = true;
    video.hidden = false;
    video.setAttribute("aria-label", camera.running ? "Live video from the webcam" : "The film");
    byId("frame").classList.add("live");
    byId("frame").classList.toggle("mirrored", camera.running && camera.mirrored);
    showPicture(video.videoWidth, video.videoHeight);
    if (camera.running) byId("camera").textContent = "Stop the webcam";
    byId("stop").hidden = camera.running;
    document.body.classList.toggle("film", !camera.running);
    setStatus(status);
    showHint("looking", "Looking for faces…");
    this.statistics = null;
    this.announcedAt = -Infinity;
  }

  end(status) {
    byId("video").hidden = true;
    byId("photo").hidden = false;
    byId("frame").classList.remove("live", "mirrored");
    byId("camera").textContent = "Use the webcam";
    byId("stop").hidden = true;
    document.body.classList.remove("film");
    byId("rate").textContent = "";
    byId("photo").removeAttribute("src");
    hidePicture();
    this.faces.clear();
    showHint("waiting", "Faces appear here, the largest first.");
    setStatus(status);
  }

  /** The film stays at its last frame, with the timeline. */
  endFilm() {
    const { film, timeline } = this;
    byId("stop").hidden = true;
    byId("rate").textContent = "";
    const faces = timeline.rows.size === 1 ? "1 face" : `${timeline.rows.size} faces`;
    const read = film.finished ? "The film was read" : `Stopped after ${film.time.toFixed(1)} of ${film.duration.toFixed(1)} s`;
    setStatus(`${read}: ${faces}. A face that left and came back counts again. The cards show the last frame, the CSV all.`);
    this.offerFilm(this.frames);
  }

  show(answer, latency) {
    const { camera } = this;
    const video = byId("video");
    clearProblem();
    const scene = { source: video, sourceWidth: video.videoWidth, mirrored: camera.running && camera.mirrored };
    this.faces.show(answer, scene);
    if (answer.faces.length) showHint(null);
    else showHint("none", "No face in view.");
    if (byId("answer").open || byId("json").textContent === "None yet.") showAnswer(answer);
    if (this.film.running) {
      this.frames.push({ time: this.film.time, answer });
      this.timeline.add(this.film.time, answer);
    }
    this.announce(answer);
    this.countFrame(latency);
  }

  /** Tell screen readers what the faces show when it changes, but not in every frame. */
  announce(answer) {
    const now = performance.now();
    const where = this.film.running ? "Reading the film" : "Live"; // how far it has come shows the timeline
    const labels = answer.faces.map((face) => face.emotion).join(", ");
    const count = answer.faces.length === 1 ? "1 face" : `${answer.faces.length} faces`;
    const status = answer.faces.length ? `${where}, ${count}: ${labels}.` : `${where}, no face in view.`;
    if (now - this.announcedAt < ANNOUNCE_INTERVAL_MS || byId("status").textContent === status) return;
    this.announcedAt = now;
    setStatus(status);
  }

  countFrame(latency) {
    const now = performance.now();
    this.statistics ??= { count: 0, latency: 0, start: now };
    this.statistics.count += 1;
    this.statistics.latency += latency;
    const seconds = (now - this.statistics.start) / 1000;
    if (seconds < 1) return;
    const rate = Math.round(this.statistics.count / seconds);
    const mean = Math.round(this.statistics.latency / this.statistics.count);
    byId("rate").textContent = `${rate} ${rate === 1 ? "frame" : "frames"} a second, ${mean} ms each`;
    this.statistics = null;
  }
}
