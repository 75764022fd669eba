// What an agent is: its definition without what is a default anyway, and where in the JSON a field stands.

import { equal } from "../diff";
import { type Path, type Shape, type Values } from "../forms/schema";
import type { Json } from "../types";

export type Profiles = Record<string, Record<string, Json>>;

/** The default of a field; of the numbers of turn-taking the one of the profile. */
export function defaultOf(path: Path, shape: Shape, values: Values, profiles: Profiles): Json | undefined {
  const [section, key] = path;
  if (section === "turns" && path.length === 2 && key !== undefined && key !== "profile") {
    const turns = values["turns"];
    const profile = typeof turns === "object" && turns !== null && !Array.isArray(turns) ? turns["profile"] : undefined;
    const set = profiles[typeof profile === "string" ? profile : "normal"];
    if (set !== undefined && Object.hasOwn(set, key)) return set[key];
  }
  return shape.default;
}

/** `full` without the fields that have their default. */
export function sparse(full: Values, shape: Shape, profiles: Profiles): Values {
  const within = (values: Values, of: Shape, path: Path): Values => {
    const made: Values = {};
    for (const [key, value] of Object.entries(values)) {
      const field = of.fields.find(([name]) => name === key)?.[1], here = [...path, key];
      if (field?.kind === "object" && typeof value === "object" && value !== null && !Array.isArray(value)) {
        const inner = within(value, field, here);
        if (Object.keys(inner).length > 0) made[key] = inner;
      } else if (field === undefined || !equal(value, defaultOf(here, field, full, profiles) ?? null)) made[key] = value;
    }
    return made;
  };
  return within(full, shape, []);
}

/**
 * The line (from 1) of a JSON text on which what is at `path` ("turns.min_words", "llm.1") begins; of a path that is not
 * there the one around it. null where the text is no JSON up to there.
 */
export function lineOf(text: string, path: string): number | null {
  const wanted = path === "" ? [] : path.split(".");
  let at = 0, best: { depth: number; at: number } | null = null;
  const space = () => { while (/\s/.test(text[at] ?? "")) at++; };
  const string = (): string => {
    const from = at++;
    while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
    at++;
    try {
      return JSON.parse(text.slice(from, at)) as string;
    } catch {
      return "";
    }
  };
  const value = (depth: number, fits: boolean): void => {
    space();
    if (fits && (best === null || depth > best.depth)) best = { depth, at };
    const opens = text[at];
    if (opens === "{" || opens === "[") {
      at++;
      for (let i = 0; at < text.length; i++) {
        space();
        if (text[at] === "}" || text[at] === "]") break;
        const before = at;
        let key = String(i);
        if (opens === "{") {
          if (text[at] !== '"') break;
          key = string();
          space();
          if (text[at] === ":") at++;
        }
        const inner = fits && wanted[depth] === key;
        // The line of a field is the one of its name.
        if (inner && (best === null || depth + 1 > best.depth)) best = { depth: depth + 1, at: before };
        value(depth + 1, inner);
        space();
        if (text[at] === ",") at++;
        if (at === before) break;
      }
      at++;
    } else if (opens === '"') string();
    else while (at < text.length && !/[,}\]\s]/.test(text[at] ?? "")) at++;
  };
  if (text.trim() === "") return null;
  value(0, true);
  const found = best as { depth: number; at: number } | null;
  return found === null ? null : text.slice(0, found.at).split("\n").length;
}
