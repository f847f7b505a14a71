// The webcam: sends frames to WS /v1/stream, each after the answer to the one before.

import { Problem, checkAccess, subprotocols } from "/page/api.js";

const MAX_SIDE = 640; // of a sent frame, in pixels; enough for faces at a desk
const JPEG_QUALITY = 0.85;
const MIN_INTERVAL_MS = 40;
const ERROR_PAUSE_MS = 1000;
const SMOOTHING = 0.6;
const MAX_ATTEMPTS = 5;
const RECONNECT_CODES = [1001, 1006, 1012]; // going away, connection lost, service restart

const CAMERA_ERRORS = {
  NotAllowedError: "The browser blocks the camera for this page. Allow it in the address bar and try again.",
  NotFoundError: "The browser finds no camera on this device.",
  NotReadableError: "Another program is using the camera.",
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
      throw new Problem("No camera", "Browsers allow the camera only for pages served over HTTPS or from this computer.");
    }
    this.running = true;
    try {
      const video = { facingMode: "user", width: { ideal: 1280 }, height: { ideal: 720 } };
      this.media = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    } catch (error) {
      this.running = false;
      throw new Problem("No camera", CAMERA_ERRORS[error.name] ?? `The camera cannot be used: ${error.message}`);
    }
    if (!this.running) return this.releaseMedia(); // stopped while the browser asked for permission
    const [track] = this.media.getVideoTracks();
    this.mirrored = track.getSettings().facingMode !== "environment";
    track.addEventListener("ended", () => this.fail(new Problem("No camera", "The camera was switched off.")));
    this.video.srcObject = this.media;
    try {
      await this.video.play();
    } catch (error) {
      if (!this.running) return undefined; // stopped before the first frame
      this.stop();
      throw new Problem("No camera", `The camera shows no picture: ${error.message}`);
    }
    if (!this.running) return undefined;
    this.handlers.started();
    this.attempts = 0;
    return this.connect();
  }

  stop() {
    if (!this.running) return;
    this.running = false;
    clearTimeout(this.reconnectTimer);
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
    const socket = new WebSocket(url, subprotocols());
    this.socket = socket;
    this.problem = null;
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
    this.socket = null; // so that its later events are ignored
    socket?.close(1000);
  }

  /** Close the stream while the page is hidden, because the browser then delivers no frames. */
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
    const frame = await new Promise((done) => this.canvas.toBlob(done, "image/jpeg", JPEG_QUALITY));
    if (socket !== this.socket || socket.readyState !== WebSocket.OPEN || !frame) return;
    this.sentAt = performance.now();
    socket.send(frame);
  }

  receive(socket, body) {
    if (socket !== this.socket) return;
    const latency = performance.now() - this.sentAt;
    if (!body.faces) {
      this.problem = new Problem(body.title, body.detail);
      if (body.frame === undefined) return; // says why the stream is closed, which follows
      this.handlers.problem(this.problem);
    } else {
      this.attempts = 0;
      this.handlers.answer(body, latency);
    }
    const pause = body.faces ? MIN_INTERVAL_MS - latency : ERROR_PAUSE_MS;
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
    if (RECONNECT_CODES.includes(code) && this.attempts < MAX_ATTEMPTS) {
      this.attempts += 1;
      const reconnect = () => this.socket || document.hidden || this.connect();
      this.reconnectTimer = setTimeout(reconnect, 250 * 2 ** this.attempts);
      return;
    }
    const detail = reason || "The connection to the service was lost.";
    this.fail(this.problem ?? new Problem("The stream has ended", detail));
  }
}
