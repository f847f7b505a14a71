// Sends the frames of a video element to WS /v1/stream, each after the answer to the one before.

import { Problem, checkAccess, subprotocols } from "/page/api.js";

const MAX_SIDE = 640; // of a sent frame, in pixels; enough for faces at a desk
const JPEG_QUALITY = 0.85;
const MAX_ATTEMPTS = 5;
const RECONNECT_CODES = [1001, 1006, 1012]; // going away, connection lost, service restart

/** A subclass says with `next(socket, latency, answered)` when it sends the next frame, and ends with `stop()`. */
export class FrameStream {
  /** `handlers`: started(), answer(body, latencyMs), problem(problem), stopped(). */
  constructor(video, handlers, smoothing) {
    this.video = video;
    this.handlers = handlers;
    this.smoothing = smoothing;
    this.canvas = document.createElement("canvas");
    this.running = false;
    this.attempts = 0;
  }

  fail(problem) {
    if (!this.running) return;
    this.stop();
    this.handlers.problem(problem);
  }

  connect() {
    const url = new URL(`/v1/stream?smooth=${this.smoothing.toFixed(3)}`, location.href);
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
    clearTimeout(this.reconnectTimer);
    const { socket } = this;
    this.socket = null; // so that its later events are ignored
    socket?.close(1000);
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
    this.next(socket, latency, Boolean(body.faces));
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
