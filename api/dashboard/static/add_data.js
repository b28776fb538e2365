// The forms that add a dataset or a model: an upload in parts, then an ordinary form. A form that is submitted while
// its file is sent waits for the end of the upload.

import { startLive } from "./live.js";
import { UploadField } from "./upload.js";

const PAUSE = 200; // milliseconds after the last key
const LIMIT = 12;

startLive();
const form = document.querySelector("[data-add-form]");
if (form) startForm();

function startForm() {
  const button = form.querySelector("[data-submit]");
  const label = button.textContent;
  let isWaiting = false;

  const upload = new UploadField(form.querySelector("[data-upload]"), {
    onStart: (file) => (form.elements.name.placeholder = file.name.split(".")[0] || file.name),
    onChange: () => {
      if (upload?.state === "complete" && isWaiting) form.requestSubmit();
      else if (upload?.state !== "sending") wait(false);
    },
  });
  const isUpload = () => !form.elements.source || form.elements.source.value === "upload";

  function wait(isOn) {
    isWaiting = isOn;
    button.disabled = isOn;
    button.textContent = isOn ? "Waits for the upload…" : label;
  }

  form.addEventListener("submit", (event) => {
    if (!isUpload() || upload.state === "complete") return;
    event.preventDefault();
    if (upload.state === "sending") wait(true);
    else {
      const problem = form.querySelector("[data-upload-problem]");
      problem.textContent = upload.state === "paused" ? "The upload is not complete: continue it first." : "Choose a file first.";
      problem.scrollIntoView({ block: "center" });
    }
  });
  acceptDropsAnywhere(upload);
  const architecture = form.querySelector("input[list]");
  if (architecture) suggestArchitectures(architecture);
}

/** A file that is dropped outside the zone opens the form and is sent, instead of replacing the page. */
function acceptDropsAnywhere(upload) {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    document.querySelector("[data-add]").open = true;
    const radio = form.querySelector('input[name="source"][value="upload"]');
    if (radio) radio.checked = true;
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event) || event.defaultPrevented) return;
    event.preventDefault();
    if (event.dataTransfer.files.length) upload.choose(event.dataTransfer.files);
  });
}

/** Fill the list of a field with the architectures that match its text. */
function suggestArchitectures(input) {
  let timer = 0;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const query = new URLSearchParams({ search: input.value.trim(), limit: LIMIT });
      const response = await fetch(`/v1/architectures?${query}`, { credentials: "same-origin" });
      if (!response.ok) return; // only suggestions: the service checks the name of the form
      const { data } = await response.json();
      input.list.replaceChildren(...data.map((each) => new Option(each.name, each.name)));
    }, PAUSE);
  });
}
