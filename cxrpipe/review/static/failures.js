// Fetches the first bytes of a file when somebody wants to see them.
for (const look of document.querySelectorAll("details.bytes")) {
  look.addEventListener("toggle", async () => {
    const place = look.querySelector("pre");
    if (!look.open || place.textContent) return;
    place.textContent = "…";
    try {
      place.textContent = await (await fetch(look.dataset.from)).text();
    } catch {
      place.textContent = "";
    }
  });
}
