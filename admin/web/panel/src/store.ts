// A value that components watch: read anywhere, set anywhere.
import { useLayoutEffect, useState } from "preact/hooks";

export interface Store<T> {
  get(): T;
  set(value: T): void;
  /** `seen` is called after each change, until the returned function is called. */
  watch(seen: (value: T) => void): () => void;
}

export function store<T>(initial: T): Store<T> {
  let value = initial;
  const watchers = new Set<(value: T) => void>();
  return {
    get: () => value,
    set(next) {
      if (Object.is(next, value)) return;
      value = next;
      for (const seen of [...watchers]) seen(next);
    },
    watch(seen) {
      watchers.add(seen);
      return () => watchers.delete(seen);
    },
  };
}

export function useStore<T>(of: Store<T>): T {
  const [, redraw] = useState(0);
  const value = of.get();
  useLayoutEffect(() => {
    const again = () => redraw((n) => n + 1);
    // It may have changed between the drawing and now.
    if (!Object.is(of.get(), value)) again();
    return of.watch(again);
  }, [of]);
  return value;
}
