// On every page: the reader's name, which this browser remembers, and verdicts that could not be sent before.
import { sendWaiting } from "/static/verdicts.js";

const NAME = "cxrpipe.reader";
const field = document.getElementById("reader");

field.value = localStorage.getItem(NAME) ?? "";
field.addEventListener("input", () => localStorage.setItem(NAME, field.value.trim()));
window.addEventListener("storage", (event) => {
  if (event.key === NAME) field.value = event.newValue ?? "";
});
sendWaiting();
