// A small panel that a button opens; Escape and a click elsewhere close it.

export function startPopover(opener, panel) {
  const open = (wanted) => {
    panel.hidden = !wanted;
    opener.setAttribute("aria-expanded", wanted);
    if (wanted) panel.querySelector("input").focus();
  };
  opener.addEventListener("click", () => open(panel.hidden));
  document.addEventListener("pointerdown", (event) => {
    if (!panel.hidden && !panel.contains(event.target) && !opener.contains(event.target)) open(false);
  });
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" && event.key !== "Enter") return;
    event.preventDefault();
    open(false);
    opener.focus();
  });
}
