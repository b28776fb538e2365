// Shows the OpenAPI document with Redoc, in the colors of the dashboard. A change of the color scheme reloads the page.

const root = document.getElementById("redoc");
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => location.reload());

const ink = dark.matches
  ? { text: "#f1ede8", muted: "#a79e94", accent: "#e39a68", ground: "#131110", side: "#1b1917", line: "#2f2b27", good: "#6fcf97", bad: "#ff8f85" }
  : { text: "#1d1a17", muted: "#6c645b", accent: "#a4501f", ground: "#f8f6f3", side: "#ffffff", line: "#e8e3dc", good: "#1f7a45", bad: "#b3261e" };

const options = {
  disableSearch: true, // its worker would need blob: URLs for scripts
  hideDownloadButtons: false,
  hideLoading: true,
  nativeScrollbars: true,
  scrollYOffset: ".reference-bar",
  pathInMiddlePanel: true,
  theme: {
    colors: {
      primary: { main: ink.accent },
      success: { main: ink.good },
      error: { main: ink.bad },
      text: { primary: ink.text, secondary: ink.muted },
      border: { dark: ink.line, light: ink.line },
      gray: { 50: ink.ground, 100: ink.line },
      responses: { success: { color: ink.good }, error: { color: ink.bad } },
    },
    schema: { nestedBackground: ink.side, typeNameColor: ink.muted, typeTitleColor: ink.muted, requireLabelColor: ink.bad, linesColor: ink.line },
    sidebar: { backgroundColor: ink.side, textColor: ink.text },
    rightPanel: { backgroundColor: "#24211e", textColor: "#f1ede8" },
    typography: {
      fontFamily: "system-ui, sans-serif",
      headings: { fontFamily: "system-ui, sans-serif" },
      code: { backgroundColor: dark.matches ? "#24211e" : "#f1ece6", color: ink.accent },
      links: { color: ink.accent },
    },
  },
};

globalThis.Redoc.init("/openapi.json", options, root, (error) => {
  if (error) root.textContent = "The reference could not be loaded. The light version at /docs needs no script.";
});
