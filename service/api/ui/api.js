// Calls to the API, and its errors as a title and a text.

const UNAUTHORIZED = 401;
const MAX_RETRY_AFTER_S = 30;

let apiKey = ""; // never stored; lost when the page is closed

export class Problem extends Error {
  /** `retryAfter`: seconds after which to try again; 0 if that is no use. */
  constructor(title, detail, status = 0, retryAfter = 0) {
    super(detail);
    this.title = title;
    this.needsKey = status === UNAUTHORIZED;
    this.retryAfter = retryAfter;
  }
}

export function setApiKey(key) {
  apiKey = key.trim();
}

/** Subprotocols for a WebSocket. A browser cannot set headers there, so the API key is one of them. */
export function subprotocols() {
  return apiKey ? ["tandem.v1", `tandem.key.${apiKey}`] : ["tandem.v1"];
}

async function request(url, { headers = {}, ...options }) {
  let response;
  try {
    response = await fetch(url, { ...options, headers: apiKey ? { ...headers, "X-API-Key": apiKey } : headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("No answer", "The service cannot be reached, or it closed the connection.");
  }
  if (response.ok) return response;
  throw await toProblem(response);
}

async function toProblem(response) {
  try {
    const { title, detail, status } = await response.json();
    const retryAfter = Math.min(MAX_RETRY_AFTER_S, Number(response.headers.get("Retry-After")) || 0);
    if (detail) return new Problem(title, detail, status, retryAfter);
  } catch {
    // The response is not from the service but from a proxy in front of it.
  }
  return new Problem("No answer", `The service answered with status ${response.status}.`);
}

async function postPhoto(photo, accept, signal) {
  const form = new FormData();
  form.append("image", photo, "photo"); // do not send the file's name
  return request("/v1/emotions", { method: "POST", body: form, headers: { Accept: accept }, signal });
}

/** The emotions of a photo, as the API's JSON. */
export async function fetchEmotions(photo, signal) {
  return (await postPhoto(photo, "application/json", signal)).json();
}

/** The annotated photo as JPEG, for formats that the browser cannot show. */
export async function fetchAnnotated(photo, signal) {
  return (await postPhoto(photo, "image/jpeg", signal)).blob();
}

/** Three drawn faces, as a file with the name that the first command of the page has. */
export async function fetchExample() {
  const blob = await (await request("/page/example.jpg", {})).blob();
  return new File([blob], "photo.jpg", { type: "image/jpeg" });
}

let limits = null;

/** What the service accepts; asked once. */
export async function fetchLimits() {
  limits ??= await (await request("/v1/limits", {})).json();
  return limits;
}

export function hasApiKey() {
  return Boolean(apiKey);
}

/** What the served model states about itself. */
export async function fetchModel() {
  return (await request("/v1/model", {})).json();
}

/** Throw the problem that any request has: a browser does not tell why a WebSocket failed. */
export async function checkAccess() {
  await fetchModel();
}
