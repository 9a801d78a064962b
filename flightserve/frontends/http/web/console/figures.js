// Numbers and states, as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const LATELY_MS = 8000;
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (value) => (Math.abs(value) >= 100 ? whole : short).format(value);

export function duration(seconds) {
  if (seconds < 120) return `${whole.format(seconds)} s`;
  if (seconds < 7200) return `${whole.format(seconds / 60)} min`;
  return seconds < 172800 ? `${whole.format(seconds / 3600)} h` : `${whole.format(seconds / 86400)} d`;
}

// A process is ready, on its way somewhere, or down; each has a mark that does not need its colour.
export function health({ ready, phase }) {
  if (ready) return "ready";
  return ["starting", "serving", "draining"].includes(phase) ? "going" : "down";
}

export const mark = { ready: "\u2713", going: "\u2026", down: "\u2717" };

export const several = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

// How much of what it can do at once a process does, and that in words. `busy` is what share of the last seconds its lanes ran.
export function share({ tier, numbers, busy }) {
  if (tier === "replica" && numbers.lanes) {
    const now = `${count(numbers.running)} of ${several(numbers.lanes, "lane")} running`;
    return { of: busy ?? Math.min(1, numbers.running / numbers.lanes), text: busy === undefined ? now : `${Math.round(busy * 100)} % busy, ${now}` };
  }
  if (tier === "router") return { of: null, text: `${several(numbers.in_flight_batches ?? 0, "micro-batch", "micro-batches")} in flight` };
  return { of: null, text: tier === "frontend" ? `${count(numbers.in_flight ?? 0)} in flight` : "" };
}

// One that was started anew is another; processes of two nodes may have the same number.
const keyOf = ({ name, pid }) => `${name} ${pid}`;

// What processes did in the last seconds, of the pictures that came in them.
export class Lately {
  #seen = new Map();

  // Each process of the picture with its `busy`, once there are two pictures far enough apart.
  of({ processes }, now) {
    const there = new Set(processes.map(keyOf));
    for (const key of this.#seen.keys()) if (!there.has(key)) this.#seen.delete(key);
    return processes.map((each) => {
      const { busy_seconds: seconds = 0, lanes } = each.numbers;
      const seen = this.#seen.get(keyOf(each)) ?? [];
      seen.push({ now, seconds });
      while (seen.length > 2 && now - seen[0].now > LATELY_MS) seen.shift();
      this.#seen.set(keyOf(each), seen);
      const [{ now: since, seconds: before }] = seen;
      const busy = (seconds - before) / (((now - since) / 1000) * lanes);
      return lanes && now - since >= LATELY_MS / 4 ? { ...each, busy: Math.max(0, Math.min(1, busy)) } : each;
    });
  }
}

export const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}\u2026` : text);
