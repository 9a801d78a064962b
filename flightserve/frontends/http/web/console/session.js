// Who asks. Where callers have to say who they are, the browser asks for a name and a password, or a token in its place,
// before it shows the page, and sends them with all that the page asks for. Another token may be given on the page; it is
// kept until the tab is closed, and counts more.
import { freshId, make } from "./elements.js";
import { ask, signed } from "./requests.js";

const KEY = "flightserve.console.token";
// What a header may hold of a token (RFC 6750).
const TOKEN = /^[A-Za-z0-9._~+/-]+=*$/;

export function useToken(token) {
  signed.headers = token ? { authorization: `Bearer ${token}` } : {};
}

export function keptToken() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function keep(token) {
  try {
    if (token) sessionStorage.setItem(KEY, token);
    else sessionStorage.removeItem(KEY);
  } catch {
    // A browser that keeps nothing: it holds until the page is left.
  }
}

// `{closed, name, operate, query, call}` of who asks. Throws Refused.
export const whoAsks = async () => (await ask("console/me")).json();

// Where one says who one is. `changed()` is called when that is another.
export function signInForm(me, changed) {
  const token = make("input", { type: "password", id: freshId("token"), autocomplete: "off", required: true });
  const wrong = make("p", { className: "error", role: "alert" });
  const out = make("button", { type: "button", textContent: "Forget the token", hidden: !keptToken() });
  const form = make("form", { className: "actions" }, make("label", { htmlFor: token.id, textContent: "Token" }), token,
    make("button", { type: "submit", className: "main", textContent: "Sign in" }), out);
  form.onsubmit = async (event) => {
    event.preventDefault();
    const given = token.value.trim();
    const before = signed.headers;
    wrong.textContent = "";
    try {
      if (!TOKEN.test(given)) throw new Error("That is no token: it has characters that none has.");
      useToken(given);
      await whoAsks();
    } catch (error) {
      signed.headers = before;
      wrong.textContent = error.message;
      return;
    }
    keep(given);
    changed();
  };
  out.onclick = () => {
    keep("");
    useToken("");
    changed();
  };
  const who = me?.name ? `Signed in as ${me.name}` : "Sign in";
  return make("details", { open: !me }, make("summary", { textContent: who }), form, wrong);
}
