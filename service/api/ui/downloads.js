// The answers as files, and the command that gets the same answer.

const PLAIN = /^[\w.][\w.-]*$/; // names that a shell and curl take as they are

/** Save text or a blob as a file. */
export function save(content, name, type = "") {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // after the browser has read it
}

/** The name of a photo without its suffix, to name files after it. */
export function stem({ name }) {
  return (name || "photo").replace(/(?!^)\.[^.]*$/, "");
}

/** An answer as it came; of several photos, an array with each one's name and its answer or problem. */
export function toJson(items) {
  const named = ({ photo, answer, problem }) =>
    answer ? { photo: photo.name, ...answer } : { photo: photo.name, error: describe(problem) };
  return `${JSON.stringify(items.length === 1 ? items[0].answer : items.map(named), null, 2)}\n`;
}

/** A row for each face, with the columns of `tandem predict --out`; a photo without a face has a row too. */
export function toCsv(items) {
  return table(items.flatMap(toRows));
}

/** A row for each face of each frame of a film, named as by `tandem video --csv`. */
export function filmToCsv(frames) {
  return table(frames.flatMap(({ time, answer }) => {
    const common = { time_s: Number(time.toFixed(6)) };
    return answer.faces.length ? answer.faces.map((face) => ({ ...common, face: face.track, ...faceColumns(face) })) : [common];
  }));
}

function table(rows) {
  const widest = rows.reduce((best, row) => (Object.keys(row).length > Object.keys(best).length ? row : best));
  const columns = new Set([...Object.keys(widest), ...rows.flatMap(Object.keys)]);
  columns.delete("error");
  columns.add("error");
  const lines = rows.map((row) => [...columns].map((column) => cell(row[column])).join(","));
  return `${[[...columns].join(","), ...lines].join("\r\n")}\r\n`;
}

function toRows({ photo, answer, problem }) {
  if (!answer) return [{ photo: photo.name, error: describe(problem) }];
  const image = { photo: photo.name, width: answer.image.width, height: answer.image.height };
  const model = { model: answer.model.name, model_version: answer.model.version };
  if (!answer.faces.length) return [{ ...image, ...model }];
  return answer.faces.map((face, index) => ({
    ...image,
    face: index + 1,
    ...faceColumns(face),
    ...model,
  }));
}

function faceColumns(face) {
  return {
    ...prefixed("box_", face.box),
    detection_score: face.detection_score,
    emotion: face.emotion,
    confidence: face.confidence,
    ...prefixed("p_", face.emotions),
    ...face.pose,
    ...face.quality,
    reliable: face.reliable ? "True" : "False",
    unreliable_because: face.unreliable_because.join(" "),
  };
}

function prefixed(prefix, values) {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [prefix + name, value]));
}

function describe(problem) {
  return problem?.message ?? "no answer";
}

/** A value as a cell. A name that a spreadsheet would read as a formula gets an apostrophe. */
function cell(value = "") {
  const text = typeof value === "string" && /^[=+@\t\r-]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The curl command that sends photos like the page. A key is named, not shown. */
export function curlFor(photos, { needsKey = false } = {}) {
  const key = needsKey ? ' -H "X-API-Key: $TANDEM_API_KEY"' : "";
  const several = photos.length > 1;
  const fields = photos.map(({ name }) => `-F ${formField(several ? "images" : "image", name || "photo.jpg")}`);
  return `curl${key} ${fields.join(" ")} ${location.origin}/v1/emotions${several ? "/batch" : ""}`;
}

function formField(field, name) {
  if (PLAIN.test(name)) return `${field}=@${name}`;
  return inShell(`${field}=@"${name.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`); // curl's own quotes
}

/** The command that reads every frame of a film. */
export function videoCommandFor({ name }) {
  const path = name.startsWith("-") ? `./${name}` : name;
  return `tandem video ${inShell(path)} --csv ${inShell(`${stem({ name: path })}.csv`)}`;
}

/** A word of a shell's command. */
function inShell(word) {
  return PLAIN.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
