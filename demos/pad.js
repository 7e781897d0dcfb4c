// The picture pad's behaviour. `element`, `props` and `trigger` are Gradio's: the value is what Python receives.
const canvas = element.querySelector("canvas");
const shown = element.querySelector(".shown");
const empty = element.querySelector(".empty");
const chooser = element.querySelector("input[type=file]");
const pen = canvas.getContext("2d");
let last = null; // where the stroke was, in canvas pixels; null between strokes

const say = (value) => {
  props.value = value;
  empty.hidden = value !== null;
  if (value) trigger("input");
};

const clear = () => {
  pen.clearRect(0, 0, canvas.width, canvas.height);
  shown.hidden = true;
  shown.removeAttribute("src");
  say(null);
};

const show = (url) => {
  clear();
  shown.src = url;
  shown.hidden = false;
  say({ kind: "picture", data: url });
};

const read = (file) => {
  const reader = new FileReader();
  reader.onload = () => show(reader.result);
  reader.readAsDataURL(file);
};

const place = (event) => {
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width; // the page may show the canvas smaller than it is
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
};

const stroke = (event) => {
  const here = place(event);
  pen.lineWidth = 34; // a marker: the bundled digits have 8 pixels a side, where a thin line would fade away
  pen.lineCap = pen.lineJoin = "round";
  pen.strokeStyle = getComputedStyle(canvas).color;
  pen.beginPath();
  pen.moveTo(...(last ?? here));
  pen.lineTo(...here);
  pen.stroke();
  last = here;
};

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  if (!shown.hidden) clear();
  empty.hidden = true;
  canvas.setPointerCapture(event.pointerId);
  last = null;
  stroke(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (last) (event.getCoalescedEvents?.() ?? [event]).forEach(stroke);
});
const lift = () => {
  if (!last) return;
  last = null;
  say({ kind: "drawing", data: canvas.toDataURL("image/png") });
};
canvas.addEventListener("pointerup", lift);
canvas.addEventListener("pointercancel", lift);

element.querySelector(".clear").addEventListener("click", () => { clear(); trigger("clear"); });
element.querySelector(".choose").addEventListener("click", () => chooser.click());
chooser.addEventListener("change", () => {
  if (chooser.files.length) read(chooser.files[0]);
  chooser.value = ""; // so that the same file can be chosen again
});
element.querySelectorAll(".thumbnails button").forEach((button) =>
  button.addEventListener("click", () => show(button.querySelector("img").src)));

const pad = element.querySelector(".pad");
pad.addEventListener("dragover", (event) => event.preventDefault());
pad.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) read(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
  if (file && pad.offsetParent) read(file); // only while the tab is shown
});
