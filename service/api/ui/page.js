// Connects the page: takes photos, a film or the webcam, shows boxes and bars.

import { Problem, fetchAnnotated, fetchEmotions, fetchExample, hasApiKey, setApiKey } from "/page/api.js";
import { Album, checkReadable } from "/page/album.js";
import { curlFor, filmToCsv, save, stem, toCsv, toJson, videoCommandFor } from "/page/downloads.js";
import { countWords } from "/page/emotions.js";
import { FacesView, summarize } from "/page/faces.js";
import { Film } from "/page/film.js";
import { reduced } from "/page/large_photos.js";
import { Live } from "/page/live.js";
import {
  byId, clearProblem, hidePicture, setBusy, setStatus, showAnswer, showHint, showPicture, showProblem,
} from "/page/view.js";

const faces = new FacesView(byId("faces"), byId("boxes"), byId("totals"), byId("numbers"));
const live = new Live(faces, offerFilm);
let controller = new AbortController();
let photoUrl = null;
let retry = () => {}; // runs again once the visitor enters a key

// Photos

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
  live.leave();
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

function reductionNote({ reducedFrom, reducedTo }) {
  if (!reducedFrom) return "";
  const { width, height } = reducedFrom;
  const size = `${reducedTo.width} × ${reducedTo.height} pixels`;
  return ` The photo had ${Math.round((width * height) / 1e6)} Mpx and was reduced to ${size} before it was sent; boxes in the JSON and the CSV are in these pixels.`;
}

function countReduced(items) {
  const count = items.filter(({ photo }) => photo.reducedFrom).length;
  if (!count) return "";
  return ` ${count} ${count === 1 ? "was" : "were"} too large and reduced first; boxes in the JSON and the CSV fit the reduced size.`;
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
  if (!document.body.classList.contains("several")) setStatus(`There is no result for this photo: ${error.message}`);
}

const album = new Album(byId("album"), {
  show: (item) => showItem(item).catch(showFailure),
  // On a phone, the photo is above the tiles, and what is wrong with it below them.
  picked: ({ problem }) => byId(problem ? "problem" : "stage").scrollIntoView({ block: "nearest" }),
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
    setStatus(`${items.length} photos, ${one}${counted}${failed ? `; ${failed} without a result` : ""}.${countReduced(items)}`);
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

/** Offer the answers to these photos as files, and the command that sends them. */
function offerDownloads(items) {
  offered = items;
  byId("take").classList.toggle("away", !items.some(({ answer }) => answer));
  const photos = items.length ? items.map(({ photo }) => photo) : [{ name: "photo.jpg" }];
  byId("command").textContent = curlFor(photos, { needsKey: hasApiKey() });
}

/** Offer the table of a film, and the command that writes one of every frame. */
function offerFilm(frames) {
  byId("take").classList.toggle("away", !frames.length);
  byId("command").textContent = videoCommandFor(shownFilm);
}

const fileName = () => (offered.length === 1 ? `${stem(offered[0].photo)}-emotions` : "emotions");

byId("save-json").addEventListener("click", () => save(toJson(offered), `${fileName()}.json`, "application/json"));
byId("save-csv").addEventListener("click", () => {
  const ofFilm = document.body.classList.contains("film");
  const csv = ofFilm ? filmToCsv(live.frames) : toCsv(offered);
  save(csv, `${ofFilm ? `${stem(shownFilm)}-emotions` : fileName()}.csv`, "text/csv");
});
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

// Webcam and films

/** Forget the photos, to make room for a video. */
function leavePhotos() {
  live.leave();
  controller.abort();
  album.clear();
  offerDownloads([]);
  document.body.classList.remove("several");
  setBusy(false);
  clearProblem();
}

function toggleCamera() {
  if (live.camera.running) {
    live.camera.stop();
    return;
  }
  retry = toggleCamera;
  leavePhotos();
  live.startCamera();
}

let shownFilm = null;

function readFilm(film) {
  shownFilm = film;
  retry = () => readFilm(film);
  leavePhotos();
  live.readFilm(film);
}

/** Take what was chosen, dropped or pasted: a film, or photos. */
function take(files) {
  const film = files.find(Film.accepts);
  if (!film) analyzePhotos(files);
  else if (files.length === 1) readFilm(film);
  else showProblem(new Problem("One film at a time", "Choose a single film, or photos without films."));
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setApiKey(byId("key").value);
  retry();
});

// Sources of photos and films

byId("camera").addEventListener("click", toggleCamera);

byId("file").addEventListener("change", ({ target }) => {
  const photos = [...target.files];
  target.value = ""; // so that choosing the same file again is a change
  if (photos.length) take(photos);
});

byId("invitation").addEventListener("click", () => byId("file").click());

byId("example").addEventListener("click", async (event) => {
  event.stopPropagation(); // of the invitation around it
  try {
    take([await fetchExample()]);
  } catch (error) {
    showProblem(error);
  }
});

document.addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData.files.length) take([...clipboardData.files]);
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
  if (photos.length) take(photos);
  else showProblem(new Problem("No file dropped", "Drop an image file. Links to images are not fetched."));
});

// The curl example

offerDownloads([]);
byId("copy").hidden = !navigator.clipboard;
byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(byId("command").textContent);
  byId("copy").textContent = "Copied";
  setTimeout(() => (byId("copy").textContent = "Copy"), 2000);
});
