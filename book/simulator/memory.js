// The memory simulator, for the page: a port of minivllm/sim (allocators.py, policies/, memory.py, memory_report.py)
// in which names and rules are the same. Time is counted in steps: an arrival of 3 is seen at the beginning of step 3.
// tests/book/test_simulator_port.py plays random traces through both and compares every frame.
"use strict";

const CLASSES = ["used", "reserved", "internal", "external", "free"];
const POLICIES = {
  max: "contiguous: max_model_len for everyone",
  pow2: "contiguous: the answer rounded up to a power of two",
  oracle: "contiguous: the true length, if one knew it",
  buddy: "contiguous: grown on demand, a full chunk is doubled",
  paged: "blocks on demand: PagedAttention",
  "max-first-fit": "max, placed by first fit",
  "pow2-first-fit": "pow2, placed by first fit",
  "oracle-first-fit": "oracle, placed by first fit",
};

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const numKvTokens = (request) => request.prompt + request.output - 1; // the last token is sampled and never written

function nextPowerOfTwo(number) {
  let power = 1;
  while (power < number) power *= 2;
  return power;
}

// ---- allocators: an extent is {start, size}; allocate gives null, and changes nothing, when no hole is large enough ----

class FirstFitAllocator {
  constructor(capacity) {
    this.capacity = capacity;
    this.free_ = [{ start: 0, size: capacity }]; // by address; two never touch
  }

  allocate(size) {
    const hole = this.free_.find((each) => each.size >= size);
    if (!hole) return null;
    const extent = { start: hole.start, size };
    hole.start += size;
    hole.size -= size;
    this.free_ = this.free_.filter((each) => each.size > 0);
    return extent;
  }

  free(extent) {
    const byAddress = [...this.free_, { ...extent }].sort((a, b) => a.start - b.start);
    this.free_ = [];
    for (const hole of byAddress) {
      const last = this.free_.at(-1);
      if (last && last.start + last.size === hole.start) last.size += hole.size;
      else this.free_.push(hole);
    }
  }

  holes() {
    return this.free_;
  }

  sizeFor(size) {
    return size;
  }
}

class BuddyAllocator {
  constructor(capacity) {
    this.capacity = capacity;
    this.free_ = new Map(); // chunk size -> set of start addresses
    let start = 0;
    for (let size = nextPowerOfTwo(capacity); size >= 1; size /= 2) {
      if (start + size > capacity) continue; // one arena for each set bit of the capacity, the largest first
      this.put(start, size);
      start += size;
    }
  }

  put(start, size) {
    if (!this.free_.has(size)) this.free_.set(size, new Set());
    this.free_.get(size).add(start);
  }

  take(start, size) {
    return this.free_.has(size) && this.free_.get(size).delete(start);
  }

  allocate(size) {
    const wanted = this.sizeFor(size);
    const fitting = [...this.free_].filter(([chunk, starts]) => chunk >= wanted && starts.size).map(([chunk]) => chunk);
    if (!fitting.length) return null;
    let found = Math.min(...fitting);
    const start = Math.min(...this.free_.get(found));
    this.take(start, found);
    while (found > wanted) {
      found /= 2; // halve: the upper half stays free
      this.put(start + found, found);
    }
    return { start, size: wanted };
  }

  free(extent) {
    let { start, size } = extent;
    while (this.take(start ^ size, size)) {
      start = Math.min(start, start ^ size);
      size *= 2;
    }
    this.put(start, size);
  }

  double(extent) {
    const buddy = extent.start ^ extent.size;
    if (!this.take(buddy, extent.size)) return null;
    return { start: Math.min(extent.start, buddy), size: extent.size * 2 };
  }

  holes() {
    const all = [];
    for (const [size, starts] of this.free_) for (const start of starts) all.push({ start, size });
    return all;
  }

  sizeFor(size) {
    return nextPowerOfTwo(size);
  }
}

// ---- policies: who lies where. `live` maps a request's id to {need, used, extent or table, rounding} ----

class Policy {
  constructor(name, capacity) {
    this.name = name;
    this.capacity = capacity;
    this.numCopiedTokens = 0;
    this.live = new Map();
  }

  usageOfAllocated() {
    const accounts = [...this.live.values()].map((account) => ({ ...account, size: this.sizeOf(account) }));
    return {
      used: sum(accounts.map((a) => a.used)),
      reserved: sum(accounts.map((a) => Math.min(a.size, a.need) - a.used)),
      internal: sum(accounts.map((a) => Math.max(0, a.size - a.need))),
      rounding: sum(accounts.map((a) => a.rounding || 0)),
    };
  }
}

class ContiguousBase extends Policy {
  constructor(name, allocator) {
    super(name, allocator.capacity);
    this.allocator = allocator;
  }

  sizeOf(account) {
    return account.extent.size;
  }

  largestHole() {
    return Math.max(0, ...this.allocator.holes().map((hole) => hole.size));
  }

  release(id) {
    this.allocator.free(this.live.get(id).extent);
    this.live.delete(id);
  }

  usage(head) {
    const total = sum(this.allocator.holes().map((hole) => hole.size));
    const wanted = head ? this.wantedBy(head) : 0;
    const isCut = 0 < wanted && wanted <= total && this.largestHole() < this.allocator.sizeFor(wanted);
    return { ...this.usageOfAllocated(), external: isCut ? total : 0, free: isCut ? 0 : total };
  }

  layout() {
    const pieces = [...this.live].map(([id, { extent, used, need }]) => {
      return { id, start: extent.start, size: extent.size, used, reserved: Math.min(extent.size, need) - used };
    });
    return pieces.sort((a, b) => a.start - b.start);
  }
}

class ContiguousPolicy extends ContiguousBase {
  constructor(name, allocator, guess, maxModelLen) {
    super(name, allocator);
    this.guess = (request) => guess(request, maxModelLen);
    this.maxModelLen = maxModelLen;
  }

  wantedBy(head) {
    return this.guess(head.request);
  }

  checkFitsAlone(request) {
    const need = numKvTokens(request);
    if (need > this.maxModelLen)
      throw new RangeError(
        `request '${request.id}' needs ${need} tokens, more than max_model_len (${this.maxModelLen}): shorten it, or ` +
          "raise max_model_len",
      );
    const wanted = this.allocator.sizeFor(this.guess(request));
    const largest = this.largestHole();
    if (wanted > largest)
      throw new RangeError(
        `policy '${this.name}' reserves ${wanted} tokens in one piece for request '${request.id}', and the largest ` +
          `piece of the ${this.capacity} tokens is ${largest}: raise capacity, or lower max_model_len`,
      );
  }

  admit(request, numTokens) {
    const asked = this.guess(request);
    const extent = this.allocator.allocate(asked);
    if (!extent) return false;
    this.live.set(request.id, { need: numKvTokens(request), used: numTokens, extent, rounding: extent.size - asked });
    return true;
  }

  append(id) {
    this.live.get(id).used += 1; // the slot is reserved
    return true;
  }
}

class DoublingPolicy extends ContiguousBase {
  constructor(capacity) {
    super("buddy", new BuddyAllocator(capacity));
  }

  wantedBy(head) {
    return head.numTokens;
  }

  checkFitsAlone(request) {
    const chunk = nextPowerOfTwo(numKvTokens(request));
    const largest = this.largestHole();
    if (chunk > largest)
      throw new RangeError(
        `policy 'buddy' needs a chunk of ${chunk} tokens for request '${request.id}', and the largest of the ` +
          `${this.capacity} tokens is ${largest}: raise capacity, or shorten it`,
      );
  }

  admit(request, numTokens) {
    const extent = this.allocator.allocate(numTokens);
    if (!extent) return false;
    this.live.set(request.id, { need: numKvTokens(request), used: numTokens, extent });
    return true;
  }

  append(id) {
    const account = this.live.get(id);
    if (account.used === account.extent.size && !this.doubleChunk(account)) return false;
    account.used += 1;
    return true;
  }

  doubleChunk(account) {
    const old = account.extent;
    let bigger = this.allocator.double(old);
    if (!bigger) {
      bigger = this.allocator.allocate(old.size * 2);
      if (!bigger) return false;
      this.allocator.free(old);
    }
    if (bigger.start !== old.start) this.numCopiedTokens += old.size;
    account.extent = bigger;
    return true;
  }
}

class PagedPolicy extends Policy {
  constructor(capacity, blockSize) {
    super("paged", capacity);
    if (!(1 <= blockSize && blockSize <= capacity))
      throw new RangeError(`block_size must be in [1, ${capacity}], the capacity in tokens, not ${blockSize}`);
    this.blockSize = blockSize;
    this.numBlocks = Math.floor(capacity / blockSize);
    this.freeQueue = Array.from({ length: this.numBlocks }, (_, index) => index);
  }

  sizeOf(account) {
    return account.table.length * this.blockSize;
  }

  checkFitsAlone(request) {
    const need = numKvTokens(request);
    const room = this.numBlocks * this.blockSize;
    if (need > room)
      throw new RangeError(
        `request '${request.id}' needs ${need} tokens, and ${this.numBlocks} blocks of ${this.blockSize} hold ` +
          `${room}: raise capacity, or shorten the request`,
      );
  }

  extend(table, numTokens) {
    const numMissing = Math.ceil(numTokens / this.blockSize) - table.length;
    if (numMissing > this.freeQueue.length) return false;
    table.push(...this.freeQueue.splice(0, numMissing));
    return true;
  }

  admit(request, numTokens) {
    const table = [];
    if (!this.extend(table, numTokens)) return false;
    this.live.set(request.id, { need: numKvTokens(request), used: numTokens, table });
    return true;
  }

  append(id) {
    const account = this.live.get(id);
    if (account.used === this.sizeOf(account) && !this.extend(account.table, account.used + 1)) return false;
    account.used += 1;
    return true;
  }

  release(id) {
    this.freeQueue.unshift(...this.live.get(id).table.reverse()); // its last block is reused first
    this.live.delete(id);
  }

  usage() {
    const size = this.blockSize;
    const external = this.capacity - this.numBlocks * size; // slots that make no full block
    return { ...this.usageOfAllocated(), external, free: this.freeQueue.length * size };
  }

  layout() {
    const pieces = [];
    for (const [id, account] of this.live)
      account.table.forEach((block, index) => {
        const first = index * this.blockSize;
        const used = Math.min(this.blockSize, account.used - first);
        const reserved = Math.min(this.blockSize, account.need - first) - used;
        pieces.push({ id, start: block * this.blockSize, size: this.blockSize, used, reserved });
      });
    return pieces.sort((a, b) => a.start - b.start);
  }
}

const GUESSES = {
  max: (request, maxModelLen) => maxModelLen,
  pow2: (request, maxModelLen) => Math.min(request.prompt + nextPowerOfTwo(request.output), maxModelLen),
  oracle: (request) => numKvTokens(request),
};

function makePolicy(name, { capacity, blockSize, maxModelLen }) {
  if (name === "paged") return new PagedPolicy(capacity, blockSize);
  if (name === "buddy") return new DoublingPolicy(capacity);
  const Allocator = name.endsWith("-first-fit") ? FirstFitAllocator : BuddyAllocator;
  return new ContiguousPolicy(name, new Allocator(capacity), GUESSES[name.split("-")[0]], maxModelLen);
}

// ---- the simulator: first come, first served; grow before admitting; out of room: preempt whoever came last ----

// requests: [{id, arrival, prompt, output}]. Returns {frames, empty, numPreemptions, numRecomputedTokens,
// numCopiedTokens}; a frame is the state after one event, `empty` the state in which nobody holds anything. A frame
// has a layout unless options.onlyStepLayouts is set and it does not close a step. Throws RangeError, with a
// sentence, if the policy could never hold a request.
function simulate(requests, name, options) {
  const policy = makePolicy(name, options);
  requests.forEach((request) => policy.checkFitsAlone(request));
  const maxNumSeqs = options.maxNumSeqs || requests.length;
  const arriving = [...requests].sort((a, b) => a.arrival - b.arrival).map((request) => ({ request, numSampled: 0 }));
  const waiting = [];
  const running = [];
  const result = { frames: [], numPreemptions: 0, numRecomputedTokens: 0 };
  let step = 0;
  const numTokens = (live) => live.request.prompt + live.numSampled;

  function emit(event, live) {
    const waitsForMemory = waiting.length > 0 && running.length < maxNumSeqs;
    const head = waitsForMemory ? { request: waiting[0].request, numTokens: numTokens(waiting[0]) } : null;
    const id = live ? live.request.id : null;
    const usage = policy.usage(head);
    const layout = event === "step" || !options.onlyStepLayouts ? policy.layout() : null;
    result.frames.push({ step, event, id, usage, numRunning: running.length, numWaiting: waiting.length, layout });
  }

  function preempt(victim) {
    running.splice(running.indexOf(victim), 1);
    policy.release(victim.request.id);
    waiting.unshift(victim);
    result.numPreemptions += 1;
    result.numRecomputedTokens += numTokens(victim) - 1;
    emit("preempt", victim);
  }

  function append(live) {
    while (!policy.append(live.request.id)) {
      const victim = running.at(-1);
      preempt(victim);
      if (victim === live) return;
    }
    live.numSampled += 1;
    emit("append", live);
  }

  function admit() {
    while (waiting.length && running.length < maxNumSeqs) {
      const live = waiting[0];
      if (!policy.admit(live.request, numTokens(live))) return;
      running.push(waiting.shift());
      live.numSampled += 1;
      emit("admit", live);
    }
  }

  result.empty = { usage: policy.usage(null), layout: [], numRunning: 0, numWaiting: 0 };
  while (arriving.length || waiting.length || running.length) {
    if (!waiting.length && !running.length) step = Math.max(step, Math.ceil(arriving[0].request.arrival));
    while (arriving.length && arriving[0].request.arrival <= step) {
      waiting.push(arriving.shift());
      emit("arrive", waiting.at(-1));
    }
    const numPreemptions = result.numPreemptions;
    for (const live of [...running]) if (running.includes(live)) append(live);
    if (result.numPreemptions === numPreemptions) admit(); // after a preemption nothing is left for newcomers
    emit("step");
    for (const live of running.filter((each) => each.numSampled === each.request.output)) {
      running.splice(running.indexOf(live), 1);
      policy.release(live.request.id);
      emit("finish", live);
    }
    step += 1;
  }
  result.numCopiedTokens = policy.numCopiedTokens;
  return result;
}

// Averages over the steps in which somebody waited; if nobody ever did, or where it is said, over all steps.
function summarize({ frames, numPreemptions, numRecomputedTokens, numCopiedTokens }, capacity) {
  const all = frames.filter((frame) => frame.event === "step");
  const loaded = all.filter((frame) => frame.numWaiting > 0);
  const steps = loaded.length ? loaded : all;
  const total = (name, over) => sum(over.map((frame) => frame.usage[name]));
  const allocated = total("used", all) + total("reserved", all) + total("internal", all);
  return {
    isUnderLoad: loaded.length > 0,
    shares: Object.fromEntries(CLASSES.map((name) => [name, total(name, steps) / (steps.length * capacity)])),
    wasteOfAllocated: 1 - total("used", all) / allocated, // of all steps
    meanRunning: sum(steps.map((frame) => frame.numRunning)) / steps.length,
    peakRunning: Math.max(...all.map((frame) => frame.numRunning)),
    numSteps: all.length,
    numPreemptions,
    numRecomputedTokens,
    numCopiedTokens,
  };
}
