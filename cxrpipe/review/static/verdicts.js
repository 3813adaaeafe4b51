// Sends verdicts, and keeps what could not be sent in this browser until the server has answered.
//
// A submission gets its id here, once: the server keeps it once, however often it is sent. What waits lies in
// localStorage, so it survives a closed tab, a killed server and a new token.

const NAME = "cxrpipe.reader";
const WAITING = "cxrpipe.waiting.";
const LONGEST_PAUSE_MS = 15000;

/** Resolves once the verdicts on one study are kept. Rejects with what the server says against them. */
export async function send(verdicts) {
  const reader = (localStorage.getItem(NAME) ?? "").trim();
  if (!reader) {
    document.getElementById("reader").focus();
    throw new Error("Write your name first, at the top of the page.");
  }
  const submission = { id: newId(), reader, verdicts };
  localStorage.setItem(WAITING + submission.id, JSON.stringify(submission));
  await sendUntilAnswered(submission);
}

/** Sends what an earlier page could not. */
export async function sendWaiting() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(WAITING));
  await Promise.allSettled(keys.map((key) => sendUntilAnswered(JSON.parse(localStorage.getItem(key)))));
}

async function sendUntilAnswered(submission) {
  for (let pause = 250; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
    const answer = await post(submission);
    if (answer.ok) return settle(submission);
    if (answer.status === 400 || answer.status === 413) {
      settle(submission);
      throw new Error(answer.error);
    }
    if (answer.status === 403) {
      tell("Not sent: the server was started again, or a day is over. Open the address that it printed; what you said waits in this browser.");
      throw new Error("Not sent; it waits in this browser.");
    }
    tell("Not sent yet; trying again …");
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

async function post(submission) {
  const csrf = document.querySelector('meta[name="csrf"]').content;
  try {
    const response = await fetch("/verdicts", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF": csrf },
      body: JSON.stringify(submission),
    });
    const text = await response.text();
    return { ok: response.ok, status: response.status, error: errorIn(text) };
  } catch {
    return { ok: false, status: 0 }; // no connection
  }
}

function errorIn(text) {
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text;
  }
}

function settle(submission) {
  localStorage.removeItem(WAITING + submission.id);
  const waiting = Object.keys(localStorage).filter((key) => key.startsWith(WAITING)).length;
  tell(waiting ? `${waiting} not sent yet` : "");
}

function tell(words) {
  document.getElementById("sending").textContent = words;
}

/** 32 random hexadecimal digits. `crypto.randomUUID` is not there on a page without https. */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
