// One stop for Tab, and arrow keys from patch to patch.
const stack = this.closest(".mk-stack"), cells = () => [...stack.querySelectorAll(".mk-patch")];
stack.addEventListener("keydown", (event) => {
  const grid = getComputedStyle(stack.querySelector(".mk-patches"));
  const across = grid.gridTemplateColumns.split(" ").length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across };
  const next = cells()[cells().indexOf(event.target) + steps[event.key]];
  if (!next) return;
  event.preventDefault();
  event.stopPropagation();
  next.focus();
});
stack.addEventListener("focusin", (event) => {
  for (const cell of cells()) cell.tabIndex = cell === event.target ? 0 : -1;
});
