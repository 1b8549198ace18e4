// What the theme leaves out for those who read with the keyboard or a screen reader.
addEventListener("DOMContentLoaded", () => {
  for (const one of document.querySelectorAll("[role=heading]:not([aria-level])"))
    one.setAttribute("aria-level", "2");
  for (const [place, name] of [[".sidebar-drawer", "All pages"], [".toc-drawer", "This page"]])
    document.querySelector(place)?.setAttribute("aria-label", name);
  for (const head of document.querySelectorAll("th"))
    if (!head.textContent.trim()) head.setAttribute("role", "presentation");
  // Code, output and tables that are wider than their place: the arrow keys move them.
  const scrolls = (e) => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight;
  const reach = () => {
    for (const one of document.querySelectorAll("pre, .table-wrapper, .cell_output .output"))
      if (scrolls(one)) one.tabIndex = 0;
      else one.removeAttribute("tabindex");
  };
  reach();
  addEventListener("resize", reach);
  // The editor on the first page has the book's theme, whichever way that was chosen.
  const editor = document.querySelector("iframe.editor");
  const theme = () => {
    const chosen = document.body.dataset.theme, root = editor.contentDocument?.documentElement;
    if (root) root.style.colorScheme = chosen === "auto" ? "" : chosen; // from a file it cannot
  };
  editor?.addEventListener("load", theme);
  if (editor) new MutationObserver(theme).observe(document.body, { attributeFilter: ["data-theme"] });
});
