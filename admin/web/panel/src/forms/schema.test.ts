import { expect, test } from "vitest";
import type { JsonSchema } from "../types";
import { fieldAt, getAt, placed, read, setAt, shapeOf, textOf, type Shape } from "./schema";

const schema: JsonSchema = {
  type: "object",
  properties: {
    base_url: { type: "string", default: "https://api.example.com", description: "Where it is." },
    api_key: { anyOf: [{ type: "string", writeOnly: true }, { type: "null" }], writeOnly: true },
    timeout_s: { type: "number", default: 5, exclusiveMinimum: 0 },
    workers: { anyOf: [{ type: "integer", minimum: 1, maximum: 8 }, { type: "null" }], default: null },
    partials: { type: "boolean", default: true },
    mode: { enum: ["fast", "good"], default: "good" },
    allow: { type: "array", items: { type: "string" }, default: [] },
    limits: { $ref: "#/$defs/Limits" },
    servers: { type: "object", additionalProperties: { $ref: "#/$defs/Limits" }, default: {} },
    level: { enum: ["a", null] },
    size: { type: ["integer", "null"] },
    either: { anyOf: [{ type: "string" }, { type: "integer" }] },
  },
  required: ["base_url"],
  $defs: { Limits: { type: "object", properties: { most: { type: "integer", default: 3 } } }, Loop: { $ref: "#/$defs/Loop" } },
};
const shape = shapeOf(schema);
const at = (...path: string[]): Shape => fieldAt(shape, path) as Shape;

test("each property becomes the field that fits it", () => {
  expect(shape.fields.map(([name, field]) => [name, field.kind, field.nullable])).toEqual([
    ["base_url", "text", false], ["api_key", "secret", true], ["timeout_s", "number", false], ["workers", "integer", true],
    ["partials", "boolean", false], ["mode", "choice", false], ["allow", "strings", false], ["limits", "object", false],
    ["servers", "json", false], ["level", "choice", true], ["size", "integer", true], ["either", "json", false],
  ]);
  expect(at("base_url")).toMatchObject({ required: true, default: "https://api.example.com", description: "Where it is." });
  expect(at("workers")).toMatchObject({ minimum: 1, maximum: 8, default: null });
  expect(at("limits", "most")).toMatchObject({ kind: "integer", default: 3 });
  expect(at("mode").choices).toEqual(["fast", "good"]);
});

test("schemas that refer to themselves end somewhere", () => {
  expect(shapeOf({ $ref: "#/$defs/Loop", $defs: { Loop: { $ref: "#/$defs/Loop" } } }).kind).toBe("json");
  const tree: JsonSchema = { type: "object", properties: { child: { $ref: "#" } } };
  expect(shapeOf(tree).fields[0]?.[1].kind).toBe("object");
});

test("values go to their text and back", () => {
  const cases: [Shape, unknown][] = [
    [at("base_url"), "x"], [at("timeout_s"), 2.5], [at("workers"), 4], [at("mode"), "fast"],
    [at("allow"), ["a.example", "b.example"]], [at("servers"), { a: { most: 2 } }],
  ];
  for (const [field, value] of cases) expect(read(field, textOf(field, value as never))).toEqual({ value });
});

test("what is no value says why", () => {
  expect(read(at("workers"), "two")).toEqual({ error: "number" });
  expect(read(at("workers"), "0x10")).toEqual({ error: "number" });
  expect(read(at("workers"), "1.5")).toEqual({ error: "integer" });
  expect(read(at("workers"), "0")).toEqual({ error: "minimum" });
  expect(read(at("workers"), "9")).toEqual({ error: "maximum" });
  expect(read(at("servers"), "{")).toEqual({ error: "json" });
});

test("an empty number is not set, an empty text is a text", () => {
  expect(read(at("workers"), " ")).toEqual({ value: undefined });
  expect(read(at("base_url"), "")).toEqual({ value: "" });
  expect(read(at("api_key"), "")).toEqual({ value: undefined });
  expect(read(at("allow"), " a \n\n b")).toEqual({ value: ["a", "b"] });
});

test("values are set and taken away without touching the others", () => {
  const before = { a: 1, limits: { most: 2 } };
  expect(setAt(before, ["limits", "most"], 3)).toEqual({ a: 1, limits: { most: 3 } });
  expect(before.limits.most).toBe(2);
  expect(setAt(before, ["limits", "most"], undefined)).toEqual({ a: 1 });
  expect(setAt({}, ["limits", "most"], 3)).toEqual({ limits: { most: 3 } });
  expect(Object.keys(setAt(before, ["a"], 9))).toEqual(["a", "limits"]);
  expect(getAt(before, ["limits", "most"])).toBe(2);
  expect(getAt(before, ["a", "most"])).toBeUndefined();
  expect(getAt({}, ["constructor"])).toBeUndefined();
});

test("errors are shown at their field, or at the one around it, or at the top", () => {
  const { at: where, rest } = placed(
    [{ path: "allow.1", message: "no host" }, { path: "limits.most", message: "too many" }, { path: "limits", message: "odd" },
     { path: "typo", message: "unknown key" }, { path: "", message: "wrong" }], shape,
  );
  expect(Object.fromEntries(where)).toEqual({ allow: ["no host"], "limits.most": ["too many"], limits: ["odd"] });
  expect(rest.map((error) => error.path)).toEqual(["typo", ""]);
  expect(placed([{ path: "plugins.x.allow", message: "m" }], shape, "plugins.x").at.get("allow")).toEqual(["m"]);
});
