// The state of a form made from a schema: the values that are given, what is wrong with them, and what is not to be changed.
import { useMemo, useRef, useState } from "preact/hooks";
import type { Json } from "../types";
import { getAt, placed, setAt, type FieldError, type Path, type Shape, type Values } from "./schema";

export interface Form {
  shape: Shape;
  values: Values;
  get(path: Path): Json | undefined;
  /** undefined: it is not set (any more), the default holds. */
  set(path: Path, value: Json | undefined): void;
  /** What the server, or else the form itself, says of a field. */
  problem(path: Path): string | undefined;
  /** A field says that what stands in it is no value; null: it is (again). */
  mark(path: Path, problem: string | null): void;
  /** Forget what fields said; for a form that begins anew. */
  clear(): void;
  /** Some field holds what is no value. */
  invalid: boolean;
  /** The default that holds where nothing is set. */
  defaultOf(path: Path, shape: Shape): Json | undefined;
  /** Why a field cannot be changed; null: it can. */
  pinned(path: Path): string | null;
  /** Whether there is a value of a secret. */
  secretSet(path: Path): boolean;
  label(path: Path): string;
}

export interface FormOptions {
  shape: Shape;
  values: Values;
  onValues: (values: Values) => void;
  errors: FieldError[];
  /** What paths of errors begin with. */
  prefix?: string;
  defaultOf?: (path: Path, shape: Shape) => Json | undefined;
  pinned?: (path: Path) => string | null;
  secretSet?: (path: Path) => boolean;
  label?: (path: Path) => string;
}

const NONE: ReadonlyMap<string, string> = new Map();

export function useForm(options: FormOptions): Form & { rest: FieldError[] } {
  const { shape, values, onValues, errors, prefix = "" } = options;
  const [marks, setMarks] = useState<ReadonlyMap<string, string>>(NONE);
  const { at, rest } = useMemo(() => placed(errors, shape, prefix), [errors, shape, prefix]);
  const now = useRef(values);
  now.current = values;
  return {
    shape, values, rest, invalid: marks.size > 0,
    get: (path) => getAt(values, path),
    set(path, value) {
      now.current = setAt(now.current, path, value);
      onValues(now.current);
    },
    problem: (path) => marks.get(path.join(".")) ?? at.get(path.join("."))?.join(" "),
    mark(path, problem) {
      const key = path.join(".");
      setMarks((old) => {
        if ((old.get(key) ?? null) === problem) return old;
        const next = new Map(old);
        if (problem === null) next.delete(key);
        else next.set(key, problem);
        return next;
      });
    },
    clear: () => setMarks(NONE),
    defaultOf: options.defaultOf ?? ((_, of) => of.default),
    pinned: options.pinned ?? (() => null),
    secretSet: options.secretSet ?? (() => false),
    label: options.label ?? ((path) => path.at(-1) ?? ""),
  };
}
