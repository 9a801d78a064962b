// Numbers and states, as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
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

// How much of what it can do at once a process does, and that in words.
export function share({ tier, numbers }) {
  if (tier === "replica" && numbers.lanes) {
    return { of: Math.min(1, numbers.running / numbers.lanes), text: `${count(numbers.running)} of ${count(numbers.lanes)} running` };
  }
  if (tier === "router") {
    return { of: null, text: `${count(numbers.in_flight_batches ?? 0)} micro-batches in flight` };
  }
  return { of: null, text: tier === "frontend" ? `${count(numbers.in_flight ?? 0)} in flight` : "" };
}

export const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}\u2026` : text);
