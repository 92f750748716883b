// The crop rectangle, set by mouse, touch or arrow keys, in fractions of width and height.
const SMALLEST = 0.05, STEP = 0.04;

export class Crop {
  constructor(box, stage, changed) {
    this.box = box;
    this.stage = stage;
    this.changed = changed;
    box.addEventListener("pointerdown", (event) => this.drag(event));
    box.addEventListener("keydown", (event) => this.key(event));
    this.hide();
  }

  show() {
    this.area = [0.1, 0.1, 0.9, 0.9];
    this.box.hidden = false;
    this.draw();
  }

  hide() {
    this.area = null;
    this.box.hidden = true;
  }

  draw() {
    const [left, top, right, bottom] = this.area;
    const place = { left, top, width: right - left, height: bottom - top };
    for (const side in place) this.box.style[side] = `${100 * place[side]}%`;
  }

  move([left, top, right, bottom], x, y) {
    x = Math.min(Math.max(x, -left), 1 - right);
    y = Math.min(Math.max(y, -top), 1 - bottom);
    this.area = [left + x, top + y, right + x, bottom + y];
    this.draw();
  }

  resize([left, top, right, bottom], edge, x, y) {
    const clip = (value, low, high) => Math.min(Math.max(value, low), high);
    if (edge.includes("w")) left = clip(left + x, 0, right - SMALLEST);
    if (edge.includes("e")) right = clip(right + x, left + SMALLEST, 1);
    if (edge.includes("n")) top = clip(top + y, 0, bottom - SMALLEST);
    if (edge.includes("s")) bottom = clip(bottom + y, top + SMALLEST, 1);
    this.area = [left, top, right, bottom];
    this.draw();
  }

  drag(event) {
    const { width, height } = this.stage.getBoundingClientRect();
    const edge = event.target.dataset.edge, area = this.area;
    const to = (now) => {
      const x = (now.clientX - event.clientX) / width, y = (now.clientY - event.clientY) / height;
      if (edge) this.resize(area, edge, x, y);
      else this.move(area, x, y);
    };
    const end = () => {
      this.box.removeEventListener("pointermove", to);
      this.changed();
    };
    this.box.setPointerCapture(event.pointerId);
    this.box.addEventListener("pointermove", to);
    this.box.addEventListener("lostpointercapture", end, { once: true });
    this.box.focus({ preventScroll: true });
    event.preventDefault();
  }

  key(event) {
    const ways = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    const way = ways[event.key];
    if (!way) return;
    if (event.shiftKey) this.resize(this.area, "se", ...way);
    else this.move(this.area, ...way);
    event.preventDefault();
    clearTimeout(this.timer);
    this.timer = setTimeout(this.changed, 300);
  }
}
