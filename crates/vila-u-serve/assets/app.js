// Starts the page: tabs, theme, the server's status, then the three panels.

import { $, fillIcons } from "./dom.js";
import { check, server } from "./server.js";
import { startTabs } from "./tabs.js";
import { startNotices } from "./notices.js";
import { startChat } from "./chat.js";
import { startCreate } from "./create.js";
import { startInside } from "./inside.js";
import { startViewer } from "./viewer.js";

function startTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => $("theme").setAttribute("aria-pressed", dark());
  $("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {
      // Without storage the choice lasts until the page is loaded again.
    }
    show();
    document.dispatchEvent(new Event("theme"));
  });
  system.addEventListener("change", () => {
    show();
    document.dispatchEvent(new Event("theme"));
  });
  show();
}

// Small pictures are shown as the pixels they are, large ones smoothly.
server.addEventListener("change", () => {
  document.documentElement.classList.toggle("pixels", (server.model?.imageSize ?? 256) <= 128);
});

fillIcons();
startTheme();
startTabs();
startNotices();
startChat();
startCreate();
startInside();
startViewer();
check();
