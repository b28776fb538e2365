// "Try it" on the page of a finished job: an image is dropped or chosen, and the student's classes are shown next to
// those of its teachers. The section may appear later than this module, so its events are handled on the document.

const NUM_PREVIEW = 96; // pixels a side

document.addEventListener("change", (event) => {
  const input = event.target.closest("[data-try] input[type=file]");
  if (input?.files.length) classify(input.closest("[data-try]"), input.files[0]);
});

for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    const section = event.target.closest?.("[data-try]");
    if (!section || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    section.classList.toggle("is-over", type === "dragover");
    if (type === "drop" && event.dataTransfer.files.length) classify(section, event.dataTransfer.files[0]);
  });
}

let newest = 0; // an answer that is overtaken by a later image is not shown

async function classify(section, file) {
  const number = ++newest;
  const result = section.querySelector("[data-try-result]");
  result.replaceChildren(element("p", "small muted", "Classifying…"));
  const preview = await drawPreview(file);
  try {
    const body = new FormData();
    body.append("file", file);
    const response = await fetch(`/v1/jobs/${section.dataset.job}/predictions`, { method: "POST", body, credentials: "same-origin" });
    const answer = await response.json();
    if (number !== newest) return;
    if (!response.ok) throw new Error(answer.detail);
    show(result, file, preview, answer);
  } catch (error) {
    if (number === newest) result.replaceChildren(element("p", "notice small", error.message));
  }
}

/** A canvas with the center square of the image, or null if this browser cannot decode it. */
async function drawPreview(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const side = Math.min(bitmap.width, bitmap.height);
    const canvas = element("canvas");
    canvas.width = canvas.height = NUM_PREVIEW * 2;
    const left = (bitmap.width - side) / 2;
    const top = (bitmap.height - side) / 2;
    canvas.getContext("2d").drawImage(bitmap, left, top, side, side, 0, 0, canvas.width, canvas.height);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `The image ${file.name}, cropped to its center square`);
    return canvas;
  } catch {
    return null; // such as TIFF, which the service can decode
  }
}

function show(result, file, preview, answer) {
  const image = element("figure", "try-image");
  if (preview) image.append(preview);
  image.append(element("figcaption", "small muted", `${file.name}, ${answer.width} × ${answer.height} pixels`));
  const networks = element("div", "try-networks");
  networks.append(network("Student", answer.student, "model.safetensors, in float"));
  const hasSeveral = answer.teachers.length > 1;
  for (const each of answer.teachers) {
    const name = hasSeveral ? `Teacher ${each.teacher}` : "Teacher";
    networks.append(each.classes ? network(name, each.classes) : unknown(name, each.reason));
  }
  result.replaceChildren(image, networks);
}

function network(name, classes, file = "") {
  const section = element("div", "try-network");
  section.append(element("h3", "", name));
  if (file) section.append(element("p", "small muted", file));
  const list = element("ol", "try-classes");
  list.setAttribute("aria-label", `${name}: most probable classes`);
  for (const each of classes) {
    const item = element("li");
    const percent = `${(100 * each.probability).toFixed(1)}\u00a0%`;
    const bar = element("progress");
    Object.assign(bar, { max: 1, value: each.probability });
    bar.setAttribute("aria-hidden", "true");
    item.append(element("span", "try-class", each.name), element("span", "number", percent), bar);
    list.append(item);
  }
  section.append(list);
  return section;
}

function unknown(name, reason) {
  const section = element("div", "try-network");
  section.append(element("h3", "", name), element("p", "small muted", `Not run: ${reason}.`));
  return section;
}

function element(tag, className = "", text = "") {
  const created = document.createElement(tag);
  if (className) created.className = className;
  if (text) created.textContent = text;
  return created;
}
