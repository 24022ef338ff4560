// Pictures and videos from files: read, made small enough to send, or refused with a sentence.

const LARGEST_SIDE = 2048;
const LARGEST_VIDEO = 40 << 20;
const SENT_AS_IS = ["image/png", "image/jpeg", "image/webp", "image/gif"];

/** Whether the browser can tell that an image file moves. */
async function moves(file) {
  if (!["image/gif", "image/webp"].includes(file.type) || !("ImageDecoder" in window)) return false;
  try {
    const decoder = new ImageDecoder({ data: await file.arrayBuffer(), type: file.type });
    await decoder.completed;
    const frames = decoder.tracks.selectedTrack?.frameCount ?? 1;
    decoder.close();
    return frames > 1;
  } catch {
    return false;
  }
}

/** A file as `{kind: "image" | "video", blob, name}`; throws an `Error` with a sentence. */
export async function readMedia(file) {
  const name = file.name || "pasted picture";
  if (file.size === 0) throw new Error(`“${name}” is empty. Choose another file.`);
  if (file.type.startsWith("video/")) {
    if (file.size > LARGEST_VIDEO) {
      throw new Error(`“${name}” has ${Math.round(file.size / 2 ** 20)} MB; a video may have 40. Shorten it and try again.`);
    }
    return { kind: "video", blob: file, name };
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    const heic = /hei[cf]$/i.test(file.type) || /\.hei[cf]$/i.test(name);
    throw new Error(
      heic
        ? `“${name}” is a HEIC picture, which this browser cannot read. Save it as JPEG and try again.`
        : `“${name}” cannot be read as a picture or video. Choose a JPEG, PNG, WebP, GIF or MP4 file.`,
    );
  }
  try {
    if (await moves(file)) return { kind: "video", blob: file, name };
    const scale = LARGEST_SIDE / Math.max(bitmap.width, bitmap.height);
    if (scale >= 1 && SENT_AS_IS.includes(file.type)) return { kind: "image", blob: file, name };
    return { kind: "image", blob: await drawn(bitmap, Math.min(scale, 1), file.type), name };
  } finally {
    bitmap.close();
  }
}

/** The picture at a scale; photographs stay JPEG, whatever may be transparent becomes PNG. */
async function drawn(bitmap, scale, type) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const as = type === "image/jpeg" ? "image/jpeg" : "image/png";
  return new Promise((resolve, reject) => {
    const give = (blob) => (blob ? resolve(blob) : reject(new Error("This browser cannot make the picture smaller. Choose a smaller one.")));
    canvas.toBlob(give, as, 0.92);
  });
}

export function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read any more. Choose it again."));
    reader.readAsDataURL(blob);
  });
}

const urls = new WeakMap();

/** An address for a blob, the same one each time; it lasts as long as the page. */
export function urlOf(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}

export function blobOfBase64(base64, type) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type });
}

/** The bytes of a base64 data URL; undefined where it is something else. */
export function blobOfDataUrl(url) {
  const match = /^data:([^;,]+);base64,(.*)$/s.exec(url);
  return match ? blobOfBase64(match[2], match[1]) : undefined;
}

/** The files of a drop or a paste. */
export const filesOf = (transfer) => [...(transfer?.files ?? [])];

/** Lets files be dropped on a node, which has the class `dropping` while they hang over it. */
export function acceptDrops(node, take) {
  let depth = 0;
  const over = (change) => {
    depth = Math.max(0, depth + change);
    node.classList.toggle("dropping", depth > 0);
  };
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  node.addEventListener("dragenter", (event) => hasFiles(event) && over(1));
  node.addEventListener("dragleave", (event) => hasFiles(event) && over(-1));
  node.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  node.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    over(0);
    take(filesOf(event.dataTransfer));
  });
}
