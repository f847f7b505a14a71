// One photo to POST /v1/emotions, and what went wrong with it in words.

const UNAUTHORIZED = 401;

let key = ""; // kept by this page alone, and only as long as it is open

export class Problem extends Error {
  constructor(title, detail, status = 0) {
    super(detail);
    this.title = title;
    this.needsKey = status === UNAUTHORIZED;
  }
}

export function useKey(given) {
  key = given.trim();
}

/** What a WebSocket offers as subprotocols, which is how a browser can hand over a key. */
export function protocols() {
  return key ? ["tandem.v1", `tandem.key.${key}`] : ["tandem.v1"];
}

async function post(photo, accept, signal) {
  const form = new FormData();
  form.append("image", photo, "photo"); // its name is nobody's business
  return ask("/v1/emotions", { method: "POST", body: form, headers: { Accept: accept }, signal });
}

async function ask(url, { headers = {}, ...options }) {
  let response;
  try {
    response = await fetch(url, { ...options, headers: key ? { ...headers, "X-API-Key": key } : headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("No answer", "The service cannot be reached, or broke the connection off.");
  }
  if (response.ok) return response;
  throw await problemOf(response);
}

async function problemOf(response) {
  try {
    const { title, detail, status } = await response.json();
    if (detail) return new Problem(title, detail, status);
  } catch {
    // No problem object: something between this page and the service has answered.
  }
  return new Problem("No answer", `The service answered with status ${response.status}.`);
}

/** The answer for a photo: image, faces, model. */
export async function readEmotions(photo, signal) {
  return (await post(photo, "application/json", signal)).json();
}

/** The photo as JPEG with its boxes drawn, for formats that this browser cannot show. */
export async function drawnPhoto(photo, signal) {
  return (await post(photo, "image/jpeg", signal)).blob();
}

/** Throw the problem that there is with every request: a browser does not tell why a WebSocket was refused. */
export async function checkAccess() {
  await ask("/v1/model", {});
}
