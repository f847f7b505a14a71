// Wires the page: a photo or the webcam in, boxes and bars out.

import { Problem, drawnPhoto, readEmotions, useKey } from "/page/api.js";
import { Camera } from "/page/camera.js";
import { FacesView, inWords } from "/page/faces.js";

const ANNOUNCE_MS = 3000; // a webcam's faces are not read out more often

const part = (id) => document.getElementById(id);
const faces = new FacesView(part("faces"), part("boxes"));
let running = new AbortController();
let photoUrl = null;
let announcedAt = -Infinity;
let framesSince = null;
let again = () => {}; // what to do once there is a key

// What the page says

function say(words) {
  if (part("status").textContent !== words) part("status").textContent = words;
}

function showProblem(problem) {
  const title = document.createElement("strong");
  const detail = document.createElement("p");
  title.textContent = problem.title ?? "Something went wrong in this page";
  detail.textContent = problem.message;
  part("problem").replaceChildren(title, detail);
  part("problem").classList.add("shown");
  if (problem.needsKey) {
    part("key-form").hidden = false;
    part("key").focus();
  }
}

function clearProblem() {
  part("problem").replaceChildren();
  part("problem").classList.remove("shown");
  part("key-form").hidden = true;
}

function showHint(words) {
  part("hint").hidden = !words;
  part("hint-text").textContent = words;
}

function showAnswer(answer) {
  part("json").textContent = JSON.stringify(answer, null, 2);
}

function setReading(reading) {
  document.body.classList.toggle("reading", reading);
  part("progress").hidden = !reading;
  part("stage").setAttribute("aria-busy", String(reading));
}

// A photo

function showPicture(width, height) {
  part("frame").style.setProperty("--ratio", String(width / height));
  part("frame").hidden = false;
  part("invitation").hidden = true;
}

function hidePicture() {
  part("frame").hidden = true;
  part("invitation").hidden = false;
}

/** Show the blob; false where this browser cannot (HEIC in most), or it is no picture. */
async function preview(blob) {
  const image = part("photo");
  if (photoUrl) URL.revokeObjectURL(photoUrl);
  photoUrl = URL.createObjectURL(blob);
  image.src = photoUrl;
  try {
    await image.decode();
  } catch {
    return false;
  }
  return image.naturalWidth > 0;
}

async function readPhoto(photo) {
  again = () => readPhoto(photo);
  camera.stop();
  running.abort();
  running = new AbortController();
  const { signal } = running;
  clearProblem();
  faces.clear();
  part("photo").alt = "The photo you chose";
  setReading(true);
  say("Reading the photo…");
  showHint("Looking for faces…");
  try {
    const asking = readEmotions(photo, signal);
    asking.catch(() => {}); // looked at below, after the preview
    let visible = await preview(photo);
    if (signal.aborted) return;
    if (visible) showPicture(part("photo").naturalWidth, part("photo").naturalHeight);
    else hidePicture();
    const answer = await asking;
    const boxes = visible;
    if (!visible) visible = await preview(await drawnPhoto(photo, signal));
    if (signal.aborted) return;
    if (visible) showPicture(answer.image.width, answer.image.height);
    present(answer, { boxes });
  } catch (error) {
    if (signal.aborted) return;
    showProblem(error);
    showHint("");
    say("There is no answer for this photo.");
  } finally {
    if (!signal.aborted) setReading(false);
  }
}

function present(answer, { boxes }) {
  const image = part("photo");
  faces.show(answer, { source: image, sourceWidth: image.naturalWidth, boxes });
  showAnswer(answer);
  const words = inWords(answer);
  image.alt = `The photo you chose. ${words}`;
  say(words);
  showHint(answer.faces.length ? "" : "No face was found. It may be too small, turned away or covered.");
}

// The webcam

const camera = new Camera(part("video"), {
  started() {
    const video = part("video");
    faces.clear();
    part("photo").hidden = true;
    video.hidden = false;
    part("frame").classList.add("live");
    part("frame").classList.toggle("mirrored", camera.mirrored);
    showPicture(video.videoWidth, video.videoHeight);
    part("camera").textContent = "Stop the webcam";
    part("camera").disabled = false;
    say("The webcam is on. Frames are read and forgotten.");
    showHint("Looking for faces…");
    framesSince = null;
    announcedAt = -Infinity;
  },
  answer(answer, latency) {
    const video = part("video");
    clearProblem();
    const scene = { source: video, sourceWidth: video.videoWidth, mirrored: camera.mirrored };
    faces.show(answer, scene);
    showHint(answer.faces.length ? "" : "No face in sight.");
    if (part("answer").open || part("json").textContent === "None yet.") showAnswer(answer);
    announce(answer);
    countFrame(latency);
  },
  problem(problem) {
    showProblem(problem);
  },
  stopped() {
    part("video").hidden = true;
    part("photo").hidden = false;
    part("frame").classList.remove("live", "mirrored");
    part("camera").textContent = "Use the webcam";
    part("rate").textContent = "";
    part("photo").removeAttribute("src");
    hidePicture();
    faces.clear();
    showHint("They appear here, the largest first.");
    say("The webcam is off.");
  },
});

/** Tell a screen reader what the faces show, when that has changed, and not in every frame. */
function announce(answer) {
  const now = performance.now();
  const labels = answer.faces.map((face) => face.emotion).join(", ");
  const words = answer.faces.length ? `Live, ${answer.faces.length === 1 ? "1 face" : `${answer.faces.length} faces`}: ${labels}.` : "Live, no face in sight.";
  if (now - announcedAt < ANNOUNCE_MS || part("status").textContent === words) return;
  announcedAt = now;
  say(words);
}

function countFrame(latency) {
  const now = performance.now();
  framesSince ??= { count: 0, latency: 0, start: now };
  framesSince.count += 1;
  framesSince.latency += latency;
  const seconds = (now - framesSince.start) / 1000;
  if (seconds < 1) return;
  const rate = Math.round(framesSince.count / seconds);
  const mean = Math.round(framesSince.latency / framesSince.count);
  part("rate").textContent = `${rate} ${rate === 1 ? "frame" : "frames"} a second, ${mean} ms each`;
  framesSince = null;
}

async function toggleCamera() {
  if (camera.running) {
    camera.stop();
    return;
  }
  again = toggleCamera;
  running.abort();
  setReading(false);
  clearProblem();
  say("Waiting for the camera…");
  try {
    await camera.start();
  } catch (error) {
    showProblem(error);
    say("The webcam is off.");
  }
}

part("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(part("key").value);
  again();
});

// Where photos come from

part("camera").addEventListener("click", toggleCamera);

part("file").addEventListener("change", ({ target }) => {
  const [photo] = target.files;
  target.value = ""; // so that the same file can be chosen again
  if (photo) readPhoto(photo);
});

part("invitation").addEventListener("click", () => part("file").click());

document.addEventListener("paste", ({ clipboardData }) => {
  const [photo] = clipboardData.files;
  if (photo) readPhoto(photo);
});

let depth = 0; // dragenter and dragleave come for every element on the way
const aim = (change) => {
  depth = Math.max(0, depth + change);
  part("stage").classList.toggle("target", depth > 0);
};
document.addEventListener("dragenter", () => aim(1));
document.addEventListener("dragleave", () => aim(-1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  aim(-depth);
  const [photo] = event.dataTransfer.files;
  if (photo) readPhoto(photo);
  else showProblem(new Problem("No photo in it", "Drop a file: links to pictures elsewhere are not fetched."));
});

// The command line

part("command").textContent = `curl -F image=@photo.jpg ${location.origin}/v1/emotions`;
part("copy").hidden = !navigator.clipboard;
part("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(part("command").textContent);
  part("copy").textContent = "Copied";
  setTimeout(() => (part("copy").textContent = "Copy"), 2000);
});
