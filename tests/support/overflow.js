// What of a page lies outside a window of `width` pixels, or runs out of the column of its text. Code and tables may scroll.
(width) => {
  const found = [];
  const page = document.scrollingElement.scrollWidth;
  if (page > width) found.push(`the page: ${page} pixels`);
  const scrolls = (element) =>
    element && (["auto", "scroll"].includes(getComputedStyle(element).overflowX) || scrolls(element.parentElement));
  const words = (node) => node.textContent.trim().slice(0, 60);
  for (const part of document.querySelectorAll(".md-content__inner, .md-footer")) {
    const column = part.getBoundingClientRect(), margin = 16; // the theme's, where tables reach into
    const left = Math.max(0, column.left - margin), right = Math.min(width, column.right + margin);
    const nodes = document.createTreeWalker(part, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
    while (nodes.nextNode()) {
      const node = nodes.currentNode, isText = node.nodeType === Node.TEXT_NODE;
      if (isText && !words(node)) continue;
      const range = document.createRange();
      if (isText) range.selectNode(node);
      const boxes = [...(isText ? range : node).getClientRects()].filter((box) => box.width > 0);
      const isOutside = boxes.some((box) => box.left < left - 1 || box.right > right + 1);
      const { overflowX, textOverflow } = isText ? {} : getComputedStyle(node);
      const hides = ["hidden", "clip"].includes(overflowX) && textOverflow !== "ellipsis" && node.clientWidth > 1;
      const isCut = hides && node.scrollWidth > node.clientWidth + 1;
      if ((isOutside || isCut) && !scrolls(isText ? node.parentElement : node))
        found.push(`${isOutside ? "outside" : "cut"}: ${isText ? "" : node.tagName + " "}${words(node)}`);
    }
  }
  return found;
}
