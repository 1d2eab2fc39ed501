// Code, tables and pictures that are wider than the page can be scrolled. Those that are get a place in the tab order,
// so that the arrow keys reach their right end; the others keep out of it, and who has a place already keeps it.
const WIDE =
  ".highlight > pre, .table-wrapper, .course-map, .bd-picture, .mv-view, .cell_output, .output, .output > *, .output pre";

function letTheKeyboardScroll() {
  for (const part of document.querySelectorAll(WIDE)) {
    if (part.hasAttribute("tabindex") && !part.dataset.scrolls) continue;
    const isScrolled = /auto|scroll/.test(getComputedStyle(part).overflowX) && part.scrollWidth > part.clientWidth;
    part.toggleAttribute("tabindex", isScrolled);
    part.dataset.scrolls = isScrolled ? "yes" : "";
    if (isScrolled) part.tabIndex = 0;
  }
}

// In a picture the arrow keys go from frame to frame, but not while the view itself is to be moved.
function keepForScrolling(event) {
  if (event.target.dataset.scrolls && /^Arrow(Left|Right)$/.test(event.key)) event.stopPropagation();
}

addEventListener("load", () => {
  letTheKeyboardScroll();
  for (const view of document.querySelectorAll(".mv-view")) view.addEventListener("keydown", keepForScrolling);
});
addEventListener("resize", letTheKeyboardScroll);
