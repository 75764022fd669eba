// Draws a page again from time to time, as long as it is visible.
import { useEffect, useState } from "preact/hooks";

export function useTick(every_ms: number): void {
  const [, again] = useState(0);
  useEffect(() => {
    const due = () => { if (!document.hidden) again((n) => n + 1); };
    const timer = setInterval(due, every_ms);
    document.addEventListener("visibilitychange", due);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", due);
    };
  }, [every_ms]);
}
