// The draft of an agent: what is typed and what the server says is wrong.
import { useState } from "preact/hooks";
import { ApiError, send } from "../api";
import { equal } from "../diff";
import type { FieldError, Values } from "../forms/schema";
import type { Agent } from "../types";

export interface Draft {
  values: Values;
  set(values: Values): void;
  /** What the draft began with. */
  base: Values;
  changed: boolean;
  errors: FieldError[];
  problem: ApiError | undefined;
  busy: boolean;
  /** Calls `doing`; an ApiError is shown with its fields. The result, or undefined if it failed. */
  run<T>(doing: () => Promise<T>): Promise<T | undefined>;
  reset(base: Values): void;
  /** `stored` is what is stored now; what was typed since stays a change. */
  settle(stored: Values): void;
}

export function useDraft(first: Values): Draft {
  const [base, setBase] = useState(first), [values, setValues] = useState(first);
  const [problem, setProblem] = useState<ApiError>(), [busy, setBusy] = useState(false);
  return {
    values, base, problem, busy,
    errors: problem?.problem.errors ?? NONE,
    changed: !equal(values, base),
    set: setValues,
    settle: setBase,
    reset(next) {
      setBase(next);
      setValues(next);
      setProblem(undefined);
    },
    async run(doing) {
      setBusy(true);
      setProblem(undefined);
      try {
        return await doing();
      } catch (failed) {
        if (!(failed instanceof ApiError)) throw failed;
        setProblem(failed);
        return undefined;
      } finally {
        setBusy(false);
      }
    },
  };
}

const NONE: FieldError[] = [];

/** Store a definition as the version after `expect` (0: it must not be there yet). */
export function store(name: string, definition: Values, expect: number): Promise<Agent> {
  const condition: Record<string, string> = expect === 0 ? { "if-none-match": "*" } : { "if-match": `"${expect}"` };
  return send<Agent>("PUT", `/v1/agents/${encodeURIComponent(name)}`, definition, condition);
}
