// The webcam: frames to WS /v1/stream, one at a time, each as soon as the answer for the one before is there.

import { Problem, checkAccess, protocols } from "/page/api.js";

const MAX_SIDE = 640; // pixels of a frame as sent; faces at a desk are found in far less
const QUALITY = 0.85;
const MIN_INTERVAL_MS = 40;
const SMOOTHING = 0.6;
const ATTEMPTS = 5;
const LOST = [1001, 1006, 1012]; // the service or the way to it went away, and may come back

const REFUSALS = {
  NotAllowedError: "The browser was told not to give this page the camera. Allow it in the address bar and try again.",
  NotFoundError: "This device has no camera that the browser can use.",
  NotReadableError: "The camera is in use by another program.",
};

export class Camera {
  /** `handlers`: started(), answer(body, latencyMs), problem(problem), stopped(). */
  constructor(video, handlers) {
    this.video = video;
    this.handlers = handlers;
    this.canvas = document.createElement("canvas");
    this.running = false;
    document.addEventListener("visibilitychange", () => this.running && this.followVisibility());
  }

  async start() {
    if (!navigator.mediaDevices) {
      throw new Problem("No camera", "Browsers give a camera only to pages that come by https, or from this computer.");
    }
    this.running = true;
    try {
      const wanted = { facingMode: "user", width: { ideal: 1280 }, height: { ideal: 720 } };
      this.media = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    } catch (error) {
      this.running = false;
      throw new Problem("No camera", REFUSALS[error.name] ?? `The camera cannot be used: ${error.message}`);
    }
    if (!this.running) return this.releaseMedia(); // stopped while the browser was asking
    const [track] = this.media.getVideoTracks();
    this.mirrored = track.getSettings().facingMode !== "environment";
    track.addEventListener("ended", () => this.fail(new Problem("No camera", "The camera was switched off.")));
    this.video.srcObject = this.media;
    try {
      await this.video.play();
    } catch (error) {
      if (!this.running) return undefined; // stopped before the first frame came
      this.stop();
      throw new Problem("No camera", `The camera gives no picture: ${error.message}`);
    }
    if (!this.running) return undefined;
    this.handlers.started();
    this.attempts = 0;
    return this.connect();
  }

  stop() {
    if (!this.running) return;
    this.running = false;
    clearTimeout(this.retry);
    this.disconnect();
    this.releaseMedia();
    this.video.srcObject = null;
    this.handlers.stopped();
  }

  releaseMedia() {
    for (const track of this.media?.getTracks() ?? []) track.stop();
    this.media = null;
  }

  fail(problem) {
    if (!this.running) return;
    this.stop();
    this.handlers.problem(problem);
  }

  connect() {
    const url = new URL(`/v1/stream?smooth=${SMOOTHING}`, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url, protocols());
    this.socket = socket;
    this.refusal = null;
    let opened = false;
    socket.addEventListener("open", () => {
      opened = true;
      this.send(socket);
    });
    socket.addEventListener("message", ({ data }) => this.receive(socket, JSON.parse(data)));
    socket.addEventListener("close", ({ code, reason }) => this.closed(socket, code, reason, opened));
  }

  disconnect() {
    const { socket } = this;
    this.socket = null; // what it still tells is not listened to
    socket?.close(1000);
  }

  /** A hidden page sees no frames; its stream is given back until it is seen again. */
  followVisibility() {
    if (document.hidden) this.disconnect();
    else if (!this.socket) this.connect();
  }

  async send(socket) {
    if (socket !== this.socket) return;
    const { videoWidth, videoHeight } = this.video;
    const scale = Math.min(1, MAX_SIDE / Math.max(videoWidth, videoHeight));
    this.canvas.width = Math.round(videoWidth * scale);
    this.canvas.height = Math.round(videoHeight * scale);
    this.canvas.getContext("2d").drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    const frame = await new Promise((done) => this.canvas.toBlob(done, "image/jpeg", QUALITY));
    if (socket !== this.socket || socket.readyState !== WebSocket.OPEN || !frame) return;
    this.sentAt = performance.now();
    socket.send(frame);
  }

  receive(socket, body) {
    if (socket !== this.socket) return;
    const latency = performance.now() - this.sentAt;
    if (!body.faces) {
      this.refusal = new Problem(body.title, body.detail);
      if (body.frame === undefined) return; // why there is no stream: it is closed next
      this.handlers.problem(this.refusal);
    } else {
      this.attempts = 0;
      this.handlers.answer(body, latency);
    }
    const pause = body.faces ? MIN_INTERVAL_MS - latency : 1000; // a troubled service gets a rest
    const next = () => this.video.requestVideoFrameCallback?.(() => this.send(socket)) ?? this.send(socket);
    setTimeout(next, Math.max(0, pause));
  }

  async closed(socket, code, reason, opened) {
    if (socket !== this.socket) return;
    this.socket = null;
    if (!opened) {
      try {
        await checkAccess();
      } catch (problem) {
        if (problem.needsKey) {
          this.fail(problem);
          return;
        }
      }
      if (!this.running || this.socket) return;
    }
    if (LOST.includes(code) && this.attempts < ATTEMPTS) {
      this.attempts += 1;
      this.retry = setTimeout(() => this.socket || document.hidden || this.connect(), 250 * 2 ** this.attempts);
      return;
    }
    const detail = reason || "The connection to the service broke off.";
    this.fail(this.refusal ?? new Problem("The stream has ended", detail));
  }
}
