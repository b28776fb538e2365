// The upload of one file in parts (tus 1.0), with pause, progress, and continuation after an interruption or a reload.
// tus-js-client remembers unfinished uploads of this browser by the file's name, size and time of change.

const { tus } = window;
const CHUNK_BYTES = 64 * 1024 * 1024;
const RETRY_DELAYS = [0, 1000, 3000, 5000, 10_000, 20_000]; // milliseconds
const SPEED_WINDOW = 8000; // milliseconds
const TEMPORARY = new Set([0, 409, 423, 429]); // 0: no response

/** The element [data-upload]. Its hidden field takes the id of the complete upload. */
export class UploadField {
  #upload = null;
  #samples = [];

  /** @param {{onStart: (file: {name: string}) => void, onChange: () => void}} callbacks */
  constructor(root, { onStart, onChange }) {
    this.root = root;
    this.onStart = onStart;
    this.onChange = onChange;
    this.state = "empty"; // or "sending", "paused", "complete"
    this.value = root.querySelector('input[name="upload"]');
    this.#part("pause").addEventListener("click", () => (this.state === "sending" ? this.pause() : this.#continue()));
    this.#part("cancel").addEventListener("click", () => this.remove());
    this.#listenForFiles();
    this.#listenToRows();
    const row = this.value.value && root.querySelector(`[data-upload-row="${CSS.escape(this.value.value)}"]`);
    if (row) this.#use(row);
  }

  #part(name) {
    return this.root.querySelector(`[data-upload-${name}]`);
  }

  #listenForFiles() {
    const input = this.root.querySelector('input[type="file"]');
    input.addEventListener("change", () => input.files.length && this.choose(input.files));
    const zone = this.root.querySelector("[data-drop-zone]");
    for (const type of ["dragenter", "dragover"]) {
      zone.addEventListener(type, (event) => {
        event.preventDefault();
        zone.classList.add("over");
      });
    }
    zone.addEventListener("dragleave", () => zone.classList.remove("over"));
    zone.addEventListener("drop", (event) => {
      event.preventDefault();
      zone.classList.remove("over");
      if (event.dataTransfer.files.length) this.choose(event.dataTransfer.files);
    });
  }

  #listenToRows() {
    this.root.addEventListener("click", (event) => {
      const row = event.target.closest("[data-upload-row]");
      if (!row) return;
      if (event.target.closest("[data-use-upload]")) this.#use(row);
      else if (event.target.closest("[data-discard-upload]")) this.#discard(row.dataset.uploadRow).then((isGone) => isGone && row.remove());
    });
  }

  /** Send the first of these files. */
  choose(files) {
    this.#problem(files.length > 1 ? "Only the first file is sent: pack several files into one archive." : "");
    this.#start(files[0]);
  }

  async #start(file) {
    await this.#upload?.abort();
    this.#samples = [];
    this.value.value = "";
    this.#upload = new tus.Upload(file, {
      endpoint: this.root.dataset.endpoint,
      chunkSize: CHUNK_BYTES,
      retryDelays: RETRY_DELAYS,
      removeFingerprintOnSuccess: true,
      metadata: { filename: file.name },
      onProgress: (sent, total) => this.#progress(sent, total),
      onShouldRetry: (error) => this.#shouldRetry(error),
      onError: (error) => this.#fail(error),
      onSuccess: () => this.#complete(file.name, file.size, idOf(this.#upload.url)),
    });
    this.#show("sending", file.name, "Starting…");
    this.onStart(file);
    const previous = await this.#upload.findPreviousUploads();
    if (previous.length) {
      previous.sort((a, b) => new Date(b.creationTime) - new Date(a.creationTime));
      this.#upload.resumeFromPreviousUpload(previous[0]);
    }
    this.#upload.start();
  }

  async pause() {
    await this.#upload.abort();
    this.#show("paused", null, `Paused. ${this.#sent ?? ""}`);
  }

  #continue() {
    this.#problem("");
    this.#samples = [];
    this.#show("sending", null, "Continuing…");
    this.#upload.start();
  }

  /** Stop and delete the upload. */
  async remove() {
    await this.#upload?.abort();
    const id = this.value.value || idOf(this.#upload?.url);
    if (id && !(await this.#discard(id))) return;
    this.root.querySelector(`[data-upload-row="${CSS.escape(id ?? "")}"]`)?.remove();
    this.#upload = null;
    this.value.value = "";
    this.root.querySelector('input[type="file"]').value = "";
    this.#problem("");
    this.#show("empty");
  }

  async #discard(id) {
    const response = await fetch(`${this.root.dataset.endpoint}/${id}`, { method: "DELETE", credentials: "same-origin", headers: { "Tus-Resumable": "1.0.0" } });
    if (response.ok || response.status === 404) return true;
    this.#problem((await response.json()).detail);
    return false;
  }

  #use(row) {
    row.hidden = true;
    this.#complete(row.dataset.name, Number(row.dataset.size), row.dataset.uploadRow);
  }

  #complete(name, size, id) {
    this.value.value = id;
    this.#problem("");
    this.#show("complete", name, `${bytes(size)}, uploaded`);
  }

  #progress(sent, total) {
    const now = performance.now();
    this.#samples = [...this.#samples.filter(([time]) => now - time < SPEED_WINDOW), [now, sent]];
    const [[start, first]] = this.#samples;
    const speed = now > start ? (1000 * (sent - first)) / (now - start) : 0;
    this.#sent = `${bytes(sent)} of ${bytes(total)}`;
    const details = [this.#sent, speed && `${bytes(speed)}/s`, speed && `${duration((total - sent) / speed)} left`];
    const bar = this.#part("progress");
    bar.value = sent / total;
    bar.textContent = `${Math.floor((100 * sent) / total)}\u00a0%`;
    if (this.state === "sending") this.#part("text").textContent = details.filter(Boolean).join(", ");
  }

  #sent = null;

  #shouldRetry(error) {
    const status = error.originalResponse?.getStatus() ?? 0;
    const isTemporary = TEMPORARY.has(status) || status >= 500;
    if (isTemporary) this.#part("text").textContent = `The connection was interrupted. Retrying… ${this.#sent ?? ""}`;
    return isTemporary;
  }

  #fail(error) {
    const body = error.originalResponse?.getBody();
    this.#show("paused", null, `Stopped. ${this.#sent ?? ""}`);
    this.#problem(body ? detailOf(body) : "The service does not respond. Continue when it does: the parts that it has stay.");
  }

  #problem(text) {
    this.#part("problem").textContent = text;
  }

  #show(state, name, text = "") {
    const isNew = state !== this.state;
    this.state = state;
    this.root.dataset.state = state;
    this.#part("state").hidden = state === "empty";
    this.root.querySelector("[data-drop-zone]").hidden = state !== "empty";
    if (name) this.#part("name").textContent = name;
    this.#part("text").textContent = text;
    this.#part("progress").hidden = state === "complete";
    const button = this.#part("pause");
    button.hidden = state === "complete";
    button.textContent = state === "paused" ? "Continue" : "Pause";
    if (state === "empty") this.#part("progress").value = 0;
    if (isNew) this.#part("status").textContent = { empty: "The upload was removed.", sending: "The upload has started.", paused: "The upload is paused.", complete: "The upload is complete." }[state];
    this.onChange();
  }
}

const idOf = (url) => url?.split("/").pop();

function detailOf(body) {
  try {
    return JSON.parse(body).detail;
  } catch {
    return "The service refused the file.";
  }
}

function bytes(number) {
  for (const [limit, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (number >= limit) return `${Number((number / limit).toPrecision(3))} ${unit}`;
  }
  return `${Math.round(number)} B`;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
