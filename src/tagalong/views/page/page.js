"use strict";
/* The map of tags: an axis of all regions end to end, drawn as 32 by 16 cells of one size.
 * `TagMap` answers what is where and needs no browser; `MapView` draws it and listens. */

class TagMap {
  constructor(data) {
    this.unit = BigInt(data.unit) / 16n;
    this.digits = data.bits / 4;
    this.details = data.details;
    this.pages = new Map();
    this.regions = [];
    this.size = 0n;
    for (const each of data.regions) {
      const start = (BigInt(each.start) + 15n) / 16n;
      const stop = (BigInt(each.start) + BigInt(each.size)) / 16n;
      if (stop <= start) continue;
      const stops = [], classes = [];
      let at = 0n;
      for (let i = 0; i < each.runs.length; i += 2) {
        at += BigInt(each.runs[i]) * this.unit;
        stops.push(at);
        classes.push(each.runs[i + 1]);
      }
      stops[stops.length - 1] = stop - start;
      this.regions.push({ start, first: this.size, count: stop - start, stops, classes });
      this.size += stop - start;
    }
    this.marks = data.marks.map((each) => ({
      start: BigInt(each.start) / 16n, stop: (BigInt(each.end) + 15n) / 16n,
      text: each.text, letter: each.letter,
    }));
  }

  /* The region of a place on the axis; places and addresses count granules. */
  regionAt(place) {
    let low = 0, high = this.regions.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.regions[middle].first <= place) low = middle; else high = middle - 1;
    }
    return this.regions[low];
  }

  addressAt(place) {
    const region = this.regionAt(place);
    return region.start + place - region.first;
  }

  /* The place of an address, or of the first memory behind it; null if there is none. */
  placeOf(address) {
    for (const region of this.regions) {
      if (address < region.start) return region.first;
      if (address < region.start + region.count) return region.first + address - region.start;
    }
    return null;
  }

  /* The tag of one granule: a number, null if it has none, undefined if the page lacks it. */
  tagAt(place) {
    const region = this.regionAt(place);
    const inside = place - region.first;
    const kind = region.classes[firstAbove(region.stops, inside)];
    if (kind >= 0 && kind < 256) return kind;
    if (kind < 0) return null;
    const page = region.start + (inside / 256n) * 256n;
    const text = this.details[hex(page)];
    if (text === undefined) return undefined;
    const at = Number(inside % 256n) * this.digits;
    const word = text.slice(at, at + this.digits);
    return word[0] === "-" ? null : parseInt(word, 16);
  }

  /* What [place, stop) holds: granules known by tag (a Map), without tags, and not in the page;
   * `main` is the most frequent tag that is not 0, as far as it is known. */
  summary(place, stop) {
    const tags = new Map();
    let none = 0n, unknown = 0n, hint = 0;
    const add = (tag, count) => tags.set(tag, (tags.get(tag) || 0n) + count);
    while (place < stop) {
      const region = this.regionAt(place);
      const end = stop < region.first + region.count ? stop : region.first + region.count;
      let run = firstAbove(region.stops, place - region.first);
      while (place < end) {
        const edge = region.first + region.stops[run];
        const upTo = edge < end ? edge : end;
        const kind = region.classes[run];
        if (kind < 0) none += upTo - place;
        else if (kind < 256) add(kind, upTo - place);
        else {
          hint = kind - 256;
          if (upTo - place > 4096n) unknown += upTo - place;
          else {
            const found = this.countDetails(region, place, upTo);
            none += found.none;
            unknown += found.unknown;
            for (const [tag, count] of found.tags) add(tag, count);
          }
        }
        place = upTo;
        run++;
      }
    }
    let main = unknown ? hint : 0, most = 0n;
    for (const [tag, count] of tags) if (tag !== 0 && count > most) { main = tag; most = count; }
    return { tags, none, unknown, main };
  }

  /* The same for a part of one region, page by page. */
  countDetails(region, place, stop) {
    const tags = new Map();
    let none = 0n, unknown = 0n;
    while (place < stop) {
      const page = ((place - region.first) / 256n) * 256n;
      const edge = region.first + page + 256n;
      const upTo = edge < stop ? edge : stop;
      const name = hex(region.start + page);
      if (this.details[name] === undefined) unknown += upTo - place;
      else {
        const first = Number(place - region.first - page);
        const found = this.countPage(name, first, first + Number(upTo - place));
        none += BigInt(found.none);
        for (const [tag, count] of found.tags) tags.set(tag, (tags.get(tag) || 0n) + BigInt(count));
      }
      place = upTo;
    }
    return { tags, none, unknown };
  }

  /* Counts of granules [first, stop) of a page; those of whole pages are kept, for a view of all
   * memory asks for thousands of them. */
  countPage(name, first, stop) {
    const text = this.details[name];
    const isWhole = first === 0 && stop * this.digits >= text.length;
    if (isWhole && this.pages.has(name)) return this.pages.get(name);
    const found = { tags: new Map(), none: 0 };
    for (let at = first; at < stop; at++) {
      const word = text.slice(at * this.digits, (at + 1) * this.digits);
      if (word[0] === "-") found.none++;
      else {
        const tag = parseInt(word, 16);
        found.tags.set(tag, (found.tags.get(tag) || 0) + 1);
      }
    }
    if (isWhole) this.pages.set(name, found);
    return found;
  }

  marksIn(place, stop) {
    const low = this.addressAt(place), high = this.addressAt(stop - 1n) + 1n;
    return this.marks.filter((each) => each.start < high && low < each.stop);
  }
}

function firstAbove(stops, value) {
  let low = 0, high = stops.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (stops[middle] > value) high = middle; else low = middle + 1;
  }
  return low;
}

const hex = (granule) => "0x" + (granule * 16n).toString(16);

function bytesText(granules) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let bytes = Number(granules * 16n), unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit++; }
  return (unit && bytes % 1 ? bytes.toFixed(1) : String(bytes)) + " " + units[unit];
}

/* What a cell says, for eyes in the line above the map and for screen readers. */
function cellText(map, place, stop, found = map.summary(place, stop)) {
  const parts = [...found.tags].sort((a, b) => (a[1] < b[1] ? 1 : -1)).slice(0, 4)
    .map(([tag, count]) => (stop - place === 1n ? "tag " + tag.toString(16)
      : "tag " + tag.toString(16) + ": " + count + (count === 1n ? " granule" : " granules")));
  if (found.none) parts.push(stop - place === 1n ? "no tag" : found.none + " without tags");
  if (found.unknown) {
    parts.push("several tags, most often " + found.main.toString(16)
      + (stop - place === 1n ? " around here; this page lacks the granule" : ""));
  }
  const marks = map.marksIn(place, stop).map((each) => each.text);
  return hex(map.addressAt(place)) + " to " + hex(map.addressAt(stop - 1n) + 1n) + ": "
    + [...parts, ...marks].join(", ");
}

class MapView {
  constructor(map, root) {
    this.map = map;
    this.columns = 32;
    this.rows = 16;
    this.where = document.getElementById("where");
    this.scale = document.getElementById("scale");
    this.grid = document.getElementById("cells");
    this.cells = [];
    this.lines = [];
    this.largest = 1n;
    while (this.largest * BigInt(this.columns * this.rows) < map.size) this.largest *= 4n;
    this.cell = this.largest;
    this.start = 0n;
    this.cursor = 0;
    this.build();
    root.hidden = false;
  }

  build() {
    for (let row = 0; row < this.rows; row++) {
      const element = make("div", "row", this.grid);
      element.setAttribute("role", "row");
      const address = make("span", "address", element);
      address.setAttribute("role", "rowheader");
      const line = make("div", "line", element);
      line.setAttribute("role", "presentation");
      this.lines.push(address);
      for (let column = 0; column < this.columns; column++) {
        const cell = make("div", "cell", line);
        cell.setAttribute("role", "gridcell");
        const number = this.cells.length;
        cell.addEventListener("click", () => { this.move(number); this.focus(); });
        cell.addEventListener("dblclick", () => this.zoom(1));
        cell.addEventListener("pointerenter", () => this.tell(number));
        this.cells.push(cell);
      }
    }
    this.grid.addEventListener("keydown", (event) => this.key(event));
    this.grid.addEventListener("pointerleave", () => this.tell(this.cursor));
    const listen = (id, action) => {
      const element = document.getElementById(id);
      if (element) element.addEventListener("click", action);
    };
    listen("in", () => this.zoom(1));
    listen("out", () => this.zoom(-1));
    listen("whole", () => { this.cell = this.largest; this.start = 0n; this.move(0); });
    listen("fault", () => this.show(this.map.marks[0].start, 1n));
    listen("go", () => this.goTo());
    const input = document.getElementById("address");
    input.addEventListener("keydown", (event) => { if (event.key === "Enter") this.goTo(); });
    for (const button of document.querySelectorAll("button[data-address]")) {
      button.addEventListener("click", () => this.goToRegion(button.dataset.address));
    }
  }

  goToRegion(text) {
    const place = this.map.placeOf((BigInt(text) + 15n) / 16n);
    const region = this.map.regionAt(place);
    let cell = 1n;
    while (cell * BigInt(this.columns * this.rows) < region.count) cell *= 4n;
    this.cell = cell;
    this.start = place;
    this.move(0);
    this.focus();
  }

  goTo() {
    const text = document.getElementById("address").value.trim();
    const matched = /^(0x)?[0-9a-f]{1,16}$/i.test(text);
    if (!matched) { this.where.textContent = "Write an address as 0x40000000."; return; }
    let address = BigInt(text.startsWith("0x") || text.startsWith("0X") ? text : "0x" + text);
    address &= (1n << 56n) - 1n;
    if (address >> 55n) address |= 0xffn << 56n;
    if (!this.show(address / 16n, 1n)) this.where.textContent = "No memory at or above " + text + ".";
  }

  /* Bring an address into the middle of the map, in cells of a size. */
  show(address, cell) {
    const place = this.map.placeOf(address);
    if (place === null) return false;
    this.cell = cell;
    this.center(place);
    this.focus();
    return true;
  }

  center(place) {
    const row = this.cell * BigInt(this.columns);
    const rows = BigInt(this.rows);
    const region = this.map.regionAt(place);
    const from = region.first + ((place - region.first) / row) * row - row * (rows / 2n);
    this.start = from < 0n ? 0n : from;
    this.move(Number((place - this.start) / this.cell));
  }

  zoom(direction) {
    const place = this.start + BigInt(this.cursor) * this.cell;
    const cell = direction > 0 ? this.cell / 4n : this.cell * 4n;
    if (cell < 1n || cell > this.largest) return;
    this.cell = cell;
    if (cell === this.largest) { this.start = 0n; this.move(Number(place / cell)); }
    else this.center(place);
    this.focus();
  }

  key(event) {
    const rowEnd = this.columns - 1;
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns,
      Home: -(this.cursor % this.columns), End: rowEnd - (this.cursor % this.columns),
      PageUp: -this.columns * this.rows, PageDown: this.columns * this.rows,
    };
    if (event.key in steps) this.step(steps[event.key]);
    else if (event.key === "+" || event.key === "Enter") this.zoom(1);
    else if (event.key === "-" || event.key === "Backspace") this.zoom(-1);
    else return;
    event.preventDefault();
  }

  /* Move the cursor; past an end of the view the view moves on by whole rows. */
  step(cells) {
    let target = this.cursor + cells;
    const row = this.cell * BigInt(this.columns);
    while (target < 0 && this.start > 0n) {
      this.start = this.start > row ? this.start - row : 0n;
      target += this.columns;
    }
    while (target >= this.cells.length && this.start + row * BigInt(this.rows) < this.map.size) {
      this.start += row;
      target -= this.columns;
    }
    if (target < 0 || target >= this.cells.length) target = this.cursor;
    if (this.start + BigInt(target) * this.cell >= this.map.size) target = this.cursor;
    this.move(target);
    this.focus();
  }

  focus() { this.cells[this.cursor].focus(); }

  move(number) {
    this.cursor = Math.max(0, Math.min(number, this.cells.length - 1));
    this.draw();
    this.tell(this.cursor);
  }

  bounds(number) {
    const place = this.start + BigInt(number) * this.cell;
    const stop = place + this.cell;
    return [place, stop < this.map.size ? stop : this.map.size];
  }

  tell(number) {
    const [place, stop] = this.bounds(number);
    if (place < stop) this.where.textContent = cellText(this.map, place, stop);
  }

  draw() {
    this.scale.textContent = "One square is " + (this.cell === 1n ? "one granule, 16 bytes"
      : bytesText(this.cell)) + ".";
    this.cells.forEach((cell, number) => {
      const [place, stop] = this.bounds(number);
      cell.tabIndex = number === this.cursor ? 0 : -1;
      if (place >= stop) { cell.className = "cell off"; cell.textContent = ""; return; }
      if (number % this.columns === 0) {
        this.lines[number / this.columns].textContent = hex(this.map.addressAt(place));
      }
      this.drawCell(cell, place, stop);
    });
    for (let row = 0; row < this.rows; row++) {
      if (this.cells[row * this.columns].className === "cell off") this.lines[row].textContent = "";
    }
  }

  drawCell(cell, place, stop) {
    const found = this.map.summary(place, stop);
    const kinds = found.tags.size + (found.unknown ? 2 : 0);
    const classes = ["cell"];
    if (!kinds) classes.push("none");
    else classes.push("t" + (found.main & 15).toString(16));
    if (kinds > 1) classes.push("mixed");
    const region = this.map.regionAt(place);
    if (region.first === place && place > 0n) classes.push("edge");
    const marks = this.map.marksIn(place, stop);
    if (marks.some((each) => !each.letter)) classes.push("fault");
    if (marks.some((each) => each.letter)) classes.push("block");
    cell.className = classes.join(" ");
    const block = marks.find((each) => each.letter && this.map.addressAt(place) <= each.start);
    cell.textContent = kinds === 1 ? found.main.toString(16) : kinds ? "" : "-";
    if (block && this.cell === 1n) cell.textContent = block.letter + cell.textContent;
    cell.setAttribute("aria-label", cellText(this.map, place, stop, found));
  }
}

function make(name, className, parent) {
  const element = document.createElement(name);
  element.className = className;
  return parent.appendChild(element);
}

if (typeof document !== "undefined") {
  const root = document.getElementById("map");
  const map = new TagMap(JSON.parse(document.getElementById("data").textContent));
  if (root && map.size > 0n) {
    const view = new MapView(map, root);
    if (!map.marks.length || !view.show(map.marks[0].start, 1n)) view.move(0);
    document.activeElement.blur();
    window.scrollTo(0, 0);
  }
}
