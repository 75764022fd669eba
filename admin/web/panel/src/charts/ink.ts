// Colours for canvases: what a token of tokens.css is at the moment, as the browser computes it.
import { useEffect, useState } from "preact/hooks";

/** The colour of the token `name` ("--accent") where `element` is, as "rgb(...)". */
export function ink(element: Element, name: string): string {
  const probe = document.createElement("span");
  probe.style.setProperty("color", `var(${name})`);
  probe.hidden = true;
  element.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

/** The same with an opacity (0..1). */
export const faint = (colour: string, opacity: number): string =>
  colour.replace(/^rgb\(([^)]*)\)$/, (_, parts: string) => `rgba(${parts}, ${opacity})`);

/** A number that is another one after the theme changed: whatever is painted depends on it. */
export function useTheme(): number {
  const [changes, set] = useState(0);
  useEffect(() => {
    const changed = () => set((n) => n + 1);
    addEventListener("themechange", changed);
    return () => removeEventListener("themechange", changed);
  }, []);
  return changes;
}

/** The width of an element in CSS pixels, 0 before it is known. */
export function useWidth(of: { current: HTMLElement | null }): number {
  const [width, set] = useState(0);
  useEffect(() => {
    const element = of.current;
    if (element === null) return;
    const watcher = new ResizeObserver(() => set(Math.floor(element.clientWidth)));
    watcher.observe(element);
    set(Math.floor(element.clientWidth));
    return () => watcher.disconnect();
  }, []);
  return width;
}
