// What the page says and shows.

export const byId = (id) => document.getElementById(id);

export function setStatus(text) {
  if (byId("status").textContent !== text) byId("status").textContent = text;
}

export function showProblem(problem) {
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

export function clearProblem() {
  byId("problem").replaceChildren();
  byId("problem").classList.remove("shown");
  byId("key-form").hidden = true;
}

/** Say something where the faces appear: "waiting" for a photo, "looking" for faces, or "none" were found. */
export function showHint(kind, text) {
  byId("hint").hidden = !kind;
  byId("hint").className = `hint ${kind ?? ""}`;
  byId("hint-text").textContent = text ?? "";
}

export function showAnswer(answer) {
  byId("json").textContent = JSON.stringify(answer, null, 2);
}

export function setBusy(busy) {
  document.body.classList.toggle("reading", busy);
  byId("progress").hidden = !busy;
  byId("stage").setAttribute("aria-busy", String(busy));
}

export function showPicture(width, height) {
  byId("frame").style.setProperty("--ratio", String(width / height));
  byId("frame").hidden = false;
  byId("invitation").hidden = true;
}

export function hidePicture() {
  byId("frame").hidden = true;
  byId("invitation").hidden = false;
}
