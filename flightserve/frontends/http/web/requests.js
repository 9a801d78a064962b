// Requests to this server, wherever it is mounted: all addresses are relative to the page.

// What the service said of a request that it did not do.
export class Refused extends Error {
  constructor(status, { code, message, request_id: requestId }) {
    super(`${code} (${status}): ${message}`);
    this.status = status;
    this.requestId = requestId;
  }
}

export const address = (path) => new URL(path.replace(/^\//, ""), document.baseURI);

// Headers of every request, by who is signed in on the page.
export const signed = { headers: {} };

// The answer to a body of JSON. Throws Refused.
export function post(path, body, accept, signal) {
  return ask(path, { method: "POST", body, headers: { "content-type": "application/json", accept }, signal });
}

// The answer to a request. Throws Refused.
export async function ask(path, { headers = {}, ...options } = {}) {
  const response = await fetch(address(path), { ...options, headers: { ...headers, ...signed.headers } });
  if (!response.ok) throw await refused(response);
  return response;
}

// Give the answer's text to `take`, piece by piece as it comes, until that returns false.
export async function readText(response, take) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    if (!take(value)) {
      await reader.cancel();
      return;
    }
  }
}

async function refused(response) {
  const text = await response.text();
  try {
    return new Refused(response.status, JSON.parse(text).error);
  } catch {
    return new Refused(response.status, { code: "HTTP", message: text.slice(0, 1000) || response.statusText });
  }
}
