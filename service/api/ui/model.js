// Fills in what the served model states about itself.

import { fetchModel } from "/page/api.js";

const NAMES = { commit: "Code", data: "Trained on", metrics: "Scores", sha256: "SHA-256 of the weights" };

function row(name, value) {
  const term = document.createElement("dt");
  const description = document.createElement("dd");
  term.textContent = name;
  description.textContent = value;
  return [term, description];
}

try {
  const { name, version, labels, crop, provenance } = await fetchModel();
  const stated = Object.entries(provenance).map(([key, value]) => row(NAMES[key] ?? key, value));
  document.getElementById("model").replaceChildren(
    ...row("Model", `${name}, version ${version}`),
    ...row("Labels", labels.join(", ")),
    ...row("Input", `a picture of a face, ${crop.channels === 1 ? "gray" : "in color"}, ${crop.width} x ${crop.height} pixels`),
    ...stated.flat(),
  );
} catch (problem) {
  document.getElementById("model").replaceChildren(...row("Model", problem.message));
}
