// Shows openapi.json in Swagger UI, with samples in three languages and the stream, which OpenAPI cannot describe.

const ADDRESS = location.origin;

const SAMPLES = {
  curl: `curl -F image=@photo.jpg ${ADDRESS}/v1/emotions

# The photo with boxes and labels:
curl -F image=@photo.jpg -H "Accept: image/jpeg" -o annotated.jpg ${ADDRESS}/v1/emotions

# Many photos; one line of JSON for each:
curl -F images=@one.jpg -F images=@two.jpg ${ADDRESS}/v1/emotions/batch`,
  python: `import requests

with open("photo.jpg", "rb") as photo:
    response = requests.post("${ADDRESS}/v1/emotions", files={"image": photo})
response.raise_for_status()
for face in response.json()["faces"]:
    print(face["emotion"], face["confidence"], face["box"])`,
  javascript: `const form = new FormData();
form.append("image", file); // a File of an <input type="file">, or a Blob
const response = await fetch("${ADDRESS}/v1/emotions", { method: "POST", body: form });
if (!response.ok) throw new Error((await response.json()).detail);
for (const face of (await response.json()).faces) console.log(face.emotion, face.confidence);`,
};

/** Return what a request of Swagger UI sends: {form: [[name, value]]}, {file}, {text} or nothing. */
function bodyOf(request) {
  const body = request.get("body");
  if (!body) return {};
  if (typeof body === "string") return { text: body };
  if (body instanceof Blob) return { file: body.name ?? "photo.jpg" };
  const fields = [];
  for (const [name, value] of body.entries()) {
    const values = typeof value?.toJS === "function" ? value.toJS() : [].concat(value);
    for (const each of [].concat(values)) fields.push([name.split("_**[]")[0], each?.name ?? String(each)]);
  }
  return { form: fields };
}

/** Return the headers of a request without that of a form, whose boundary its program sets. */
function headersOf(request) {
  const headers = Object.entries(request.get("headers")?.toJS() ?? {});
  return Object.fromEntries(headers.filter(([, value]) => !String(value).startsWith("multipart/form-data")));
}

function pythonSnippet(request) {
  const { form, file, text } = bodyOf(request);
  const lines = [`"${request.get("method")}"`, JSON.stringify(request.get("url"))];
  lines.push(`headers=${JSON.stringify(headersOf(request))}`);
  if (form) {
    const parts = form.map(([name, value]) => `(${JSON.stringify(name)}, open(${JSON.stringify(value)}, "rb"))`);
    lines.push(`files=[${parts.join(", ")}]`);
  }
  if (file) lines.push(`data=open(${JSON.stringify(file)}, "rb")`);
  if (text) lines.push(`data=${JSON.stringify(text)}`);
  const call = lines.map((line) => `    ${line},\n`).join("");
  return `import requests\n\nresponse = requests.request(\n${call})\nprint(response.status_code, response.text)`;
}

function javascriptSnippet(request) {
  const { form, file, text } = bodyOf(request);
  const options = { method: request.get("method"), headers: headersOf(request) };
  const start = (form ?? []).map(([name, value]) => `form.append(${JSON.stringify(name)}, file); // ${value}\n`).join("");
  let json = JSON.stringify(options, null, 2);
  if (form) json = json.replace(/\n}$/, ",\n  \"body\": form\n}");
  if (file) json = json.replace(/\n}$/, `,\n  "body": file // ${file}\n}`);
  if (text) json = json.replace(/\n}$/, `,\n  "body": ${JSON.stringify(text)}\n}`);
  const url = JSON.stringify(request.get("url"));
  return `${form ? `const form = new FormData();\n${start}` : ""}const response = await fetch(${url}, ${json});\nconsole.log(response.status, await response.text());`;
}

const snippets = {
  fn: {
    requestSnippetGenerator_python: pythonSnippet,
    requestSnippetGenerator_javascript: javascriptSnippet,
  },
};

function add(parent, tag, text) {
  const element = parent.appendChild(document.createElement(tag));
  element.textContent = text ?? "";
  return element;
}

function addTable(parent, head, rows) {
  const table = add(parent, "table");
  const line = add(table, "tr");
  for (const cell of head) add(line, "th", cell);
  for (const row of rows) {
    const cells = add(table, "tr");
    row.forEach((cell, index) => (index ? add(cells, "td", cell) : add(add(cells, "td"), "code", cell)));
  }
}

/** Describe the WebSocket under ``x-websockets``, like Swagger UI an operation. */
function describeStream(section, path, stream) {
  const address = ADDRESS.replace(/^http/, "ws");
  add(add(section, "h2", "WebSocket "), "code", `${address}${path}`);
  add(section, "p", `${stream.summary}. ${stream.description}`);
  add(add(section, "pre"), "code", stream.example.replace(/ws:\/\/[^/]+/, address)).parentElement.tabIndex = 0;
  const received = stream.received["application/json"].schema.oneOf.map((each) => each.$ref.split("/").pop());
  add(section, "p", `Sent: ${Object.keys(stream.sent).join(", ")}. Received: ${received.join(" or ")}, as in the schemas above.`);
  const kinds = ({ schema }) => [schema.type, ...["minimum", "maximum"].filter((name) => name in schema).map((name) => `${name} ${schema[name]}`)];
  addTable(section, ["Parameter", "Type", "Meaning"], stream.parameters.map((each) => [each.name, kinds(each).join(", "), each.description]));
  addTable(section, ["Close code", "Meaning"], Object.entries(stream.closeCodes));
}

for (const element of document.querySelectorAll(".address")) element.textContent = ADDRESS;
for (const [language, text] of Object.entries(SAMPLES)) document.getElementById(language).textContent = text;

const specification = await (await fetch("/openapi.json")).json();
specification.servers = [{ url: ADDRESS }];
specification.tags = specification.tags.filter(({ name }) => name !== "stream"); // described below instead
for (const [path, stream] of Object.entries(specification["x-websockets"])) {
  describeStream(document.getElementById("stream"), path, stream);
}
const dark = matchMedia("(prefers-color-scheme: dark)");
const followScheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches); // Swagger UI's own class
dark.addEventListener("change", followScheme);
followScheme();

window.SwaggerUIBundle({
  spec: specification,
  domNode: document.getElementById("reference"),
  presets: [window.SwaggerUIBundle.presets.apis],
  plugins: [snippets],
  tryItOutEnabled: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
  requestSnippetsEnabled: true,
  requestSnippets: {
    generators: {
      curl_bash: { title: "curl", syntax: "bash" },
      python: { title: "Python", syntax: "python" },
      javascript: { title: "JavaScript", syntax: "javascript" },
    },
    languages: ["curl_bash", "python", "javascript"],
    defaultExpanded: true,
  },
});
