// The webcam: its frames, as they come.

import { Problem } from "/page/api.js";
import { FrameStream } from "/page/frame_stream.js";

const MIN_INTERVAL_MS = 40;
const ERROR_PAUSE_MS = 1000;
const SMOOTHING = 0.6;

const CAMERA_ERRORS = {
  NotAllowedError: "The browser blocks the camera for this page. Allow it in the address bar and try again.",
  NotFoundError: "The browser finds no camera on this device.",
  NotReadableError: "Another program is using the camera.",
};

export class Camera extends FrameStream {
  constructor(video, handlers) {
    super(video, handlers, SMOOTHING);
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
    this.disconnect();
    this.releaseMedia();
    this.video.srcObject = null;
    this.handlers.stopped();
  }

  releaseMedia() {
    for (const track of this.media?.getTracks() ?? []) track.stop();
    this.media = null;
  }

  /** Close the stream while the page is hidden, because the browser then delivers no frames. */
  followVisibility() {
    if (document.hidden) this.disconnect();
    else if (!this.socket) this.connect();
  }

  next(socket, latency, answered) {
    const pause = answered ? MIN_INTERVAL_MS - latency : ERROR_PAUSE_MS;
    const send = () => this.video.requestVideoFrameCallback?.(() => this.send(socket)) ?? this.send(socket);
    setTimeout(send, Math.max(0, pause));
  }
}
