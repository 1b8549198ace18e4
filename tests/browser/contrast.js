// Every text of the widgets against what lies behind it, as WCAG 2 computes it: those below 4.5.
() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = (top, under) => under.map((x, i) => top[3] * top[i] + (1 - top[3]) * x);
  const above = (e) => (e ? [...above(e.parentElement), e] : []);
  const ground = (e) => above(e).reduce(
    (under, one) => over(parse(getComputedStyle(one).backgroundColor), under), [255, 255, 255]);
  const light = (colour) => {
    const [r, g, b] = colour.map((x) => x / 255).map(
      (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (...two) => {
    const [low, high] = two.map(light).sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const found = [];
  for (const e of document.querySelectorAll(".mk *")) {
    const text = e.matches("select, input:is([type=text], [type=number])") ? e.value
      : [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent).join("").trim();
    const silent = "style, script, :disabled, :disabled *, [aria-hidden=true], [aria-hidden=true] *";
    if (!text || e.matches(silent) || !e.checkVisibility({ visibilityProperty: true })) continue;
    const faded = above(e).reduce((share, one) => share * getComputedStyle(one).opacity, 1);
    const [r, g, b, a] = parse(getComputedStyle(e).color), under = ground(e);
    const seen = ratio(over([r, g, b, a * faded], under), under);
    if (seen < 4.5) found.push(`${text.slice(0, 30)} (${e.className}): ${seen.toFixed(1)}`);
  }
  return found;
}
