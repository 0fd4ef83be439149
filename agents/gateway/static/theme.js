// Runs before the page is drawn, so that a chosen theme does not flash. Without a choice the system's applies.
(() => {
  const chosen = localStorage.getItem("driftline-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
