// What a person has chosen for this browser: theme, time zone of the times shown.
import { store, type Store } from "./store";

export type Theme = "system" | "light" | "dark";
export type Zone = "local" | "utc";

function kept<T extends string>(name: string, allowed: readonly T[]): Store<T> {
  const key = `rejoinder.${name}`;
  let first: string | null = null;
  try { first = localStorage.getItem(key); } catch { /* not allowed here: it is forgotten with the page */ }
  const made = store<T>(allowed.find((one) => one === first) ?? allowed[0]!);
  made.watch((value) => { try { localStorage.setItem(key, value); } catch { /* as above */ } });
  return made;
}

export const theme = kept<Theme>("theme", ["system", "light", "dark"]);
export const zone = kept<Zone>("zone", ["local", "utc"]);

export function applyTheme(): void {
  const show = (value: Theme) => {
    if (value === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = value;
    // Whoever paints on a canvas has to do it again.
    dispatchEvent(new Event("themechange"));
  };
  show(theme.get());
  theme.watch(show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("themechange")));
}
