// Behaviour of the image pad. Gradio defines `element`, `props` and `trigger`; Python receives `props.value`.
const canvas = element.querySelector("canvas");
const preview = element.querySelector(".preview");
const empty = element.querySelector(".empty");
const fileInput = element.querySelector("input[type=file]");
const context = canvas.getContext("2d");
let lastPoint = null; // of the stroke, in canvas pixels; null between strokes

const setValue = (value) => {
  props.value = value;
  empty.hidden = value !== null;
  if (value) trigger("input");
};

const clear = () => {
  context.clearRect(0, 0, canvas.width, canvas.height);
  preview.hidden = true;
  preview.removeAttribute("src");
  setValue(null);
};

const showImage = (url) => {
  clear();
  preview.src = url;
  preview.hidden = false;
  setValue({ kind: "image", data: url });
};

const readFile = (file) => {
  const reader = new FileReader();
  reader.onload = () => showImage(reader.result);
  reader.readAsDataURL(file);
};

const canvasPoint = (event) => {
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width; // the page may show the canvas smaller than it is
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
};

const drawStroke = (event) => {
  const point = canvasPoint(event);
  context.lineWidth = 34; // thick: a thin line would vanish in the 8×8 images of the bundled digits
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = getComputedStyle(canvas).color;
  context.beginPath();
  context.moveTo(...(lastPoint ?? point));
  context.lineTo(...point);
  context.stroke();
  lastPoint = point;
};

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  if (!preview.hidden) clear();
  empty.hidden = true;
  canvas.setPointerCapture(event.pointerId);
  lastPoint = null;
  drawStroke(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (lastPoint) (event.getCoalescedEvents?.() ?? [event]).forEach(drawStroke);
});
const endStroke = () => {
  if (!lastPoint) return;
  lastPoint = null;
  setValue({ kind: "drawing", data: canvas.toDataURL("image/png") });
};
canvas.addEventListener("pointerup", endStroke);
canvas.addEventListener("pointercancel", endStroke);

element.querySelector(".clear").addEventListener("click", () => { clear(); trigger("clear"); });
element.querySelector(".choose").addEventListener("click", () => fileInput.click());
fileInput.addEventListener("change", () => {
  if (fileInput.files.length) readFile(fileInput.files[0]);
  fileInput.value = ""; // so that the same file can be chosen again
});
element.querySelectorAll(".thumbnails button").forEach((button) =>
  button.addEventListener("click", () => showImage(button.querySelector("img").src)));

const pad = element.querySelector(".pad");
pad.addEventListener("dragover", (event) => event.preventDefault());
pad.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) readFile(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
  if (file && pad.offsetParent) readFile(file); // only while the tab is shown
});
