// What fields a JSON Schema asks for, and how their values travel between a form and JSON.

import type { Json, JsonSchema } from "../types";

export type Values = { [key: string]: Json };
/** The names that lead to a field, from the outermost on. */
export type Path = readonly string[];

/** `json`: whatever has no better field (maps, lists of objects), typed as JSON. */
export type Kind = "text" | "secret" | "number" | "integer" | "boolean" | "choice" | "strings" | "object" | "json";

export interface Shape {
  kind: Kind;
  /** It may be null, which is not the same as not being set. */
  nullable: boolean;
  description: string;
  /** undefined: none is known. */
  default: Json | undefined;
  choices: Json[];
  minimum: number | undefined;
  maximum: number | undefined;
  required: boolean;
  /** Of an object, in the order of the schema. */
  fields: [name: string, shape: Shape][];
}

const DEEPEST = 6;

/** What `schema` asks for; `$ref` are looked up in `root`. */
export function shapeOf(schema: JsonSchema, root: JsonSchema = schema, required = false, depth = 0): Shape {
  let found = resolved(schema, root), nullable = false, secret = found.writeOnly === true;
  const outer = found;
  const choices = found.anyOf ?? (found["oneOf"] as JsonSchema[] | undefined);
  if (choices !== undefined) {
    const all = choices.map((choice) => resolved(choice, root));
    const rest = all.filter((choice) => choice.type !== "null");
    nullable = rest.length < all.length;
    secret ||= all.some((choice) => choice.writeOnly === true);
    found = rest.length === 1 ? (rest[0] ?? {}) : {};
  }
  if (Array.isArray(found.type)) {
    const rest = found.type.filter((type) => type !== "null");
    nullable ||= rest.length < found.type.length;
    found = { ...found, ...(rest.length === 1 ? { type: rest[0] as string } : { type: [] }) };
  }
  const listed = found.enum ?? (found["const"] !== undefined ? [found["const"] as Json] : []);
  nullable ||= listed.includes(null);
  const shape: Shape = {
    kind: "json", nullable, required, fields: [],
    description: outer.description ?? found.description ?? "",
    default: outer.default ?? (outer.default === null ? null : found.default),
    choices: listed.filter((choice) => choice !== null),
    minimum: bound(found.minimum, found["exclusiveMinimum"]), maximum: bound(found.maximum, found["exclusiveMaximum"]),
  };
  shape.kind = secret ? "secret" : kindOf(found, shape.choices, root, depth);
  if (shape.kind === "object") {
    const needed = new Set(found.required ?? []);
    shape.fields = Object.entries(found.properties ?? {}).map(
      ([name, part]) => [name, shapeOf(part, root, needed.has(name), depth + 1)],
    );
  }
  return shape;
}

function bound(inclusive: unknown, exclusive: unknown): number | undefined {
  return typeof inclusive === "number" ? inclusive : typeof exclusive === "number" ? exclusive : undefined;
}

function kindOf(schema: JsonSchema, choices: Json[], root: JsonSchema, depth: number): Kind {
  if (choices.length > 0) return "choice";
  switch (schema.type) {
    case "string": return "text";
    case "number": return "number";
    case "integer": return "integer";
    case "boolean": return "boolean";
    case "array": return schema.items !== undefined && resolved(schema.items, root).type === "string" ? "strings" : "json";
    case "object": return schema.properties !== undefined && depth < DEEPEST ? "object" : "json";
    default: return schema.properties !== undefined && depth < DEEPEST ? "object" : "json";
  }
}

function resolved(schema: JsonSchema, root: JsonSchema): JsonSchema {
  let found = schema;
  for (let i = 0; i < 10 && found.$ref !== undefined; i++) {
    const target = found.$ref.split("/").slice(1).reduce<unknown>(
      (at, name) => (at !== null && typeof at === "object" ? (at as Record<string, unknown>)[name] : undefined), root,
    );
    if (target === null || typeof target !== "object") return {};
    const { $ref: _, ...beside } = found;
    found = { ...(target as JsonSchema), ...beside };
  }
  return found;
}

/** The field at `path`; null if the schema has none. */
export function fieldAt(shape: Shape, path: Path): Shape | null {
  return path.reduce<Shape | null>((at, name) => at?.fields.find(([field]) => field === name)?.[1] ?? null, shape);
}

// --- values

export function getAt(values: Json | undefined, path: Path): Json | undefined {
  return path.reduce<Json | undefined>(
    (at, name) => (isObject(at) && Object.hasOwn(at, name) ? at[name] : undefined), values,
  );
}

/** `values` with `value` at `path`; undefined takes it away, and objects that are empty then. */
export function setAt(values: Values, path: Path, value: Json | undefined): Values {
  const [name, ...rest] = path;
  if (name === undefined) return values;
  const { [name]: old, ...others } = values;
  let made: Json | undefined = value;
  if (rest.length > 0) {
    const inner = setAt(isObject(old) ? old : {}, rest, value);
    made = value === undefined && Object.keys(inner).length === 0 ? undefined : inner;
  }
  if (made === undefined) return others;
  // In place, so that fields keep their order in the JSON beside.
  return { ...values, [name]: made };
}

function isObject(value: Json | undefined): value is Values {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** What stands in the field of a value. */
export function textOf(shape: Shape, value: Json | undefined): string {
  if (value === undefined || value === null) return "";
  if (shape.kind === "strings") return Array.isArray(value) ? value.map(String).join("\n") : String(value);
  if (shape.kind === "json") return JSON.stringify(value, null, 2);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

export type Read = { value: Json | undefined } | { error: "number" | "integer" | "minimum" | "maximum" | "json" };

/** What was typed into a field; a field that is empty is not set (a list: has nothing in it). */
export function read(shape: Shape, text: string): Read {
  switch (shape.kind) {
    case "number":
    case "integer": {
      const typed = text.trim();
      if (typed === "") return { value: undefined };
      const number = Number(typed);
      if (!Number.isFinite(number) || !/^[-+]?[\d.]+(e[-+]?\d+)?$/i.test(typed)) return { error: "number" };
      if (shape.kind === "integer" && !Number.isInteger(number)) return { error: "integer" };
      if (shape.minimum !== undefined && number < shape.minimum) return { error: "minimum" };
      if (shape.maximum !== undefined && number > shape.maximum) return { error: "maximum" };
      return { value: number };
    }
    case "strings":
      return { value: text.split("\n").map((line) => line.trim()).filter((line) => line !== "") };
    case "json": {
      if (text.trim() === "") return { value: undefined };
      try {
        return { value: JSON.parse(text) as Json };
      } catch {
        return { error: "json" };
      }
    }
    case "choice":
      return { value: shape.choices.find((choice) => String(choice) === text) };
    case "secret":
      return { value: text === "" ? undefined : text };
    default:
      return { value: text };
  }
}

// --- errors of the server

export interface FieldError { path: string; message: string }

/**
 * Errors by the field (its path with dots) where they are shown: the field itself, or the one around what is wrong, as for
 * `llm.1`. `rest` has those that belong to no field. Paths may begin with `prefix`.
 */
export function placed(errors: FieldError[], shape: Shape, prefix = ""): { at: Map<string, string[]>; rest: FieldError[] } {
  const at = new Map<string, string[]>(), rest: FieldError[] = [];
  for (const error of errors) {
    const path = prefix !== "" && error.path.startsWith(`${prefix}.`) ? error.path.slice(prefix.length + 1) : error.path;
    const names = path.split(".");
    while (names.length > 0 && !isField(shape, names)) names.pop();
    if (names.length === 0) rest.push(error);
    else at.set(names.join("."), [...(at.get(names.join(".")) ?? []), error.message]);
  }
  return { at, rest };
}

function isField(shape: Shape, path: Path): boolean {
  const field = fieldAt(shape, path);
  return field !== null && (field.kind !== "object" || path.length > 0);
}
