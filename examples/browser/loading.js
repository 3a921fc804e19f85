// Says why the page does not start: it was opened as a file, or its packages are missing.
{
  const say = (text) => {
    const line = document.getElementById("status");
    if (line.dataset.state === "loading") Object.assign(line, { textContent: text }).dataset.state = "failed";
  };
  addEventListener("error", ({ target }) => {
    if (!(target instanceof HTMLScriptElement)) return;
    say(location.protocol === "file:"
      ? "A browser lets no page read its files from file://. Serve the folder: README.md has the command."
      : `${target.getAttribute("src")}, or what it imports, is not there: run "npm ci" in this folder.`);
  }, true);
}
