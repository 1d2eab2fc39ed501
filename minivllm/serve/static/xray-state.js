// What the frames add up to: who holds which blocks, who runs, who waits. No drawing in here.

export class State {
  constructor(start) {
    this.tables = new Map(Object.entries(start.tables).map(([id, blocks]) => [Number(id), blocks.slice()]));
    this.cached = new Set(start.cached);
    this.running = new Set(start.running);
    this.waiting = new Set(start.waiting);
    this.copied = null; // the latest copy-on-write: [from, to]
    this.highest = start.highest || Math.max(0, ...this.cached, ...[...this.tables.values()].flat()); // block ever used
  }

  clone() {
    const tables = Object.fromEntries([...this.tables].map(([id, blocks]) => [id, blocks.slice()]));
    return new State({ ...this, tables });
  }

  apply(frame) {
    for (const [kind, id, detail] of frame.events) this.take(kind, id, detail);
    for (const [id] of frame.batch || []) {
      this.waiting.delete(id);
      this.running.add(id);
    }
    for (const [kind, id] of frame.events) if (kind === "finish") this.drop(id);
  }

  take(kind, id, detail) {
    if (kind === "hit" || kind === "alloc") this.highest = Math.max(this.highest, ...detail);
    const table = this.tables.get(id) || [];
    if (kind === "add") this.waiting.add(id);
    if (kind === "hit" || kind === "alloc") this.tables.set(id, table.concat(detail));
    if (kind === "fork") this.tables.set(id, detail.slice());
    if (kind === "copy") {
      const [from, to] = detail;
      const place = table.indexOf(from);
      if (place >= 0) table[place] = to;
      this.copied = detail;
    }
    if (kind === "free") this.free(id, table, detail);
    if (kind === "cache") for (const block of detail) this.cached.add(block);
    if (kind === "evict") for (const block of detail) this.cached.delete(block);
    if (kind === "preempt") {
      this.running.delete(id);
      this.waiting = new Set([id, ...this.waiting]); // it comes first again
    }
  }

  free(id, table, blocks) {
    const gone = new Set(blocks);
    const left = table.map((block) => (gone.has(block) ? 0 : block)); // behind a sliding window a gap is left
    while (left.length && !left[left.length - 1]) left.pop(); // rejected drafts stood at the end
    if (left.length) this.tables.set(id, left);
    else this.tables.delete(id);
  }

  drop(id) {
    this.running.delete(id);
    this.waiting.delete(id);
  }

  // block -> the requests that hold it
  owners() {
    const owners = new Map();
    for (const [id, blocks] of this.tables) {
      for (const block of blocks) {
        if (!block) continue;
        if (owners.has(block)) owners.get(block).push(id);
        else owners.set(block, [id]);
      }
    }
    return owners;
  }
}

// The last frames, and the state before the first of them: any moment in between can be shown again.
export class History {
  constructor(start, size) {
    this.base = new State(start);
    this.now = new State(start);
    this.frames = [];
    this.size = size;
  }

  push(frame) {
    this.now.apply(frame);
    this.frames.push(frame);
    if (this.frames.length > this.size) this.base.apply(this.frames.shift());
  }

  // The state after frame `index`.
  at(index) {
    if (index >= this.frames.length - 1) return this.now;
    const state = this.base.clone();
    for (let i = 0; i <= index; i += 1) state.apply(this.frames[i]);
    return state;
  }
}
