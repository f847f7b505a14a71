// Reduces photos that the service would refuse for their size, as phones with 108 or 200 Mpx take.

import { fetchLimits } from "/page/api.js";

const REDUCED_PIXELS = 16_000_000; // Safari's canvas holds no more than 16.7 Mpx
const QUALITY = 0.92;
const ALWAYS_ACCEPTED = { bytes: 4_000_000, pixels: REDUCED_PIXELS }; // by every sensible setting: do not ask

/** Return the photo, or a smaller JPEG of it if it is larger than the service accepts and the browser can read it. */
export async function reduced(photo, onStart = () => {}) {
  const image = await load(photo);
  if (!image) return photo;
  try {
    const pixels = image.naturalWidth * image.naturalHeight;
    if (photo.size <= ALWAYS_ACCEPTED.bytes && pixels <= ALWAYS_ACCEPTED.pixels) return photo;
    const { max_bytes, max_pixels } = (await fetchLimits()).photo;
    if (photo.size <= max_bytes && pixels <= max_pixels) return photo;
    onStart();
    return (await shrink(image, Math.min(1, Math.sqrt(REDUCED_PIXELS / pixels)), photo.name)) ?? photo;
  } catch {
    return photo; // the service will say what is wrong with it
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

/** Read the head of an image, without decoding its pixels; null if the browser cannot show it. */
function load(photo) {
  return new Promise((done) => {
    const image = new Image();
    image.addEventListener("load", () => done(image));
    image.addEventListener("error", () => {
      URL.revokeObjectURL(image.src);
      done(null);
    });
    image.src = URL.createObjectURL(photo);
  });
}

/** Draw an image upright and smaller. */
async function shrink(image, scale, name) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.floor(image.naturalWidth * scale);
  canvas.height = Math.floor(image.naturalHeight * scale);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#ffffff"; // behind what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
  const small = blob && new File([blob], name, { type: "image/jpeg" });
  if (!small) return null;
  small.reducedFrom = { width: image.naturalWidth, height: image.naturalHeight };
  small.reducedTo = { width: canvas.width, height: canvas.height };
  return small;
}
