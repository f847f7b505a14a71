// Connects the page: takes a photo or the webcam, shows boxes and bars.

import { Problem, fetchAnnotated, fetchEmotions, hasApiKey, setApiKey } from "/page/api.js";
import { Album, checkReadable } from "/page/album.js";
import { Camera } from "/page/camera.js";
import { curlFor, save, stem, toCsv, toJson } from "/page/downloads.js";
import { countWords } from "/page/emotions.js";
import { FacesView, summarize } from "/page/faces.js";
import { reduced } from "/page/large_photos.js";

const ANNOUNCE_INTERVAL_MS = 3000; // for screen readers, while the webcam is on

const byId = (id) => document.getElementById(id);
const faces = new FacesView(byId("faces"), byId("boxes"), byId("totals"));
let controller = new AbortController();
let photoUrl = null;
let announcedAt = -Infinity;
let frameStats = null;
let retry = () => {}; // runs again once the visitor enters a key

// Texts

function setStatus(text) {
  if (byId("status").textContent !== text) byId("status").textContent = text;
}

function showProblem(problem) {
  const title = document.createElement("strong");
  const detail = document.createElement("p");
  title.textContent = problem.title ?? "Something went wrong in this page";
  detail.textContent = problem.message;
  byId("problem").replaceChildren(title, detail);
  byId("problem").classList.add("shown");
  if (problem.needsKey) {
    byId("key-form").hidden = false;
    byId("key").focus();
  }
}

function clearProblem() {
  byId("problem").replaceChildren();
  byId("problem").classList.remove("shown");
  byId("key-form").hidden = true;
}

/** Say something where the faces appear: "waiting" for a photo, "looking" for faces, or "none" were found. */
function showHint(kind, text) {
  byId("hint").hidden = !kind;
  byId("hint").className = `hint ${kind ?? ""}`;
  byId("hint-text").textContent = text ?? "";
}

function showAnswer(answer) {
  byId("json").textContent = JSON.stringify(answer, null, 2);
}

function setBusy(busy) {
  document.body.classList.toggle("reading", busy);
  byId("progress").hidden = !busy;
  byId("stage").setAttribute("aria-busy", String(busy));
}

// Photos

function showPicture(width, height) {
  byId("frame").style.setProperty("--ratio", String(width / height));
  byId("frame").hidden = false;
  byId("invitation").hidden = true;
}

function hidePicture() {
  byId("frame").hidden = true;
  byId("invitation").hidden = false;
}

/** Show an image; return false if the browser cannot, as most cannot show HEIC. */
async function preview(blob) {
  const image = byId("photo");
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

/** Analyze photos: one is shown alone, several with a tile for each. */
async function analyzePhotos(photos) {
  retry = () => analyzePhotos(photos);
  camera.stop();
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  clearProblem();
  faces.clear();
  album.clear();
  offerDownloads([]);
  document.body.classList.toggle("several", photos.length > 1);
  try {
    if (photos.length > 1) await album.run(photos, signal);
    else await analyzePhoto(photos[0], signal);
  } catch (error) {
    if (signal.aborted) return;
    controller.abort(); // the others would have the same problem
    showFailure(error);
  } finally {
    if (signal === controller.signal) setBusy(false);
  }
}

async function analyzePhoto(photo, signal) {
  const item = { photo, answer: null, problem: null };
  setStatus("Analyzing the photo…");
  setBusy(true);
  await checkReadable(photo);
  item.photo = await reduced(photo, () => setStatus("Reducing the photo, which is larger than the service accepts…"));
  if (signal.aborted) return;
  const showing = showItem(item);
  item.answer = await fetchEmotions(item.photo, signal);
  await showing;
  if (signal.aborted) return;
  await showItem(item);
  if (shownItem === item && item.answer) setStatus(summarize(item.answer) + reductionNote(item.photo));
}

function reductionNote({ reducedFrom }) {
  if (!reducedFrom) return "";
  const { width, height } = reducedFrom;
  return ` The photo had ${Math.round((width * height) / 1e6)} Mpx and was reduced before it was sent.`;
}

let shownItem = null;

/** Show a photo, and its faces once it has an answer. */
async function showItem(item) {
  const { signal } = controller;
  const isShown = () => shownItem === item && !signal.aborted;
  shownItem = item;
  clearProblem();
  faces.clear();
  byId("photo").alt = "The photo you chose";
  setBusy(!item.answer && !item.problem);
  showHint("looking", "Looking for faces…");
  const visible = await preview(item.photo);
  if (!isShown()) return;
  if (visible) showPicture(byId("photo").naturalWidth, byId("photo").naturalHeight);
  else hidePicture();
  if (item.problem) showFailure(item.problem);
  if (!item.answer) return;
  if (!visible) {
    item.annotated ??= await fetchAnnotated(item.photo, signal);
    if (isShown() && (await preview(item.annotated))) showPicture(item.answer.image.width, item.answer.image.height);
  }
  if (!isShown()) return;
  showResult(item.answer, { boxes: visible });
  offerDownloads(album.items.length ? album.items.filter(({ done }) => done) : [item]);
}

function showFailure(error) {
  setBusy(false);
  showProblem(error);
  showHint(null);
  if (!document.body.classList.contains("several")) setStatus("There is no result for this photo.");
}

const album = new Album(byId("album"), {
  show: (item) => showItem(item).catch(showFailure),
  progress(items) {
    const done = items.filter((item) => item.done);
    if (done.length < items.length) {
      setStatus(`${done.length} of ${items.length} photos analyzed…`);
      return;
    }
    offerDownloads(items);
    const found = items.flatMap(({ answer }) => answer?.faces ?? []);
    const summary = {};
    for (const { emotion } of found) summary[emotion] = (summary[emotion] ?? 0) + 1;
    const ranked = Object.fromEntries(Object.entries(summary).sort(([, a], [, b]) => b - a));
    const failed = items.filter(({ problem }) => problem).length;
    const counted = found.length ? `: ${countWords({ summary: ranked })}` : "";
    const one = found.length === 1 ? "1 face" : `${found.length} faces`;
    setStatus(`${items.length} photos, ${one}${counted}${failed ? `; ${failed} without a result` : ""}.`);
  },
});

function showResult(answer, { boxes }) {
  const image = byId("photo");
  faces.show(answer, { source: image, sourceWidth: image.naturalWidth, boxes });
  showAnswer(answer);
  image.alt = `The photo you chose. ${summarize(answer)}`;
  if (answer.faces.length) showHint(null);
  else showHint("none", "No face was found. It may be too small, turned away, covered or dark.");
}

// Take it with you

let offered = [];

/** Offer the answers to these photos as files, and the command for the one that is shown. */
function offerDownloads(items) {
  offered = items;
  byId("take").classList.toggle("away", !items.some(({ answer }) => answer));
  showCommand(items.length ? shownItem?.photo : null);
}

function showCommand(photo) {
  byId("command").textContent = curlFor(photo, { needsKey: hasApiKey() });
}

const fileName = () => (offered.length === 1 ? `${stem(offered[0].photo)}-emotions` : "emotions");

byId("save-json").addEventListener("click", () => save(toJson(offered), `${fileName()}.json`, "application/json"));
byId("save-csv").addEventListener("click", () => save(toCsv(offered), `${fileName()}.csv`, "text/csv"));
byId("save-picture").addEventListener("click", async () => {
  const item = shownItem;
  byId("save-picture").disabled = true;
  try {
    item.annotated ??= await fetchAnnotated(item.photo);
    save(item.annotated, `${stem(item.photo)}-emotions.jpg`, "image/jpeg");
  } catch (error) {
    showProblem(error);
  } finally {
    byId("save-picture").disabled = false;
  }
});

document.addEventListener("click", ({ target }) => {
  if (!target.closest("a[href='#explain']")) return;
  byId("explain").open = true; // the browser scrolls to it
});

// Webcam

const camera = new Camera(byId("video"), {
  started() {
    const video = byId("video");
    faces.clear();
    byId("photo").hidden = true;
    video.hidden = false;
    byId("frame").classList.add("live");
    byId("frame").classList.toggle("mirrored", camera.mirrored);
    showPicture(video.videoWidth, video.videoHeight);
    byId("camera").textContent = "Stop the webcam";
    byId("camera").disabled = false;
    setStatus("The webcam is on. Frames are never stored.");
    showHint("looking", "Looking for faces…");
    frameStats = null;
    announcedAt = -Infinity;
  },
  answer(answer, latency) {
    const video = byId("video");
    clearProblem();
    const scene = { source: video, sourceWidth: video.videoWidth, mirrored: camera.mirrored };
    faces.show(answer, scene);
    if (answer.faces.length) showHint(null);
    else showHint("none", "No face in view.");
    if (byId("answer").open || byId("json").textContent === "None yet.") showAnswer(answer);
    announce(answer);
    countFrame(latency);
  },
  problem(problem) {
    showProblem(problem);
  },
  stopped() {
    byId("video").hidden = true;
    byId("photo").hidden = false;
    byId("frame").classList.remove("live", "mirrored");
    byId("camera").textContent = "Use the webcam";
    byId("rate").textContent = "";
    byId("photo").removeAttribute("src");
    hidePicture();
    faces.clear();
    showHint("waiting", "Faces appear here, the largest first.");
    setStatus("The webcam is off.");
  },
});

/** Tell screen readers what the faces show when it changes, but not in every frame. */
function announce(answer) {
  const now = performance.now();
  const labels = answer.faces.map((face) => face.emotion).join(", ");
  const count = answer.faces.length === 1 ? "1 face" : `${answer.faces.length} faces`;
  const status = answer.faces.length ? `Live, ${count}: ${labels}.` : "Live, no face in view.";
  if (now - announcedAt < ANNOUNCE_INTERVAL_MS || byId("status").textContent === status) return;
  announcedAt = now;
  setStatus(status);
}

function countFrame(latency) {
  const now = performance.now();
  frameStats ??= { count: 0, latency: 0, start: now };
  frameStats.count += 1;
  frameStats.latency += latency;
  const seconds = (now - frameStats.start) / 1000;
  if (seconds < 1) return;
  const rate = Math.round(frameStats.count / seconds);
  const mean = Math.round(frameStats.latency / frameStats.count);
  byId("rate").textContent = `${rate} ${rate === 1 ? "frame" : "frames"} a second, ${mean} ms each`;
  frameStats = null;
}

async function toggleCamera() {
  if (camera.running) {
    camera.stop();
    return;
  }
  retry = toggleCamera;
  controller.abort();
  album.clear();
  offerDownloads([]);
  document.body.classList.remove("several");
  setBusy(false);
  clearProblem();
  setStatus("Waiting for the camera…");
  try {
    await camera.start();
  } catch (error) {
    showProblem(error);
    setStatus("The webcam is off.");
  }
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setApiKey(byId("key").value);
  retry();
});

// Sources of photos

byId("camera").addEventListener("click", toggleCamera);

byId("file").addEventListener("change", ({ target }) => {
  const photos = [...target.files];
  target.value = ""; // so that choosing the same file again is a change
  if (photos.length) analyzePhotos(photos);
});

byId("invitation").addEventListener("click", () => byId("file").click());

document.addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData.files.length) analyzePhotos([...clipboardData.files]);
});

let depth = 0; // dragenter and dragleave fire for every element under the pointer
const changeDepth = (change) => {
  depth = Math.max(0, depth + change);
  byId("stage").classList.toggle("target", depth > 0);
};
document.addEventListener("dragenter", () => changeDepth(1));
document.addEventListener("dragleave", () => changeDepth(-1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  changeDepth(-depth);
  const photos = [...event.dataTransfer.files];
  if (photos.length) analyzePhotos(photos);
  else showProblem(new Problem("No file dropped", "Drop an image file. Links to images are not fetched."));
});

// The curl example

showCommand(null);
byId("copy").hidden = !navigator.clipboard;
byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(byId("command").textContent);
  byId("copy").textContent = "Copied";
  setTimeout(() => (byId("copy").textContent = "Copy"), 2000);
});
