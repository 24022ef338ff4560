// The tabs, by pointer and by arrow keys; the one that is open is kept in the address.

import { $ } from "./dom.js";

const names = ["chat", "create", "inside"];

const current = () => names.find((name) => !$(`panel-${name}`).hidden);

export function show(name) {
  for (const other of names) {
    const chosen = other === name;
    const tab = $(`tab-${other}`);
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    $(`panel-${other}`).hidden = !chosen;
  }
  history.replaceState(null, "", `#${name}`);
  document.dispatchEvent(new CustomEvent("tab", { detail: name }));
}

export function startTabs() {
  for (const name of names) $(`tab-${name}`).addEventListener("click", () => show(name));
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const at = names.indexOf(current());
    const to = {
      ArrowRight: (at + 1) % names.length,
      ArrowLeft: (at + names.length - 1) % names.length,
      Home: 0,
      End: names.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(names[to]);
    $(`tab-${names[to]}`).focus();
  });
  const follow = () => {
    const wanted = location.hash.slice(1);
    show(names.includes(wanted) ? wanted : "chat");
  };
  addEventListener("hashchange", follow);
  follow();
}
